"""A deadline for the request body, so that silent uploads do not pile up."""

import asyncio
from collections.abc import Awaitable
from time import perf_counter

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.shutdown import LOOK_SECONDS, STILL_SECONDS


class BodyDeadlineMiddleware:
    """Raises a 408 in the reader when the body is not complete `seconds` after the head.

    Each byte that arrived gives it `1 / rate` seconds more: a long body may take longer, a slow one not.
    Once the service is stopping, also when the body stands still: else one client holds up the stop.
    The 408 is an `HTTPException`, because FastAPI turns every other exception of a body reader into a 400.
    Only reading is timed: a slow endpoint is not cut, nor is an answer that has begun, for what reads then
    only listens for the client to leave. The connection is closed after the answer, for the rest of the
    body would otherwise be taken for the next request. It needs the `stopping` of `app/shutdown.py` in
    `scope["state"]`, where the lifespan puts it.
    """

    def __init__(self, app: ASGIApp, seconds: float, rate: float) -> None:
        self.app = app
        self.seconds = seconds
        self.rate = rate

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http" or not has_body(scope):
            return self.app(scope, receive, send)

        deadline = perf_counter() + self.seconds
        stopping = scope["state"]["stopping"]
        over = False

        async def receive_in_time() -> Message:
            nonlocal over, deadline
            if over:
                return await receive()
            try:
                message = await receive_within(deadline - perf_counter(), receive, stopping)
            except TimeoutError:
                if over:  # the answer has begun while this waited
                    return await receive()
                raise HTTPException(408, "The request body did not arrive in time.") from None
            deadline += len(message.get("body", b"")) / self.rate
            over = over or not message.get("more_body", False)
            return message

        def send_and_stop_timing(message: Message) -> Awaitable[None]:
            nonlocal over
            over = True
            return send(message)

        return self.app(scope, receive_in_time, send_and_stop_timing)


async def receive_within(seconds: float, receive: Receive, stopping: asyncio.Event) -> Message:
    """The next message. `TimeoutError` if none comes in that time, or for a while when the service stops."""
    end = perf_counter() + seconds
    while True:
        stops = stopping.is_set()
        look = STILL_SECONDS if stops else LOOK_SECONDS
        try:
            async with asyncio.timeout(min(look, end - perf_counter())):
                return await receive()
        except TimeoutError:
            if stops or perf_counter() >= end:
                raise


def has_body(scope: Scope) -> bool:
    """Whether the request announces a body (RFC 9112, section 6.3)."""
    headers = dict(scope["headers"])
    return headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in headers
