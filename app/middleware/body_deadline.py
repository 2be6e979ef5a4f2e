"""A deadline for the request body, so that silent uploads do not pile up."""

import asyncio
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import RequestTimeout


class BodyDeadlineMiddleware:
    """Raises `RequestTimeout` (408) in the reader when the body is not complete `seconds` after the head.

    Only reading is timed: a slow endpoint is not cut. The connection is closed after the answer,
    for the rest of the body would otherwise be taken for the next request.
    """

    def __init__(self, app: ASGIApp, seconds: float) -> None:
        self.app = app
        self.seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not has_body(scope):
            return await self.app(scope, receive, send)

        deadline = perf_counter() + self.seconds
        complete = False

        async def receive_in_time() -> Message:
            nonlocal complete
            if complete:
                return await receive()
            try:
                async with asyncio.timeout(deadline - perf_counter()):
                    message = await receive()
            except TimeoutError:
                raise RequestTimeout from None
            complete = not message.get("more_body", False)
            return message

        await self.app(scope, receive_in_time, send)


def has_body(scope: Scope) -> bool:
    """Whether the request announces a body (RFC 9112, section 6.3)."""
    return any(name in (b"content-length", b"transfer-encoding") for name, _ in scope["headers"])
