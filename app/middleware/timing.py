"""`X-Process-Time` on every HTTP response: seconds from the request to the first byte of the answer."""

from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class TimingMiddleware:
    """Adds the time to the response head, in fixed-point seconds with microseconds.

    A header cannot tell the time to the last byte, for it leaves before the body;
    the access log has that one.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        started = perf_counter()

        async def send_with_time(message: Message) -> None:
            if message["type"] == "http.response.start":
                elapsed = b"%.6f" % (perf_counter() - started)
                message["headers"] = [*message.get("headers", ()), (b"x-process-time", elapsed)]
            await send(message)

        await self.app(scope, receive, send_with_time)
