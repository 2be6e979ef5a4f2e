"""Turns the plain-text errors of libraries into the service's one error shape."""

from collections.abc import Awaitable

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import refusal

RESTATED = frozenset((b"content-type", b"content-length", b"content-encoding"))


class ProblemMiddleware:
    """Replaces the body of a `text/plain` answer of 400 and above by problem+json; other headers stay.

    These come from code that knows nothing of our shape: a CORS preflight that is refused, a `Host`
    that is not ours, a body over `max_body_size`. A socket that is closed before it was accepted would
    be an empty 403: it gets a body too, and a 404 when there is no such path.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] not in ("http", "websocket"):
            return self.app(scope, receive, send)

        accepted = False
        replaced = False

        def send_problem(message: Message) -> Awaitable[None]:
            nonlocal accepted, replaced
            kind = message["type"]
            if kind == "websocket.accept":
                accepted = True
            elif kind == "websocket.close" and not (accepted or replaced) and can_be_denied(scope):
                replaced = True
                # The router has noted the endpoint of a path that it knows.
                problem = refusal(HTTPConnection(scope), 403 if "endpoint" in scope else 404)
                return problem(scope, receive, send)
            elif message.get("status", 0) >= 400:
                headers = message.get("headers", [])
                if any(n == b"content-type" and v.startswith(b"text/plain") for n, v in headers):
                    replaced = True
                    problem = refusal(HTTPConnection(scope), message["status"])
                    problem.raw_headers += [(n, v) for n, v in headers if n not in RESTATED]
                    return problem(scope, receive, send)
            return nothing() if replaced else send(message)

        return self.app(scope, receive, send_problem)


async def nothing() -> None:
    """Sends nothing, in the place of a message that was replaced."""


def can_be_denied(scope: Scope) -> bool:
    return "websocket.http.response" in scope.get("extensions", {})
