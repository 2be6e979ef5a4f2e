"""What one peer's flood does to a server through uvicorn's WebSocket protocol, and not through ours."""

import asyncio
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from websockets.protocol import Protocol

from tests.live.one_connection import CONT, FIRST, PING, TEXT, Wire, connected, frame
from tests.server import WEBSOCKET_PROTOCOL as OURS

pytestmark = pytest.mark.anyio

UVICORNS = "websockets-sansio"
FLOOD = 5_000
"""Frames."""


async def most_frames_in_a_turn(ws: str, kind: int) -> int:
    """Of a flood of tiny frames, how many are handled while the loop looks after nobody else."""
    frames, at_last_turn, most = 0, 0, 0
    recv_frame = Protocol.recv_frame

    def counted(self: Protocol, received: Any) -> None:
        nonlocal frames
        frames += 1
        recv_frame(self, received)

    def turn() -> None:
        nonlocal at_last_turn, most
        most, at_last_turn = max(most, frames - at_last_turn), frames
        if frames < FLOOD:
            loop.call_soon(turn)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Protocol, "recv_frame", counted)
        async with connected(ws) as wire:
            loop = wire.loop
            loop.call_soon(turn)
            if kind == CONT & FIRST:
                await wire.send(frame(TEXT & FIRST))
            await wire.send(frame(kind) * FLOOD)
            await wire.until(lambda: frames >= FLOOD)
            await wire.until(lambda: at_last_turn == frames)
    return most


KINDS = pytest.mark.parametrize("kind", [TEXT, PING, CONT & FIRST], ids=["texts", "pings", "fragments"])
LOOPS = pytest.mark.parametrize(
    "new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)


@KINDS
@LOOPS
def test_a_flood_of_tiny_frames_is_handled_4_kib_a_turn(
    kind: int, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(most_frames_in_a_turn(OURS, kind)) <= 4_096 // 6 + 1


@KINDS
@LOOPS
def test_trap_a_flood_of_tiny_frames_stops_the_server(
    kind: int, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(most_frames_in_a_turn(UVICORNS, kind)) > FLOOD - 100


async def memory_of(ws: str, fragment: bytes) -> float:
    """Bytes of memory for each fragment of a message that does not end."""
    async with connected(ws) as wire:
        await wire.send(frame(TEXT & FIRST))
        tracemalloc.start()
        try:
            await wire.send(fragment * 1_000 + frame(PING, b"the last"))
            await wire.read_until(b"the last")
            return tracemalloc.get_traced_memory()[0] / 1_000
        finally:
            tracemalloc.stop()


EMPTY, TINY = frame(CONT & FIRST), frame(CONT & FIRST, b"x")


async def test_a_message_in_fragments_costs_the_memory_of_its_bytes() -> None:
    assert await memory_of(OURS, EMPTY) < 2
    assert await memory_of(OURS, TINY) < 5


async def test_trap_a_message_in_fragments_costs_memory_that_no_limit_counts() -> None:
    assert await memory_of(UVICORNS, EMPTY) > 7
    assert await memory_of(UVICORNS, TINY) > 30


async def unsent_pongs(wire: Wire) -> int:
    for _ in range(20):
        await wire.send(frame(PING, b"p" * 125) * 1_000)
    return int(wire.protocol.transport.get_write_buffer_size())


async def test_a_peer_that_pings_and_does_not_read_fills_nothing_and_is_answered_when_it_reads() -> None:
    async with connected(OURS) as wire:
        assert await unsent_pongs(wire) < 100_000
        conn = wire.protocol.conn
        await wire.send(frame(PING, b"the last"))
        await wire.until(lambda: conn.latest_pong is not None and conn.latest_pong.data == b"the last")
        assert await wire.read_until(b"the last")
        assert conn.latest_pong is None


async def test_trap_a_peer_that_pings_and_does_not_read_fills_the_memory() -> None:
    async with connected(UVICORNS) as wire:
        assert await unsent_pongs(wire) > 500_000
