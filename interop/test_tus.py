"""tus-js-client, as browsers and programs use it, against the service over a network that breaks."""

import base64
import hashlib
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from time import monotonic, sleep
from urllib.parse import urlsplit

import httpx2
import pytest

from tests.programs import program
from tests.server import Server, serve

HERE = Path(__file__).parent
LIMIT = 120.0
SIZE = 50_000_000
CUTS = 10
RESET = struct.pack("ii", 1, 0)
"""To close with a reset, as a network does that breaks."""


class BreakingNetwork:
    """Passes bytes on to the server, and cuts the connection after so many, as often as it may."""

    def __init__(self, port: int, cuts: int, after: int) -> None:
        self.port = port
        self._left = cuts
        self._after = after
        self.cuts = 0
        self.creations = 0
        self.passed = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):  # when it is closed
            while True:
                client, _ = self._listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", self.port))
                except ConnectionRefusedError:
                    client.close()
                    continue
                threading.Thread(target=self._pass_on, args=(client, server), daemon=True).start()
                threading.Thread(target=self._pass_back, args=(server, client), daemon=True).start()

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        passed = 0
        with client, server, suppress(OSError):
            while data := client.recv(65_536):
                server.sendall(data)
                passed += len(data)
                self.passed += len(data)
                self.creations += data.startswith(b"POST ")
                if passed > self._after and self.cuts < self._left:
                    self.cuts += 1
                    for end in (client, server):
                        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                        end.shutdown(socket.SHUT_RDWR)
                    return

    def _pass_back(self, server: socket.socket, client: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(65_536):
                client.sendall(data)

    def close(self) -> None:
        self._listener.close()


@contextmanager
def network(server: Server, cuts: int = 0) -> Iterator[BreakingNetwork]:
    breaking = BreakingNetwork(server.port, cuts, SIZE // (CUTS + 2))
    try:
        yield breaking
    finally:
        breaking.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("tus")) as server:
        yield server


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("file") / "long.txt"
    path.write_bytes(base64.b64encode(os.urandom(SIZE * 3 // 4)))
    return path


def start(task: str, url: str, file: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [program("node"), "tus.mjs", task, f"{url}/files/uploads", file],
        cwd=HERE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(client: subprocess.Popen[str]) -> str:
    """The id of the file."""
    with client:
        try:
            printed, _ = client.communicate(timeout=LIMIT)
        finally:
            client.kill()
    assert client.returncode == 0, printed
    return urlsplit(printed.strip()).path.rpartition("/")[2]


def run(task: str, url: str, file: Path) -> str:
    return finished(start(task, url, file))


def assert_same(service: Server, file_id: str, file: Path) -> None:
    received = httpx2.get(f"{service.url}/files/{file_id}", timeout=LIMIT)
    assert received.status_code == 200
    assert hashlib.sha256(received.content).digest() == hashlib.sha256(file.read_bytes()).digest()


def test_fifty_megabytes_arrive_over_a_connection_that_is_cut_ten_times(service: Server, file: Path) -> None:
    with network(service, CUTS) as breaking:
        file_id = run("whole", breaking.url, file)
        assert breaking.cuts == CUTS
        assert breaking.creations == 1  # it went on each time, and never began anew
    assert_same(service, file_id, file)


def test_fifty_megabytes_arrive_at_a_server_that_is_killed_three_times(tmp_path: Path, file: Path) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(serve(tmp_path))
        breaking = stack.enter_context(network(server))
        client = start("whole", breaking.url, file)
        for kills in range(1, 4):
            end = monotonic() + LIMIT
            while breaking.passed < kills * SIZE // 5:
                assert monotonic() < end and client.poll() is None
                sleep(0.001)
            server.process.kill()
            server.process.wait()
            server = stack.enter_context(serve(tmp_path))
            breaking.port = server.port
        file_id = finished(client)
        assert breaking.creations == 1
        assert_same(server, file_id, file)


@pytest.mark.parametrize("task", ["resume", "chunks"])
def test_an_upload_is_the_same_however_it_is_sent(service: Server, file: Path, task: str) -> None:
    assert_same(service, run(task, service.url, file), file)


def test_an_upload_that_its_client_terminates_is_gone(service: Server, file: Path) -> None:
    file_id = run("terminate", service.url, file)
    assert httpx2.get(f"{service.url}/files/{file_id}").status_code == 404
