"""What only the wire shows: connections that are cut, clients that leave, a log that nobody reads."""

import http.client
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
import websockets.sync.client
from fastapi import FastAPI
from fastapi.testclient import TestClient
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from tests.server import Server, read_to_end, serve

LIMIT = 10.0
HALF_A_BODY = (
    b"POST /wire/read HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: %b\r\nContent-Length: 100\r\n\r\nhalf"
)


@pytest.fixture(scope="module")
def wire(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("wire")
    env = {"APP_BODY_TIMEOUT": "0.5", "APP_LINGER_TIMEOUT": "0.1", "APP_SEND_TIMEOUT": "0.5"}
    with serve(folder, env, ["--factory"], "tests.live.wire:create_wire") as server:
        yield server


def get(server: Server, path: str, request_id: str, method: str = "GET") -> http.client.HTTPResponse:
    with closing(http.client.HTTPConnection(server.host, timeout=LIMIT)) as connection:
        connection.request(method, path, headers={"X-Request-ID": request_id})
        answer = connection.getresponse()
        answer.read()
        return answer


def lines_of(server: Server, request_id: str) -> list[dict[str, Any]]:
    """All log lines with this id, once the access record is there, which is the last."""
    server.wait_for(rf'"logger":\s*"app\.access".*"{request_id}"', LIMIT)
    return [json.loads(line) for line in server.lines if f'"{request_id}"' in line]


def records(lines: list[dict[str, Any]]) -> list[tuple[int, str]]:
    return [(line["status"], line["outcome"]) for line in lines if line["logger"] == "app.access"]


def test_a_failed_request_leaves_one_record_and_one_traceback(wire: Server) -> None:
    assert get(wire, "/errors/crash", "crash-id-1").status == 500
    lines = lines_of(wire, "crash-id-1")
    assert records(lines) == [(500, "complete")]
    assert sum("traceback" in line for line in lines) == 1


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_a_stream_that_fails_is_cut_and_logged_once(wire: Server, encoding: str) -> None:
    request_id = f"cut-{encoding}-1"
    head = f"GET /errors/stream HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: {encoding}\r\n"
    with wire.connect(f"{head}X-Request-ID: {request_id}\r\n\r\n".encode()) as connection:
        received = read_to_end(connection)
    assert received.startswith(b"HTTP/1.1 200 ")
    assert b"\r\n0\r\n\r\n" not in received  # no last chunk: the client knows that there is more
    wire.wait_for(f'returned without completing response.*"{request_id}"', LIMIT)  # the server's own line
    lines = lines_of(wire, request_id)
    assert records(lines) == [(200, "failed")]
    assert sum("traceback" in line for line in lines) == 1


def test_an_endpoint_sees_through_the_whole_stack_that_the_client_has_left(wire: Server) -> None:
    head = b"GET /wire/poll HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: poll-id-1\r\n\r\n"
    with wire.connect(head):
        wire.wait_for(r'"message":\s*"poll started"', LIMIT)
    wire.wait_for(r'"message":\s*"poll saw the client leave"', LIMIT)
    [(_, outcome)] = records(lines_of(wire, "poll-id-1"))
    assert outcome == "disconnected"


def test_a_client_that_leaves_a_stream_ends_it_without_an_error(wire: Server) -> None:
    head = b"GET /wire/endless HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: left-id-1\r\n\r\n"
    with wire.connect(head) as connection:
        assert connection.recv(65_536)
    lines = lines_of(wire, "left-id-1")
    assert records(lines) == [(200, "disconnected")]
    assert not any("traceback" in line for line in lines)


def test_head_of_an_endless_stream_ends_and_the_connection_can_be_used_again(wire: Server) -> None:
    with closing(http.client.HTTPConnection(wire.host, timeout=LIMIT)) as connection:
        connection.request("HEAD", "/wire/endless", headers={"X-Request-ID": "head-id-1"})
        assert connection.getresponse().read() == b""
        connection.request("GET", "/health")
        assert json.loads(connection.getresponse().read()) == {"status": "ok"}
    assert records(lines_of(wire, "head-id-1")) == [(200, "complete")]


def test_a_body_that_does_not_arrive_is_a_408_and_the_connection_ends(wire: Server) -> None:
    with wire.connect(HALF_A_BODY % b"slow-id-1") as connection:
        received = read_to_end(connection)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in received.lower()
    assert b"application/problem+json" in received
    assert [status for status, _ in records(lines_of(wire, "slow-id-1"))] == [408]


def test_a_client_that_does_not_read_its_download_is_aborted(wire: Server) -> None:
    text = b"some words\n" * 900_000  # more than the buffers of the system hold
    upload = httpx2.post(f"{wire.url}/upload/", files={"file": ("long.txt", text)})
    head = f"GET {upload.headers['location']} HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: unread-1\r\n\r\n"
    with wire.connect(head.encode(), receive_buffer=4_096) as client:
        wire.wait_for("unread-1.*/files/", LIMIT)
        read = 0
        with suppress(ConnectionResetError):
            while chunk := client.recv(65_536):
                read += len(chunk)
        assert read < len(text)


def test_a_client_that_leaves_within_its_body_is_recorded_as_such(wire: Server) -> None:
    with wire.connect(HALF_A_BODY % b"gone-id-1"):
        pass
    lines = lines_of(wire, "gone-id-1")
    assert [outcome for _, outcome in records(lines)] == ["disconnected"]
    assert not any("traceback" in line for line in lines)


def test_no_path_forges_a_line_and_no_query_is_logged(wire: Server) -> None:
    path = "/nope%0a%7b%22status%22:200%7d%0d%1b[2J%7f%e2%80%a8?password=swordfish&mail=a@b.example"
    assert get(wire, path, "forged-id-1").status == 404
    [line] = lines_of(wire, "forged-id-1")
    assert line["path"] == '/nope\n{"status":200}\r\x1b[2J\x7f\u2028'
    assert "swordfish" not in wire.log
    assert "a@b.example" not in wire.log
    assert all(each.isprintable() for each in wire.lines)


@pytest.mark.parametrize(("path", "status"), [("/errors/socket/before", 418), ("/errors/socket/after", 1008)])
def test_a_socket_is_logged_once_without_its_query(wire: Server, path: str, status: int) -> None:
    request_id = f"socket-id-{status}"
    with (
        suppress(InvalidStatus, ConnectionClosedError),
        websockets.sync.client.connect(
            f"{wire.ws_url}{path}?token=swordfish",
            additional_headers={"X-Request-ID": request_id},
            open_timeout=LIMIT,
        ) as client,
    ):
        client.recv(LIMIT)
    get(wire, "/health", f"after-{request_id}")  # what the server says of the socket is written before this
    lines_of(wire, f"after-{request_id}")
    lines = lines_of(wire, request_id)
    assert records(lines) == [(status, "complete")]
    assert [line for line in lines if line["level"] == "ERROR"] == []
    assert "swordfish" not in wire.log


def test_a_reader_of_the_log_that_stopped_stops_no_request(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "uvicorn", "app.main:app", "--port", "0"],
        env={
            **os.environ,
            "APP_DATA_DIR": str(tmp_path),
            "APP_UPLOADS_DIR": str(tmp_path / "uploads"),
            "APP_LOG_QUEUE_SIZE": "10",
        },
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            assert process.stdout
            port = next(
                int(found[1])
                for found in (re.search(r"127\.0\.0\.1:(\d+)", line) for line in process.stdout)
                if found
            )
            # From here on nobody reads. A pipe holds 64 KiB, so that 32 of these lines fill it.
            with closing(http.client.HTTPConnection(f"127.0.0.1:{port}", timeout=LIMIT)) as connection:
                for _ in range(200):
                    connection.request("GET", "/nope/" + "x" * 2_000)
                    answer = connection.getresponse()
                    answer.read()
                    assert answer.status == 404
            process.terminate()
            lines = [json.loads(line) for line in process.stdout if '"app.' in line]
        finally:
            process.kill()
    written = sum(line["logger"] == "app.access" for line in lines)
    dropped = sum(line.get("dropped", 0) for line in lines)
    assert dropped > 0
    assert written + dropped >= 200


def test_trap_a_print_stops_every_request_when_the_log_is_not_read() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with pytest.raises(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4_096)
    os.set_blocking(writer, True)

    app = FastAPI()

    writing = threading.Event()

    @app.get("/logged")
    async def logged() -> None:
        writing.set()
        os.write(writer, b"x" * 4_096)  # what print does on a full pipe

    @app.get("/other")
    async def other() -> None:
        pass

    answered = threading.Event()

    def ask_other(client: TestClient) -> None:
        client.get("/other")
        answered.set()

    with TestClient(app) as client:
        threads = [
            threading.Thread(target=client.get, args=["/logged"]),
            threading.Thread(target=ask_other, args=[client]),
        ]
        threads[0].start()
        assert writing.wait(LIMIT)
        threads[1].start()
        stopped = not answered.wait(0.3)
        while threads[0].is_alive():
            os.read(reader, 65_536)
            threads[0].join(0.1)
        assert answered.wait(LIMIT)
        threads[1].join(LIMIT)
    os.close(reader)
    os.close(writer)
    assert stopped


def test_it_starts_from_an_empty_directory_under_warnings_as_errors(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "import app.main"],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []
