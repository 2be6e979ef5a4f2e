"""Files in an S3 bucket, which must take conditional writes (`If-None-Match`), as that of AWS does.

    {id}                       a file
    parts/{id}/{offset}        of an unfinished file, what came from this offset on
    direct/{id}                what a client has put there by a signed URL, until it is confirmed
    check                      what `/ready` writes

A file appears whole: one of more than 5 MiB at the end of a multipart upload, which is aborted when it fails.
What a killed process has begun of one stays in the bucket, where no listing shows it, and is paid for. So
give the bucket a lifecycle rule with `AbortIncompleteMultipartUpload` after a day. S3 takes 10 000 parts,
here of 5 MiB: a file has at most 48 GiB.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta

from app.errors import Conflict, ContentTooLarge, Locked, NotFound
from app.storage.bucket import PART_SIZE, Bucket
from app.storage.pieces import pieces_of
from app.storage.storage import Inspector, file_id_of
from app.storage.threads import Threads, ended

MAX_PARTS = 10_000
"""Of an unfinished file. Each request lists them all: one that comes in crumbs makes them dear."""
THREADS = 16
"""For inspections, as many as the disk has: they take no thread from the rest of the service."""
BEGUN = "begun"
"""In the place of an offset: there is an unfinished file, without a byte."""


class S3Storage:
    left_before: datetime | None = None

    def __init__(self, bucket: Bucket, direct_seconds: float) -> None:
        self._bucket = bucket
        self._direct_lifetime = timedelta(seconds=direct_seconds)
        self._threads = Threads(THREADS)
        self._being_published: set[str] = set()

    async def save(self, file_id: str, chunks: AsyncIterable[bytes], inspector: Inspector) -> None:
        async with (
            aclosing(pieces_of(chunks)) as pieces,
            aclosing(self._inspected(pieces, inspector)) as good,
        ):
            await self._bucket.put_all(file_id_of(file_id), good)

    async def append(self, file_id: str, offset: int, chunks: AsyncIterable[bytes]) -> int:
        try:
            length = await self._append(file_id, offset, chunks)
        finally:
            complete = await ended(asyncio.ensure_future(self._complete_meanwhile(file_id)))
        if complete:
            raise Conflict("The upload is complete.")
        return length

    async def _complete_meanwhile(self, file_id: str) -> bool:
        """By another request. What came after its last byte is of no file, and in no quota."""
        try:
            await self._bucket.size(file_id_of(file_id))
        except NotFound:
            return False
        await self._bucket.delete([*await self._listed(file_id)])
        return True

    async def _append(self, file_id: str, offset: int, chunks: AsyncIterable[bytes]) -> int:
        parts = _joined(await self._listed(file_id))
        if sum(parts.values()) != offset:
            raise Conflict("The file has another length than the request says.")
        count = len(parts)
        waiting = bytearray()

        async def put() -> None:
            nonlocal waiting, offset, count
            part, waiting, count = bytes(waiting), bytearray(), count + 1
            if count > MAX_PARTS:
                raise ContentTooLarge("The file came in too many pieces. Send it anew, in larger ones.")
            # What follows the part before is put once: so parts never overlap, whoever puts them.
            creating = self._bucket.create(f"{_parts(file_id)}/{offset:020d}", part)
            await ended(asyncio.ensure_future(creating))
            offset += len(part)

        try:
            async for chunk in chunks:
                waiting += chunk
                if len(waiting) >= PART_SIZE:
                    await put()
        finally:
            if waiting:
                await put()
        if not offset:
            await self._bucket.put(f"{_parts(file_id)}/{BEGUN}", b"")
        return offset

    async def offset(self, file_id: str) -> int:
        listed = await self._listed(file_id)
        if listed:
            return sum(_joined(listed).values())
        try:
            return await self._bucket.size(file_id_of(file_id))
        except NotFound:
            return 0

    async def publish(self, file_id: str, inspector: Inspector) -> None:
        """Once at a time in a process. Two processes may do it at once: that makes the same file twice."""
        if file_id in self._being_published:
            raise Locked
        self._being_published.add(file_id)
        try:
            await self._publish(file_id, inspector)
        finally:
            self._being_published.remove(file_id)

    async def _publish(self, file_id: str, inspector: Inspector) -> None:
        listed = await self._listed(file_id)
        try:
            # It is there already where a process died right after.
            await self._show(file_id, inspector)
        except NotFound:
            if not listed:
                raise
            try:
                async with aclosing(self._read_all(_joined(listed))) as pieces:
                    await self.save(file_id, pieces, inspector)
            except NotFound:
                raise Locked from None  # another request has published it meanwhile, or deleted it
        # Listed anew: who is still appending may have put one that it could not yet see to be late.
        await self._bucket.delete([*await self._listed(file_id)])

    async def publish_direct(self, file_id: str, inspector: Inspector) -> None:
        """Like `publish`, of what the client has put at its URL. `NotFound` where there is nothing yet.

        The copy is shown, and never replaced: the client can replace what it has put as long as its URL is
        good, also between two requests to publish it.
        """
        try:
            await self._bucket.copy(_direct(file_id), file_id_of(file_id))
        except (Locked, NotFound):
            pass  # it may be that an earlier request has copied it
        await self._show(file_id, inspector)
        await self._bucket.delete([_direct(file_id)])

    async def sign_direct(self, file_id: str) -> str:
        """A URL that takes one PUT after the other, of anything, as long as it is good."""
        return await self._bucket.sign_put(_direct(file_id), self._direct_lifetime)

    async def read(self, file_id: str, start: int, stop: int) -> AsyncGenerator[bytes]:
        path = file_id_of(file_id)
        if start >= stop:
            # S3 has no answer for a range of no bytes.
            await self._bucket.size(path)
            return
        async with aclosing(self._bucket.get(path, start, stop)) as pieces:
            async for piece in pieces:
                yield piece

    async def delete(self, file_id: str) -> None:
        await self._bucket.delete([file_id_of(file_id), _direct(file_id), *await self._listed(file_id)])

    async def sweep(self) -> None:
        # Nobody confirms what is that old: twice the lifetime of its URL is the time for it.
        before = datetime.now(UTC) - 2 * self._direct_lifetime
        async with aclosing(self._bucket.pages("direct")) as pages:
            async for page in pages:
                await self._bucket.delete([each["path"] for each in page if each["last_modified"] < before])

    async def check(self) -> None:
        await self._bucket.put("check", b"ready")

    async def _listed(self, file_id: str) -> dict[str, int]:
        """Path and length of each part, in their order."""
        pages = self._bucket.pages(_parts(file_id))
        return dict(sorted([(each["path"], each["size"]) async for page in pages for each in page]))

    async def _read_all(self, paths: Iterable[str]) -> AsyncGenerator[bytes]:
        for path in paths:
            async with aclosing(self._bucket.get(path)) as pieces:
                async for piece in pieces:
                    yield piece

    async def _show(self, file_id: str, inspector: Inspector) -> None:
        async with aclosing(self._bucket.get(file_id_of(file_id))) as pieces:
            async for _ in self._inspected(pieces, inspector):
                pass

    async def _inspected(self, pieces: AsyncIterable[bytes], inspector: Inspector) -> AsyncGenerator[bytes]:
        async for piece in pieces:
            await self._threads.run(inspector.feed, piece)
            yield piece
        await self._threads.run(inspector.finish)


def _parts(file_id: str) -> str:
    return f"parts/{file_id_of(file_id)}"


def _direct(file_id: str) -> str:
    return f"direct/{file_id_of(file_id)}"


def _joined(listed: dict[str, int]) -> dict[str, int]:
    """The parts up to the first gap."""
    joined: dict[str, int] = {}
    end = 0
    for path, size in listed.items():
        if path.rpartition("/")[2] != f"{end:020d}":
            break
        joined[path] = size
        end += size
    return joined


@asynccontextmanager
async def open_s3(bucket: Bucket, direct_seconds: float) -> AsyncIterator[S3Storage]:
    storage = S3Storage(bucket, direct_seconds)
    try:
        yield storage
    finally:
        storage._threads.end()
