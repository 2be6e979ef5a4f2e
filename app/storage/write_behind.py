"""Pieces of a file, written by a thread while the next ones arrive.

Python runs one thread at a time. A thread that is to begin, or comes back from the system, may wait until the
event loop has nothing to do, while the client sends all the time: then each piece arrives, is written, and
nothing is done at the same time. So the thread finds the next piece waiting when it has written one, and goes
to the system with it at once: the loop, which it has told, receives meanwhile.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterable, Callable
from contextlib import suppress

from app.storage.threads import Threads

AHEAD = 1
"""Pieces that wait beside the one that is being written."""
TURN = 8
"""Pieces for which one upload may keep a thread, while others wait for one."""


async def write_behind(
    pieces: AsyncIterable[bytes], write: Callable[[bytes], None], threads: Threads
) -> None:
    """Calls `write` in a thread, in the order of the pieces. The first, which may be refused, alone.

    When `pieces` raises, what it gave before is written first. No thread is at work when this has ended.
    """
    loop = asyncio.get_running_loop()
    waiting: deque[bytes] = deque()
    moved = asyncio.Event()

    def write_some() -> None:
        for _ in range(TURN):
            write(waiting[0])
            waiting.popleft()
            loop.call_soon_threadsafe(moved.set)
            if not waiting:
                break

    async def write_waiting() -> None:
        try:
            while waiting:
                await threads.run(write_some)
        finally:
            moved.set()

    writing: asyncio.Task[None] | None = None
    allowed = 0
    try:
        async for piece in pieces:
            if writing is not None and writing.done():
                writing.result()
            waiting.append(piece)
            if writing is None or writing.done():
                writing = asyncio.create_task(write_waiting())
            while len(waiting) > allowed and not writing.done():
                moved.clear()
                await moved.wait()
            if writing.done():
                writing.result()
            allowed = AHEAD
    except BaseException:
        if writing is not None:
            # The first error is the one to tell.
            with suppress(Exception):
                await writing
        raise
    if writing is not None:
        await writing
