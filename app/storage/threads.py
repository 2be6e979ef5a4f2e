"""Threads that are waited for, whatever becomes of the task that needs them.

`anyio.to_thread.run_sync` ends at once in a task that asyncio cancels, as the server does when its time to
stop is over; the scopes of anyio do not shield from that. The thread goes on, and what the task closes then
is closed under its hands. Here the task waits for its thread first, and is cancelled after that.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack, asynccontextmanager, suppress
from typing import TypeVar, TypeVarTuple

from anyio import CancelScope

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


async def ended(future: asyncio.Future[T]) -> T:
    """What it returned, or raises what it raised; in a cancelled task, too, never before it has ended."""
    try:
        await asyncio.wait([future])
    except asyncio.CancelledError:
        with CancelScope(shield=True):
            while not future.done():
                with suppress(asyncio.CancelledError):
                    await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # has been looked at
        raise
    return future.result()


class Threads:
    """So many, and for one purpose: what hangs takes no thread from the rest of the service."""

    def __init__(self, count: int) -> None:
        self._pool = ThreadPoolExecutor(count)

    def end(self) -> None:
        """When what they do is done. Nobody waits for them, for one may hang."""
        self._pool.shutdown(wait=False)

    async def run(self, function: Callable[[*Ts], T], *args: *Ts) -> T:
        return await ended(asyncio.get_running_loop().run_in_executor(self._pool, function, *args))

    @asynccontextmanager
    async def entered(self, context: AbstractContextManager[T]) -> AsyncIterator[T]:
        """Enters and leaves it in threads. It is left also when the task was cancelled as it was entered."""
        stack = ExitStack()
        try:
            yield await self.run(stack.enter_context, context)
        finally:
            await self.run(stack.close)
