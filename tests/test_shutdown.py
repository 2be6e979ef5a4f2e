import asyncio
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Any

import anyio.to_thread
import pytest

from app.shutdown import stopping_on_signals

pytestmark = pytest.mark.anyio

LIMIT = 10.0


@pytest.fixture
def received() -> Iterator[list[int]]:
    """What a server's own handler of both signals has received."""
    numbers: list[int] = []

    def handler(number: int, frame: FrameType | None) -> None:
        numbers.append(number)

    before = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    yield numbers
    for number, previous in before.items():
        signal.signal(number, previous)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_sets_the_event_and_reaches_the_server(
    received: list[int], number: signal.Signals
) -> None:
    with stopping_on_signals() as stopping:
        assert not stopping.is_set()
        signal.raise_signal(number)
        async with asyncio.timeout(LIMIT):
            await stopping.wait()
    assert received == [number]


async def test_leaving_sets_the_event_and_gives_the_handlers_back(received: list[int]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stopping_on_signals() as stopping:
        assert signal.getsignal(signal.SIGTERM) is not before
    assert stopping.is_set()
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize("action", [signal.SIG_DFL, signal.SIG_IGN])
async def test_a_signal_that_no_server_handles_keeps_its_action(received: list[int], action: Any) -> None:
    signal.signal(signal.SIGTERM, action)
    with stopping_on_signals():
        assert signal.getsignal(signal.SIGTERM) is action


async def test_in_another_thread_no_signal_is_touched_and_leaving_sets_the_event(received: list[int]) -> None:
    before = signal.getsignal(signal.SIGTERM)

    async def elsewhere() -> asyncio.Event:
        with stopping_on_signals() as stopping:
            assert signal.getsignal(signal.SIGTERM) is before
            return stopping

    stopping = await anyio.to_thread.run_sync(lambda: asyncio.run(elsewhere()))
    assert stopping.is_set()


async def test_trap_a_signal_handler_in_another_thread_is_an_error() -> None:
    with pytest.raises(ValueError, match="main thread"):
        await anyio.to_thread.run_sync(signal.signal, signal.SIGTERM, signal.SIG_DFL)
