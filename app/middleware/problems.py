"""Turns the plain-text errors of libraries into the service's one error shape."""

from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import refusal

RESTATED = frozenset((b"content-type", b"content-length", b"content-encoding"))


class ProblemMiddleware:
    """Replaces the body of a `text/plain` answer of 400 and above by problem+json; other headers stay.

    These come from code that knows nothing of our shape: a CORS preflight that is refused, a `Host`
    that is not ours, a body over `max_body_size`. After a 413 the connection is closed, for its body
    is still on the way.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        replaced = False

        async def send_problem(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and message["status"] >= 400:
                headers = message.get("headers", [])
                if any(n == b"content-type" and v.startswith(b"text/plain") for n, v in headers):
                    replaced = True
                    problem = refusal(HTTPConnection(scope), message["status"])
                    problem.raw_headers += [(n, v) for n, v in headers if n not in RESTATED]
                    if message["status"] == 413:
                        problem.raw_headers.append((b"connection", b"close"))
                    return await problem(scope, receive, send)
            if not replaced:
                await send(message)

        await self.app(scope, receive, send_problem)
