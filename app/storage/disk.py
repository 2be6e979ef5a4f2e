"""Files in one folder, each under its id.

What is being written lies beside them under a hidden name, is flushed to the disk, and then gets its own. So
a reader sees the whole file or none, whatever stops the writer. All input and output runs in threads, and
those are few and of its own: a disk that hangs takes no thread from the rest of the service.
"""

import os
import shutil
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterator
from contextlib import (
    AbstractContextManager,
    ExitStack,
    aclosing,
    asynccontextmanager,
    contextmanager,
    suppress,
)
from datetime import datetime
from errno import EMFILE, ENFILE
from io import FileIO
from pathlib import Path
from typing import TypeVar, TypeVarTuple

from app.errors import DISK_FULL, Conflict, InsufficientStorage, ServiceUnavailable
from app.storage.disk_files import (
    UNFINISHED,
    end_of,
    ensure_kept,
    in_use,
    keep,
    length_of,
    open_file,
    piece_of,
    publish,
    remove,
    show_piece,
    start_flushing,
    whole,
    write_something,
)
from app.storage.pieces import pieces_of
from app.storage.storage import Inspector, file_id_of
from app.storage.threads import Threads
from app.storage.write_behind import write_behind

FREE_SPACE_FLOOR = 100 * 1024 * 1024
"""What is left free for the database and the log."""
THREADS = 16
TOO_MANY_OPEN = (EMFILE, ENFILE)

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class DiskStorage:
    def __init__(self, folder: Path, threads: Threads, left_before: datetime | None) -> None:
        self._folder = folder
        self._threads = threads
        self.left_before = left_before

    async def save(self, file_id: str, chunks: AsyncIterable[bytes], inspector: Inspector) -> None:
        unfinished, path = self._unfinished(file_id), self._path(file_id)
        undo = ExitStack()

        def create() -> FileIO:
            if path.exists():
                raise Conflict
            file = open_file(unfinished, "xb")
            undo.callback(remove, unfinished, path)
            return undo.enter_context(file)

        def inspect_and_write(piece: bytes) -> None:
            inspector.feed(piece)
            self._write(file, piece)

        def finish() -> None:
            inspector.finish()
            os.fsync(file.fileno())
            publish(file, unfinished, path)
            file.close()

        try:
            file = await self._run(create)
            await self._write_behind(chunks, inspect_and_write)
            await self._run(finish)
        except BaseException:
            # What stopped it is told. If this fails, too, the sweep does it later.
            with suppress(Exception):
                await self._run(undo.close)
            raise

    async def append(self, file_id: str, offset: int, chunks: AsyncIterable[bytes]) -> int:
        unfinished, path = self._unfinished(file_id), self._path(file_id)

        def write(piece: bytes) -> None:
            self._write(file, piece)

        async with self._entered(end_of(unfinished, path, offset)) as file:
            try:
                await self._write_behind(chunks, write)
            finally:
                length = await self._run(keep, file, offset, self._folder)
            return length

    async def offset(self, file_id: str) -> int:
        return await self._run(length_of, self._unfinished(file_id), self._path(file_id))

    async def publish(self, file_id: str, inspector: Inspector) -> None:
        unfinished, path = self._unfinished(file_id), self._path(file_id)

        def finish() -> None:
            inspector.finish()
            os.fsync(file.fileno())
            publish(file, unfinished, path)

        async with self._entered(whole(unfinished, path)) as file:
            while await self._run(show_piece, file, inspector):
                pass
            await self._run(finish)

    async def read(self, file_id: str, start: int, stop: int) -> AsyncGenerator[bytes]:
        path = self._path(file_id)
        while piece := await self._run(piece_of, path, start, stop):
            yield piece
            start += len(piece)
            if start == stop:
                break

    async def delete(self, file_id: str) -> None:
        await self._run(remove, self._unfinished(file_id), self._path(file_id))

    async def sweep(self) -> None:
        """Nothing comes here past the service."""

    async def check(self) -> None:
        await self._run(write_something, self._folder)

    def _path(self, file_id: str) -> Path:
        return self._folder / file_id_of(file_id)

    def _unfinished(self, file_id: str) -> Path:
        return self._folder / UNFINISHED.format(self._path(file_id).name)

    async def _run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        with _disk_errors():
            return await self._threads.run(function, *args)

    @asynccontextmanager
    async def _entered(self, context: AbstractContextManager[T]) -> AsyncIterator[T]:
        with _disk_errors():
            async with self._threads.entered(context) as entered:
                yield entered

    async def _write_behind(self, chunks: AsyncIterable[bytes], write: Callable[[bytes], None]) -> None:
        with _disk_errors():
            async with aclosing(pieces_of(chunks)) as pieces:
                await write_behind(pieces, write, self._threads)

    def _write(self, file: FileIO, piece: bytes) -> None:
        ensure_kept(file)
        self._ensure_space()
        rest = memoryview(piece)
        while rest:
            rest = rest[file.write(rest) :]
        start_flushing(file, len(piece))

    def _ensure_space(self) -> None:
        if shutil.disk_usage(self._folder).free < FREE_SPACE_FLOOR:
            raise InsufficientStorage


@contextmanager
def _disk_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL:
            raise InsufficientStorage from error
        if error.errno in TOO_MANY_OPEN:
            raise ServiceUnavailable(headers={"Retry-After": "1"}) from error
        raise


@asynccontextmanager
async def open_disk(folder: Path) -> AsyncIterator[DiskStorage]:
    """Makes the folder. Who uses it shares a lock on it; who got it alone knows what is left over."""
    threads = Threads(THREADS)
    try:
        async with threads.entered(in_use(folder)) as left_before:
            yield DiskStorage(folder, threads, left_before)
    finally:
        threads.end()
