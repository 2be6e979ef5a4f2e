"""Logins that are kept alive by refresh tokens (RFC 9700, section 4.14.2).

A login is one row: its id is the family of all its refresh tokens, and the row holds the hash of the newest
of them. So a token that was used already is known by its family, though nothing of it is kept, and the
table does not grow with the refreshing.
"""

import logging
import secrets
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from sqlalchemy import delete, select, update

from app.database.models import Account, Login
from app.database.session import SessionMaker
from app.security.oauth_errors import OAuthError
from app.settings import SecuritySettings

logger = logging.getLogger(__name__)


def granted(requested: Iterable[str], allowed: Iterable[str]) -> str:
    """The scopes of a new token. Refused is refused: to leave one out in silence surprises a client later."""
    scopes = dict.fromkeys(requested)
    if not scopes.keys() <= set(allowed):
        raise OAuthError("invalid_scope", "A scope is not known, or not given to this account or login.")
    return " ".join(scopes)


class Logins:
    def __init__(self, sessions: SessionMaker, settings: SecuritySettings) -> None:
        self._sessions = sessions
        self._lifetime = timedelta(seconds=settings.refresh_token_seconds)
        self._most = settings.max_logins_per_account

    async def begin(self, account: Account, scope: str, network: str) -> str:
        """A refresh token. Expired logins are swept, and the oldest ones of the account above its limit."""
        now = datetime.now(UTC)
        family = secrets.token_hex(16)
        token = _next_token(family)
        login = Login(
            id=family,
            account_id=account.id,
            token_hash=_hash_of(token),
            scope=scope,
            network=network,
            expires_at=now + self._lifetime,
        )
        newest_first = (
            select(Login.id).where(Login.account_id == account.id).order_by(Login.expires_at.desc())
        )
        async with self._sessions.begin() as session:
            session.add(login)
            await session.flush()
            await session.execute(delete(Login).where(Login.expires_at <= now))
            await session.execute(delete(Login).where(Login.id.in_(newest_first.offset(self._most))))
        return token

    async def refresh(self, token: str, requested: list[str]) -> tuple[Account, str, str]:
        """The account, the scope of its next access token, and the next refresh token; the one given is done.

        The scope is what was requested, or else all of the login that the account still has. A token that was
        used before, by a thief or by its owner, ends the login for both.
        """
        family = token.partition(".")[0]
        following = _next_token(family)
        async with self._sessions.begin() as session:
            # Compared and replaced in one statement, or two requests at once would both win.
            renewed = await session.scalar(
                update(Login)
                .where(
                    Login.id == family,
                    Login.token_hash == _hash_of(token),
                    Login.expires_at > datetime.now(UTC),
                )
                .values(token_hash=_hash_of(following))
                .returning(Login)
            )
            if renewed:
                account = await session.get_one(Account, renewed.account_id)
                still_given = account.scopes.split()
                allowed = [scope for scope in renewed.scope.split() if scope in still_given]
                # Inside the block: a scope that is refused takes the renewal back, and the token stays good.
                return account, granted(requested or allowed, allowed), following
            ended = await session.scalar(delete(Login).where(Login.id == family).returning(Login.account_id))
        # After the block: an error inside it would take the end of the login back.
        if ended:
            logger.warning("refresh token used twice or expired", extra={"fields": {"account": ended}})
        raise OAuthError("invalid_grant", "The refresh token is not valid, or no longer.")

    async def end(self, token: str) -> None:
        """Whoever has a token of a login may end it."""
        async with self._sessions.begin() as session:
            await session.execute(delete(Login).where(Login.id == token.partition(".")[0]))


def _next_token(family: str) -> str:
    return f"{family}.{secrets.token_urlsafe(32)}"


def _hash_of(token: str) -> str:
    """A plain hash is enough for what is random: there is nothing to guess, so nothing to slow down."""
    return sha256(token.encode()).hexdigest()
