import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import TypeVar, TypeVarTuple

import pytest

from app.storage.threads import Threads
from app.storage.write_behind import TURN, write_behind

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
LIMIT = 10.0

pytestmark = pytest.mark.anyio


class CountingThreads(Threads):
    started = 0

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        self.started += 1
        return await super().run(function, *args)


class Arrivals:
    """Pieces, each with an event for when `write_behind` has it. The next is always there at once."""

    def __init__(self, count: int) -> None:
        self.pieces = [bytes([number]) for number in range(count)]
        self.arrived = [threading.Event() for _ in range(count)]

    def count(self) -> int:
        return sum(event.is_set() for event in self.arrived)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece, arrived in zip(self.pieces, self.arrived, strict=True):
            # Runs when the reader waits for something.
            asyncio.get_running_loop().call_soon(arrived.set)
            yield piece


async def test_no_more_pieces_come_than_a_slow_disk_lets_wait() -> None:
    arrivals = Arrivals(9)
    steps = threading.Semaphore(0)
    begun: asyncio.Queue[bytes] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def write(piece: bytes) -> None:
        loop.call_soon_threadsafe(begun.put_nowait, piece)
        assert steps.acquire(timeout=LIMIT)

    async with asyncio.timeout(LIMIT):
        running = asyncio.create_task(write_behind(arrivals, write, Threads(1)))
        for number, piece in enumerate(arrivals.pieces):
            assert await begun.get() == piece
            for _ in range(50):
                await asyncio.sleep(0)
            # The first alone, then the one that is written and one more.
            assert arrivals.count() <= (number + 2 if number else 1)
            steps.release()
        await running


async def test_a_thread_takes_the_next_piece_and_lets_others_have_their_turn() -> None:
    threads = CountingThreads(1)
    arrivals = Arrivals(1 + 4 * TURN)
    written: list[bytes] = []

    def write(piece: bytes) -> None:
        following = arrivals.arrived[piece[0] + 1 :]
        if written and following:
            assert following[0].wait(LIMIT)
        written.append(piece)

    await write_behind(arrivals, write, threads)
    assert written == arrivals.pieces
    assert threads.started == 1 + 4


async def test_what_the_disk_refuses_ends_it() -> None:
    arrivals = Arrivals(9)
    written: list[bytes] = []

    def write(piece: bytes) -> None:
        if piece == arrivals.pieces[3]:
            raise ValueError("refused")
        written.append(piece)

    with pytest.raises(ValueError, match="refused"):
        await write_behind(arrivals, write, Threads(1))
    assert written == arrivals.pieces[:3]
    assert arrivals.count() <= 6


async def test_a_refused_beginning_ends_it_before_anything_else_arrives() -> None:
    arrivals = Arrivals(9)

    def write(piece: bytes) -> None:
        raise ValueError("refused")

    with pytest.raises(ValueError, match="refused"):
        await write_behind(arrivals, write, Threads(1))
    assert arrivals.count() == 1


async def test_what_came_before_an_error_is_written() -> None:
    arrivals = Arrivals(9)
    written: list[bytes] = []

    async def torn() -> AsyncIterator[bytes]:
        async for piece in arrivals:
            yield piece
        raise ConnectionError("torn")

    with pytest.raises(ConnectionError, match="torn"):
        await write_behind(torn(), written.append, Threads(1))
    assert written == arrivals.pieces


async def test_no_thread_is_at_work_when_it_was_cancelled() -> None:
    loop = asyncio.get_running_loop()
    begun, may_end, ended = asyncio.Event(), threading.Event(), threading.Event()

    def write(piece: bytes) -> None:
        loop.call_soon_threadsafe(begun.set)
        assert may_end.wait(LIMIT)
        ended.set()

    async with asyncio.timeout(LIMIT):
        running = asyncio.create_task(write_behind(Arrivals(9), write, Threads(1)))
        await begun.wait()
        for _ in range(3):
            running.cancel()
            await asyncio.sleep(0)
        assert not running.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert ended.is_set()
