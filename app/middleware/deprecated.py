"""A word on every answer of an app that will go."""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class DeprecatedMiddleware:
    """Adds `Deprecation`, since when to look for something else (RFC 9745), in seconds since 1970."""

    def __init__(self, app: ASGIApp, since: int) -> None:
        self.app = app
        self.header = (b"deprecation", b"@%d" % since)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        def send_with_header(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), self.header]
            return send(message)

        return self.app(scope, receive, send_with_header)
