"""Which logins of browsers are in force. A signed cookie alone could not be taken back."""

import secrets
from datetime import UTC, datetime, timedelta
from hashlib import sha256

from sqlalchemy import delete, select

from app.database.models import Account, WebSession
from app.database.session import SessionMaker
from app.security.socket_user import SocketUser
from app.settings import SecuritySettings


class WebSessions:
    def __init__(self, sessions: SessionMaker, settings: SecuritySettings) -> None:
        self._sessions = sessions
        self._lifetime = timedelta(seconds=settings.session_seconds)
        self._most = settings.max_logins_per_account

    async def begin(self, account: Account) -> str:
        """A new id. Expired logins are swept, and the oldest ones of the account above its limit."""
        session_id = secrets.token_urlsafe(32)
        now = datetime.now(UTC)
        login = WebSession(
            id_hash=_hash_of(session_id), account_id=account.id, expires_at=now + self._lifetime
        )
        newest_first = (
            select(WebSession.id_hash)
            .where(WebSession.account_id == account.id)
            .order_by(WebSession.expires_at.desc())
        )
        async with self._sessions.begin() as session:
            session.add(login)
            await session.flush()
            await session.execute(delete(WebSession).where(WebSession.expires_at <= now))
            too_old = WebSession.id_hash.in_(newest_first.offset(self._most))
            await session.execute(delete(WebSession).where(too_old))
        return session_id

    async def find_user(self, session_id: str) -> SocketUser | None:
        """Whose login it is, while it is in force."""
        query = (
            select(Account.id, Account.username, WebSession.expires_at)
            .join(WebSession, WebSession.account_id == Account.id)
            .where(WebSession.id_hash == _hash_of(session_id), WebSession.expires_at > datetime.now(UTC))
        )
        async with self._sessions() as session:
            found = (await session.execute(query)).one_or_none()
        if found is None:
            return None
        return SocketUser(found.id, found.username, found.expires_at.replace(tzinfo=UTC).timestamp())

    async def end(self, session_id: str) -> None:
        async with self._sessions.begin() as session:
            await session.execute(delete(WebSession).where(WebSession.id_hash == _hash_of(session_id)))


def _hash_of(session_id: str) -> str:
    """Who reads the table cannot log in with what stands there."""
    return sha256(session_id.encode()).hexdigest()
