"""Which files there are, whose they are, and how they come and go: the table and the storage, in step.

A row is written before the first byte and goes after the last one. While a file comes it has a moment at
which it expires, and room of its owner's quota. What is stopped on the way, by whatever, is swept then: at
the next look at the table, in any process, on any machine.
"""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterable, Sequence
from datetime import UTC, datetime, timedelta

from anyio import move_on_after
from sqlalchemy import ColumnElement, delete, select, tuple_, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.sql.dml import ReturningDelete, ReturningUpdate

from app.database.models import StoredFile
from app.database.session import SessionMaker
from app.errors import ContentTooLarge, InsufficientStorage, NotFound
from app.security.oauth_errors import InvalidToken
from app.settings import MULTIPART_OVERHEAD, Settings
from app.storage.content import ContentCheck
from app.storage.inspection import Inspection
from app.storage.quota import NO_ROOM, room_for_a_file
from app.storage.storage import Storage, file_id_of

READY = "ready"
RECEIVING = "receiving"
"""Within one request. Nobody comes back for it."""
RESUMABLE = "resumable"
DIRECT = "direct"
"""The client puts it into the bucket by itself."""
DELETED = "deleted"
SWEPT_AT_ONCE = 100
DELETE_SECONDS = 60
"""After this a file that could not be deleted is tried again."""
UNDO_SECONDS = 10.0

logger = logging.getLogger(__name__)


class Files:
    """`owner` is the id of an account, or None: a file without one is for all who know its id, for a while.

    The file of somebody else is `NotFound`, as one that does not exist.
    """

    def __init__(self, sessions: SessionMaker, storage: Storage, settings: Settings) -> None:
        self._sessions = sessions
        self.storage = storage
        self._settings = settings

    async def receive(
        self, owner: str | None, filename: str, body_length: int | None, chunks: AsyncIterable[bytes]
    ) -> StoredFile:
        """Keeps what `chunks` brings out of a body of this length.

        Raises `UnsupportedMediaType` before the first byte, or at the first that is not what the name says;
        `ContentTooLarge` above `APP_MAX_UPLOAD_SIZE`, or `APP_FILES__ANONYMOUS_MAX_SIZE` without an owner;
        `InsufficientStorage` above the quota.
        """
        content = ContentCheck(filename, self._settings.max_image_pixels)
        limit = self._settings.files.most_of(owner, self._settings.max_upload_size)
        least, most = 0, limit
        if body_length is not None:
            least, most = body_length - MULTIPART_OVERHEAD, min(body_length, limit)
        seconds = self._settings.request_seconds(most)
        file = await self.begin(RECEIVING, owner, filename, least, most, seconds)
        too_long = ContentTooLarge() if file.size == most else InsufficientStorage(NO_ROOM)
        inspection = Inspection(content, file.size, too_long)
        try:
            await self.storage.save(file.id, chunks, inspection)
            return await self.settle(file, inspection)
        except BaseException:
            await self.undo(file.id)
            raise

    async def begin(
        self, state: str, owner: str | None, filename: str, least: int, most: int, seconds: float
    ) -> StoredFile:
        """A row, for `seconds`, with room for `most` bytes, or what the quota leaves, but not below `least`.

        Raises `InsufficientStorage`, and `InvalidToken` where the account is gone.
        """
        file = StoredFile(
            id=secrets.token_hex(16),
            owner_id=owner,
            state=state,
            filename=filename,
            expires_at=datetime.now(UTC) + timedelta(seconds=seconds),
        )
        try:
            async with self._sessions.begin() as session:
                file.size = await room_for_a_file(session, owner, least, most, self._settings.files)
                session.add(file)
                try:
                    await session.flush()
                except IntegrityError:
                    raise InvalidToken from None
        except asyncio.CancelledError:
            # Nobody knows whether the row is there.
            await self.undo(file.id)
            raise
        return file

    async def settle(self, file: StoredFile, inspection: Inspection) -> StoredFile:
        """The bytes are in the storage: from now on it is a file. Raises `NotFound` if it was swept."""
        now = datetime.now(UTC)
        seconds = self._settings.files.anonymous_seconds if file.owner_id is None else None
        change = (
            update(StoredFile)
            .where(StoredFile.id == file.id, StoredFile.state == file.state)
            .values(
                state=READY,
                size=inspection.size,
                sha256=inspection.sha256,
                content_type=inspection.content_type,
                created_at=now,
                expires_at=seconds and now + timedelta(seconds=seconds),
            )
            .returning(StoredFile)
        )
        for settled in await self._change(change):
            return settled
        await self._discard_deleted(file.id)
        raise NotFound

    async def append(self, file_id: str, offset: int, chunks: AsyncIterable[bytes]) -> int:
        """As the storage does; but nothing comes to stay of a file that is deleted meanwhile."""
        try:
            return await self.storage.append(file_id, offset, chunks)
        finally:
            with move_on_after(UNDO_SECONDS, shield=True):
                await self._discard_deleted(file_id)

    async def undo(self, file_id: str) -> None:
        """Of a file that is not to be, all that is there. What cannot be undone at once is swept later.

        Also when nobody knows whether it was settled: one that was stays.
        """
        with move_on_after(UNDO_SECONDS, shield=True):
            try:
                if not await self._delete(StoredFile.id == file_id, StoredFile.state != READY):
                    await self._discard_deleted(file_id)
            except Exception:
                logger.exception("An upload that failed is not undone yet.")

    async def find(self, file_id: str, owner: str | None, *states: str) -> StoredFile:
        """In one of these states; without any, a file that is ready."""
        in_force = _in_force(*(states or (READY,)))
        query = select(StoredFile).where(*_known_to(owner, file_id), in_force)
        async with self._sessions() as session:
            file = (await session.scalars(query)).one_or_none()
        if file is None:
            raise NotFound
        return file

    async def page(self, owner: str, before: tuple[datetime, str] | None, size: int) -> Sequence[StoredFile]:
        """Files of an account, the newest first, from those on that are older than `before`."""
        query = select(StoredFile).where(StoredFile.owner_id == owner, _in_force(READY))
        if before is not None:
            query = query.where(tuple_(StoredFile.created_at, StoredFile.id) < before)
        order = StoredFile.created_at.desc(), StoredFile.id.desc()
        async with self._sessions() as session:
            return (await session.scalars(query.order_by(*order).limit(size))).all()

    async def delete(self, file_id: str, owner: str | None, state: str = READY) -> None:
        if not await self._delete(*_known_to(owner, file_id), _in_force(state)):
            raise NotFound

    async def prolong(self, file_id: str, owner: str | None, seconds: float) -> StoredFile:
        """An upload that goes on, with its new moment to expire."""
        which = *_known_to(owner, file_id), _in_force(RESUMABLE)
        expires_at = datetime.now(UTC) + timedelta(seconds=seconds)
        change = update(StoredFile).where(*which).values(expires_at=expires_at).returning(StoredFile)
        for file in await self._change(change):
            return file
        raise NotFound

    async def sweep(self) -> None:
        """Deletes what has expired."""
        expired = StoredFile.expires_at <= datetime.now(UTC)
        while await self._any(expired):
            await self._delete(expired)
        await self.storage.sweep()

    async def expire_left_over(self) -> None:
        """What processes have left that are dead is for the next sweep."""
        if before := self.storage.left_before:
            left = StoredFile.state.in_((RECEIVING, DELETED)) & (StoredFile.created_at < before)
            if await self._any(left):
                change = update(StoredFile).where(left).values(expires_at=datetime.now(UTC))
                await self._change(change.returning(StoredFile))

    async def _any(self, which: ColumnElement[bool]) -> bool:
        """A look that writes nothing: mostly there is nothing to sweep."""
        async with self._sessions() as session:
            return await session.scalar(select(StoredFile.id).where(which).limit(1)) is not None

    async def _delete(self, *which: ColumnElement[bool]) -> int:
        """Up to so many files. For everybody they are gone at once; the row goes when the bytes are.

        Where the storage fails, or the process dies in between, the row stays, and a later sweep goes on.
        Until then no other sweep has the same files.
        """
        chosen = select(StoredFile.id).where(*which).limit(SWEPT_AT_ONCE)
        mark = (
            update(StoredFile)
            .where(StoredFile.id.in_(chosen), *which)
            .values(state=DELETED, expires_at=datetime.now(UTC) + timedelta(seconds=DELETE_SECONDS))
            .returning(StoredFile)
        )
        files = await self._change(mark)
        deleted, errors = [], []
        for file in files:
            try:
                await self.storage.delete(file.id)
                deleted.append(file.id)
            except Exception as error:
                errors.append(error)
        if errors:
            logger.error("%d files are not deleted yet.", len(errors), exc_info=errors[0])
        if deleted:
            await self._change(delete(StoredFile).where(StoredFile.id.in_(deleted)).returning(StoredFile))
        return len(files)

    async def _change(
        self, change: ReturningUpdate[StoredFile] | ReturningDelete[StoredFile]
    ) -> Sequence[StoredFile]:
        async with self._sessions.begin() as session:
            return (await session.scalars(change)).all()

    async def _discard_deleted(self, file_id: str) -> None:
        """Bytes that came after those of the file had been deleted."""
        async with self._sessions() as session:
            state = await session.scalar(select(StoredFile.state).where(StoredFile.id == file_id))
        if state in (None, DELETED):
            await self.storage.delete(file_id)


def _known_to(owner: str | None, file_id: str) -> tuple[ColumnElement[bool], ...]:
    """One's own file, or one that belongs to nobody."""
    owned = StoredFile.owner_id.is_(None) | (StoredFile.owner_id == owner)
    return StoredFile.id == file_id_of(file_id), owned


def _in_force(*states: str) -> ColumnElement[bool]:
    return StoredFile.state.in_(states) & (
        StoredFile.expires_at.is_(None) | (StoredFile.expires_at > datetime.now(UTC))
    )
