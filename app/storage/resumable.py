"""Files that come in pieces, over many requests: what is stored is where the next request goes on.

Nothing about an upload is kept in the process. Its length is in the table, its offset is the length of what
the storage has, its lock is the storage's: so whoever dies, another process knows as much.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from hmac import compare_digest

from anyio import TemporaryFile, to_thread
from starlette.requests import Request

from app.database.models import StoredFile
from app.errors import (
    DISK_FULL,
    Conflict,
    ContentTooLarge,
    InsufficientStorage,
    Locked,
    NotFound,
    ServiceUnavailable,
    UnsupportedMediaType,
)
from app.settings import Settings
from app.storage.content import ContentCheck
from app.storage.files import LATE_SECONDS, READY, RESUMABLE, Files
from app.storage.inspection import Inspection
from app.storage.pieces import PIECE_SIZE, pieces_of
from app.tus import Checksum, ChecksumMismatch, RequestTimeout

TOO_LONG = "These are more bytes than Upload-Length says."


class ResumableUploads:
    """`owner` is the id of an account, or None for who knows the id, as for `Files`."""

    def __init__(self, files: Files, settings: Settings) -> None:
        self._files = files
        self._settings = settings

    async def create(
        self,
        owner: str | None,
        filename: str,
        length: int,
        chunks: AsyncIterator[bytes],
        checksum: Checksum | None,
    ) -> tuple[StoredFile, int]:
        """The new upload, and its offset after `chunks`. When these raise, nothing is left, for nobody knows
        its id. Raises `ContentTooLarge`, `UnsupportedMediaType` by the extension, `InsufficientStorage`."""
        if length > self._settings.files.max_resumable_size:
            raise ContentTooLarge
        seconds = self._settings.files.resumable_seconds
        file = await self._files.begin(RESUMABLE, owner, filename, length, length, seconds)
        try:
            return await self._append(file, 0, chunks, checksum)
        except BaseException:
            await self._files.undo(file.id)
            raise

    async def find(self, upload_id: str, owner: str | None) -> tuple[StoredFile, int]:
        """The upload, complete or not, and its offset. One whose last request died after its last byte is
        completed now. `Locked` while another request does that, for nobody knows yet how it ends."""
        file = await self._files.find(upload_id, owner, RESUMABLE, READY)
        if file.state != RESUMABLE:
            return file, file.size
        offset = await self._files.storage.offset(file.id)
        if offset == file.size > 0:
            file = await self._complete(file)
        return file, offset

    async def append(
        self,
        upload_id: str,
        owner: str | None,
        offset: int,
        chunks: AsyncIterator[bytes],
        checksum: Checksum | None,
    ) -> tuple[StoredFile, int]:
        """Adds what `chunks` brings; after the last byte the upload is a file. When `chunks` raises, what
        came before is kept, but not where a checksum is yet to be met.

        `Conflict` where `offset` is another, `Locked` where another request appends.
        """
        limits = self._settings.files
        # It is not swept under the hands of a request that takes long.
        longest = self._settings.body_timeout + limits.max_resumable_size / self._settings.body_min_rate
        try:
            file = await self._files.prolong(
                upload_id, owner, limits.resumable_seconds + longest + LATE_SECONDS
            )
        except NotFound:
            await self._files.find(upload_id, owner)
            raise Conflict("The upload is complete.") from None
        try:
            file, offset = await self._append(file, offset, chunks, checksum)
        except (Conflict, Locked):  # of another request, which may take as long
            raise
        except Exception:
            with suppress(NotFound):
                await self._files.prolong(file.id, owner, limits.resumable_seconds)
            raise
        if file.state == RESUMABLE:
            file = await self._files.prolong(file.id, owner, limits.resumable_seconds)
        return file, offset

    async def end(self, upload_id: str, owner: str | None) -> None:
        await self._files.delete(upload_id, owner, RESUMABLE)

    async def _append(
        self, file: StoredFile, offset: int, chunks: AsyncIterator[bytes], checksum: Checksum | None
    ) -> tuple[StoredFile, int]:
        incoming = at_most(file.size - offset, chunks)
        if offset == 0:
            incoming = well_begun(incoming, self._content_check(file.filename))
        if checksum is not None:
            incoming = verified(incoming, checksum)
        try:
            async with aclosing(incoming):
                offset = await self._files.append(file.id, offset, incoming)
        except UnsupportedMediaType:
            await self._files.undo(file.id)
            raise
        return (await self._complete(file) if offset == file.size else file), offset

    async def _complete(self, file: StoredFile) -> StoredFile:
        inspection = Inspection(self._content_check(file.filename), file.size, ContentTooLarge(TOO_LONG))
        try:
            await self._files.storage.publish(file.id, inspection)
            return await self._files.settle(file, inspection)
        except NotFound:  # another request was first
            return await self._files.find(file.id, file.owner_id)
        except UnsupportedMediaType:
            await self._files.undo(file.id)
            raise

    def _content_check(self, filename: str) -> ContentCheck:
        return ContentCheck(filename, self._settings.max_image_pixels)


async def arriving(request: Request, silence: float, stopping: asyncio.Event) -> AsyncGenerator[bytes]:
    """The body of a request. Its end is an error, which keeps what came, when the client is silent for so
    long, or the service stops."""
    chunks = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(silence):
                chunk = await anext(chunks)
        except TimeoutError:
            raise RequestTimeout from None
        except StopAsyncIteration:
            return
        if chunk:
            yield chunk
        if stopping.is_set():
            raise ServiceUnavailable("The service is about to stop. What came is kept.")


async def at_most(room: int, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
    async for chunk in chunks:
        room -= len(chunk)
        if room < 0:
            raise ContentTooLarge(TOO_LONG)
        yield chunk


async def well_begun(chunks: AsyncIterator[bytes], content: ContentCheck) -> AsyncGenerator[bytes]:
    """Refuses a wrong beginning before it is stored; all of the file is looked at when it is complete."""
    first = True
    async for chunk in chunks:
        if first:
            await to_thread.run_sync(content.feed, chunk)
            first = False
        yield chunk


async def verified(chunks: AsyncIterator[bytes], checksum: Checksum) -> AsyncGenerator[bytes]:
    """All of the chunks, or none of them. Until the last one they wait in a temporary file."""
    digest = hashlib.new(checksum.algorithm, usedforsecurity=False)
    try:
        async with TemporaryFile() as spool:
            async for piece in pieces_of(chunks):
                await to_thread.run_sync(digest.update, piece)
                await spool.write(piece)
            if not compare_digest(digest.digest(), checksum.digest):
                raise ChecksumMismatch
            await spool.seek(0)
            while piece := await spool.read(PIECE_SIZE):
                yield piece
    except OSError as error:
        if error.errno in DISK_FULL:
            raise InsufficientStorage from error
        raise
