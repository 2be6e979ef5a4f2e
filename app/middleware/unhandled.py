"""The last resort for exceptions that nothing else handled, inside all other middleware.

Starlette's own last resort (`ServerErrorMiddleware`, where `@app.exception_handler(Exception)` ends up)
stands outside every middleware we add: its 500 has no CORS headers and no request id, so a browser page
cannot even read that it failed.
"""

import logging

from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import refusal

logger = logging.getLogger("app.errors")


class UnhandledErrorMiddleware:
    """Logs the traceback once and answers 500 (or closes a socket with 1011), without a word of it.

    When the response has begun, it returns without ending it: the server then closes the
    connection without the final chunk, so that the client sees the answer is not whole.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)

        accepted = False
        started = False
        ended = False

        async def watch(message: Message) -> None:
            nonlocal accepted, started, ended
            accepted = accepted or message["type"] == "websocket.accept"
            started = started or message["type"].endswith("response.start")
            ended = ended or message["type"] == "websocket.close"
            await send(message)

        try:
            await self.app(scope, receive, watch)
        except ClientDisconnect:
            return
        except Exception:
            logger.exception("unhandled exception")
            if accepted and not ended:
                await send({"type": "websocket.close", "code": 1011, "reason": "Internal error"})
            elif not started and not ended:
                await refusal(HTTPConnection(scope), 500)(scope, receive, send)
