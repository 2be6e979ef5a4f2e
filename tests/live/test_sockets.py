"""What sockets do on the wire: peers that crash, that stop reading, and that are open at shutdown."""

import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
from fastapi import WebSocketDisconnect
from fastapi.testclient import TestClient
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.live import traps
from tests.server import Server, serve
from tests.sockets import LIMIT, RawSocket

ROOT = Path(__file__).parents[2]
LARGE = "x" * 60_000
ENOUGH = 200
"""Large messages that are more than the kernel's buffers and an outbox take."""

# uvicorn waits for ever without its own limit; a minute, for these tests, is the same.
PATIENT = ["--timeout-graceful-shutdown", "60"]


@pytest.fixture(scope="module")
def sockets(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limits = {"APP_WS_SEND_TIMEOUT": "1", "APP_WS_MESSAGES_PER_SECOND": "1000"}
    with serve(tmp_path_factory.mktemp("sockets"), limits, ["--ws-max-size", "100000"]) as server:
        yield server


def say(talker: ClientConnection, text: str, *others: ClientConnection) -> float:
    """Seconds until the talker and the others have it."""
    started = time.perf_counter()
    talker.send(text)
    for socket in (talker, *others):
        assert socket.recv(LIMIT) == f"User said: {text}"
    return time.perf_counter() - started


def wait_until_open(server: Server, number: int) -> None:
    deadline = time.monotonic() + 2 * LIMIT
    with httpx2.Client(base_url=server.url) as client:
        while (found := client.get("/websockets/open").json()["open"]) != number:
            assert time.monotonic() < deadline, f"{found} sockets are open"
            threading.Event().wait(0.05)


def assert_quiet(server: Server) -> None:
    for word in ("Traceback", "traceback", "Exception", '"ERROR"'):
        assert not [line for line in server.lines if word in line]


def test_crashed_clients_in_front_hurt_neither_the_sender_nor_those_behind(sockets: Server) -> None:
    for number in range(10):
        crashing = RawSocket(sockets, "/chat")
        with connect(f"{sockets.ws_url}/chat") as talker, connect(f"{sockets.ws_url}/chat") as other:
            crashing.crash()
            say(talker, f"hello {number}", other)
    wait_until_open(sockets, 0)
    assert_quiet(sockets)


def test_a_client_that_does_not_read_delays_nobody_and_is_aborted(sockets: Server) -> None:
    with connect(f"{sockets.ws_url}/chat") as talker, connect(f"{sockets.ws_url}/chat") as other:
        usual = max(say(talker, LARGE, other) for _ in range(20))
        with RawSocket(sockets, "/chat"):
            slowest = max(say(talker, LARGE, other) for _ in range(ENOUGH))
            wait_until_open(sockets, 2)
        assert slowest < max(0.5, 10 * usual)
    wait_until_open(sockets, 0)
    assert_quiet(sockets)


def test_a_client_that_reads_again_in_time_finds_its_close_code_1013(sockets: Server) -> None:
    with RawSocket(sockets, "/chat") as slow, connect(f"{sockets.ws_url}/chat") as talker:
        for _ in range(ENOUGH):
            say(talker, LARGE)
        received = slow.read_until(b"\x03\xf5Messages were read too slowly")
        assert 65 <= received.count(b"User said: ") < ENOUGH


def test_a_client_that_only_stops_reading_is_aborted_too(sockets: Server) -> None:
    """Nobody writes to it but the service itself, with the answers to what it sends."""
    with RawSocket(sockets, "/ws") as deaf:
        deaf.send(LARGE, times=ENOUGH)
        wait_until_open(sockets, 0)
    assert_quiet(sockets)


def test_a_frame_over_the_limit_of_the_server_leaves_no_traceback_while_others_talk(sockets: Server) -> None:
    with connect(f"{sockets.ws_url}/chat") as talker:
        for _ in range(20):
            with connect(f"{sockets.ws_url}/chat") as large:
                large.send("x" * 200_000)
                say(talker, "hello")
    wait_until_open(sockets, 0)
    assert_quiet(sockets)


def test_a_peer_that_is_gone_without_a_word_is_found_by_its_silence_to_pings(tmp_path: Path) -> None:
    """Half open: the network is cut, and no packet tells. Who never answers looks the same to the server."""
    pings = ["--ws-ping-interval", "0.2", "--ws-ping-timeout", "0.2"]
    with serve(tmp_path, args=pings) as server, RawSocket(server, "/ws/7"):
        with connect(f"{server.ws_url}/ws/8") as eight:
            assert eight.recv(LIMIT) == "Client #7 left the chat"
        wait_until_open(server, 0)
        assert_quiet(server)


def test_at_sigterm_sockets_are_closed_with_1012_and_the_server_exits_though_a_client_does_not_read(
    tmp_path: Path,
) -> None:
    limits = {"APP_WS_MESSAGES_PER_SECOND": "1000"}
    with serve(tmp_path, limits, PATIENT) as server, ExitStack() as stack:
        one, other = (stack.enter_context(connect(f"{server.ws_url}/chat")) for _ in range(2))
        for _ in range(2):
            stack.enter_context(RawSocket(server, "/chat"))
        stream = stack.enter_context(
            httpx2.stream("GET", f"{server.url}/streaming/events?count=2&interval=60")
        )
        events = stream.iter_text()
        next(events)
        text = {"file": ("long.txt", b"some words " * 900_000)}
        order = {"file_id": httpx2.post(f"{server.url}/upload/", files=text).json()["id"]}
        assert httpx2.post(f"{server.url}/tasks", json=order).status_code == 202
        for _ in range(ENOUGH // 2):
            say(one, LARGE, other)
        assert server.stop() < 10
        for socket in (one, other):
            with pytest.raises(ConnectionClosed) as closed:
                socket.recv(LIMIT)
            assert closed.value.rcvd and closed.value.rcvd.code == 1012
        assert "goodbye" in "".join(events)
        assert_quiet(server)


def test_trap_a_client_that_does_not_read_silences_the_room_and_keeps_the_server_from_stopping(
    tmp_path: Path,
) -> None:
    env = {"PYTHONPATH": str(ROOT)}
    with serve(tmp_path, env, PATIENT, app="tests.live.traps:app") as server:
        with connect(f"{server.ws_url}/ws"):
            pass
        server.wait_for("WebSocketDisconnect")  # the traceback of a normal goodbye
        with RawSocket(server, "/chat"), connect(f"{server.ws_url}/chat") as talker:
            with pytest.raises(TimeoutError):
                for _ in range(ENOUGH):
                    talker.send(LARGE)
                    talker.recv(0.5)
            server.process.terminate()
            with pytest.raises(subprocess.TimeoutExpired):
                server.process.wait(1.5)


def test_trap_the_code_and_reason_of_a_websocketexception_before_accept_never_arrive(tmp_path: Path) -> None:
    with TestClient(traps.app) as client, pytest.raises(WebSocketDisconnect) as closed:
        client.websocket_connect("/members").__enter__()
    assert (closed.value.code, closed.value.reason) == (1008, "Members only")  # what the tests of one see
    with serve(tmp_path, {"PYTHONPATH": str(ROOT)}, app="tests.live.traps:app") as server:
        with pytest.raises(InvalidStatus) as refused, connect(f"{server.ws_url}/members"):
            pass
    assert (refused.value.response.status_code, refused.value.response.body) == (403, b"")
