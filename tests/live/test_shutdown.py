"""Clients that stand still do not hold up the stop of the server."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx2

from tests.outbox import outbox
from tests.server import read_to_end, serve

LIMIT = 10.0
ROOT = Path(__file__).parents[2]

HEAD = "Host: localhost\r\nContent-Length: 1000\r\n"
HALF_REQUESTS = {
    f"POST /users HTTP/1.1\r\nContent-Type: application/json\r\n{HEAD}\r\n{{": b"408",
    f"POST /upload/ HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=X\r\n{HEAD}\r\n--X\r\n": b"408",
    f"POST /nowhere HTTP/1.1\r\n{HEAD}\r\n{{": b"404",
    f"GET /health HTTP/1.1\r\n{HEAD}\r\n{{": b"200",
}


# From before the last start: all that is kept is sent.
FOLLOW = b"GET /streaming/feed HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 0badcafe-1\r\n\r\n"


def read_slowly(connection: socket.socket, stopped: threading.Event) -> bytes:
    """A megabyte or two a second in small pieces, until the server has stopped; the rest at once."""
    received = bytearray()
    while piece := connection.recv(30_000):
        received += piece
        stopped.wait(0.02)
    return bytes(received)


def test_at_sigterm_who_stands_still_is_given_up_and_who_reads_slowly_is_not(tmp_path: Path) -> None:
    env = {"PYTHONPATH": str(ROOT), "APP_FEED__HISTORY": "2500"}
    with (
        serve(tmp_path, env, ["--factory"], "tests.live.wire:create_wire") as server,
        ExitStack() as clients,
        ThreadPoolExecutor(2) as readers,
    ):
        # As much as the system holds for one connection, and as much again.
        httpx2.post(f"{server.url}/wire/news", params={"count": 2_500}, timeout=LIMIT)
        followers = [clients.enter_context(server.connect(FOLLOW, receive_buffer=65_536)) for _ in range(3)]
        for follower in followers:
            assert follower.recv(12) == b"HTTP/1.1 200"
        reading, slow, _deaf = followers

        text = b"some words\n" * 900_000  # more than the buffers of the system hold
        uploaded = httpx2.post(f"{server.url}/upload/", files={"file": ("long.txt", text)}, timeout=LIMIT)
        download = f"GET {uploaded.headers['location']} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        deaf = clients.enter_context(server.connect(download.encode(), receive_buffer=4_096))
        assert deaf.recv(12) == b"HTTP/1.1 200"

        halves = [clients.enter_context(server.connect(request.encode())) for request in HALF_REQUESTS]
        httpx2.get(f"{server.url}/health", timeout=LIMIT)  # when it is answered, those before it were read
        stopped = threading.Event()
        streams = [readers.submit(read_to_end, reading), readers.submit(read_slowly, slow, stopped)]
        try:
            server.stop()
        finally:
            stopped.set()
        for stream in streams:
            assert b"event: goodbye" in stream.result(2 * LIMIT)
        for half, status in zip(halves, HALF_REQUESTS.values(), strict=True):
            assert read_to_end(half).split(b" ")[1] == status
        assert "Traceback" not in server.log
        assert "graceful shutdown exceeded" not in server.log


def test_a_stop_that_the_server_breaks_off_loses_no_mail(tmp_path: Path) -> None:
    # uvicorn's own protocol never answers a handshake with a body, and trips over it when it stops.
    handshake = (
        "GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{HEAD}\r\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        env = {"APP_SMTP_URL": f"smtp://127.0.0.1:{deaf.getsockname()[1]}"}
        with (
            serve(tmp_path, env, ["--ws", "websockets-sansio"]) as server,
            server.connect(handshake.encode()),
        ):
            for _ in range(3):
                httpx2.post(f"{server.url}/notify", params={"email": "ada@example.com"}, timeout=LIMIT)
            server.stop()
            assert "AssertionError" in server.log
    assert [mail["fate"] for mail in outbox(tmp_path / "data")] == ["unsent"] * 3
