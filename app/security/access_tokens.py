"""Access tokens: signed, short-lived, and read without a look at the database (JWT, RFC 7519)."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import jwt

from app.database.models import Account
from app.security.oauth_errors import InvalidToken
from app.settings import SecuritySettings

# One algorithm, named here and never taken from a token: whoever sends the token writes its header.
ALGORITHM = "HS256"
CLAIMS = ["iss", "aud", "sub", "iat", "exp", "jti", "scope", "username"]
LEEWAY_SECONDS = 5
"""How far the clocks of two servers may be apart."""


@dataclass(frozen=True)
class AuthenticatedUser:
    """Who calls, and what the token is good for."""

    id: str
    username: str
    scopes: frozenset[str]
    expires_at: float
    """In seconds since 1970."""


class AccessTokens:
    """Issues with the first key and reads those of every key, so that keys can change without a break."""

    def __init__(self, keys: Sequence[bytes], settings: SecuritySettings) -> None:
        self.seconds = settings.access_token_seconds
        # Both issuer and audience: the tokens are for the service that makes them, and for no other.
        self._service = settings.issuer
        self._keys = {sha256(key).hexdigest()[:8]: key for key in keys}

    def issue(self, account: Account, scope: str) -> str:
        key_id, key = next(iter(self._keys.items()))
        now = datetime.now(UTC)
        claims = {
            "iss": self._service,
            "aud": self._service,
            "sub": account.id,
            "iat": now,
            "exp": now + timedelta(seconds=self.seconds),
            "jti": secrets.token_hex(16),
            "scope": scope,
            "username": account.username,
        }
        return jwt.encode(claims, key, ALGORITHM, headers={"kid": key_id})

    def read(self, token: str) -> AuthenticatedUser:
        try:
            claims = jwt.decode(
                token,
                self._keys[jwt.get_unverified_header(token)["kid"]],
                algorithms=[ALGORITHM],
                issuer=self._service,
                audience=self._service,
                leeway=LEEWAY_SECONDS,
                # A claim that is absent is not checked unless it is required.
                options={"require": CLAIMS},
            )
        except (jwt.InvalidTokenError, KeyError):
            raise InvalidToken from None
        return AuthenticatedUser(
            claims["sub"], claims["username"], frozenset(claims["scope"].split()), claims["exp"]
        )
