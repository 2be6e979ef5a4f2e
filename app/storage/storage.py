"""What the service asks of the place where the bytes of files are: a folder, or an S3 bucket.

A file has an id that the server made, and no name. It comes whole (`save`), or in pieces over many requests
(`append`, then `publish`). Until then nobody reads it; from then on it never changes.
"""

import re
from collections.abc import AsyncGenerator, AsyncIterable
from datetime import datetime
from typing import Protocol

from app.errors import NotFound

FILE_ID = re.compile(r"[0-9a-f]{32}")


class Inspector(Protocol):
    """Sees all bytes of a file before anybody else does. Both methods raise an `AppError` to refuse it.

    The storage calls them in threads, one after the other.
    """

    def feed(self, piece: bytes) -> None: ...

    def finish(self) -> None: ...


class Storage(Protocol):
    """All methods raise `InsufficientStorage` where the room ends, and `ServiceUnavailable` where the storage
    does not answer."""

    left_before: datetime | None
    """What was half received before this moment, a dead process has left. None where nobody can tell."""

    async def save(self, file_id: str, chunks: AsyncIterable[bytes], inspector: Inspector) -> None:
        """A whole file. What `chunks` or the inspector raises goes on to the caller, and nothing is left."""

    async def append(self, file_id: str, offset: int, chunks: AsyncIterable[bytes]) -> int:
        """Adds to an unfinished file, and returns its length. What arrived is kept when `chunks` raises.

        `Conflict` where the file is not `offset` long, `Locked` where somebody else appends to it.
        """

    async def offset(self, file_id: str) -> int:
        """The length of an unfinished file, 0 before anything was appended."""

    async def publish(self, file_id: str, inspector: Inspector) -> None:
        """Shows all of an unfinished file to the inspector, and makes it a file that can be read.

        It may be called again after a process died in it. When it raises, the file is unfinished as before.
        """

    def read(self, file_id: str, start: int, stop: int) -> AsyncGenerator[bytes]:
        """The bytes from `start` up to, not including, `stop`. `NotFound` before the first of them, or before
        a later one where the file is deleted meanwhile."""

    async def delete(self, file_id: str) -> None:
        """All there is of a file, finished or not, or nothing. Who is reading it may see its end or not, and
        who is appending to it gets `NotFound`; neither keeps its room from others."""

    async def sweep(self) -> None:
        """Deletes what came past the service, so that no row names it."""

    async def check(self) -> None:
        """Writes something, to show that it can."""


def file_id_of(text: str) -> str:
    """What a client names. Of another form it is `NotFound`: it is never a path, nor put to the database."""
    if not FILE_ID.fullmatch(text):
        raise NotFound
    return text
