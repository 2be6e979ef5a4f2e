"""The body of a request of tus: how it arrives, and how it waits until its checksum is seen to be its own."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator
from hmac import compare_digest

from anyio import TemporaryFile, to_thread
from starlette.requests import Request

from app.errors import DISK_FULL, ContentTooLarge, InsufficientStorage, ServiceUnavailable
from app.storage.pieces import PIECE_SIZE, pieces_of
from app.tus import Checksum, ChecksumMismatch, RequestTimeout

MOST_CHECKED = 16 * 2**20
"""Bytes of a request with a checksum. Until it has ended they are in no quota, and in a folder that nobody
keeps space free in, or that is memory. Who has more sends more requests, and loses less by a wrong byte."""


async def arriving(request: Request, silence: float, stopping: asyncio.Event) -> AsyncGenerator[bytes]:
    """The body of a request. Its end is an error, after what came, when the client is silent for so long, or
    the service stops."""
    chunks = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(silence):
                chunk = await anext(chunks)
        except TimeoutError:
            raise RequestTimeout from None
        except StopAsyncIteration:
            return
        if chunk:
            yield chunk
        if stopping.is_set():
            raise ServiceUnavailable("The service is about to stop.")


class ChecksumPlaces:
    """So many bodies at once may wait for their checksum, each in a temporary file."""

    def __init__(self, count: int) -> None:
        self._free = asyncio.Semaphore(count)

    async def verified(self, chunks: AsyncIterator[bytes], checksum: Checksum) -> AsyncGenerator[bytes]:
        """All of the chunks, or none of them. Raises `ServiceUnavailable` where no place is free."""
        if self._free.locked():
            raise ServiceUnavailable("Too many requests with Upload-Checksum at once. Try again later.")
        digest = hashlib.new(checksum.algorithm, usedforsecurity=False)
        size = 0
        try:
            async with self._free, TemporaryFile() as spool:
                async for piece in pieces_of(chunks):
                    size += len(piece)
                    if size > MOST_CHECKED:
                        raise ContentTooLarge(
                            f"With Upload-Checksum a request has {MOST_CHECKED} bytes at most."
                        )
                    await to_thread.run_sync(digest.update, piece)
                    await spool.write(piece)
                if not compare_digest(digest.digest(), checksum.digest):
                    raise ChecksumMismatch
                await spool.seek(0)
                while piece := await spool.read(PIECE_SIZE):
                    yield piece
        except OSError as error:
            if error.errno in DISK_FULL:
                raise InsufficientStorage from error
            raise
