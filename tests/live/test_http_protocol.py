"""What a head that is never complete, and a body in very small chunks, cost in uvicorn, and here."""

import asyncio
import re
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app import http_protocol
from tests.live.one_connection import connected
from tests.server import HTTP_PROTOCOL as OURS
from tests.server import Server

pytestmark = pytest.mark.anyio

UVICORNS = "httptools"
HALVES = pytest.mark.parametrize("half", ["", "\r\n", "GET / HT", "GET / HTTP/1.1\r\nHost: a\r\nX: y"])
BOTH = pytest.mark.parametrize("http", [OURS, UVICORNS])
GET = b"GET / HTTP/1.1\r\nHost: testserver\r\n\r\n"
POST = "POST / HTTP/1.1\r\nHost: testserver\r\n"
CHUNKED = f"{POST}Transfer-Encoding: chunked\r\n\r\n"


async def hello(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("hello")(scope, receive, send)


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    body = await Request(scope, receive).body()
    await PlainTextResponse(b"<" + body + b">")(scope, receive, send)


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


async def test_a_head_that_is_too_large_is_not_answered_in_the_middle_of_another_answer() -> None:
    begun = asyncio.Event()

    async def half(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"20")]})
        await send({"type": "http.response.body", "body": b"0123456789", "more_body": True})
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass

    async with connected(http=OURS, head="", app=half) as wire:
        await wire.send(GET)
        await wire.until(begun.is_set)
        wire.protocol.data_received(GET[:-2] + b"X: " + b"x" * 70_000)
        assert (await wire.read_until(b"")).endswith(b"\r\n\r\n0123456789")


async def test_trap_a_head_of_any_size_is_collected() -> None:
    async with connected(http=UVICORNS, head="GET /", app=hello) as wire:
        await wire.send(b"x" * 5_000_000)
        await wire.until(lambda: len(wire.protocol.url) > 4_500_000)


@pytest.mark.parametrize(
    ("start", "more"), [("0\r\n", b"X: y\r\n"), ("0\r\nX: ", b"xx"), ("0\r\nX", b"xx"), ("1;", b"xx")]
)
async def test_more_than_64_kib_of_trailers_or_of_a_chunks_extension_are_refused_with_431(
    start: str, more: bytes
) -> None:
    async with connected(http=OURS, head=f"{CHUNKED}1\r\na\r\n{start}", app=echo) as wire:
        await wire.until(lambda: bool(wire.protocol.cycle))
        protocol = wire.protocol
        for _ in range(2):
            protocol.data_received(more * 20_000)
        assert (await wire.read_until(b"")).startswith(b"HTTP/1.1 431 ")
        assert protocol.headers == [(b"host", b"testserver"), (b"transfer-encoding", b"chunked")]


async def test_trap_trailers_of_any_size_are_collected_and_are_headers() -> None:
    async with connected(http=UVICORNS, head=f"{CHUNKED}0\r\n", app=echo) as wire:
        await wire.until(lambda: bool(wire.protocol.cycle))
        for _ in range(5):
            wire.protocol.data_received(b"X-User: me\r\n" * 10_000)
        assert wire.protocol.scope["headers"].count((b"x-user", b"me")) > 49_000


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


@pytest.fixture
def handed_over(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The lengths of what the request of the app is given."""
    lengths: list[int] = []
    hand_over = HttpToolsProtocol.on_body

    def count(protocol: HttpToolsProtocol, body: bytes) -> None:
        lengths.append(len(body))
        hand_over(protocol, body)

    monkeypatch.setattr(HttpToolsProtocol, "on_body", count)
    return lengths


async def test_the_chunks_of_one_read_are_handed_over_at_once(handed_over: list[int]) -> None:
    async with connected(http=OURS, head=CHUNKED, app=echo) as wire:
        await wire.until(lambda: bool(wire.protocol.cycle))
        wire.protocol.data_received(b"1\r\na\r\n" * 20_000)
        wire.protocol.data_received(b"1\r\na\r\n" * 10_000 + b"0\r\n\r\n" + CHUNKED.encode() + b"1\r\nb\r\n")
        assert handed_over == [20_000, 10_000, 1]
        assert (await wire.read_until(b">")).endswith(b"<" + b"a" * 30_000 + b">")


async def test_trap_each_chunk_is_handed_over_alone(handed_over: list[int]) -> None:
    async with connected(http=UVICORNS, head=CHUNKED, app=echo) as wire:
        await wire.until(lambda: bool(wire.protocol.cycle))
        wire.protocol.data_received(b"1\r\na\r\n" * 20_000)
        assert handed_over == [1] * 20_000


@pytest.mark.parametrize(("http", "copied"), [(OURS, False), (UVICORNS, True)])
async def test_what_a_read_brought_is_what_the_app_receives_without_a_copy(
    http: str, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed_over: list[bytes] = []
    received: list[bytes] = []
    hand_over = HttpToolsProtocol.on_body

    def keep(protocol: HttpToolsProtocol, body: bytes) -> None:
        handed_over.append(body)
        hand_over(protocol, body)

    async def take(scope: Scope, receive: Receive, send: Send) -> None:
        received.append((await receive())["body"])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        await send({"type": "http.response.body", "body": b">"})

    monkeypatch.setattr(HttpToolsProtocol, "on_body", keep)
    async with connected(http=http, head=f"{POST}Content-Length: 70000\r\n\r\n", app=take) as wire:
        await wire.until(lambda: bool(wire.protocol.cycle))
        wire.protocol.data_received(b"a" * 70_000)
        await wire.read_until(b">")
    assert received == handed_over == [b"a" * 70_000]
    assert (received[0] is not handed_over[0]) is copied


@BOTH
@pytest.mark.parametrize("size", [1, 7, 10_000])
async def test_bodies_of_any_kind_are_those_of_their_requests(http: str, size: int) -> None:
    requests = (
        f"{CHUNKED}1\r\na\r\n2\r\nbc\r\n0\r\nX-Trailer: x\r\n\r\n{POST}Content-Length: 4\r\n\r\ndefg"
        f"{POST}\r\n{CHUNKED}0\r\n\r\n{POST}Content-Length: 1\r\nConnection: close\r\n\r\nh"
    ).encode()
    async with connected(http=http, head="", app=echo) as wire:
        await wire.until(lambda: bool(wire.protocol))
        protocol = wire.protocol
        for start in range(0, len(requests), size):
            protocol.data_received(requests[start : start + size])
        answers = await wire.read_until(b"")
        assert re.findall(b"<.*>", answers) == [b"<abc>", b"<defg>", b"<>", b"<>", b"<h>"]


@BOTH
async def test_more_than_64_kib_that_the_app_does_not_ask_for_pause_the_reading(http: str) -> None:
    asked = asyncio.Event()

    async def later(scope: Scope, receive: Receive, send: Send) -> None:
        await asked.wait()
        await echo(scope, receive, send)

    async with connected(http=http, head=CHUNKED, app=later) as wire:
        await wire.until(lambda: bool(wire.protocol.cycle))
        for paused in (False, True):
            wire.protocol.data_received(b"8000\r\n" + b"a" * 0x8000 + b"\r\n1\r\na\r\n")
            assert wire.protocol.flow.read_paused is paused
        asked.set()
        await wire.send(b"0\r\n\r\n")
        assert (await wire.read_until(b">")).count(b"a" * 0x10002) == 1


@BOTH
async def test_a_client_that_waits_for_100_continue_is_asked_for_the_body(http: str) -> None:
    head = CHUNKED.replace("\r\n\r\n", "\r\nExpect: 100-continue\r\n\r\n")
    async with connected(http=http, head=head, app=echo) as wire:
        assert await wire.read_until(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await wire.send(b"1\r\na\r\n0\r\n\r\n")
        assert (await wire.read_until(b">")).endswith(b"<a>")


@BOTH
async def test_what_came_before_a_broken_chunk_is_received_and_the_answer_is_400(http: str) -> None:
    received: asyncio.Queue[object] = asyncio.Queue()

    async def read(scope: Scope, receive: Receive, send: Send) -> None:
        while (message := await receive())["type"] == "http.request":
            received.put_nowait(message["body"])

    async with connected(http=http, head=CHUNKED, app=read) as wire:
        await wire.send(b"1\r\na\r\nnone\r\n")
        assert (await wire.read_until(b"")).startswith(b"HTTP/1.1 400 ")
        assert received.get_nowait() == b"a"


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
