"""What the threads of `app/storage/disk.py` do: single steps, each of which may be the last of the process.

A file that is being written is `unfinished`, a hidden name; one that can be read is `path`.
"""

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from tempfile import TemporaryFile
from typing import Literal

from app.errors import Conflict, Locked, NotFound
from app.settings import ORPHAN_SECONDS
from app.storage.pieces import PIECE_SIZE
from app.storage.storage import Inspector

UNFINISHED = ".{}.part"
OTHER_LENGTH = "The file has another length than the request says."


def open_file(path: Path, mode: Literal["rb", "ab", "r+b", "xb"]) -> FileIO:
    """0600: the files of strangers are nobody's business but the service's."""
    return open(path, mode, buffering=0, opener=lambda name, flags: os.open(name, flags, 0o600))


@contextmanager
def end_of(unfinished: Path, path: Path, offset: int) -> Iterator[FileIO]:
    """For one writer at a time, and only where the file is `offset` long."""
    try:
        # Only a file without a byte may be new: one that was deleted meanwhile does not come back.
        file = open_file(unfinished, "r+b" if offset else "ab")
    except FileNotFoundError:
        raise Conflict(OTHER_LENGTH) from None
    with file:
        lock_alone(file)
        if path.exists():
            unfinished.unlink(missing_ok=True)
            raise Conflict("The file is complete.")
        if not is_at(file, unfinished):
            raise NotFound
        if file.seek(0, os.SEEK_END) != offset:
            raise Conflict(OTHER_LENGTH)
        # Its row may live on from now; see `ORPHAN_SECONDS`.
        os.utime(file.fileno())
        yield file


@contextmanager
def whole(unfinished: Path, path: Path) -> Iterator[FileIO]:
    """For one who publishes it. It has its name already where a process died right after, or gets it now."""
    for place in (path, unfinished, path):
        with suppress(FileNotFoundError), open_file(place, "rb") as file:
            lock_alone(file)
            yield file
            return
    raise NotFound


def piece_of(path: Path, start: int, stop: int) -> bytes:
    """Opens the file for this piece alone: a slow client holds no descriptor, and no room of a deleted file.

    That it is the same file as before is sure: what has its name never changes."""
    try:
        with open_file(path, "rb") as file:
            return os.pread(file.fileno(), max(0, min(PIECE_SIZE, stop - start)), start)
    except FileNotFoundError:
        raise NotFound from None


def lock_alone(file: FileIO) -> None:
    """The system ends the lock with the process, however it ends."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise Locked from None


def is_at(file: FileIO, place: Path) -> bool:
    """Published or deleted by somebody else, it has another name or none."""
    try:
        return os.path.samestat(os.fstat(file.fileno()), place.stat())
    except FileNotFoundError:
        return False


def ensure_kept(file: FileIO) -> None:
    """Without a name it is deleted, and in nobody's quota, but takes room as long as it is open."""
    if not os.fstat(file.fileno()).st_nlink:
        raise NotFound


def start_flushing(file: FileIO, size: int) -> None:
    """Of what was written last, where the system can: the disk works then while the rest arrives.

    This is a side effect of the hint on Linux. The memory of these pages, which are dirty, is kept.
    """
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), file.tell() - size, size, os.POSIX_FADV_DONTNEED)


def keep(file: FileIO, offset: int, folder: Path) -> int:
    """The length. What the client is told not to send again must outlive a power cut."""
    try:
        os.fsync(file.fileno())
    except OSError:
        # The system tells it once, and shows the bytes as written: nobody knows which of them are.
        file.truncate(offset)
        raise
    if offset == 0:
        sync_folder(folder)
    return file.tell()


def show_piece(file: FileIO, inspector: Inspector) -> bool:
    """Whether there was one."""
    piece = file.read(PIECE_SIZE)
    if piece:
        inspector.feed(piece)
    return bool(piece)


def length_of(unfinished: Path, path: Path) -> int:
    # Twice, for it may get its name in between.
    for place in (path, unfinished, path):
        with suppress(FileNotFoundError):
            return place.stat().st_size
    return 0


def publish(file: FileIO, unfinished: Path, path: Path) -> None:
    if is_at(file, unfinished):
        os.rename(unfinished, path)
    elif not is_at(file, path):
        raise NotFound
    # The name outlives a power cut only when the folder is on the disk, too.
    sync_folder(path.parent)


def remove(unfinished: Path, path: Path) -> None:
    with suppress(FileNotFoundError):
        # Its room is free at once, though a request may have it open.
        os.truncate(unfinished, 0)
    # In the order in which a file has its names: one that is published in between is found, too.
    unfinished.unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_something(folder: Path) -> None:
    with TemporaryFile(dir=folder, prefix=".") as file:
        file.write(b"ready")


def sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def in_use(folder: Path) -> Iterator[datetime | None]:
    """The system frees the lock when the process ends, however it ends."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    left_before = None
    with open_file(folder / ".lock", "ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            left_before = datetime.now(UTC)
            for orphan in folder.glob(UNFINISHED.format("*")):
                if orphan.stat().st_mtime < time.time() - ORPHAN_SECONDS:
                    orphan.unlink()
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield left_before
