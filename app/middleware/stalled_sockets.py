"""Frees a socket whose peer has stopped reading.

A server closes a connection only when all it wrote has been read. uvicorn's `transport.close()` waits for
that without a limit, so one peer that does not read keeps its socket, and the shutdown of the whole
server, for ever. ASGI has no message for "give up": only the transport under the server can be aborted.
"""

import asyncio
from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOK_SECONDS = 0.25
STOPPING_SECONDS = 0.5


class StalledSocketMiddleware:
    """Aborts a socket whose unsent bytes have not become fewer for `seconds`.

    From the close on they get `seconds` in all, once the service is stopping half a second. What the app
    sends after the close, its own or one that the server made, is not passed on: uvicorn would take it
    for a mistake of the app and log a traceback.

    The transport is found through `send`, a method of uvicorn's protocol object. So this must be the
    outermost middleware, and on a server that keeps its transport elsewhere it does nothing.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app = app
        self.seconds = seconds

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "websocket":
            return self.app(scope, receive, send)
        transport = getattr(getattr(send, "__self__", None), "transport", None)
        if transport is None:
            return self.app(scope, receive, send)
        return self.watch(transport, scope, receive, send)

    async def watch(
        self, transport: asyncio.WriteTransport, scope: Scope, receive: Receive, send: Send
    ) -> None:
        watch = Watch(transport, self.seconds, scope["state"]["stopping"])

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


class Watch:
    """Looks at the unsent bytes of one transport from time to time, until the app and the bytes are gone."""

    def __init__(self, transport: asyncio.WriteTransport, seconds: float, stopping: asyncio.Event) -> None:
        self.closed = False
        self.app_ended = False
        self._transport = transport
        self._seconds = seconds
        self._stopping = stopping
        self._loop = asyncio.get_running_loop()
        self._unsent = 0
        self._moved_at = self._loop.time()
        self._deadline = float("inf")
        self._told_to_stop = False
        self._loop.call_later(LOOK_SECONDS, self._look)

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self._deadline = min(self._deadline, self._loop.time() + self._seconds)

    def _look(self) -> None:
        now = self._loop.time()
        unsent = self._transport.get_write_buffer_size()
        if unsent == 0 or unsent < self._unsent:
            self._moved_at = now
        self._unsent = unsent
        if self._stopping.is_set() and not self._told_to_stop:
            self._told_to_stop = True
            self._deadline = min(self._deadline, now + STOPPING_SECONDS)
        if unsent and now >= min(self._deadline, self._moved_at + self._seconds):
            self._transport.abort()
        elif unsent or not self.app_ended:
            self._loop.call_later(LOOK_SECONDS, self._look)
