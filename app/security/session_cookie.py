"""`request.session`: a signed cookie, for the routes that ask for it and for no others."""

import hashlib
from typing import Any

from fastapi.requests import HTTPConnection
from fastapi.routing import APIRoute
from fastapi.security import APIKeyCookie
from itsdangerous import TimestampSigner
from starlette.middleware.sessions import Session, SessionMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send

from app.security.plain_cookies import keep_plain_cookies

COOKIE = "__Host-session"
"""The prefix binds it to this host: browsers refuse it from anybody else, also from a sibling subdomain."""

cookie = APIKeyCookie(name=COOKIE, scheme_name="Session", description="Made by the form.", auto_error=False)


class SessionRoute(APIRoute):
    """For `APIRouter(route_class=SessionRoute)`.

    Starlette's middleware takes its key when the app is made, and runs for every route. Here the keys are
    opened at start, and what does not use the session neither reads its cookie nor varies by it.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        keep_plain_cookies(scope)
        await _with_session(super().handle, scope)(scope, receive, send)


async def read_session(connection: HTTPConnection) -> Session:
    """The session of a route or a socket that only reads it."""
    scope = {**connection.scope}
    keep_plain_cookies(scope)
    await _with_session(_nothing, scope)(scope, _nothing, _nothing)
    session: Session = scope["session"]
    return session


def _with_session(app: ASGIApp, scope: Scope) -> SessionMiddleware:
    newest_first = scope["state"]["keys"].for_purpose("session")
    session = SessionMiddleware(
        app,
        secret_key=newest_first[0].hex(),
        session_cookie=COOKIE,
        max_age=scope["state"]["settings"].security.session_seconds,
        same_site="lax",
        https_only=True,  # `Secure`, without which no browser takes the prefix
    )
    # The parameter takes one key. A signer takes many, and signs with the last.
    session.signer = TimestampSigner(newest_first[::-1], digest_method=hashlib.sha256)
    return session


async def _nothing(*_: object) -> Any:
    """In the place of a route: the middleware reads the cookie before it, and writes one when it answers."""
