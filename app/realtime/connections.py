"""The open sockets, and a way to write to them in which no peer can hold up another.

Writing is only a put into the bounded outbox of each receiver, so a broadcast never waits. One task a
connection empties the outbox. A peer that reads too slowly finds its outbox full and is closed with 1013;
if it does not even read the close, `app.middleware.stalled_sockets` aborts it.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from time import monotonic

from fastapi import WebSocket, WebSocketDisconnect
from starlette.status import (
    WS_1000_NORMAL_CLOSURE,
    WS_1003_UNSUPPORTED_DATA,
    WS_1008_POLICY_VIOLATION,
    WS_1009_MESSAGE_TOO_BIG,
    WS_1012_SERVICE_RESTART,
    WS_1013_TRY_AGAIN_LATER,
)
from starlette.websockets import WebSocketDisconnected, WebSocketState

from app.realtime.places import Places
from app.settings import Settings

BURST_SECONDS = 10


class ConnectionManager:
    """Connects sockets to named channels, and writes to one of them or to all of a channel."""

    def __init__(self, settings: Settings, stopping: asyncio.Event) -> None:
        self._settings = settings
        self._stopping = stopping
        self._places = Places(settings.ws_max_connections, settings.ws_max_connections_per_client)
        # Dicts as sets that keep the order of arrival.
        self._channels: defaultdict[str, dict[Connection, None]] = defaultdict(dict)

    @property
    def count(self) -> int:
        return self._places.taken

    @asynccontextmanager
    async def connect(self, websocket: WebSocket, channel: str) -> AsyncIterator["Connection"]:
        """Accepts the socket as a member of `channel`, and closes it at the end of the block.

        Raises `ServiceUnavailable` or `TooManyRequests` before it accepts, when a limit is reached.
        """
        with self._places.take(websocket):
            await websocket.accept()
            connection = Connection(websocket, channel, self._settings)
            self._channels[channel][connection] = None
            if self._stopping.is_set():
                connection.say_goodbye()
            try:
                yield connection
                await connection.finish()
            finally:
                self.disconnect(connection)
                connection.stop()

    def disconnect(self, connection: "Connection") -> None:
        """Takes it out of its channel: nothing more is broadcast to it. Twice is once."""
        members = self._channels[connection.channel]
        members.pop(connection, None)
        if not members:
            del self._channels[connection.channel]

    def personal(self, connection: "Connection", text: str) -> None:
        """Writes to one. A text that UTF-8 cannot hold fails here, at its writer, not at its receivers."""
        text.encode()
        self._put(connection, text)

    def broadcast(self, channel: str, text: str) -> None:
        """Writes to all who are members of `channel` at this moment, the writer too."""
        text.encode()
        for connection in tuple(self._channels.get(channel, ())):
            self._put(connection, text)

    def say_goodbye(self) -> None:
        for members in self._channels.values():
            for connection in members:
                connection.say_goodbye()

    def _put(self, connection: "Connection", text: str) -> None:
        if not connection.put(text):
            self.disconnect(connection)


class Connection:
    """One socket, its outbox, and the task that empties it."""

    def __init__(self, websocket: WebSocket, channel: str, settings: Settings) -> None:
        self.channel = channel
        self._websocket = websocket
        self._settings = settings
        # None ends it; there is always room for that.
        self._outbox: asyncio.Queue[str | None] = asyncio.Queue(settings.ws_queue_size + 1)
        self._writer = asyncio.create_task(self._write())
        self._closer: asyncio.Task[None] | None = None
        self._received = TokenBucket(settings.ws_messages_per_second)

    async def messages(self) -> AsyncIterator[str]:
        """The texts of the peer, until either side closes. One that breaks a rule closes the socket."""
        while not self._closer:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect" or self._closer:
                return
            text = message.get("text")
            if text is None:
                self.close(WS_1003_UNSUPPORTED_DATA, "Only text messages are understood")
            elif len(text.encode()) > self._settings.ws_max_message_size:
                self.close(WS_1009_MESSAGE_TOO_BIG, "The message is too large")
            elif not self._received.take():
                self.close(WS_1008_POLICY_VIOLATION, "Too many messages")
            else:
                yield text
                # Many messages can arrive in one packet. All writers get a turn between two of them,
                # or the answers would fill the outboxes of receivers who read as fast as they can.
                await asyncio.sleep(0)

    def put(self, text: str) -> bool:
        """Whether it will be sent. A peer whose outbox is full is closed; then nothing more is taken."""
        if self._outbox.qsize() >= self._settings.ws_queue_size:
            self.close(WS_1013_TRY_AGAIN_LATER, "Messages were read too slowly")
        if self._closer:
            return False
        self._outbox.put_nowait(text)
        return True

    def close(self, code: int, reason: str = "") -> None:
        """Closes after what waits in the outbox, which has `ws_send_timeout`. The first call counts."""
        if not self._closer:
            self._outbox.put_nowait(None)
            self._closer = asyncio.create_task(self._close(code, reason))

    def say_goodbye(self) -> None:
        self.close(WS_1012_SERVICE_RESTART, "The service restarts, connect again")

    async def finish(self) -> None:
        """Closes, unless the peer has, and returns when all is sent."""
        if self._websocket.client_state is WebSocketState.CONNECTED:
            self.close(WS_1000_NORMAL_CLOSURE)
            if self._closer:
                await self._closer

    def stop(self) -> None:
        self._writer.cancel()
        if self._closer:
            self._closer.cancel()

    async def _write(self) -> None:
        with suppress(WebSocketDisconnect):  # the peer has left; `messages` is told as well
            while (text := await self._outbox.get()) is not None:
                await self._websocket.send_text(text)

    async def _close(self, code: int, reason: str) -> None:
        await asyncio.wait([self._writer], timeout=self._settings.ws_send_timeout)
        self._writer.cancel()
        with suppress(WebSocketDisconnect, WebSocketDisconnected):
            await self._websocket.close(code, reason)


class TokenBucket:
    """Lets `rate` a second through on average, and ten seconds' worth of them at once."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._size = rate * BURST_SECONDS
        self._tokens = self._size
        self._filled_at = monotonic()

    def take(self) -> bool:
        now = monotonic()
        self._tokens = min(self._size, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


@asynccontextmanager
async def open_connections(settings: Settings, stopping: asyncio.Event) -> AsyncIterator[ConnectionManager]:
    """A manager that says goodbye to all its sockets as soon as the service is stopping."""
    connections = ConnectionManager(settings, stopping)

    async def close_when_stopping() -> None:
        await stopping.wait()
        connections.say_goodbye()

    goodbye = asyncio.create_task(close_when_stopping())
    try:
        yield connections
    finally:
        goodbye.cancel()
