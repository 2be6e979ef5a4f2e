"""What S3 alone has: parts, gaps, races between requests, multipart uploads, and an outage."""

import asyncio
import logging
import re
from collections.abc import AsyncIterator
from hashlib import sha256
from time import monotonic

import obstore
import pytest
from pydantic import SecretStr, ValidationError

from app.errors import AppError, Conflict, ContentTooLarge, Locked, NotFound, ServiceUnavailable
from app.settings import S3Settings, Settings
from app.storage import s3 as module
from app.storage.bucket import PART_SIZE, open_bucket
from app.storage.engines import open_storage
from app.storage.s3 import S3Storage
from tests.s3 import Bucket, s3_server

pytestmark = pytest.mark.anyio

ID = "0123456789abcdef" * 2
MIB = 1024 * 1024


class Seen:
    """An inspector that remembers, and refuses what begins with `BAD`."""

    def __init__(self) -> None:
        self.size = 0
        self.finished = False
        self._digest = sha256()

    def feed(self, piece: bytes) -> None:
        if piece.startswith(b"BAD"):
            raise Conflict("bad")
        self.size += len(piece)
        self._digest.update(piece)

    def finish(self) -> None:
        self.finished = True

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()


async def chunks(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def content(storage: S3Storage) -> bytes:
    return b"".join([piece async for piece in storage.read(ID, 0, 2**40)])


def storage_in(bucket: Bucket) -> S3Storage:
    return S3Storage(open_bucket(bucket.url, bucket.settings), direct_seconds=60)


@pytest.fixture
def storage(bucket: Bucket) -> S3Storage:
    return storage_in(bucket)


@pytest.mark.parametrize("size", [0, 1, PART_SIZE, 11 * MIB])
async def test_a_file_of_any_length_is_whole(storage: S3Storage, bucket: Bucket, size: int) -> None:
    body = bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    seen = Seen()
    await storage.save(ID, chunks(*(body[at : at + MIB] for at in range(0, size, MIB))), seen)
    assert (seen.size, seen.sha256, seen.finished) == (size, sha256(body).hexdigest(), True)
    assert bucket.get(ID) == await content(storage) == body
    assert bucket.uploads == []


async def test_nothing_is_there_before_the_last_byte_is_inspected(storage: S3Storage, bucket: Bucket) -> None:
    there: list[list[str]] = []

    class Looking(Seen):
        def finish(self) -> None:
            there.append(bucket.paths)

    await storage.save(ID, chunks(b"x" * 6 * MIB, b"y"), Looking())
    assert there == [[]]
    assert bucket.paths == [ID]


@pytest.mark.parametrize("length", [10, 6 * MIB])
async def test_what_is_refused_is_aborted(storage: S3Storage, bucket: Bucket, length: int) -> None:
    with pytest.raises(Conflict, match="bad"):
        await storage.save(ID, chunks(b"x" * length, b"BAD", b"z"), Seen())
    assert (bucket.paths, bucket.uploads) == ([], [])


async def test_what_is_cancelled_is_aborted(storage: S3Storage, bucket: Bucket) -> None:
    waiting = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * 6 * MIB
        yield b"y"
        waiting.set()
        await asyncio.Event().wait()

    saving = asyncio.create_task(storage.save(ID, endless(), Seen()))
    async with asyncio.timeout(5):
        await waiting.wait()
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
    assert (bucket.paths, bucket.uploads) == ([], [])


async def test_trap_an_upload_that_is_only_cancelled_stays_in_the_bucket(bucket: Bucket) -> None:
    waiting = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x"
        waiting.set()
        await asyncio.Event().wait()

    store = open_bucket(bucket.url, bucket.settings)._store
    putting = asyncio.ensure_future(obstore.put_async(store, ID, endless(), use_multipart=True))
    async with asyncio.timeout(5):
        await waiting.wait()
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
    assert bucket.uploads == [f"folder/{ID}"]


async def test_of_two_requests_at_one_offset_one_is_kept(storage: S3Storage, bucket: Bucket) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"slow"
        begun.set()
        await go_on.wait()

    late = asyncio.create_task(storage.append(ID, 0, slow()))
    async with asyncio.timeout(5):
        await begun.wait()
        assert await storage.append(ID, 0, chunks(b"in ", b"time")) == 7
        go_on.set()
        with pytest.raises(Locked):
            await late
    assert await storage.append(ID, 7, chunks(b"!")) == 8
    seen = Seen()
    await storage.publish(ID, seen)
    assert seen.finished
    assert await content(storage) == b"in time!"
    assert bucket.paths == [ID]


async def test_a_part_behind_a_gap_does_not_count(storage: S3Storage, bucket: Bucket) -> None:
    await storage.append(ID, 0, chunks(b"first"))
    bucket.put(f"parts/{ID}/{6:020d}", b"lost")
    assert await storage.offset(ID) == 5
    with pytest.raises(Conflict):
        await storage.append(ID, 10, chunks(b"more"))
    await storage.publish(ID, Seen())
    assert await content(storage) == b"first"
    assert bucket.paths == [ID]


async def test_parts_are_bounded_in_length_and_number(
    storage: S3Storage, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PARTS", 3)
    assert await storage.append(ID, 0, chunks(*[b"x" * MIB] * 11)) == 11 * MIB
    assert bucket.paths == [f"parts/{ID}/{offset * MIB:020d}" for offset in (0, 5, 10)]
    with pytest.raises(ContentTooLarge):
        await storage.append(ID, 11 * MIB, chunks(b"one more"))
    assert await storage.offset(ID) == 11 * MIB


async def test_publishing_goes_on_wherever_a_process_died_in_it(storage: S3Storage, bucket: Bucket) -> None:
    await storage.append(ID, 0, chunks(b"one"))
    await storage.append(ID, 3, chunks(b"two"))
    # The object is there, and none, one, all of its parts are removed.
    for left in (["one", "two"], ["two"], []):
        bucket.put(ID, b"onetwo")
        for number, text in enumerate(("one", "two")):
            if text in left:
                bucket.put(f"parts/{ID}/{3 * number:020d}", text.encode())
        seen = Seen()
        await storage.publish(ID, seen)
        assert (seen.sha256, seen.finished) == (sha256(b"onetwo").hexdigest(), True)
        assert bucket.paths == [ID]
        assert await storage.offset(ID) == 6


async def test_what_is_refused_when_it_is_published_stays_unfinished(
    storage: S3Storage, bucket: Bucket
) -> None:
    await storage.append(ID, 0, chunks(b"BAD"))
    with pytest.raises(Conflict):
        await storage.publish(ID, Seen())
    assert (await storage.offset(ID), bucket.uploads) == (3, [])
    with pytest.raises(NotFound):
        await content(storage)


async def test_a_part_that_goes_while_it_is_published_is_another_requests_work(
    storage: S3Storage, bucket: Bucket
) -> None:
    await storage.append(ID, 0, chunks(b"x"))
    await storage.append(ID, 1, chunks(b"y"))

    class Removing(Seen):
        def feed(self, piece: bytes) -> None:
            bucket.delete(f"parts/{ID}/{1:020d}")

    with pytest.raises(Locked):
        await storage.publish(ID, Removing())


async def test_what_is_put_behind_a_confirmed_file_is_swept(bucket: Bucket) -> None:
    storage = S3Storage(open_bucket(bucket.url, bucket.settings), direct_seconds=3_600)
    bucket.put(f"direct/{ID}", b"one")
    await storage.publish_direct(ID, Seen())
    bucket.put(f"direct/{ID}", b"two")
    await storage.sweep()
    assert bucket.paths == [f"{ID}", f"direct/{ID}"]  # its URL is still good
    late = S3Storage(open_bucket(bucket.url, bucket.settings), direct_seconds=-1)
    await late.sweep()
    assert bucket.paths == [ID]
    assert await content(storage) == b"one"


async def test_of_two_confirmations_both_get_what_the_first_has_copied(
    storage: S3Storage, bucket: Bucket
) -> None:
    bucket.put(f"direct/{ID}", b"good")

    class Interrupted(Seen):
        def finish(self) -> None:
            bucket.put(f"direct/{ID}", b"evil")
            raise Conflict("for another reason")

    with pytest.raises(Conflict):
        await storage.publish_direct(ID, Interrupted())
    seen = Seen()
    await storage.publish_direct(ID, seen)
    assert seen.sha256 == sha256(b"good").hexdigest()
    assert await content(storage) == b"good"


async def test_an_s3_that_dies_is_503_in_time_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with s3_server() as server:
        storage = storage_in(server.bucket())
        await storage.save(ID, chunks(b"x" * 2 * MIB), Seen())
        await storage.check()

        async def dying() -> AsyncIterator[bytes]:
            for _ in range(6):
                yield b"x" * MIB
            server.stop()
            for _ in range(20):
                yield b"x" * MIB

        started = monotonic()
        with pytest.raises(ServiceUnavailable) as refused:
            await storage.save("f" * 32, dying(), Seen())
        assert refused.value.detail == "The storage does not answer."
        calls = (
            storage.check(),
            storage.append(ID, 0, chunks(b"x")),
            storage.offset(ID),
            storage.publish(ID, Seen()),
            storage.publish_direct(ID, Seen()),
            content(storage),
            storage.delete(ID),
            storage.sweep(),
        )
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(answer) for answer in answers} == {ServiceUnavailable}
        assert monotonic() - started < 20
    assert all(record.levelno == logging.WARNING for record in caplog.records)
    assert re.search("S3 does not answer: .* error sending request", caplog.text)


async def test_an_s3_that_hangs_is_503_in_time() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    settings = S3Settings(
        endpoint=f"http://127.0.0.1:{port}",
        access_key_id=SecretStr("a"),
        secret_access_key=SecretStr("b"),
        timeout=0.1,
    )
    storage = S3Storage(open_bucket("s3://bucket", settings), direct_seconds=60)
    async with server, asyncio.timeout(5):
        for call in (storage.check(), storage.save(ID, chunks(b"x"), Seen()), content(storage)):
            with pytest.raises(ServiceUnavailable):
                await call


async def test_a_bucket_that_is_not_there_is_no_missing_file(bucket: Bucket) -> None:
    storage = S3Storage(open_bucket("s3://nowhere", bucket.settings), direct_seconds=60)
    for call in (storage.save(ID, chunks(b"x"), Seen()), content(storage), storage.check()):
        with pytest.raises(ServiceUnavailable):
            await call


@pytest.mark.parametrize("wrong", ["../secret", "x", "", ID.upper(), f"{ID}/x", "parts"])
async def test_an_id_of_another_form_is_never_a_path(storage: S3Storage, wrong: str) -> None:
    for call in (
        storage.save(wrong, chunks(b"x"), Seen()),
        storage.append(wrong, 0, chunks(b"x")),
        storage.offset(wrong),
        storage.publish(wrong, Seen()),
        storage.publish_direct(wrong, Seen()),
        storage.sign_direct(wrong),
        storage.delete(wrong),
    ):
        with pytest.raises(NotFound):
            await call
    with pytest.raises(AppError):
        async for _ in storage.read(wrong, 0, 1):
            pass


async def test_the_url_decides_which_storage_it_is(settings: Settings, bucket: Bucket) -> None:
    async with open_storage(bucket.applied(settings)) as storage:
        assert isinstance(storage, S3Storage)
    async with open_storage(settings) as storage:
        assert not isinstance(storage, S3Storage)


@pytest.mark.parametrize(
    "url",
    [
        "file:///tmp/hunter2",
        "s3://",
        "s3:///hunter2",
        "S3//hunter2",
        "s3://user:hunter2@bucket",
        "s3://bucket?key=hunter2",
        "s3://bucket#hunter2",
        "s3://hunter2:99",
        "https://bucket.example/hunter2",
        "s3://[hunter2",
    ],
)
async def test_a_wrong_url_stops_the_start_with_the_name_of_the_setting_alone(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_STORAGE_URL", url)
    with pytest.raises(ValidationError, match="storage_url") as error:
        Settings()
    assert "hunter2" not in str(error.value)
