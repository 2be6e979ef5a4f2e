"""The open sockets of a process, and the channels on which one tells many.

To broadcast is to write to each member in turn, and `Connection.put` waits for nobody: a member that reads
slowly, or is dead, delays none of the others.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Protocol

from fastapi import Request, WebSocket

from app.realtime.connection import Connection, Traffic
from app.realtime.places import Places
from app.realtime.text import Text
from app.settings import Settings


class Channel:
    """Those who are told the same. In the order in which they came."""

    def __init__(self) -> None:
        self._members: dict[Connection, None] = {}

    @contextmanager
    def join(self, connection: Connection) -> Iterator[None]:
        """A member for the block."""
        self._members[connection] = None
        try:
            yield
        finally:
            self._members.pop(connection, None)

    def broadcast(self, text: str) -> None:
        """Writes to all who are members at this moment, the writer too."""
        encoded = Text(text)
        for connection in tuple(self._members):
            if not connection.put(encoded):
                self._members.pop(connection, None)


class Stream(Protocol):
    """What stays open as a socket does, without being one."""

    def say_goodbye(self) -> None: ...


class ConnectionManager:
    """Lets sockets and streams in as far as there are places, and sends them away when the service stops."""

    def __init__(self, settings: Settings, stopping: asyncio.Event) -> None:
        self.traffic = Traffic()
        self._settings = settings
        self._stopping = stopping
        self._places = Places(settings.ws_max_connections, settings.ws_max_connections_per_client)
        self._open: set[Connection] = set()
        self._streams: set[Stream] = set()
        self._channels: dict[str, Channel] = {}

    @property
    def count(self) -> int:
        """The open sockets."""
        return len(self._open)

    @property
    def stream_count(self) -> int:
        return len(self._streams)

    @asynccontextmanager
    async def connect(
        self, websocket: WebSocket, subprotocol: str | None = None
    ) -> AsyncIterator[Connection]:
        """Accepts the socket, and closes it at the end of the block.

        Raises `ServiceUnavailable` or `TooManyRequests` before it accepts, when a limit is reached.
        """
        with self._places.take(websocket):
            await websocket.accept(subprotocol)
            connection = Connection(websocket, self._settings, self.traffic)
            self._open.add(connection)
            if self._stopping.is_set():
                connection.say_goodbye()
            try:
                yield connection
                await connection.finish()
            finally:
                self._open.discard(connection)
                connection.stop()

    @contextmanager
    def admit(self, request: Request, stream: Stream) -> Iterator[None]:
        """A place for the block, of those that sockets have. Raises as `connect` does."""
        with self._places.take(request):
            self._streams.add(stream)
            if self._stopping.is_set():
                stream.say_goodbye()
            try:
                yield
            finally:
                self._streams.discard(stream)

    def channel(self, name: str) -> Channel:
        """The one of this name. It is kept: take names from the code, not from a client."""
        return self._channels.setdefault(name, Channel())

    def say_goodbye(self) -> None:
        for connection in (*self._open, *self._streams):
            connection.say_goodbye()


@asynccontextmanager
async def open_connections(settings: Settings, stopping: asyncio.Event) -> AsyncIterator[ConnectionManager]:
    """A manager that says goodbye to all who are connected as soon as the service is stopping."""
    connections = ConnectionManager(settings, stopping)

    async def close_when_stopping() -> None:
        await stopping.wait()
        connections.say_goodbye()

    goodbye = asyncio.create_task(close_when_stopping())
    try:
        yield connections
    finally:
        goodbye.cancel()
