"""`request.session`: a signed cookie, for the routes that ask for it and for no others."""

import hashlib

from fastapi.routing import APIRoute
from itsdangerous import TimestampSigner
from starlette.middleware.sessions import SessionMiddleware
from starlette.types import Receive, Scope, Send

from app.security.plain_cookies import keep_plain_cookies

COOKIE = "__Host-session"
"""The prefix binds it to this host: browsers refuse it from anybody else, also from a sibling subdomain."""


class SessionRoute(APIRoute):
    """For `APIRouter(route_class=SessionRoute)`.

    Starlette's middleware takes its key when the app is made, and runs for every route. Here the keys are
    opened at start, and what does not use the session neither reads its cookie nor varies by it.
    """

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        newest_first = scope["state"]["keys"].for_purpose("session")
        session = SessionMiddleware(
            super().handle,
            secret_key=newest_first[0].hex(),
            session_cookie=COOKIE,
            max_age=scope["state"]["settings"].security.session_seconds,
            same_site="lax",
            https_only=True,  # `Secure`, without which no browser takes the prefix
        )
        # The parameter takes one key. A signer takes many, and signs with the last.
        session.signer = TimestampSigner(newest_first[::-1], digest_method=hashlib.sha256)
        keep_plain_cookies(scope)
        await session(scope, receive, send)
