"""What becomes of what has come, and of what is being read, when a request ends in the middle.

The bucket is in memory: it answers when the test wants it to.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from starlette.requests import ClientDisconnect

from app.errors import Conflict, Locked, NotFound, ServiceUnavailable, UnsupportedMediaType
from app.storage.bucket import PART_SIZE, Bucket
from app.storage.s3 import S3Storage
from tests.contract.storages import ID, LIMIT, Seen

if TYPE_CHECKING:
    from obstore import ObjectMeta

pytestmark = pytest.mark.anyio

LIFETIME = timedelta(seconds=60)
"""Of a signed URL."""


class BucketInMemory(Bucket):
    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.dates: dict[str, datetime] = {}
        self.being_read = self.files_put = 0
        self.putting, self.may_put = asyncio.Event(), asyncio.Event()

    async def create(self, path: str, body: bytes) -> None:
        self.putting.set()
        await self.may_put.wait()
        self.objects[path] = body

    async def put_all(self, path: str, pieces: AsyncIterator[bytes]) -> None:
        self.files_put += 1
        self.putting.set()
        content = b"".join([piece async for piece in pieces])
        await self.may_put.wait()
        self.objects[path] = content

    async def get(self, path: str, start: int = 0, stop: int | None = None) -> AsyncGenerator[bytes]:
        if path not in self.objects:
            raise NotFound
        self.being_read += 1
        try:
            yield self.objects[path]
            yield b"and more"
        finally:
            self.being_read -= 1

    async def put(self, path: str, body: bytes) -> None:
        self.objects[path] = body

    async def size(self, path: str) -> int:
        if path not in self.objects:
            raise NotFound
        return len(self.objects[path])

    async def pages(self, folder: str) -> "AsyncGenerator[Sequence[ObjectMeta]]":
        self.being_read += 1
        try:
            for path in [each for each in self.objects if each.startswith(f"{folder}/")]:
                date = self.dates.get(path, datetime.now(UTC))
                size = len(self.objects[path])
                yield [{"path": path, "size": size, "last_modified": date, "e_tag": None, "version": None}]
        finally:
            self.being_read -= 1

    async def delete(self, paths: Sequence[str]) -> None:
        for path in paths:
            self.objects.pop(path, None)


@pytest.fixture
async def bucket() -> BucketInMemory:
    return BucketInMemory()


@pytest.fixture
def storage(bucket: BucketInMemory) -> S3Storage:
    return S3Storage(bucket, LIFETIME.total_seconds())


async def test_a_part_that_is_being_put_is_kept_however_often_the_task_is_cancelled(
    storage: S3Storage, bucket: BucketInMemory
) -> None:
    async def arriving() -> AsyncIterator[bytes]:
        yield b"x" * PART_SIZE
        await asyncio.Event().wait()

    appending = asyncio.create_task(storage.append(ID, 0, arriving()))
    async with asyncio.timeout(LIMIT):
        await bucket.putting.wait()
        await cancelled_twice(appending, bucket)
    assert await storage.offset(ID) == PART_SIZE


async def test_the_last_part_is_kept_however_often_the_task_is_cancelled(
    storage: S3Storage, bucket: BucketInMemory
) -> None:
    waiting = asyncio.Event()

    async def arriving() -> AsyncIterator[bytes]:
        yield b"abc"
        waiting.set()
        await asyncio.Event().wait()

    appending = asyncio.create_task(storage.append(ID, 0, arriving()))
    async with asyncio.timeout(LIMIT):
        await waiting.wait()
        appending.cancel()
        await bucket.putting.wait()
        await cancelled_twice(appending, bucket)
    assert await storage.offset(ID) == 3


async def cancelled_twice(appending: asyncio.Task[int], bucket: BucketInMemory) -> None:
    for _ in range(2):
        appending.cancel()
        await asyncio.sleep(0)
    bucket.may_put.set()
    with pytest.raises(asyncio.CancelledError):
        await appending


async def test_a_file_is_put_once_however_many_requests_publish_it(
    storage: S3Storage, bucket: BucketInMemory
) -> None:
    bucket.objects[f"parts/{ID}/{0:020d}"] = b"file"
    first = asyncio.create_task(storage.publish(ID, Seen()))
    async with asyncio.timeout(LIMIT):
        await bucket.putting.wait()
        for _ in range(10):
            with pytest.raises(Locked):
                await storage.publish(ID, Seen())
        bucket.may_put.set()
        await first
        await storage.publish(ID, Seen())  # as after a process that died before it could write the row
    assert bucket.files_put == 1


async def test_who_could_not_publish_may_try_again(storage: S3Storage, bucket: BucketInMemory) -> None:
    bucket.objects[f"parts/{ID}/{0:020d}"] = b"file"
    bucket.may_put.set()
    for _ in range(2):
        with pytest.raises(UnsupportedMediaType):
            await storage.publish(ID, Seen(refuses_at_the_end=True))


@pytest.mark.parametrize("breaks_off", [True, False])
@pytest.mark.parametrize("late", [b"", b"late", b"x" * (PART_SIZE + 1)])
async def test_what_comes_when_the_file_is_complete_is_not_kept(
    storage: S3Storage, bucket: BucketInMemory, late: bytes, breaks_off: bool
) -> None:
    bucket.may_put.set()

    async def arriving() -> AsyncIterator[bytes]:
        bucket.objects[ID] = b"file"  # by another request
        if late:
            yield late
        if breaks_off:
            raise ClientDisconnect

    with pytest.raises(ClientDisconnect if breaks_off else Conflict):
        await storage.append(ID, 0, arriving())
    assert bucket.objects == {ID: b"file"}


async def test_what_comes_while_the_file_is_published_is_not_kept(
    storage: S3Storage, bucket: BucketInMemory
) -> None:
    bucket.objects[f"parts/{ID}/{0:020d}"] = b"file"
    publishing = asyncio.create_task(storage.publish(ID, Seen()))
    async with asyncio.timeout(LIMIT):
        await bucket.putting.wait()
        bucket.objects[f"parts/{ID}/{4:020d}"] = b"late"
        bucket.may_put.set()
        await publishing
    assert [*bucket.objects] == [ID]


async def test_a_reader_who_leaves_closes_what_was_read(storage: S3Storage, bucket: BucketInMemory) -> None:
    """At once: the garbage collector would do it some time after."""
    bucket.objects[ID] = b"file"
    async with aclosing(storage.read(ID, 0, 9)) as pieces:
        await anext(pieces)
        assert bucket.being_read == 1
    assert bucket.being_read == 0


@pytest.mark.parametrize("path", [ID, f"parts/{ID}/{0:020d}"])
async def test_a_refusal_closes_what_was_read(storage: S3Storage, bucket: BucketInMemory, path: str) -> None:
    bucket.objects[path] = b"WRONG"
    with pytest.raises(UnsupportedMediaType) as held:
        await storage.publish(ID, Seen())
    assert bucket.being_read == 0
    del held  # as a log may hold the error, and with it all that it went through


async def test_a_sweep_that_fails_closes_its_listing(
    storage: S3Storage, bucket: BucketInMemory, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(paths: Sequence[str]) -> None:
        raise ServiceUnavailable

    bucket.objects[f"direct/{ID}"] = b"file"
    monkeypatch.setattr(bucket, "delete", fail)
    with pytest.raises(ServiceUnavailable):
        await storage.sweep()
    assert bucket.being_read == 0


async def test_the_sweep_leaves_what_may_still_be_confirmed(
    storage: S3Storage, bucket: BucketInMemory
) -> None:
    """As long as its row is there, which is twice the lifetime of its URL."""
    ages = {"direct/new": 0.0, "direct/late": 1.9, "direct/forgotten": 2.1}
    bucket.objects = dict.fromkeys(ages, b"file")
    bucket.dates = {path: datetime.now(UTC) - age * LIFETIME for path, age in ages.items()}
    await storage.sweep()
    assert [*bucket.objects] == ["direct/new", "direct/late"]
