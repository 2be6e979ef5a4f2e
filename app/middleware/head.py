"""`HEAD` wherever `GET` is: FastAPI's `GET` routes answer 405 to it."""

from collections.abc import Awaitable

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class HeadWasSent(OSError):
    """For the route: an `OSError` is what a server raises when the client has left (ASGI, HTTP spec 2.4)."""


class HeadMiddleware:
    """Runs the `GET` route and sends only its head. `Range` is for `GET` alone (RFC 9110, section 14.2).

    A route that streams is told, after the head, that the client has left; so an endless
    stream ends at once instead of running for nobody.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            return self.app(scope, receive, send)
        return self.send_head(scope, receive, send)

    async def send_head(self, scope: Scope, receive: Receive, send: Send) -> None:
        head_sent = False

        async def send_until_body(message: Message) -> None:
            nonlocal head_sent
            if message["type"] == "http.response.start":
                await send(message)
            elif message["type"] == "http.response.body":
                if head_sent:
                    raise HeadWasSent
                head_sent = True
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        async def receive_until_head() -> Message:
            return {"type": "http.disconnect"} if head_sent else await receive()

        headers = [header for header in scope["headers"] if header[0] != b"range"]
        try:
            await self.app(
                {**scope, "method": "GET", "headers": headers}, receive_until_head, send_until_body
            )
        except (HeadWasSent, ClientDisconnect):
            if not head_sent:
                raise
