"""A library's middleware only for the requests it is about."""

from collections.abc import Awaitable

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Receive, Scope, Send


class WhenHeaderMiddleware:
    """Sends a request that bears `header` through `inner`, any other straight on.

    CORS is about requests with `Origin`, compression about those with `Accept-Encoding`; the libraries'
    classes do their work for all. `SecurityHeadersMiddleware` tells caches that answers vary by both.
    """

    def __init__(self, app: ASGIApp, header: bytes, inner: Middleware) -> None:
        cls, args, options = inner
        self.app = app
        self.header = header
        self.wrapped: ASGIApp = cls(app, *args, **options)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            for name, _ in scope["headers"]:
                if name == self.header:
                    return self.wrapped(scope, receive, send)
        return self.app(scope, receive, send)
