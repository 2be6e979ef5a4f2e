"""The last resort for exceptions that nothing else handled, inside all other middleware.

Starlette's own last resort (`ServerErrorMiddleware`, where `@app.exception_handler(Exception)` ends up)
stands outside every middleware we add: its 500 has no CORS headers and no request id, so a browser page
cannot even read that it failed.
"""

import logging
from collections.abc import Awaitable
from contextlib import suppress

from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from app.errors import AppError, refusal

logger = logging.getLogger("app.errors")

LEFT = (ClientDisconnect, WebSocketDisconnect)
"""What reading and writing raise when the client has left: no error of ours."""


class UnhandledErrorMiddleware:
    """Logs the traceback once and answers 500 (or closes a socket with 1011), without a word of it.

    An `AppError` that a middleware raised is answered with its own status: only those of endpoints
    reach the exception handlers. When the response has begun, it returns without ending it: the server
    then closes the connection without the final chunk, so that the client sees the answer is not whole.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)

        accepted = False
        started = False
        ended = False

        def watch(message: Message) -> Awaitable[None]:
            nonlocal accepted, started, ended
            kind = message["type"]
            if "status" in message:  # the head of a response
                started = True
            elif kind == "websocket.accept":
                accepted = True
            elif kind == "websocket.close":
                ended = True
            return send(message)

        try:
            await self.app(scope, receive, watch)
        except LEFT:
            return
        except Exception as exc:
            if isinstance(exc, ExceptionGroup) and exc.split(LEFT)[1] is None:
                return
            status, detail, headers = 500, None, None
            if isinstance(exc, AppError):
                status, detail, headers = exc.status, exc.detail, exc.headers
            else:
                logger.exception("unhandled exception")
            if accepted and not ended:
                with suppress(OSError):  # the client has left meanwhile
                    await send({"type": "websocket.close", "code": 1011, "reason": "Internal error"})
            elif not started and not ended:
                answer = refusal(HTTPConnection(scope), status, detail, headers=headers)
                await answer(scope, receive, send)
