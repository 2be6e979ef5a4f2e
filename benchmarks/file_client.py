"""The client of `benchmarks/files.py`: plain sockets, so that it is not what is measured."""

import http.client
import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

from benchmarks.load import Started

BLOCK = 2**20
SECONDS = 300.0
BOUNDARY = "a-boundary-that-no-file-has"
LINE = (
    "The quick brown fox jumps over the lazy dog; Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich.\n"
)


@dataclass(frozen=True)
class Kind:
    """Of a file: it begins and ends so, and is full of this."""

    name: str
    start: bytes
    block: bytes
    end: bytes

    def parts(self, size: int) -> list[bytes]:
        blocks, rest = divmod(size - len(self.start) - len(self.end), len(self.block))
        return [self.start, *[self.block] * blocks, self.block[:rest], self.end]


# What is compressed looks like chance.
PDF = Kind("file.pdf", b"%PDF-1.7\n", os.urandom(BLOCK), b"\nstartxref\n9\n%%EOF\n")
TEXT = Kind("file.txt", b"", (LINE * (BLOCK // len(LINE.encode()))).encode(), b"")


@dataclass(frozen=True)
class Server:
    """With the folder that it writes to."""

    started: Started
    folder: Path

    def upload(self, path: str, kind: Kind, size: int) -> float:
        """Bytes a second, of the file."""
        head = (
            f"--{BOUNDARY}\r\nContent-Disposition: form-data; name=file; filename={kind.name}\r\n"
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        parts = [head.encode(), *kind.parts(size), f"\r\n--{BOUNDARY}--\r\n".encode()]
        request = (
            f"POST {path} HTTP/1.1\r\nHost: localhost\r\n"
            f"Content-Type: multipart/form-data; boundary={BOUNDARY}\r\n"
            f"Content-Length: {sum(map(len, parts))}\r\n\r\n"
        )
        at = perf_counter()
        with self._connected() as connection:
            connection.sendall(request.encode())
            for part in parts:
                connection.sendall(part)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            body = answer.read()
        seconds = perf_counter() - at
        assert answer.status in (200, 201), body
        assert answer.status == 200 or json.loads(body)["size"] == size, body
        return size / seconds

    def download(self, path: str, size: int) -> float:
        buffer = memoryview(bytearray(BLOCK))
        at = perf_counter()
        with self._connected() as connection:
            connection.sendall(
                f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode()
            )
            received = 0
            while count := connection.recv_into(buffer):
                received += count
        seconds = perf_counter() - at
        assert size < received < size + 2_000, bytes(buffer[:1_000])
        return size / seconds

    def forget(self) -> None:
        for file in self.folder.glob("[!.]*"):
            file.unlink()

    def memory_growth(self, work: Callable[[], object]) -> float:
        """MiB that the process held at most meanwhile, beyond what it held before."""
        proc = Path(f"/proc/{self.started.pid}")
        (proc / "clear_refs").write_text("5")  # the peak begins anew

        def held(what: str) -> int:
            line = next(line for line in (proc / "status").read_text().splitlines() if line.startswith(what))
            return int(line.split()[1])

        before = held("VmRSS")
        work()
        return (held("VmHWM") - before) / 1024

    def stall(self, work: Callable[[], object]) -> float:
        """Milliseconds that its loop was late at most meanwhile."""
        self.get("/ticker")
        work()
        return float(self.get("/ticker"))

    def get(self, path: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.started.port, timeout=SECONDS)
        connection.request("GET", path)
        return connection.getresponse().read()

    def _connected(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.started.port), timeout=SECONDS)
