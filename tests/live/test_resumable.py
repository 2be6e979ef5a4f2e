"""What only the wire shows of resumable uploads: connections that break, and a process that is killed."""

import base64
import hashlib
import random
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic

import httpx2
import pytest

from tests.server import SOCKET_SECONDS, Server, read_to_end, serve
from tests.tus import OCTETS, TUS, metadata

LIMIT = 15.0
SILENCE = 0.4
CHANCE = random.Random(5)  # noqa: S311 - the same content and the same places in each run
CONTENT = base64.b64encode(CHANCE.randbytes(3_000_000))
RESET = struct.pack("ii", 1, 0)
"""To close with a reset, as a network does that breaks."""


class Service:
    """A server that may be killed, and is started again over what it left."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self._folder = folder
        self._stack = stack
        self.start()

    def start(self) -> None:
        env = {"APP_FILES__SILENCE_SECONDS": str(SILENCE), "APP_LINGER_TIMEOUT": "0.1"}
        self.server: Server = self._stack.enter_context(serve(self._folder, env))
        self.client = httpx2.Client(base_url=self.server.url, timeout=SOCKET_SECONDS)

    def kill_and_start(self) -> None:
        self.client.close()
        self.server.process.kill()
        self.server.process.wait()
        self.start()

    def create(self) -> str:
        headers = {**TUS, "Upload-Length": str(len(CONTENT)), "Upload-Metadata": metadata("a.txt")}
        answer = self.client.post("/files/uploads", headers=headers)
        assert answer.status_code == 201
        return str(answer.headers["location"])

    def offset(self, url: str) -> int:
        answer = self.client.head(url, headers=TUS)
        assert answer.status_code == 200
        return int(answer.headers["upload-offset"])

    def patch(self, url: str, offset: int) -> int:
        headers = {**OCTETS, "Upload-Offset": str(offset)}
        return self.client.patch(url, content=CONTENT[offset:], headers=headers).status_code

    def half_a_patch(self, url: str, offset: int, size: int) -> socket.socket:
        """A connection on which so many bytes were sent, of a request for all the rest."""
        head = (
            f"PATCH {url} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\nUpload-Offset: {offset}\r\n"
            "Content-Type: application/offset+octet-stream\r\n"
            f"Content-Length: {len(CONTENT) - offset}\r\n\r\n"
        )
        return self.server.connect(head.encode() + CONTENT[offset : offset + size])

    def finish(self, url: str) -> None:
        """As clients do: ask for the offset, send the rest; once more while another request has the lock."""
        end = monotonic() + LIMIT
        while (status := self.patch(url, self.offset(url))) in (409, 423):
            assert monotonic() < end
        assert status == 204
        file = self.client.get(url.replace("/uploads", ""))
        assert hashlib.sha256(file.content).digest() == hashlib.sha256(CONTENT).digest()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with ExitStack() as stack:
        service = Service(tmp_path_factory.mktemp("resumable"), stack)
        yield service
        service.client.close()


def test_connections_that_break_anywhere_lose_nothing_that_was_told(service: Service) -> None:
    url = service.create()
    told = 0
    for _ in range(12):
        offset = service.offset(url)
        assert told <= offset
        told = offset
        with service.half_a_patch(url, offset, CHANCE.choice((0, 1, 70_000, 400_000))) as connection:
            if CHANCE.random() < 0.5:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    service.finish(url)


def test_a_killed_process_loses_nothing_that_was_told(service: Service) -> None:
    url = service.create()
    with service.half_a_patch(url, 0, CHANCE.randrange(600_000, 3_000_000)):
        end = monotonic() + LIMIT
        while (told := service.offset(url)) == 0:
            assert monotonic() < end
        service.kill_and_start()
    assert told <= service.offset(url) < len(CONTENT)
    service.finish(url)


def test_a_lost_client_that_comes_back_is_locked_out_until_its_old_connection_is_silent(
    service: Service,
) -> None:
    url = service.create()
    with service.half_a_patch(url, 0, 100_000) as lost:
        end = monotonic() + LIMIT
        while service.offset(url) == 0:
            assert monotonic() < end
        assert service.patch(url, service.offset(url)) == 423
        service.finish(url)
        answer = b""
        with suppress(ConnectionError):
            answer = read_to_end(lost)
        assert answer.startswith(b"HTTP/1.1 408 ")
