"""Sockets whose reading the test controls: one inside the process, and one on the wire."""

import asyncio
import socket
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Any, Self

from starlette.types import ASGIApp, Message

from tests.server import Server

LIMIT = 5.0
"""Seconds for any wait of a test."""


class Peer:
    """A socket of an app in this process. While `reading` is not set, the app's sends wait, as at a server.

    The task that runs the app is `task`; its exception is the traceback that a server would log.
    """

    def __init__(
        self,
        app: ASGIApp,
        path: str,
        state: Any = None,
        headers: Iterable[tuple[str, str]] = (),
        address: str = "192.0.2.1",
        scheme: str = "ws",
        query: str = "",
        subprotocols: Iterable[str] = (),
    ) -> None:
        self._app = app
        self._scope: dict[str, Any] = {
            "type": "websocket",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "scheme": scheme,
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": query.encode(),
            "headers": [(b"host", b"testserver"), *((n.encode(), v.encode()) for n, v in headers)],
            "client": (address, 50_000),
            "server": ("testserver", 80),
            "subprotocols": [*subprotocols],
            "state": dict(state or {}),
            "extensions": {"websocket.http.response": {}},
        }
        self._to_app: asyncio.Queue[Message] = asyncio.Queue()
        self._gone = False
        self.received: asyncio.Queue[Message] = asyncio.Queue()
        self.reading = asyncio.Event()
        self.reading.set()

    async def __aenter__(self) -> Self:
        """Connects; the first message, `websocket.accept` or the refusal, is in `answer`."""
        self._to_app.put_nowait({"type": "websocket.connect"})
        self.task = asyncio.create_task(self._run())
        self.answer = await self.receive()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.leave()
        self.reading.set()
        await self.ended()

    def send(self, content: str | bytes) -> None:
        kind = "text" if isinstance(content, str) else "bytes"
        self._to_app.put_nowait({"type": "websocket.receive", kind: content})

    def leave(self, code: int = 1000) -> None:
        self._gone = True
        self._to_app.put_nowait({"type": "websocket.disconnect", "code": code})

    async def receive(self) -> Message:
        async with asyncio.timeout(LIMIT):
            return await self.received.get()

    async def text(self) -> str:
        message = await self.receive()
        assert message["type"] == "websocket.send", message
        return str(message["text"])

    async def close_code(self) -> int:
        """The code of the close frame, whatever came before it."""
        while (message := await self.receive())["type"] != "websocket.close":
            pass
        return int(message["code"])

    async def ended(self) -> BaseException | None:
        """Waits for the app; the exception that it ended with."""
        await asyncio.wait([self.task], timeout=LIMIT)
        assert self.task.done()
        return self.task.exception()

    async def _run(self) -> None:
        await self._app(self._scope, self._to_app.get, self._send)

    async def _send(self, message: Message) -> None:
        await self.reading.wait()
        if self._gone:
            raise OSError
        self.received.put_nowait(message)
        if message["type"] == "websocket.close":
            self.leave(message["code"])


class RawSocket:
    """A socket on the wire that reads nothing beyond the handshake unless told to."""

    def __init__(self, server: Server, path: str, headers: Mapping[str, str] = MappingProxyType({})) -> None:
        handshake = (
            f"GET {path} HTTP/1.1\r\nHost: {server.host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n"
            + "".join(f"{name}: {value}\r\n" for name, value in headers.items())
            + "\r\n"
        )
        self._socket = server.connect(handshake.encode(), receive_buffer=4_096)
        self._socket.settimeout(LIMIT)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._socket.recv(1)
        assert head.startswith(b"HTTP/1.1 101 "), head

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, text: str, times: int = 1) -> None:
        """Sends until all is sent or the server takes no more."""
        data = text.encode()
        frame = struct.pack("!BBH4x", 0x81, 0x80 | 126, len(data)) + data  # masked with four zeros
        with suppress(TimeoutError, ConnectionError):
            for _ in range(times):
                self._socket.sendall(frame)

    def crash(self) -> None:
        """Ends the TCP connection by a reset, as a process does that is killed."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def read_until(self, end: bytes) -> bytes:
        received = bytearray()
        while not received.endswith(end):
            chunk = self._socket.recv(1_000_000)
            assert chunk, "the server closed the connection"
            received += chunk
        return bytes(received)
