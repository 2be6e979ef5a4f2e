"""Received files in one folder, each under an id that the server made.

A file is written under a hidden temporary name, flushed to the disk, and then linked to its id. So a reader
sees the whole file or none, whatever stops the writer, and no file ever takes the place of another.
"""

import fcntl
import hashlib
import os
import re
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from anyio import to_thread

from app.errors import DISK_FULL, InsufficientStorage, NotFound

CHUNK_SIZE = 256 * 1024
FILE_ID = re.compile(r"[0-9a-f]{32}")
TEMPORARY = ".{}.part"


@dataclass(frozen=True)
class Saved:
    id: str
    size: int
    sha256: str


class DiskStorage:
    """Its methods are called from the event loop; all file input and output runs in threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, file_id: str) -> Path:
        """Where the file lies, or would lie. An id of another form is `NotFound`: it is never a path."""
        if not FILE_ID.fullmatch(file_id):
            raise NotFound
        return self.folder / file_id

    async def save(self, source: BinaryIO) -> Saved:
        """Copies `source` from its beginning, and leaves nothing when that fails.

        Raises `InsufficientStorage` when the disk is full.
        """
        return await to_thread.run_sync(self._save, source)

    async def delete(self, file_id: str) -> None:
        await to_thread.run_sync(self._delete, self.path(file_id))

    def _save(self, source: BinaryIO) -> Saved:
        file_id = secrets.token_hex(16)
        temporary = self.folder / TEMPORARY.format(file_id)
        digest = hashlib.sha256()
        source.seek(0)
        try:
            # 0600: the files of strangers are nobody's business but the service's.
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                while chunk := source.read(CHUNK_SIZE):
                    digest.update(chunk)
                    file.write(chunk)
                size = file.tell()
                file.flush()
                os.fsync(file.fileno())
            # A link fails where a rename would replace: no file takes the place of another.
            os.link(temporary, self.folder / file_id)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise InsufficientStorage from error
            raise
        finally:
            temporary.unlink(missing_ok=True)
        try:
            # The name outlives a power cut only when the folder is on the disk, too.
            _sync_folder(self.folder)
        except OSError:
            (self.folder / file_id).unlink()
            raise
        return Saved(file_id, size, digest.hexdigest())

    def _delete(self, path: Path) -> None:
        path.unlink(missing_ok=True)
        _sync_folder(self.folder)


@asynccontextmanager
async def open_storage(folder: Path) -> AsyncIterator[DiskStorage]:
    """Makes the folder and sweeps what a killed process left half-written."""
    lock = await to_thread.run_sync(_open_folder, folder)
    try:
        yield DiskStorage(folder)
    finally:
        os.close(lock)


def _open_folder(folder: Path) -> int:
    """The lock of the folder. The system frees it when the process ends, however it ends.

    Every process that uses the folder shares it. Who gets it alone knows that nobody is writing,
    so that temporary files are leftovers; a second worker does not sweep those of the first.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    else:
        for leftover in folder.glob(TEMPORARY.format("*")):
            leftover.unlink(missing_ok=True)
    fcntl.flock(lock, fcntl.LOCK_SH)
    return lock


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
