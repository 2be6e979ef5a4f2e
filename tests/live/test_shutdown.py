"""Clients that stand still do not hold up the stop of the server."""

import socket
from contextlib import ExitStack
from pathlib import Path

import httpx2

from tests.outbox import outbox
from tests.server import read_to_end, serve

LIMIT = 10.0

HEAD = "Host: localhost\r\nContent-Length: 1000\r\n"
HALF_REQUESTS = {
    f"POST /users HTTP/1.1\r\nContent-Type: application/json\r\n{HEAD}\r\n{{": b"408",
    f"POST /upload/ HTTP/1.1\r\nContent-Type: multipart/form-data; boundary=X\r\n{HEAD}\r\n--X\r\n": b"408",
    f"POST /nowhere HTTP/1.1\r\n{HEAD}\r\n{{": b"404",
    f"GET /health HTTP/1.1\r\n{HEAD}\r\n{{": b"200",
}


def test_at_sigterm_bodies_and_downloads_that_stand_still_are_given_up(tmp_path: Path) -> None:
    with serve(tmp_path) as server, ExitStack() as clients:
        text = b"some words\n" * 900_000  # more than the buffers of the system hold
        uploaded = httpx2.post(f"{server.url}/upload/", files={"file": ("long.txt", text)}, timeout=LIMIT)
        download = f"GET {uploaded.headers['location']} HTTP/1.1\r\nHost: localhost\r\n\r\n"
        deaf = clients.enter_context(server.connect(download.encode(), receive_buffer=4_096))
        assert deaf.recv(12) == b"HTTP/1.1 200"

        halves = [clients.enter_context(server.connect(request.encode())) for request in HALF_REQUESTS]
        httpx2.get(f"{server.url}/health", timeout=LIMIT)  # when it is answered, those before it were read
        assert server.stop() < 2
        for half, status in zip(halves, HALF_REQUESTS.values(), strict=True):
            assert read_to_end(half).split(b" ")[1] == status
        assert "Traceback" not in server.log
        assert "graceful shutdown exceeded" not in server.log


def test_a_stop_that_the_server_breaks_off_loses_no_mail(tmp_path: Path) -> None:
    # uvicorn 0.54 never answers a handshake with a body, and trips over it when it stops.
    handshake = (
        "GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{HEAD}\r\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        env = {"APP_SMTP_URL": f"smtp://127.0.0.1:{deaf.getsockname()[1]}"}
        with serve(tmp_path, env) as server, server.connect(handshake.encode()):
            for _ in range(3):
                httpx2.post(f"{server.url}/notify", params={"email": "ada@example.com"}, timeout=LIMIT)
            assert server.stop() < 2
            assert "AssertionError" in server.log
    assert [mail["fate"] for mail in outbox(tmp_path / "data")] == ["unsent"] * 3
