"""What the tests of storages share: chunks as a network brings them, and an inspector that writes down what
it sees."""

import asyncio
from collections.abc import AsyncIterator

from starlette.requests import ClientDisconnect

from app.errors import UnsupportedMediaType
from app.storage.storage import Storage

LIMIT = 5.0
"""Seconds for any wait of a test."""
ID, OTHER_ID = "a" * 32, "0123456789abcdef" * 2
BYTES = bytes(range(251)) * 8_000
"""Two million, and no two places alike that could be taken for each other."""
NOWHERE = b"\xff"
"""Not in them."""


class Seen:
    """An inspector of all that it is shown; it refuses a piece that contains `wrong`, or the whole."""

    def __init__(self, wrong: bytes = b"WRONG", refuses_at_the_end: bool = False) -> None:
        self.bytes = b""
        self._wrong = wrong
        self._refuses_at_the_end = refuses_at_the_end

    def feed(self, piece: bytes) -> None:
        if self._wrong in piece:
            raise UnsupportedMediaType
        self.bytes += piece

    def finish(self) -> None:
        if self._refuses_at_the_end:
            raise UnsupportedMediaType


async def chunks(content: bytes, size: int = 65_536) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        await asyncio.sleep(0)
        yield content[start : start + size]


async def cut_off(content: bytes, error: BaseException | None = None) -> AsyncIterator[bytes]:
    """The client has gone after these."""
    async for chunk in chunks(content):
        yield chunk
    raise error or ClientDisconnect


async def content_of(storage: Storage, file_id: str = ID, start: int = 0, stop: int = 2**40) -> bytes:
    return b"".join([piece async for piece in storage.read(file_id, start, stop)])
