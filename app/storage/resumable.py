"""Files that come in pieces, over many requests: what is stored is where the next request goes on.

Nothing about an upload is kept in the process. Its length is in the table, its offset is the length of what
the storage has, its lock is the storage's: so whoever dies, another process knows as much.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from time import monotonic

from anyio import to_thread

from app.database.models import StoredFile
from app.errors import Conflict, ContentTooLarge, Locked, NotFound, UnsupportedMediaType
from app.settings import Settings
from app.storage.content import ContentCheck
from app.storage.files import READY, RESUMABLE, Files
from app.storage.inspection import Inspection

LOOK_SECONDS = 5.0
"""After which a request is told that its upload is ended. Until then it brings bytes that no quota counts."""
TOO_LONG = "These are more bytes than the upload was to have."


class ResumableUploads:
    """`owner` is the id of an account, or None for who knows the id, as for `Files`."""

    def __init__(self, files: Files, settings: Settings) -> None:
        self._files = files
        self._settings = settings

    async def create(
        self, owner: str | None, filename: str, length: int, chunks: AsyncIterator[bytes]
    ) -> tuple[StoredFile, int]:
        """The new upload, and its offset after `chunks`. When these raise, nothing is left, for nobody knows
        its id. Raises `ContentTooLarge`, `UnsupportedMediaType` by the extension, `InsufficientStorage`."""
        limits = self._settings.files
        if length > limits.most_of(owner, limits.max_resumable_size):
            raise ContentTooLarge
        seconds = limits.first_byte_seconds
        file = await self._files.begin(RESUMABLE, owner, filename, length, length, seconds)
        try:
            return await self._append(file, 0, chunks)
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
        self, upload_id: str, owner: str | None, offset: int, chunks: AsyncIterator[bytes]
    ) -> tuple[StoredFile, int]:
        """Adds what `chunks` brings; after the last byte the upload is a file. When `chunks` raises, what
        came before is kept.

        `Conflict` where `offset` is another, `Locked` where another request appends.
        """
        file = await self._files.find(upload_id, owner, RESUMABLE, READY)
        if file.state == READY:
            raise Conflict("The upload is complete.")
        return await self._append(file, offset, chunks)

    async def end(self, upload_id: str, owner: str | None) -> None:
        await self._files.delete(upload_id, owner, RESUMABLE)

    async def _append(
        self, file: StoredFile, offset: int, chunks: AsyncIterator[bytes]
    ) -> tuple[StoredFile, int]:
        chunks = self._until_ended(file, at_most(file.size - offset, chunks))
        if offset == 0:
            chunks = well_begun(chunks, self._content_check(file.filename))
        limits = self._settings.files
        longest = self._settings.request_seconds(limits.max_resumable_size)
        came = False

        async def unswept() -> AsyncGenerator[bytes]:
            """It is not swept under the hands of a request that takes long, but only of one that brings
            something and may append it: the storage has looked at the offset and the lock before it asks."""
            nonlocal came
            async for chunk in chunks:
                if not came:
                    await self._files.prolong(file.id, file.owner_id, limits.resumable_seconds + longest)
                    came = True
                yield chunk

        async def wait_for_the_next() -> StoredFile:
            if not came:
                return await self._files.find(file.id, file.owner_id, RESUMABLE)
            return await self._files.prolong(file.id, file.owner_id, limits.resumable_seconds)

        try:
            async with aclosing(unswept()) as incoming:
                offset = await self._files.append(file.id, offset, incoming)
            if offset == file.size:
                return await self._complete(file), offset
        except (Conflict, Locked):  # of another request, which says itself how long the upload waits
            raise
        except UnsupportedMediaType:
            await self._files.undo(file.id)
            raise
        except Exception:
            with suppress(NotFound):
                await wait_for_the_next()
            raise
        try:
            return await wait_for_the_next(), offset
        except NotFound:  # another request has brought the rest meanwhile
            return await self.find(file.id, file.owner_id)

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

    async def _until_ended(self, file: StoredFile, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        """`NotFound` when the upload is ended or swept meanwhile."""
        looked = monotonic()
        async for chunk in chunks:
            if monotonic() - looked >= LOOK_SECONDS:
                await self._files.find(file.id, file.owner_id, RESUMABLE, READY)
                looked = monotonic()
            yield chunk

    def _content_check(self, filename: str) -> ContentCheck:
        return ContentCheck(filename, self._settings.max_image_pixels)


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
