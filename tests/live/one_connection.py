"""One connection of uvicorn in this process: the test is the peer, and sees into the protocol."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.server import ServerState

from tests.server import WEBSOCKET_PROTOCOL
from tests.sockets import LIMIT

TEXT, BINARY, CONT, CLOSE, PING, PONG = 0x81, 0x82, 0x80, 0x88, 0x89, 0x8A
FIRST = 0x7F
"""`TEXT & FIRST` is the first fragment of a text, `CONT & FIRST` one that another follows."""
COMPRESSED = 0x40


def handshake(headers: str = "", path: str = "/ws") -> str:
    return (
        f"GET {path} HTTP/1.1\r\nHost: testserver\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n{headers}\r\n"
    )


HANDSHAKE = handshake()


def frame(head: int, data: bytes = b"") -> bytes:
    """Masked with four zeros."""
    if len(data) < 126:
        return struct.pack("!BB4x", head, 0x80 | len(data)) + data
    return struct.pack("!BBH4x", head, 0x80 | 126, len(data)) + data


class Wire:
    """The peer's end, the server's protocol, and what the app received."""

    def __init__(self, peer: socket.socket, state: ServerState) -> None:
        self.peer = peer
        self._state = state
        self.loop = asyncio.get_running_loop()
        self.failures: list[str] = []
        self.loop.set_exception_handler(lambda _, context: self.failures.append(context["message"]))
        self.received: asyncio.Queue[Message] = asyncio.Queue()

    @property
    def protocol(self) -> Any:
        (protocol,) = self._state.connections
        return protocol

    async def app(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            self.received.put_nowait(message)
        self.received.put_nowait(message)

    async def send(self, data: bytes) -> None:
        async with asyncio.timeout(LIMIT):
            await self.loop.sock_sendall(self.peer, data)

    async def read_until(self, end: bytes) -> bytes:
        """What the server sent up to `end`; empty for its own end of the connection."""
        read = b""
        async with asyncio.timeout(LIMIT):
            while not (end and read.endswith(end)) and (
                chunk := await self.loop.sock_recv(self.peer, 65_536)
            ):
                read += chunk
        return read

    async def receive(self) -> Message:
        async with asyncio.timeout(LIMIT):
            return await self.received.get()

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT):
            while not done():  # noqa: ASYNC110
                await asyncio.sleep(0)


@asynccontextmanager
async def connected(
    ws: str = WEBSOCKET_PROTOCOL, head: str = HANDSHAKE, app: ASGIApp | None = None, **options: Any
) -> AsyncIterator[Wire]:
    """A connection on which `head` was sent, and if that is a usual handshake its answer read."""
    client, server = socket.socketpair()
    with client, server:
        client.setblocking(False)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1_000_000)
        state = ServerState()
        wire = Wire(client, state)
        config = Config(app or wire.app, ws=ws, interface="asgi3", lifespan="off", log_config=None, **options)
        config.load()
        http_protocol: Any = config.http_protocol_class
        await wire.loop.connect_accepted_socket(lambda: http_protocol(config, state, {}), server)
        await wire.send(head.encode())
        if head == HANDSHAKE and app is None:
            assert (await wire.read_until(b"\r\n\r\n")).startswith(b"HTTP/1.1 101 ")
        try:
            yield wire
        finally:
            client.close()
            await asyncio.wait(state.tasks or {asyncio.create_task(asyncio.sleep(0))}, timeout=LIMIT)
