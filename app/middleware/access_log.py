"""One record for every request and every socket, whatever its outcome."""

import logging
from collections.abc import Awaitable
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("app.access")

MAX_PATH = 1_000
"""Characters of a path. The log is limited by lines, so a line must be limited too."""


class AccessLogMiddleware:
    """Logs method, path, status, bytes and the seconds to the **last** byte.

    `outcome` is `complete`, `failed` (the answer was cut), or `disconnected` (the client left first).
    The query string is not logged: it carries tokens and addresses. A socket is logged
    when it ends, with its close code as `status`.

    The records go straight to the `LogWriter` of the lifespan state. The level of the logger `app.access`
    turns them off, but they do not pass through `logging`, which would double what this layer costs.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)

        exchange = Exchange(receive, send)
        started = perf_counter()
        try:
            await self.app(scope, exchange.receive, exchange.send)
        finally:
            if logger.isEnabledFor(logging.INFO):
                scope["state"]["log"].write(
                    "INFO",
                    logger.name,
                    "request",
                    method=scope.get("method", "WEBSOCKET"),
                    path=scope["path"][:MAX_PATH],
                    status=exchange.status,
                    outcome=exchange.outcome,
                    bytes=exchange.body_bytes,
                    seconds=round(perf_counter() - started, 6),
                )


class Exchange:
    """What has been sent and received so far on one connection."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.status = 0
        self.outcome = "failed"
        self.body_bytes = 0

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" and self.outcome == "failed":
            self.outcome = "disconnected"
        elif message["type"] == "websocket.disconnect" and self.outcome == "failed":
            self.status = message["code"]
            self.outcome = "complete"
        return message

    def send(self, message: Message) -> Awaitable[None]:
        kind = message["type"]
        if kind in ("http.response.body", "websocket.http.response.body"):
            self.body_bytes += len(message.get("body", b""))
            if not message.get("more_body", False) and self.outcome != "disconnected":
                self.outcome = "complete"
        elif kind in ("http.response.start", "websocket.http.response.start"):
            self.status = message["status"]
        elif kind == "websocket.close":
            self.status = message.get("code", 1000)
            self.outcome = "complete"
        return self._send(message)
