"""One open socket, and a way to write to it that waits for nobody.

A peer is behind when more is unsent than the server buffers. As long as nobody is, `put` hands a text to the
server there and then: no queue, no task. Only for a peer that is behind is there an outbox, and a task that
empties it; for all of them on a server that can only be awaited (`app/websocket_protocol.py` is one that
need not be). When the outbox is full the peer is closed with 1013; if it does not even read the close,
`app.middleware.stalled_sockets` aborts it.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress

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

from app.realtime.text import Text, put_of
from app.realtime.token_bucket import TokenBucket
from app.settings import Settings

# Of the range that is free for applications, after the HTTP statuses 401 and 408.
WS_4401_CREDENTIAL_ENDED = 4401
WS_4408_TOO_LATE = 4408


class Traffic:
    """What was written to all sockets of a process, counted from its start."""

    delivered = 0
    """Messages given to the server, or put into an outbox."""
    queued = 0
    """Those that had to wait in an outbox."""
    too_slow = 0
    """Sockets that were closed with 1013, and streams of rooms that were ended for the same reason."""


class Connection:
    """Made when the socket is accepted. Who makes it calls `finish`, and `stop` in any case."""

    def __init__(self, websocket: WebSocket, settings: Settings, traffic: Traffic) -> None:
        self._websocket = websocket
        self._settings = settings
        self._traffic = traffic
        self._put_at_once = put_of(websocket.scope)
        self._outbox: deque[Text] = deque()
        self._writer: asyncio.Task[None] | None = None
        self._closer: asyncio.Task[None] | None = None
        self._end: asyncio.TimerHandle | None = None
        self._received = TokenBucket(settings.ws_messages_per_second)

    async def messages(self, idle_seconds: float | None = None) -> AsyncIterator[str]:
        """The texts of the peer, until either side closes. One that breaks a rule closes the socket, and so
        does a silence of `idle_seconds`."""
        while not self._closer:
            try:
                async with asyncio.timeout(idle_seconds):
                    message = await self._websocket.receive()
            except TimeoutError:
                self.close(WS_4408_TOO_LATE, "Nothing was said for too long")
                return
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
                # Many messages can arrive in one packet. The server gets a turn between two of them, or the
                # answers would fill the outboxes of receivers who read as fast as they can.
                await asyncio.sleep(0)

    def send(self, text: str) -> bool:
        return self.put(Text(text))

    def put(self, text: Text) -> bool:
        """Whether it will be sent. A peer whose outbox is full is closed; then nothing more is taken."""
        if self._closer:
            return False
        self._traffic.delivered += 1
        if self._put_at_once and not self._writer:
            try:
                if self._put_at_once(text):
                    return True
            except OSError:
                return False  # the peer has left; `messages` is told as well
        if len(self._outbox) >= self._settings.ws_queue_size:
            self._traffic.too_slow += 1
            self.close(WS_1013_TRY_AGAIN_LATER, "Messages were read too slowly")
            return False
        self._traffic.queued += 1
        self._outbox.append(text)
        if self._writer is None:
            self._writer = asyncio.create_task(self._write())
        return True

    async def drained(self) -> None:
        """When nothing waits in the outbox."""
        if self._writer:
            await asyncio.wait([self._writer])

    def close(self, code: int, reason: str = "") -> None:
        """Closes after what waits in the outbox, which has `ws_send_timeout`. The first call counts."""
        if not self._closer:
            self._closer = asyncio.create_task(self._close(code, reason))

    def close_at(self, moment: float, code: int, reason: str) -> None:
        """Closes at `moment`, seconds as `time.time()` counts them. The last call counts."""
        if self._end:
            self._end.cancel()
        wait = max(0, moment - time.time())
        self._end = asyncio.get_running_loop().call_later(wait, self.close, code, reason)

    def say_goodbye(self) -> None:
        self.close(WS_1012_SERVICE_RESTART, "The service restarts, connect again")

    async def finish(self) -> None:
        """Closes, unless the peer has, and returns when all is sent."""
        if self._websocket.client_state is WebSocketState.CONNECTED:
            self.close(WS_1000_NORMAL_CLOSURE)
            if self._closer:
                await self._closer

    def stop(self) -> None:
        for ending in (self._writer, self._closer, self._end):
            if ending:
                ending.cancel()

    async def _write(self) -> None:
        with suppress(WebSocketDisconnect, WebSocketDisconnected):
            while self._outbox:
                await self._websocket.send_text(self._outbox.popleft().content)
        self._writer = None

    async def _close(self, code: int, reason: str) -> None:
        if self._writer:
            writer = self._writer
            await asyncio.wait([writer], timeout=self._settings.ws_send_timeout)
            writer.cancel()
        with suppress(WebSocketDisconnect, WebSocketDisconnected):
            await self._websocket.close(code, reason)
