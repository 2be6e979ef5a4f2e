"""What a connection that never completes the head of a request costs in uvicorn, and here."""

import asyncio
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from app import http_protocol
from tests.live.one_connection import connected
from tests.server import HTTP_PROTOCOL as OURS
from tests.server import Server

pytestmark = pytest.mark.anyio

UVICORNS = "httptools"
HALVES = pytest.mark.parametrize("half", ["", "\r\n", "GET / HT", "GET / HTTP/1.1\r\nHost: a\r\nX: y"])
GET = b"GET / HTTP/1.1\r\nHost: testserver\r\n\r\n"


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("hello")(scope, receive, send)


@HALVES
async def test_half_a_head_has_its_time(half: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.01)
    async with connected(http=OURS, head=half, app=hello) as wire:
        assert await wire.read_until(b"") == b""


@HALVES
async def test_half_a_head_after_an_answer_has_its_time(half: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected(http=OURS, head="", app=hello, timeout_keep_alive=0.02) as wire:
        await wire.send(GET)
        await wire.read_until(b"hello")
        monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.01)
        await wire.send(half.encode())
        assert await wire.read_until(b"") == b""


@HALVES
async def test_trap_half_a_head_stays(half: str) -> None:
    async with connected(http=UVICORNS, head="", app=hello, timeout_keep_alive=0.01) as wire:
        await wire.send(half.encode())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.1):
                await wire.loop.sock_recv(wire.peer, 1)


@pytest.mark.parametrize("start", ["GET /", "GET / HTTP/1.1\r\nX: "])
async def test_a_head_of_more_than_64_kib_is_refused_with_431(start: str) -> None:
    async with connected(http=OURS, head=start, app=hello) as wire:
        await wire.send(b"x" * 400_000)
        assert (await wire.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 431 ")


async def test_trap_a_head_of_any_size_is_collected() -> None:
    async with connected(http=UVICORNS, head="GET /", app=hello) as wire:
        await wire.send(b"x" * 5_000_000)
        await wire.until(lambda: len(wire.protocol.url) > 4_500_000)


async def test_an_answer_may_take_longer_than_a_head_also_with_the_next_head_begun(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_protocol, "HEAD_SECONDS", 0.01)

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.05)
        await hello(scope, receive, send)

    async with connected(http=OURS, head="", app=slow) as wire:
        await wire.send(GET + b"GET / HT")
        assert (await wire.read_until(b"")).endswith(b"hello")


async def test_a_connection_that_is_lost_keeps_no_timer() -> None:
    async with connected(http=OURS, head="GET", app=hello) as wire:
        await wire.until(lambda: bool(wire.protocol._deadline))
        protocol = wire.protocol
        wire.peer.close()
        await wire.until(lambda: protocol._deadline is None)


async def test_a_body_is_no_head() -> None:
    async def measure(scope: Scope, receive: Receive, send: Send) -> None:
        size = len(await Request(scope, receive).body())
        await PlainTextResponse(f"{size} bytes")(scope, receive, send)

    async with connected(
        http=OURS, head="POST / HTTP/1.1\r\nContent-Length: 400000\r\n\r\n", app=measure
    ) as wire:
        for _ in range(4):
            await wire.send(b"x" * 100_000)
        assert (await wire.read_until(b" bytes")).endswith(b"400000 bytes")


async def test_requests_that_come_in_pieces_and_together_are_answered() -> None:
    async with connected(http=OURS, head="", app=hello) as wire:
        for piece in (GET[:10], GET[10:] + GET + GET[:5], GET[5:]):
            await wire.send(piece)
            await wire.until(lambda: bool(wire.protocol))
        answers = b""
        while answers.count(b"hello") < 3:
            answers += await wire.read_until(b"hello")


def test_make_run_and_the_servers_of_the_tests_run_it(live: Server) -> None:
    assert f"--http {OURS}" in (Path(__file__).parents[2] / "Makefile").read_text()
    with live.connect(b"GET /" + b"x" * 400_000) as peer:
        assert peer.recv(12) == b"HTTP/1.1 431"
