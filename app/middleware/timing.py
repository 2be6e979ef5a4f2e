"""`X-Process-Time` on every HTTP response: seconds from the request to the first byte of the answer."""

from collections.abc import Awaitable
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class TimingMiddleware:
    """Adds the time to the response head, in fixed-point seconds with microseconds.

    A header cannot tell the time to the last byte, for it leaves before the body;
    the access log has that one.

    Both functions are a plain `def` that hands on the awaitable of the next: a coroutine which only
    awaits another costs more than all that is done here. Where something is to be done *after* the
    call, as in `AccessLogMiddleware`, `__call__` is `async def` and awaits.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] not in ("http", "websocket"):
            return self.app(scope, receive, send)

        started = perf_counter()

        def send_with_time(message: Message) -> Awaitable[None]:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                elapsed = b"%.6f" % (perf_counter() - started)
                message["headers"] = [*message.get("headers", ()), (b"x-process-time", elapsed)]
            return send(message)

        return self.app(scope, receive, send_with_time)
