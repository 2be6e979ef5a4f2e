import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.middleware import stalled_sockets
from app.middleware.stalled_sockets import StalledSocketMiddleware
from tests.sockets import LIMIT

pytestmark = pytest.mark.anyio

LOOK_SECONDS = 0.01

CLOSE: Message = {"type": "websocket.close", "code": 1000}
TEXT: Message = {"type": "websocket.send", "text": "hello"}


@pytest.fixture(autouse=True)
def short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stalled_sockets, "LOOK_SECONDS", LOOK_SECONDS)
    monkeypatch.setattr(stalled_sockets, "STILL_SECONDS", 0.1)
    monkeypatch.setattr(stalled_sockets, "STREAM_SECONDS", 0.1, raising=False)


class Transport:
    """The part of a server's transport that is looked at; `sizes` makes the next number of unsent bytes."""

    def __init__(self, sizes: Callable[[int], int]) -> None:
        self.sizes = sizes
        self.unsent = 1_000_000
        self.looks = 0
        self.looked_often = asyncio.Event()
        self.aborted = asyncio.Event()
        self.socket, self.peer = socket.socketpair()

    def get_extra_info(self, name: str) -> socket.socket:
        assert name == "socket"
        return self.socket

    def get_write_buffer_size(self) -> int:
        self.unsent = self.sizes(self.unsent)
        self.looks += 1
        if self.looks == 25:
            self.looked_often.set()
        return self.unsent

    def is_closing(self) -> bool:
        return False

    def abort(self) -> None:
        self.aborted.set()


class Server:
    """Keeps the transport where uvicorn does: beside the method that is the app's `receive`."""

    def __init__(self, sizes: Callable[[int], int]) -> None:
        self.transport = Transport(sizes)
        self.sent: list[Message] = []

    async def send(self, message: Message) -> None:
        self.sent.append(message)

    async def receive(self) -> Message:
        return {"type": "websocket.disconnect", "code": 1005}

    async def run(
        self,
        app: ASGIApp,
        seconds: float,
        stopping: bool = False,
        kind: str = "websocket",
        middleware: ASGIApp | None = None,
    ) -> None:
        event = asyncio.Event()
        if stopping:
            event.set()
        scope: dict[str, Any] = {"type": kind, "state": {"stopping": event}}
        middleware = middleware or StalledSocketMiddleware(app, seconds, http_seconds=seconds)
        with self.transport.socket, self.transport.peer:
            async with asyncio.timeout(LIMIT):
                await middleware(scope, self.receive, self.send)


def constant(unsent: int) -> int:
    return unsent


def fewer(unsent: int) -> int:
    return unsent - 1


def growing_between(unsent: int) -> int:
    return unsent - 2 if unsent % 2 else unsent + 1


def none(unsent: int) -> int:
    return 0


async def test_a_peer_that_takes_nothing_is_aborted_while_the_app_waits() -> None:
    server = Server(constant)

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        await server.transport.aborted.wait()

    await server.run(waits, seconds=0.1)


@pytest.mark.parametrize("sizes", [none, fewer, growing_between])
async def test_a_peer_that_takes_a_little_at_a_time_is_left_alone(sizes: Callable[[int], int]) -> None:
    server = Server(sizes)

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        await server.transport.looked_often.wait()
        assert not server.transport.aborted.is_set()

    await server.run(waits, seconds=0.1)


async def test_after_the_close_taking_a_little_at_a_time_is_not_enough() -> None:
    server = Server(fewer)

    async def closes(scope: Scope, receive: Receive, send: Send) -> None:
        await send(CLOSE)
        await server.transport.aborted.wait()

    await server.run(closes, seconds=0.1)


async def test_what_the_app_leaves_behind_is_aborted_too() -> None:
    server = Server(fewer)

    async def returns(scope: Scope, receive: Receive, send: Send) -> None:
        pass

    await server.run(returns, seconds=0.1)
    async with asyncio.timeout(LIMIT):
        await server.transport.aborted.wait()


async def test_when_the_service_stops_nobody_has_long() -> None:
    server = Server(fewer)

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        await server.transport.aborted.wait()

    await server.run(waits, seconds=3_600, stopping=True)


async def test_all_connections_are_looked_at_by_one_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    loop, timers = asyncio.get_running_loop(), list[float]()
    call_later = loop.call_later

    def count(seconds: float, *rest: Any) -> asyncio.TimerHandle:
        timers.append(seconds)
        return call_later(seconds, *rest)

    monkeypatch.setattr(loop, "call_later", count)
    servers = [Server(none) for _ in range(20)]

    async def waits(scope: Scope, receive: Receive, send: Send) -> None:
        for server in servers:
            await server.transport.looked_often.wait()

    middleware = StalledSocketMiddleware(waits, 1, 1)
    await asyncio.gather(*(server.run(waits, seconds=1, middleware=middleware) for server in servers))
    looks = sum(server.transport.looks for server in servers)
    assert timers.count(LOOK_SECONDS) <= looks / len(servers) + 2


async def test_after_the_close_nothing_is_passed_on() -> None:
    server = Server(none)

    async def goes_on(scope: Scope, receive: Receive, send: Send) -> None:
        await send(CLOSE)
        await send(CLOSE)
        with pytest.raises(ConnectionResetError):
            await send(TEXT)

    await server.run(goes_on, seconds=1)
    assert server.sent == [CLOSE]


PIECE: Message = {"type": "http.response.body", "body": b"x", "more_body": True}
LAST: Message = {"type": "http.response.body", "body": b"x" * 100_000}


@pytest.mark.parametrize("messages", [[LAST], [PIECE], [PIECE, LAST]])
async def test_an_answer_that_is_not_taken_is_aborted_during_and_after_it(messages: list[Message]) -> None:
    server = Server(constant)

    async def answers(scope: Scope, receive: Receive, send: Send) -> None:
        for message in messages:
            await send(message)

    await server.run(answers, seconds=0.1, kind="http")
    async with asyncio.timeout(LIMIT):
        await server.transport.aborted.wait()


@pytest.mark.parametrize("stopping", [False, True])
async def test_an_answer_that_is_taken_slowly_is_left_alone(stopping: bool) -> None:
    server = Server(fewer)

    async def answers(scope: Scope, receive: Receive, send: Send) -> None:
        await send(PIECE)
        await server.transport.looked_often.wait()
        assert not server.transport.aborted.is_set()

    await server.run(answers, seconds=0.1, stopping=stopping, kind="http")


@pytest.mark.parametrize("stopping", [False, True])
async def test_a_client_that_takes_only_what_the_system_has_is_left_alone(stopping: bool) -> None:
    def taken_from_the_system(unsent: int) -> int:
        server.transport.peer.recv(100)
        return unsent

    server = Server(taken_from_the_system)
    for _ in range(100):
        server.transport.socket.send(b"x" * 100)

    async def answers(scope: Scope, receive: Receive, send: Send) -> None:
        await send(PIECE)
        await server.transport.looked_often.wait()
        assert not server.transport.aborted.is_set()

    await server.run(answers, seconds=0.1, stopping=stopping, kind="http")


HEAD_OF_EVENTS: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"text/event-stream; charset=utf-8")],
}


async def test_a_stream_of_events_that_is_taken_slowly_has_some_time_in_all_when_the_service_stops() -> None:
    server = Server(fewer)

    async def follows(scope: Scope, receive: Receive, send: Send) -> None:
        await send(HEAD_OF_EVENTS)
        await send(PIECE)
        await server.transport.looked_often.wait()
        assert not server.transport.aborted.is_set()
        scope["state"]["stopping"].set()
        await server.transport.aborted.wait()

    await server.run(follows, seconds=3_600, kind="http")


async def test_an_answer_that_is_not_taken_is_aborted_soon_when_the_service_stops() -> None:
    server = Server(constant)

    async def answers(scope: Scope, receive: Receive, send: Send) -> None:
        await send(PIECE)
        await server.transport.aborted.wait()

    await server.run(answers, seconds=3_600, stopping=True, kind="http")


async def test_a_small_answer_is_not_watched() -> None:
    server = Server(constant)

    async def answers(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.body", "body": b"small"})

    await server.run(answers, seconds=0.1, kind="http")
    assert server.transport.looks == 0


async def test_on_a_server_that_hides_its_transport_it_does_nothing() -> None:
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        sent.append(message)

    async def closes(scope: Scope, receive: Receive, send: Send) -> None:
        await send(CLOSE)

    await StalledSocketMiddleware(closes, 1, 1)({"type": "websocket"}, receive, send)
    assert sent == [CLOSE]
