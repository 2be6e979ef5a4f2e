"""A request id for every request and socket, in the answer, in every log line, in every error."""

import re
import secrets
from collections.abc import Awaitable
from contextvars import ContextVar
from itertools import count

from starlette.types import ASGIApp, Message, Receive, Scope, Send

request_id: ContextVar[str] = ContextVar("request_id", default="-")

WELL_FORMED = re.compile(rb"[A-Za-z0-9_.-]{8,64}")


ANSWER_HEADS = ("http.response.start", "websocket.accept", "websocket.http.response.start")


class RequestIdMiddleware:
    """Keeps the caller's `X-Request-ID` if it is well-formed, else makes one; sends it back.

    A caller's id goes into our logs, so anything but 8 to 64 harmless characters is replaced.
    Our own count up from a random number: unique over processes and restarts, and no secret.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.numbers = count(secrets.randbits(127))

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] not in ("http", "websocket"):
            return self.app(scope, receive, send)

        value = b""
        for name, given in scope["headers"]:
            if name == b"x-request-id" and WELL_FORMED.fullmatch(given):
                value = given
        value = value or b"%032x" % next(self.numbers)

        def send_with_id(message: Message) -> Awaitable[None]:
            if message["type"] in ANSWER_HEADS:
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", value)]
            return send(message)

        # The variable is not reset: the server logs a failure after this returns, in the same context.
        request_id.set(value.decode())
        return self.app(scope, receive, send_with_id)
