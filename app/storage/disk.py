"""Received files in one folder, each under an id that the server made.

A file is written under a hidden temporary name, flushed to the disk, and then linked to its id. So a reader
sees the whole file or none, whatever stops the writer, and no file ever takes the place of another.

The temporary name stays beside the id as a mark until `confirm` says that the file is wanted. So a file whose
owner was stopped in between can be told from all others.
"""

import fcntl
import hashlib
import os
import re
import secrets
import shutil
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO

from anyio import to_thread

from app.errors import DISK_FULL, InsufficientStorage, NotFound

CHUNK_SIZE = 256 * 1024
FILE_ID = re.compile(r"[0-9a-f]{32}")
TEMPORARY = ".{}.part"
FREE_SPACE_FLOOR = 100 * 1024 * 1024
"""What uploads leave free for the database and the log. Those being written at the moment are not counted."""
DOUBT_SECONDS = 3_600
"""How old an unconfirmed file must be to be in doubt: its owner may still be about to confirm it."""


@dataclass(frozen=True)
class Saved:
    id: str
    size: int
    sha256: str


class DiskStorage:
    """Its methods are called from the event loop; all file input and output runs in threads."""

    def __init__(self, folder: Path, in_doubt: Iterable[str] = ()) -> None:
        self.folder = folder
        self.in_doubt = list(in_doubt)
        """Ids of files that nobody confirmed. Who knows whether they are wanted confirms or deletes them."""

    def path(self, file_id: str) -> Path:
        """Where the file lies, or would lie. An id of another form is `NotFound`: it is never a path."""
        if not FILE_ID.fullmatch(file_id):
            raise NotFound
        return self.folder / file_id

    async def save(self, source: BinaryIO) -> Saved:
        """Copies `source` from its beginning, and leaves nothing when that fails.

        The file bears its mark until it is confirmed. `InsufficientStorage` when the disk is nearly full.
        """
        return await to_thread.run_sync(self._save, source)

    async def confirm(self, file_id: str) -> None:
        """The file is wanted for good."""
        await to_thread.run_sync(partial(self._mark(self.path(file_id)).unlink, missing_ok=True))

    async def delete(self, file_id: str) -> None:
        await to_thread.run_sync(self._delete, self.path(file_id))

    def _save(self, source: BinaryIO) -> Saved:
        if shutil.disk_usage(self.folder).free < FREE_SPACE_FLOOR:
            raise InsufficientStorage
        path = self.folder / secrets.token_hex(16)
        mark = self._mark(path)
        digest = hashlib.sha256()
        source.seek(0)
        try:
            with ExitStack() as undo:
                # 0600: the files of strangers are nobody's business but the service's.
                with open(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                    undo.callback(mark.unlink, missing_ok=True)
                    while chunk := source.read(CHUNK_SIZE):
                        digest.update(chunk)
                        file.write(chunk)
                    size = file.tell()
                    file.flush()
                    os.fsync(file.fileno())
                # A link fails where a rename would replace: no file takes the place of another.
                os.link(mark, path)
                undo.callback(path.unlink, missing_ok=True)
                # The name outlives a power cut only when the folder is on the disk, too.
                _sync_folder(self.folder)
                undo.pop_all()
        except OSError as error:
            if error.errno in DISK_FULL:
                raise InsufficientStorage from error
            raise
        return Saved(path.name, size, digest.hexdigest())

    def _delete(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        # Last, so that a file that is left is marked.
        self._mark(path).unlink(missing_ok=True)
        _sync_folder(self.folder)

    def _mark(self, path: Path) -> Path:
        return path.with_name(TEMPORARY.format(path.name))


@asynccontextmanager
async def open_storage(folder: Path) -> AsyncIterator[DiskStorage]:
    """Makes the folder, sweeps what a killed process left half-written, and notes what it left in doubt."""
    lock = await to_thread.run_sync(_open_folder, folder)
    try:
        yield DiskStorage(folder, await to_thread.run_sync(_sweep, folder, lock))
    finally:
        os.close(lock)


def _open_folder(folder: Path) -> int:
    """The lock of the folder. The system frees it when the process ends, however it ends."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)


def _sweep(folder: Path, lock: int) -> list[str]:
    """Removes half-written files, and returns the whole ones that were not confirmed within an hour.

    Every process that uses the folder shares the lock. Who gets it alone knows that nobody is writing,
    so that temporary files are leftovers; a second worker does not sweep those of the first.
    """
    in_doubt = []
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        for mark in folder.glob(TEMPORARY.format("*")):
            path = folder / mark.name[1:].removesuffix(".part")
            if not path.exists():
                mark.unlink(missing_ok=True)
            elif mark.stat().st_mtime < time.time() - DOUBT_SECONDS:
                in_doubt.append(path.name)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return in_doubt


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
