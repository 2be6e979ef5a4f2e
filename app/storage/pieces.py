"""Chunks of a network, gathered into pieces that are worth a thread."""

from collections.abc import AsyncGenerator, AsyncIterable

PIECE_SIZE = 384 * 1024
"""A thread for each chunk of 64 KiB would cost more than what it does. uvicorn gives 256 KiB where the client
is fast: two of them make a piece, and eight uploads at once hold some sixteen megabytes."""


async def pieces_of(chunks: AsyncIterable[bytes], size: int = PIECE_SIZE) -> AsyncGenerator[bytes]:
    """The first chunk alone, so that a wrong beginning is refused at once; then `size` or a chunk more.

    When `chunks` raises, what it gave before comes first, and then the error.
    """
    waiting: list[bytes] = []
    waits = 0
    wanted = 1
    try:
        async for chunk in chunks:
            waiting.append(chunk)
            waits += len(chunk)
            if waits >= wanted:
                piece, waiting, waits, wanted = b"".join(waiting), [], 0, size
                yield piece
    except Exception:
        if waits:
            yield b"".join(waiting)
        raise
    if waits:
        yield b"".join(waiting)
