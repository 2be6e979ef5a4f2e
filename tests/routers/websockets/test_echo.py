import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import cast

import pytest
from fastapi import FastAPI, WebSocketDisconnect
from fastapi.testclient import TestClient
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from app.lifespan import State
from app.main import create_app
from app.settings import Settings
from tests.live.traps import create_tutorial
from tests.server import Server
from tests.sockets import LIMIT, Peer, RawSocket

pytestmark = pytest.mark.anyio


def close_code(socket: ClientConnection) -> int:
    """The code with which the server closes, whatever it sends before."""
    try:
        while True:
            socket.recv(LIMIT)
    except ConnectionClosed as closed:
        assert closed.rcvd
        return closed.rcvd.code


class House:
    """Our app in this process, with its state and the sockets a test opened."""

    def __init__(self, app: FastAPI, state: State, sockets: AsyncExitStack) -> None:
        self.app = app
        self.state = state
        self._sockets = sockets

    async def join(self, path: str, address: str = "192.0.2.1", scheme: str = "ws", origin: str = "") -> Peer:
        headers = [("origin", origin)] if origin else []
        peer = Peer(self.app, path, self.state, headers, address, scheme)
        return await self._sockets.enter_async_context(peer)

    def stop(self) -> None:
        self.state["stopping"].set()


@asynccontextmanager
async def house(settings: Settings, **limits: float) -> AsyncIterator[House]:
    app = create_app(settings.model_copy(update=limits))
    async with app.router.lifespan_context(app) as state, AsyncExitStack() as sockets:
        yield House(app, cast(State, state), sockets)


def test_the_echo_answers_each_text(live: Server) -> None:
    with connect(f"{live.ws_url}/ws") as socket:
        for text in ("Hello", "", "Grüße 🦄"):
            socket.send(text)
            assert socket.recv(LIMIT) == f"Message text was: {text}"


def test_the_sender_gets_a_confirmation_and_everybody_gets_the_message(live: Server) -> None:
    with connect(f"{live.ws_url}/ws/7") as seven, connect(f"{live.ws_url}/ws/8") as eight:
        seven.send("Hello")
        assert seven.recv(LIMIT) == "You wrote: Hello"
        assert seven.recv(LIMIT) == "Client #7 says: Hello"
        assert eight.recv(LIMIT) == "Client #7 says: Hello"


def test_on_the_chat_everybody_gets_what_a_user_said(live: Server) -> None:
    with connect(f"{live.ws_url}/chat") as one, connect(f"{live.ws_url}/chat") as other:
        one.send("Hello")
        assert [one.recv(LIMIT), other.recv(LIMIT)] == ["User said: Hello"] * 2


def test_the_others_are_told_when_a_client_leaves(live: Server) -> None:
    with connect(f"{live.ws_url}/ws/8") as eight:
        with connect(f"{live.ws_url}/ws/7"):
            pass
        assert eight.recv(LIMIT) == "Client #7 left the chat"
        RawSocket(live, "/ws/9").crash()
        assert eight.recv(LIMIT) == "Client #9 left the chat"


@pytest.mark.parametrize("client", ["x", "-1", str(2**53)])
def test_a_client_id_that_is_no_id_is_refused_with_422(live: Server, client: str) -> None:
    with pytest.raises(InvalidStatus) as refused, connect(f"{live.ws_url}/ws/{client}"):
        pass
    assert refused.value.response.status_code == 422


@pytest.mark.parametrize("path", ["/ws", "/ws/7", "/chat"])
@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:30001"])
def test_a_page_of_a_foreign_origin_is_refused_with_403_before_the_handshake(
    live: Server, path: str, origin: str
) -> None:
    with pytest.raises(InvalidStatus) as refused:
        with connect(f"{live.ws_url}{path}", additional_headers={"Origin": origin, "Cookie": "user=ada"}):
            pass
    answer = refused.value.response
    assert answer.status_code == 403
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.body and json.loads(answer.body)["status"] == 403


def test_pages_of_the_own_or_a_listed_origin_and_programs_without_one_are_let_in(live: Server) -> None:
    for headers in ({"Origin": live.url}, {"Origin": "http://localhost:3000"}, {}):
        with connect(f"{live.ws_url}/ws", additional_headers=headers) as socket:
            socket.send("in")
            assert socket.recv(LIMIT) == "Message text was: in"


@pytest.mark.parametrize(
    ("scheme", "origin", "answer"),
    [
        ("wss", "https://testserver", "websocket.accept"),
        ("wss", "http://testserver", "websocket.http.response.start"),  # a page that anyone can have altered
        ("ws", "http://testserver", "websocket.accept"),
        ("ws", "http://testserver:81", "websocket.http.response.start"),
    ],
)
async def test_the_own_origin_has_the_same_scheme_and_port(
    settings: Settings, scheme: str, origin: str, answer: str
) -> None:
    async with house(settings) as ours:
        assert (await ours.join("/ws", scheme=scheme, origin=origin)).answer["type"] == answer


async def test_trap_any_web_page_may_join() -> None:
    async with Peer(create_tutorial(), "/chat", headers=[("origin", "https://evil.example")]) as evil:
        evil.send("hello")
        assert await evil.text() == "User said: hello"


def test_a_binary_frame_closes_its_sender_with_1003_and_the_others_talk_on(live: Server) -> None:
    with connect(f"{live.ws_url}/chat") as one, connect(f"{live.ws_url}/chat") as other:
        with connect(f"{live.ws_url}/chat") as binary:
            binary.send(b"\x00\x01")
            assert close_code(binary) == 1003
        one.send("still here")
        assert [one.recv(LIMIT), other.recv(LIMIT)] == ["User said: still here"] * 2


async def test_trap_one_binary_frame_breaks_the_room_for_good() -> None:
    app = create_tutorial()
    async with Peer(app, "/chat") as binary, Peer(app, "/chat") as other:
        binary.send(b"\x00\x01")
        assert isinstance(await binary.ended(), KeyError)
        binary.leave()
        other.send("hello")
        await other.ended()  # thrown out by its own message, which nobody got
        async with Peer(app, "/chat") as newcomer:
            newcomer.send("hello")
            await newcomer.ended()
            assert other.received.empty() and newcomer.received.empty()


async def test_trap_a_crashed_client_throws_out_the_sender() -> None:
    app = create_tutorial()
    async with Peer(app, "/chat") as crashed, Peer(app, "/chat") as sender, Peer(app, "/chat") as other:
        sender.send("hello")
        crashed.leave(1006)  # its own task has not run yet, as on a busy server
        await sender.ended()
        assert other.received.empty()


@pytest.mark.parametrize("text", ["x" * 65_537, "é" * 32_769])
def test_a_message_over_the_size_limit_closes_with_1009(live: Server, text: str) -> None:
    with connect(f"{live.ws_url}/ws") as socket:
        socket.send(text[:-1])
        assert socket.recv(LIMIT) == f"Message text was: {text[:-1]}"
        socket.send(text)
        assert close_code(socket) == 1009


async def test_a_client_over_the_rate_limit_is_closed_with_1008(settings: Settings) -> None:
    async with house(settings, ws_messages_per_second=2) as ours:
        peer = await ours.join("/ws")
        for number in range(30):
            peer.send(str(number))
        for number in range(20):  # ten seconds' worth of messages may come at once
            assert await peer.text() == f"Message text was: {number}"
        assert await peer.close_code() == 1008


async def test_trap_nothing_limits_what_a_client_sends() -> None:
    async with Peer(create_tutorial(), "/chat") as peer:
        for _ in range(1_000):
            peer.send("x" * 100_000)
        for _ in range(1_000):
            assert len(await peer.text()) > 100_000


async def test_a_burst_within_the_rate_is_answered_in_full_though_the_outbox_is_small(
    settings: Settings,
) -> None:
    async with house(settings, ws_queue_size=2) as ours:
        peer, other = await ours.join("/ws/7"), await ours.join("/ws/8")
        for number in range(100):
            peer.send(str(number))
        for number in range(100):
            assert await peer.text() == f"You wrote: {number}"
            assert await peer.text() == await other.text() == f"Client #7 says: {number}"


async def test_a_socket_over_the_total_limit_is_refused_with_503_and_over_the_limit_of_one_address_with_429(
    settings: Settings,
) -> None:
    async with house(settings, ws_max_connections=3, ws_max_connections_per_client=2) as ours:
        first = await ours.join("/ws")
        await ours.join("/ws/1")
        assert status(await ours.join("/chat")) == 429
        await ours.join("/ws", "192.0.2.2")
        assert status(await ours.join("/ws", "192.0.2.3")) == 503
        first.leave()
        assert await first.ended() is None
        assert status(await ours.join("/ws")) == 101


def status(peer: Peer) -> int:
    return 101 if peer.answer["type"] == "websocket.accept" else int(peer.answer["status"])


async def test_a_client_that_does_not_read_is_closed_with_1013_and_nobody_waits_for_it(
    settings: Settings,
) -> None:
    async with house(settings, ws_queue_size=4) as ours:
        stalled, talker = await ours.join("/chat"), await ours.join("/chat")
        stalled.reading.clear()
        for number in range(10):
            talker.send(str(number))
            assert await talker.text() == f"User said: {number}"
        stalled.send("I do not listen")
        stalled.reading.set()
        # No gap: what was sent before the close is the beginning of what was said. One was on its way.
        assert [await stalled.text() for _ in range(5)] == [f"User said: {number}" for number in range(5)]
        assert await stalled.close_code() == 1013
        assert await stalled.ended() is None
        assert talker.received.empty()


async def test_trap_one_client_that_does_not_read_silences_the_room() -> None:
    app = create_tutorial()
    async with Peer(app, "/chat") as stalled, Peer(app, "/chat") as talker, Peer(app, "/chat") as newcomer:
        stalled.reading.clear()
        talker.send("hello")
        newcomer.send("hello")
        await asyncio.wait([talker.task, newcomer.task], timeout=0.2)
        assert talker.received.empty() and newcomer.received.empty()
        stalled.reading.set()


async def test_everybody_present_gets_each_message_once_although_one_is_removed_while_it_is_sent(
    settings: Settings,
) -> None:
    async with house(settings, ws_queue_size=2) as ours:
        first, slow, third, talker = [await ours.join("/chat") for _ in range(4)]
        slow.reading.clear()
        talker.send("0")
        first.leave()
        await first.ended()
        for number in range(1, 6):  # one of these finds the outbox of `slow` full and removes it
            talker.send(str(number))
        for number in range(6):
            assert await talker.text() == await third.text() == f"User said: {number}"
        slow.reading.set()
        assert await slow.close_code() == 1013
        assert third.received.empty()


async def test_trap_who_stands_behind_one_that_leaves_is_skipped() -> None:
    app = create_tutorial()
    async with Peer(app, "/chat") as first, Peer(app, "/chat") as slow, Peer(app, "/chat") as third:
        async with Peer(app, "/chat") as talker:
            slow.reading.clear()
            talker.send("hello")
            assert await first.text() == "User said: hello"
            first.leave()
            await first.ended()
            slow.reading.set()
            assert await talker.text() == await slow.text() == "User said: hello"
            assert third.received.empty()


async def test_at_shutdown_every_socket_is_closed_with_1012_after_what_was_waiting_for_it(
    settings: Settings,
) -> None:
    async with house(settings) as ours:
        waiting, talker = await ours.join("/chat"), await ours.join("/chat")
        echo = await ours.join("/ws")
        waiting.reading.clear()
        for number in range(3):
            talker.send(str(number))
            await talker.text()
        ours.stop()
        for peer in (talker, echo):
            assert await peer.close_code() == 1012
        waiting.reading.set()
        assert [await waiting.text() for _ in range(3)] == ["User said: 0", "User said: 1", "User said: 2"]
        assert await waiting.close_code() == 1012
        for peer in (waiting, talker, echo):
            assert await peer.ended() is None
        assert await (await ours.join("/ws")).close_code() == 1012


def test_no_way_of_leaving_puts_a_traceback_in_the_log(live: Server) -> None:
    before = len(live.lines)
    for client, code in ((901, 1000), (902, 1001)):
        with connect(f"{live.ws_url}/ws/{client}") as socket:
            socket.close(code)
    RawSocket(live, "/ws/903").crash()
    for client in (901, 902, 903):
        live.wait_for(rf'"path": ?"/ws/{client}"')
    mine = "\n".join(live.lines[before:])
    assert not re.search(r"Traceback|traceback|Exception|ERROR", mine), mine


async def test_trap_every_normal_goodbye_is_a_traceback() -> None:
    async with Peer(create_tutorial(), "/ws") as peer:
        peer.leave(1000)
        assert isinstance(await peer.ended(), WebSocketDisconnect)


def test_the_number_of_open_sockets_is_told(client: TestClient) -> None:
    for number in range(2):
        assert client.get("/websockets/open").json() == {"open": 0}
        with client.websocket_connect("/ws"), client.websocket_connect(f"/ws/{number}"):
            assert client.get("/websockets/open").json() == {"open": 2}


async def test_a_text_that_utf_8_cannot_hold_fails_at_its_writer_and_reaches_nobody(
    settings: Settings,
) -> None:
    async with house(settings) as ours:
        peer = await ours.join("/chat")
        with pytest.raises(UnicodeEncodeError):
            ours.state["connections"].channel("chat").broadcast("\ud800")
        peer.send("hello")
        assert await peer.text() == "User said: hello"
