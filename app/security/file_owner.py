"""Whose files a request is about: by its access token, or by the session of a browser."""

from typing import Annotated, Any

from fastapi import Depends
from fastapi.requests import HTTPConnection

from app.errors import Unauthorized
from app.security.bearer import bearer
from app.security.handshake import CHALLENGE, user_of_cookie, user_of_token
from app.security.session_cookie import cookie
from app.settings import Settings

ANONYMOUS_TOO: dict[str, Any] = {"security": [{}]}
"""For the `openapi_extra=` of a route: FastAPI cannot see that a credential may be left out."""


async def file_owner(
    connection: HTTPConnection,
    token: Annotated[str | None, Depends(bearer(auto_error=False))],
    cookie: Annotated[str | None, Depends(cookie)],
) -> str | None:
    """The id of the account. None for who brings nothing, while `APP_FILES__ANONYMOUS` allows that.

    A bad credential is refused and not passed over: else a file would come without its owner, and anybody
    could read it. With a cookie only our own pages may change anything.
    """
    if token is not None:
        return (await user_of_token(connection, token)).id
    if cookie is not None:
        return (await user_of_cookie(connection)).id
    settings: Settings = connection.state["settings"]
    if not settings.files.anonymous:
        raise Unauthorized(headers=CHALLENGE)
    return None
