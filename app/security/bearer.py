"""The access token of a request or a socket, and the scopes that an endpoint demands of it."""

from typing import Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection
from fastapi.security import OAuth2PasswordBearer, SecurityScopes

from app.security.access_tokens import AccessTokens, AuthenticatedUser
from app.security.oauth_errors import InsufficientScope

PATH = "security/oauth2"
"""Where tokens are got. Without a slash in front: relative to where the app is served, behind any prefix."""

SCOPES = {
    "me": "Read your own account.",
    "accounts": "List all accounts.",
}
"""What a token can be good for, as `/docs` shows it."""

OPEN_SCOPES = ("me",)
"""What everybody may have. The other scopes are given by whoever runs the service."""


def bearer(*, auto_error: bool = True) -> OAuth2PasswordBearer:
    """The scheme of the service: the token in `Authorization: Bearer`, got with a password."""
    return OAuth2PasswordBearer(
        tokenUrl=f"{PATH}/token",
        refreshUrl=f"{PATH}/refresh",
        scheme_name="OAuth2",
        scopes=SCOPES,
        description=f"Register at `/{PATH}/accounts` first. Leave the client empty.",
        auto_error=auto_error,
    )


async def current_user(
    required: SecurityScopes,
    token: Annotated[str, Depends(bearer())],
    connection: HTTPConnection,
) -> AuthenticatedUser:
    """FastAPI collects the scopes of all who depend on this; to compare them is our part."""
    access_tokens: AccessTokens = connection.state["access_tokens"]
    user = access_tokens.read(token)
    if not user.scopes.issuperset(required.scopes):
        raise InsufficientScope(required.scope_str)
    return user
