"""Files in one folder, each under its id.

What is being written lies beside them under a hidden name, is flushed to the disk, and then gets its own. So
a reader sees the whole file or none, whatever stops the writer. All input and output runs in threads, and
those are few and of its own: a disk that hangs takes no thread from the rest of the service.
"""

import asyncio
import fcntl
import os
import re
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, ParamSpec, TypeVar

from anyio import CancelScope, CapacityLimiter, to_thread

from app.errors import DISK_FULL, Conflict, InsufficientStorage, Locked, NotFound
from app.storage.pieces import PIECE_SIZE, pieces_of
from app.storage.storage import Inspector

FILE_ID = re.compile(r"[0-9a-f]{32}")
UNFINISHED = ".{}.part"
FREE_SPACE_FLOOR = 100 * 1024 * 1024
"""What is left free for the database and the log. Files being written at the moment are not counted."""
THREADS = 16
ORPHAN_SECONDS = 7 * 24 * 3_600
"""How old an unfinished file is that nobody can come back for: its upload has long expired."""

P = ParamSpec("P")
T = TypeVar("T")


class DiskStorage:
    def __init__(self, folder: Path, left_before: datetime | None) -> None:
        self._folder = folder
        self.left_before = left_before
        self._threads = CapacityLimiter(THREADS)

    async def save(self, file_id: str, chunks: AsyncIterable[bytes], inspector: Inspector) -> None:
        unfinished, path = self._unfinished(file_id), self._path(file_id)

        def inspect_and_write(piece: bytes) -> None:
            inspector.feed(piece)
            file.write(piece)

        file = await self._run(self._create, unfinished)
        try:
            async with self._closing(file):
                await self._write_behind(chunks, inspect_and_write)
                await self._run(inspector.finish)
                await self._run(_flush, file)
            await self._run(_publish, unfinished, path)
        except BaseException:
            with CancelScope(shield=True):
                await self._run(_remove, unfinished, path)
            raise

    async def append(self, file_id: str, offset: int, chunks: AsyncIterable[bytes]) -> int:
        file = await self._run(self._open_alone, self._unfinished(file_id), os.O_CREAT)
        async with self._closing(file):
            if await self._run(file.seek, 0, os.SEEK_END) != offset:
                raise Conflict("The file has another length than the request says.")
            try:
                await self._write_behind(chunks, file.write)
            finally:
                # What the client is told not to send again must outlive a power cut.
                with CancelScope(shield=True):
                    await self._run(_flush, file)
            return file.tell()

    async def offset(self, file_id: str) -> int:
        return await self._run(_length, self._unfinished(file_id), self._path(file_id))

    async def publish(self, file_id: str, inspector: Inspector) -> None:
        unfinished, path = self._unfinished(file_id), self._path(file_id)
        # It has its name already where a process died right after.
        named = await self._run(path.exists)
        file = await self._run(self._open_alone, path if named else unfinished, 0)
        async with self._closing(file):
            while await self._run(_feed, file, inspector):
                pass
            await self._run(inspector.finish)
            await self._run(_flush, file)
            await self._run(_publish, unfinished, path)

    async def read(self, file_id: str, start: int, stop: int) -> AsyncGenerator[bytes]:
        try:
            file = await self._run(os.open, self._path(file_id), os.O_RDONLY)
        except FileNotFoundError:
            raise NotFound from None
        try:
            while start < stop:
                piece = await self._run(os.pread, file, min(PIECE_SIZE, stop - start), start)
                if not piece:
                    break
                yield piece
                start += len(piece)
        finally:
            # In a thread: it may be the last hold on a deleted file, which is freed then.
            with CancelScope(shield=True):
                await self._run(os.close, file)

    async def delete(self, file_id: str) -> None:
        await self._run(_remove, self._unfinished(file_id), self._path(file_id))

    async def check(self) -> None:
        await self._run(_write_and_remove, self._folder / f".{os.getpid()}.check")

    def _path(self, file_id: str) -> Path:
        """An id of another form is `NotFound`: it is never a path."""
        if not FILE_ID.fullmatch(file_id):
            raise NotFound
        return self._folder / file_id

    def _unfinished(self, file_id: str) -> Path:
        return self._folder / UNFINISHED.format(self._path(file_id).name)

    async def _run(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        assert not kwargs
        try:
            return await to_thread.run_sync(function, *args, limiter=self._threads)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise InsufficientStorage from error
            raise

    async def _write_behind(self, chunks: AsyncIterable[bytes], write: Callable[[bytes], object]) -> None:
        """Writes each piece while the next one arrives."""
        writing: asyncio.Task[object] | None = None
        try:
            async for piece in pieces_of(chunks):
                if writing is not None:
                    await writing
                writing = asyncio.create_task(self._run(write, piece))
        finally:
            if writing is not None:
                await writing

    @asynccontextmanager
    async def _closing(self, file: BinaryIO) -> AsyncIterator[None]:
        """Closes in a thread, for a file waits there for a write that is still on its way."""
        try:
            yield
        finally:
            with CancelScope(shield=True), suppress(InsufficientStorage):
                await self._run(file.close)

    def _create(self, path: Path) -> BinaryIO:
        self._ensure_space()
        # 0600: the files of strangers are nobody's business but the service's.
        return open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")

    def _open_alone(self, path: Path, flags: int) -> BinaryIO:
        """The system ends the lock with the process, however it ends."""
        self._ensure_space()
        try:
            file = open(os.open(path, os.O_RDWR | flags, 0o600), "r+b")
        except FileNotFoundError:
            raise NotFound from None
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Published or deleted between the two calls, it has another name or none.
            if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
                raise NotFound
        except BlockingIOError:
            file.close()
            raise Locked from None
        except BaseException:
            file.close()
            raise
        return file

    def _ensure_space(self) -> None:
        if shutil.disk_usage(self._folder).free < FREE_SPACE_FLOOR:
            raise InsufficientStorage


def _flush(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _feed(file: BinaryIO, inspector: Inspector) -> bool:
    piece = file.read(PIECE_SIZE)
    inspector.feed(piece)
    return bool(piece)


def _length(unfinished: Path, path: Path) -> int:
    for place in (unfinished, path):
        with suppress(FileNotFoundError):
            return place.stat().st_size
    return 0


def _publish(unfinished: Path, path: Path) -> None:
    if not path.exists():
        os.rename(unfinished, path)
    unfinished.unlink(missing_ok=True)
    # The name outlives a power cut only when the folder is on the disk, too.
    _sync_folder(path.parent)


def _remove(unfinished: Path, path: Path) -> None:
    unfinished.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _write_and_remove(path: Path) -> None:
    path.write_bytes(b"ready")
    path.unlink()


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@asynccontextmanager
async def open_disk(folder: Path) -> AsyncIterator[DiskStorage]:
    """Makes the folder. Who uses it shares a lock on it; who got it alone knows what is left over."""
    lock = await to_thread.run_sync(_open_folder, folder)
    try:
        yield DiskStorage(folder, await to_thread.run_sync(_take, folder, lock))
    finally:
        os.close(lock)


def _open_folder(folder: Path) -> int:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)


def _take(folder: Path, lock: int) -> datetime | None:
    """The system frees the lock when the process ends, however it ends."""
    left_before = None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        left_before = datetime.now(UTC)
        for orphan in folder.glob(UNFINISHED.format("*")):
            if orphan.stat().st_mtime < time.time() - ORPHAN_SECONDS:
                orphan.unlink(missing_ok=True)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return left_before
