"""A real uvicorn in its own process, for what TestClient cannot show: the wire, signals, slow clients."""

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 20.0
STOP_SECONDS = 15.0
SOCKET_SECONDS = 10.0
HTTP_PROTOCOL = "app.http_protocol:HttpProtocol"
WEBSOCKET_PROTOCOL = "app.websocket_protocol:WebSocketProtocol"


class Server:
    """A started server: where it listens, what it has logged, and how to stop it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        running = self.wait_for(r"running on http://127\.0\.0\.1:(\d+)", START_SECONDS)
        self.host = f"127.0.0.1:{running[1]}"
        self.port = int(running[1])
        self.url = f"http://{self.host}"
        self.ws_url = f"ws://{self.host}"

    @property
    def log(self) -> str:
        return "\n".join(self.lines)

    def wait_for(self, pattern: str, timeout: float = 5.0, times: int = 1) -> re.Match[str]:
        """The first line of the log with `pattern`, or the one after so many `times`; TimeoutError, with the
        log, if none comes."""
        end = time.monotonic() + timeout
        seen = 0
        with self._changed:
            while True:
                for line in self.lines[seen:]:
                    if match := re.search(pattern, line):
                        times -= 1
                        if not times:
                            return match
                seen = len(self.lines)
                if not self._changed.wait(end - time.monotonic()) and len(self.lines) == seen:
                    raise TimeoutError(f"no {pattern!r} within {timeout} s in:\n{self.log}")

    def connect(self, request: bytes, receive_buffer: int | None = None) -> socket.socket:
        """A connection on which the request was sent. With a small buffer the server soon feels a client
        that does not read."""
        connection = socket.socket()
        connection.settimeout(SOCKET_SECONDS)
        if receive_buffer:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.connect(("127.0.0.1", self.port))
        connection.sendall(request)
        return connection

    def stop(self, number: signal.Signals = signal.SIGTERM) -> float:
        """Sends the signal, waits for the exit, and returns the seconds it took."""
        started = time.monotonic()
        self.process.send_signal(number)
        self.process.wait(STOP_SECONDS)
        seconds = time.monotonic() - started
        self.read_to_end()
        return seconds

    def read_to_end(self) -> None:
        """What a process that has ended wrote before."""
        self._reader.join(1)

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


def read_to_end(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65_536), b""))


@contextmanager
def serve(
    folder: Path, env: Mapping[str, str] | None = None, args: Sequence[str] = (), app: str = "app.main:app"
) -> Iterator[Server]:
    """Starts `app` on a free port with its data under `folder`; kills it on leaving if it still runs."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "uvicorn", app, "--port", "0", "--timeout-graceful-shutdown", "5"),
            *("--http", HTTP_PROTOCOL, "--ws", WEBSOCKET_PROTOCOL, *args),
        ],
        env={
            **os.environ,
            "APP_DATA_DIR": str(folder / "data"),
            "APP_UPLOADS_DIR": str(folder / "uploads"),
            **(env or {}),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=folder,
    )
    server = None
    try:
        server = Server(process)
        yield server
    finally:
        process.kill()
        process.wait()
        if server:
            server.read_to_end()
        if process.stdout:
            process.stdout.close()
