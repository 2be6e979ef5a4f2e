"""A real redis-server on a free port, which a test may stop, freeze and start again."""

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import SecretStr

from tests.programs import program

START_SECONDS = 10.0


class RedisServer:
    """`keeps`: what it has said yes to is there after a restart."""

    def __init__(self, folder: Path, *, keeps: bool = False) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = int(free.getsockname()[1])
        self.url = SecretStr(f"redis://127.0.0.1:{self.port}/0")
        self._arguments = [
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--dir",
            str(folder),
            "--save",
            "",
        ]
        if keeps:
            # What the system has taken outlives the process, on the disk or not.
            self._arguments += ["--appendonly", "yes", "--appendfsync", "no"]
        self._program = program("redis-server")
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen([self._program, *self._arguments], stdout=subprocess.DEVNULL)
        end = time.monotonic() + START_SECONDS
        while self.command("PING") != "+PONG":
            assert time.monotonic() < end, "redis-server does not start"
            time.sleep(0.005)

    def stop(self) -> None:
        """As by kill -9."""
        self._process.kill()
        self._process.wait()

    def freeze(self) -> None:
        """It takes connections, and answers nobody."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    def command(self, *words: str) -> str:
        """The first line of its answer; none if it cannot be reached."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=START_SECONDS) as connection:
                connection.sendall(f"{' '.join(words)}\r\n".encode())
                return connection.makefile().readline().strip()
        except ConnectionError:
            return ""


@contextmanager
def redis_server(folder: Path, *, keeps: bool = False) -> Iterator[RedisServer]:
    server = RedisServer(folder, keeps=keeps)
    try:
        yield server
    finally:
        server.stop()
