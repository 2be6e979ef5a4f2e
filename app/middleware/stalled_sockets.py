"""Frees a connection whose peer has stopped reading.

A server closes a connection only when all it wrote has been read. uvicorn's `transport.close()` waits for
that without a limit, and so does a download: one peer that does not read keeps its connection, the open
file behind it, and as a socket the shutdown of the whole server, for ever. ASGI has no message for "give
up": only the transport under the server can be aborted.
"""

import asyncio
from array import array
from collections.abc import Awaitable
from contextlib import suppress
from fcntl import ioctl
from termios import TIOCOUTQ

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.shutdown import LOOK_SECONDS, STILL_SECONDS

STREAM_SECONDS = 3.0
"""How long a client may take what is left of its stream of events, once the service is stopping."""
SMALL = 64 * 1024
"""Bytes of an answer in one piece that the system takes in whether the client reads or not."""


class StalledSocketMiddleware:
    """Aborts a connection whose peer took nothing of its unsent bytes in `seconds`; for HTTP `http_seconds`.

    Once the service is stopping it is half a second for both. From the close on a socket gets that time in
    all. A stream of events, whose client can come back to where it was, gets three seconds in all. A download
    that goes on is left to the server, which cuts it after `--timeout-graceful-shutdown`. What the app sends
    after the close, its own or one that the server made, is not passed on: uvicorn would take it for a
    mistake of the app and log a traceback. It needs the `stopping` of `app/shutdown.py` in `scope["state"]`,
    where the lifespan puts it.

    The transport is found through `receive`, a method of the object in uvicorn that has it. So this must be
    the outermost middleware, and on a server that keeps its transport elsewhere it does nothing.
    """

    def __init__(self, app: ASGIApp, seconds: float, http_seconds: float) -> None:
        self.app = app
        self.seconds = seconds
        self.http_seconds = http_seconds
        self.watches: Watches | None = None

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        transport = getattr(getattr(receive, "__self__", None), "transport", None)
        if transport is None or scope["type"] not in ("http", "websocket"):
            return self.app(scope, receive, send)
        if scope["type"] == "http":
            return self.app(scope, receive, self.watched(transport, send, scope["state"]["stopping"]))
        return self.watch(transport, scope, receive, send)

    def watched(self, transport: asyncio.WriteTransport, send: Send, stopping: asyncio.Event) -> Send:
        watch: Watch | None = None
        kind = Watch

        def send_watched(message: Message) -> Awaitable[None]:
            nonlocal watch, kind
            if message["type"] == "http.response.start" and is_stream_of_events(message):
                kind = StreamWatch
            more = message.get("more_body", False)
            if watch is None and (more or len(message.get("body", b"")) > SMALL):
                watch = kind(transport, self.http_seconds, stopping)
                self.watches_of_this_loop().add(watch)
            if watch and not more:
                watch.app_ended = True
            return send(message)

        return send_watched

    async def watch(
        self, transport: asyncio.WriteTransport, scope: Scope, receive: Receive, send: Send
    ) -> None:
        watch = SocketWatch(transport, self.seconds, scope["state"]["stopping"])
        self.watches_of_this_loop().add(watch)

        async def send_until_closed(message: Message) -> None:
            if watch.closed or transport.is_closing():
                if message["type"] == "websocket.send":
                    raise ConnectionResetError  # what a server raises when the client has left
                return
            if message["type"] == "websocket.close":
                watch.close()
            await send(message)

        try:
            await self.app(scope, receive, send_until_closed)
        finally:
            watch.close()
            watch.app_ended = True

    def watches_of_this_loop(self) -> "Watches":
        loop = asyncio.get_running_loop()
        if self.watches is None or self.watches.loop is not loop:
            self.watches = Watches(loop)
        return self.watches


def is_stream_of_events(start: Message) -> bool:
    return Headers(raw=start["headers"]).get("content-type", "").startswith("text/event-stream")


class Watches:
    """Looks at all watched transports by one timer: with one for each, a quarter of a core would be busy with
    five thousand idle sockets."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._watches: set[Watch] = set()

    def add(self, watch: "Watch") -> None:
        if not self._watches:
            self.loop.call_later(LOOK_SECONDS, self._look)
        self._watches.add(watch)

    def _look(self) -> None:
        try:
            self._watches = {watch for watch in self._watches if watch.goes_on()}
        finally:
            if self._watches:
                self.loop.call_later(LOOK_SECONDS, self._look)


class Watch:
    """Of the unsent bytes of one transport, until the app and the bytes are gone."""

    def __init__(self, transport: asyncio.WriteTransport, seconds: float, stopping: asyncio.Event) -> None:
        self.app_ended = False
        self._transport = transport
        self._seconds = seconds
        self._stopping = stopping
        self._loop = asyncio.get_running_loop()
        self._unsent = 0
        self._in_system = 0
        self._moved_at = self._loop.time()
        self._deadline = float("inf")

    def hurry(self) -> None:
        self._seconds = min(self._seconds, STILL_SECONDS)

    def goes_on(self) -> bool:
        now = self._loop.time()
        unsent = self._transport.get_write_buffer_size()
        in_system = held_by_system(self._transport) if unsent else 0
        if unsent == 0 or unsent < self._unsent or in_system != self._in_system:
            self._moved_at = now
        self._unsent, self._in_system = unsent, in_system
        if self._stopping.is_set():
            self.hurry()
        if unsent and now >= min(self._deadline, self._moved_at + self._seconds):
            self._transport.abort()
            return False
        return bool(unsent) or not (self.app_ended or self._transport.is_closing())


def held_by_system(transport: asyncio.WriteTransport) -> int:
    """Bytes that the system has taken over and the peer has not; 0 where the system does not say.

    Linux takes more from the server only when a third of its own buffer is free: a megabyte, perhaps, for
    which a slow peer needs many seconds. This count changes with each piece that the peer takes.
    """
    held = array("i", [0])
    with suppress(OSError, ValueError, TypeError):
        ioctl(transport.get_extra_info("socket"), TIOCOUTQ, held)
    return held[0]


class StreamWatch(Watch):
    """Once the service stops, taking a little at a time is not enough for long."""

    def hurry(self) -> None:
        super().hurry()
        self._deadline = min(self._deadline, self._loop.time() + STREAM_SECONDS)


class SocketWatch(Watch):
    """From the close on, or once the service stops, taking a little at a time is not enough."""

    closed = False

    def close(self) -> None:
        self.closed = True
        self._deadline = min(self._deadline, self._loop.time() + self._seconds)

    def hurry(self) -> None:
        super().hurry()
        self._deadline = min(self._deadline, self._loop.time() + self._seconds)
