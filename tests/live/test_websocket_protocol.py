"""What one peer can do to a server through uvicorn's WebSocket protocol, and not through ours."""

import logging
import zlib
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from tests.live.one_connection import (
    BINARY,
    CLOSE,
    COMPRESSED,
    CONT,
    FIRST,
    PING,
    PONG,
    TEXT,
    connected,
    frame,
    handshake,
)
from tests.server import WEBSOCKET_PROTOCOL as OURS
from tests.server import Server, read_to_end
from tests.sockets import LIMIT

pytestmark = pytest.mark.anyio

UVICORNS = "websockets-sansio"


async def test_the_fragments_of_a_message_arrive_as_one() -> None:
    async with connected(OURS) as wire:
        for kind, expected in ((TEXT, {"text": "a\u00e9b"}), (BINARY, {"bytes": "a\u00e9b".encode()})):
            await wire.send(
                frame(kind & FIRST, b"a\xc3") + frame(CONT & FIRST, b"\xa9") + frame(PING) + frame(CONT, b"b")
            )
            assert await wire.receive() == {"type": "websocket.receive", **expected}
            assert not wire.protocol.fragments


REFUSED = {
    "a body": (handshake("Content-Length: 1\r\n"), b"400"),
    "a long header": (handshake(f"X: {'x' * 9_000}\r\n"), b"431"),
    "many headers": (handshake("X: x\r\n" * 200), b"431"),
    "a long path": (handshake(path="/" + "x" * 9_000), b"414"),
}
HANDSHAKES = pytest.mark.parametrize(("head", "status"), REFUSED.values(), ids=REFUSED)


@HANDSHAKES
async def test_a_handshake_that_cannot_be_is_answered_and_closed(head: str, status: bytes) -> None:
    async with connected(OURS, head) as wire:
        await wire.until(lambda: hasattr(wire.protocol, "conn"))
        assert wire.protocol.transport.is_closing()
        wire.protocol.shutdown()
        answer = await wire.read_until(b"")
        assert answer.split(b" ")[1] == status
        assert answer.count(b"HTTP/1.1") == 1


@HANDSHAKES
async def test_trap_a_handshake_that_cannot_be_stays_and_breaks_the_shutdown(
    head: str, status: bytes
) -> None:
    async with connected(UVICORNS, head) as wire:
        await wire.until(lambda: hasattr(wire.protocol, "conn") and wire.protocol.conn.handshake_exc)
        assert not wire.protocol.transport.is_closing()
        with pytest.raises(AssertionError):
            wire.protocol.shutdown()
        wire.protocol.transport.abort()


async def test_text_that_is_not_utf_8_is_closed_with_1007_at_once_and_logs_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with connected(OURS) as wire:
        await wire.send(frame(TEXT & FIRST, b"a\xff"))
        assert b"\x03\xef" in await wire.read_until(b"")
        assert (await wire.receive())["code"] == 1007
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_trap_text_that_is_not_utf_8_fills_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with connected(UVICORNS) as wire:
        await wire.send(frame(TEXT, b"\xff"))
        assert b"\x03\xef" in await wire.read_until(b"")
    assert [record.message for record in caplog.records if record.exc_info]
    async with connected(UVICORNS) as wire:
        await wire.send(frame(TEXT, b"\xff") + frame(CLOSE, b"\x03\xe8"))
        await wire.until(lambda: bool(wire.failures))
    assert wire.failures == ["Fatal error: protocol.data_received() call failed."]


class Speaker:
    """An app that answers the first message when its socket is closing already."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        self.seen.append((await receive())["type"])
        try:
            await send({"type": "websocket.send", "text": "an answer"})
        except Exception as error:
            self.seen.append("OSError" if isinstance(error, OSError) else type(error).__name__)


MESSAGE_AND_RESERVED_OPCODE = frame(TEXT, b"x") + frame(0x83)


async def seen_by_app(ws: str) -> list[str]:
    app = Speaker()
    async with connected(ws, app=app) as wire:
        await wire.read_until(b"\r\n\r\n")
        await wire.send(MESSAGE_AND_RESERVED_OPCODE)
        assert b"\x03\xea" in await wire.read_until(b"")
    return app.seen


async def test_a_message_before_a_broken_frame_arrives_and_an_answer_is_an_oserror() -> None:
    assert await seen_by_app(OURS) == ["websocket.receive", "OSError"]


async def test_trap_a_message_before_a_broken_frame_is_lost_and_an_answer_is_a_fault_of_the_app() -> None:
    assert await seen_by_app(UVICORNS) == ["websocket.disconnect", "RuntimeError"]


@pytest.mark.parametrize(("ws", "code"), [(OURS, b"\x03\xe8"), (UVICORNS, b"\x03\xea")], ids=["ours", "trap"])
async def test_a_close_between_two_fragments_is_a_close_and_in_uvicorn_an_error(ws: str, code: bytes) -> None:
    async with connected(ws) as wire:
        await wire.send(frame(TEXT & FIRST, b"a") + frame(CLOSE, b"\x03\xe8"))
        assert (await wire.read_until(b""))[2:4] == code


async def deny(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "websocket.http.response.start", "status": 403, "headers": []})
    await send({"type": "websocket.http.response.body", "body": b"no"})


@pytest.mark.parametrize(("ws", "errors"), [(OURS, 0), (UVICORNS, 1)], ids=["ours", "trap"])
async def test_a_denied_handshake_is_logged_as_no_error_and_in_uvicorn_as_one(
    ws: str, errors: int, caplog: pytest.LogCaptureFixture
) -> None:
    async with connected(ws, app=deny) as wire:
        assert (await wire.read_until(b"")).startswith(b"HTTP/1.1 403 ")
    assert len([record for record in caplog.records if record.levelno >= logging.ERROR]) == errors


async def test_what_tls_reads_piece_by_piece_arrives() -> None:
    """asyncio writes into slices of the buffer that it is given; those of a bytearray would be copies."""
    async with connected(OURS) as wire:
        reader = wire.protocol.transport.get_protocol()
        buffer, data = reader.get_buffer(-1), frame(TEXT, b"hello")
        buffer[:3] = data[:3]
        buffer[3:][: len(data) - 3] = data[3:]
        reader.buffer_updated(len(data))
        assert (await wire.receive())["text"] == "hello"


async def test_a_peer_that_answers_no_ping_is_closed_and_the_app_is_told() -> None:
    async with connected(OURS, ws_ping_interval=0.02, ws_ping_timeout=0.02) as wire:
        assert (await wire.receive())["type"] == "websocket.disconnect"
        assert b"keepalive ping timeout" in await wire.read_until(b"")


async def test_a_peer_that_answers_its_pings_stays() -> None:
    async with connected(OURS, ws_ping_interval=0.01, ws_ping_timeout=LIMIT) as wire:
        for _ in range(5):
            ping = await wire.loop.sock_recv(wire.peer, 6)
            await wire.send(frame(PONG, ping[2:]))
        assert wire.received.empty()


def compressed(data: bytes) -> bytes:
    deflate = zlib.compressobj(wbits=-12)
    return (deflate.compress(data) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]


SMALL_BOMB = compressed(b"x" * 1_001)
TOO_LARGE = {
    "one frame": frame(TEXT, b"x" * 1_001),
    "the sum of fragments": frame(TEXT & FIRST, b"x" * 600) + frame(CONT, b"x" * 401),
    "a bomb": frame(TEXT | COMPRESSED, compressed(b"x" * 1_000_000)),
    "the sum of bombs": frame((TEXT | COMPRESSED) & FIRST, SMALL_BOMB[:5]) + frame(CONT, SMALL_BOMB[5:]),
}


@pytest.mark.parametrize("sent", TOO_LARGE.values(), ids=TOO_LARGE)
async def test_the_size_limit_counts_what_a_message_is_unpacked_and_put_together(sent: bytes) -> None:
    deflate = handshake("Sec-WebSocket-Extensions: permessage-deflate\r\n")
    async with connected(OURS, deflate, ws_max_size=1_000) as wire:
        await wire.read_until(b"\r\n\r\n")
        await wire.send(sent)
        assert (await wire.receive())["code"] == 1009


def test_make_run_and_the_servers_of_the_tests_run_it(live: Server) -> None:
    assert f"--ws {OURS}" in (Path(__file__).parents[2] / "Makefile").read_text()
    with live.connect(handshake("Content-Length: 1\r\n").encode()) as peer:
        assert read_to_end(peer).startswith(b"HTTP/1.1 400 ")
