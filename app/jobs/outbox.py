"""A file of JSON lines that has a limit, written in a thread of its own."""

import os
from pathlib import Path

import anyio

from app.errors import InsufficientStorage


class Outbox:
    """Used on the event loop only, so nothing is locked."""

    def __init__(self, path: Path, max_size: int) -> None:
        self._path = path
        self._max_size = max_size
        # Not known yet. This counts as full, so the first check looks.
        self._size = max_size
        # A thread of its own: the forty that `def` endpoints share may all be busy.
        self._thread = anyio.CapacityLimiter(1)

    async def check_room(self, size: int) -> None:
        """Raises `InsufficientStorage` when so many bytes more are too many.

        Before it does, it looks at the file again: somebody may have moved it away.
        """
        if self._size + size > self._max_size:
            self._size = await anyio.to_thread.run_sync(size_of, self._path, limiter=self._thread)
            if self._size + size > self._max_size:
                raise InsufficientStorage("There is no room left in the outbox.")

    async def append(self, lines: bytes) -> None:
        """Returns when the disk has them. Refuses nothing, for they were accepted: the check comes before."""
        self._size = await anyio.to_thread.run_sync(append, self._path, lines, limiter=self._thread)


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def append(path: Path, lines: bytes) -> int:
    """Adds whole lines: one write and one `fsync` for all. Returns the size of the file.

    A line that a full disk or a power failure tore is closed first, so that it spoils no other.
    """
    with open(path, "a+b", buffering=0, opener=open_for_owner_only) as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                lines = b"\n" + lines
        if file.write(lines) != len(lines):
            raise OSError(f"{path.name} took a part of the lines only")
        os.fsync(file.fileno())
        return file.tell()


def open_for_owner_only(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
