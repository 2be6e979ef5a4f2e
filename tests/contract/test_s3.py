"""What S3 alone has: multipart uploads, parts that are objects, and a place where clients put."""

import asyncio
from collections.abc import AsyncIterator

import obstore
import pytest

from app.errors import Conflict, ContentTooLarge, Locked, NotFound, UnsupportedMediaType
from app.storage import s3 as module
from app.storage.bucket import PART_SIZE, open_bucket
from app.storage.s3 import S3Storage
from tests.contract.storages import ID, LIMIT, Seen, chunks, content_of
from tests.s3 import Bucket

pytestmark = pytest.mark.anyio

MIB = 1024 * 1024


def storage_in(bucket: Bucket, direct_seconds: float = 60) -> S3Storage:
    return S3Storage(open_bucket(bucket.url, bucket.settings), direct_seconds)


@pytest.fixture
def storage(bucket: Bucket) -> S3Storage:
    return storage_in(bucket)


async def endless(first: bytes, waiting: asyncio.Event) -> AsyncIterator[bytes]:
    yield first
    yield b"more"
    waiting.set()
    await asyncio.Event().wait()


@pytest.mark.parametrize("size", [0, 1, PART_SIZE, 11 * MIB])
async def test_a_file_of_any_length_is_whole_and_inspected_before_it_is_there(
    storage: S3Storage, bucket: Bucket, size: int
) -> None:
    body = (bytes(range(251)) * (size // 251 + 1))[:size]
    there: list[list[str]] = []

    class Looking(Seen):
        def finish(self) -> None:
            there.append(bucket.paths)

    seen = Looking()
    await storage.save(ID, chunks(body), seen)
    assert (seen.bytes == body, there, bucket.paths, bucket.uploads) == (True, [[]], [ID], [])
    assert bucket.get(ID) == body


@pytest.mark.parametrize("length", [10, 6 * MIB])
async def test_what_is_refused_is_aborted(storage: S3Storage, bucket: Bucket, length: int) -> None:
    with pytest.raises(UnsupportedMediaType):
        await storage.save(ID, chunks(b"x" * length + b"WRONG", length), Seen())
    assert (bucket.paths, bucket.uploads) == ([], [])


async def test_what_is_cancelled_is_aborted(storage: S3Storage, bucket: Bucket) -> None:
    waiting = asyncio.Event()
    saving = asyncio.create_task(storage.save(ID, endless(b"x" * 6 * MIB, waiting), Seen()))
    async with asyncio.timeout(LIMIT):
        await waiting.wait()
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await saving
    assert (bucket.paths, bucket.uploads) == ([], [])


async def test_trap_an_upload_that_obstore_sees_cancelled_stays_in_the_bucket(bucket: Bucket) -> None:
    waiting = asyncio.Event()
    store = open_bucket(bucket.url, bucket.settings)._store
    putting = asyncio.ensure_future(obstore.put_async(store, ID, endless(b"x", waiting), use_multipart=True))
    async with asyncio.timeout(LIMIT):
        await waiting.wait()
        putting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await putting
    assert bucket.uploads == [f"folder/{ID}"]


async def test_of_two_requests_that_saw_the_same_length_one_is_kept(
    storage: S3Storage, bucket: Bucket
) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[bytes]:
        yield b"slow"
        begun.set()
        await go_on.wait()

    late = asyncio.create_task(storage.append(ID, 0, slow()))
    async with asyncio.timeout(LIMIT):
        await begun.wait()
        # The other process has a storage of its own.
        assert await storage_in(bucket).append(ID, 0, chunks(b"in time")) == 7
        go_on.set()
        with pytest.raises(Locked):
            await late
    assert await storage.append(ID, 7, chunks(b"!")) == 8
    seen = Seen()
    await storage.publish(ID, seen)
    assert (seen.bytes, await content_of(storage), bucket.paths) == (b"in time!", b"in time!", [ID])


async def test_a_part_behind_a_gap_does_not_count(storage: S3Storage, bucket: Bucket) -> None:
    await storage.append(ID, 0, chunks(b"first"))
    bucket.put(f"parts/{ID}/{6:020d}", b"lost")
    assert await storage.offset(ID) == 5
    with pytest.raises(Conflict):
        await storage.append(ID, 10, chunks(b"more"))
    await storage.publish(ID, Seen())
    assert (await content_of(storage), bucket.paths) == (b"first", [ID])


async def test_parts_are_bounded_in_length_and_number(
    storage: S3Storage, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_PARTS", 3)
    assert await storage.append(ID, 0, chunks(b"x" * 11 * MIB, MIB)) == 11 * MIB
    assert bucket.paths == [f"parts/{ID}/{offset * MIB:020d}" for offset in (0, 5, 10)]
    with pytest.raises(ContentTooLarge):
        await storage.append(ID, 11 * MIB, chunks(b"one more"))
    assert await storage.offset(ID) == 11 * MIB


@pytest.mark.parametrize("left", [["one", "two"], ["two"], []])
async def test_publishing_goes_on_wherever_a_process_died_in_it(
    storage: S3Storage, bucket: Bucket, left: list[str]
) -> None:
    """The file is there, and all, one, none of its parts."""
    bucket.put(ID, b"onetwo")
    for text in left:
        bucket.put(f"parts/{ID}/{3 * (text == 'two'):020d}", text.encode())
    seen = Seen()
    await storage.publish(ID, seen)
    assert (seen.bytes, bucket.paths, await storage.offset(ID)) == (b"onetwo", [ID], 6)


async def test_a_part_that_goes_while_it_is_published_is_the_work_of_another_request(
    storage: S3Storage, bucket: Bucket
) -> None:
    await storage.append(ID, 0, chunks(b"x"))
    await storage.append(ID, 1, chunks(b"y"))

    class Removing(Seen):
        def feed(self, piece: bytes) -> None:
            bucket.delete(f"parts/{ID}/{1:020d}")

    with pytest.raises(Locked):
        await storage.publish(ID, Removing())
    assert (bucket.paths, bucket.uploads) == ([f"parts/{ID}/{0:020d}"], [])


async def test_what_was_put_directly_is_copied_once(storage: S3Storage, bucket: Bucket) -> None:
    bucket.put(f"direct/{ID}", b"good")

    class Interrupted(Seen):
        def finish(self) -> None:
            bucket.put(f"direct/{ID}", b"evil")
            raise ConnectionError

    with pytest.raises(ConnectionError):
        await storage.publish_direct(ID, Interrupted())
    for _ in range(2):
        seen = Seen()
        await storage.publish_direct(ID, seen)
        assert (seen.bytes, await content_of(storage), bucket.paths) == (b"good", b"good", [ID])


async def test_the_sweep_takes_what_was_put_by_a_url_that_has_expired(bucket: Bucket) -> None:
    for path in (ID, f"direct/{ID}", f"parts/{ID}/{0:020d}"):
        bucket.put(path, b"x")
    await storage_in(bucket, direct_seconds=60).sweep()
    assert len(bucket.paths) == 3
    await storage_in(bucket, direct_seconds=-10).sweep()
    assert bucket.paths == [ID, f"parts/{ID}/{0:020d}"]


@pytest.mark.parametrize("wrong", ["../secret", "", ID.upper(), f"{ID}/x"])
async def test_an_id_of_another_form_has_no_url(storage: S3Storage, wrong: str) -> None:
    for call in (storage.sign_direct(wrong), storage.publish_direct(wrong, Seen())):
        with pytest.raises(NotFound):
            await call
