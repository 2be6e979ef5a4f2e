"""Tickets: one socket each, soon. What stands in a URL is read by logs, so it must be worth nothing later.

They are rows of the database, so a ticket that one process gave is taken by another, and by one alone.
"""

import secrets
from hashlib import sha256
from time import time

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError

from app.database.models import Account, Ticket
from app.database.room import ensure_room
from app.database.session import SessionMaker
from app.errors import Unauthorized
from app.security.oauth_errors import InvalidToken
from app.security.socket_user import SocketUser
from app.settings import RoomSettings


class Tickets:
    def __init__(self, sessions: SessionMaker, settings: RoomSettings) -> None:
        self._sessions = sessions
        self._settings = settings

    async def issue(self, user: SocketUser) -> tuple[str, int]:
        """A ticket, and for how many seconds it is good. Expired ones are swept, and the oldest ones of the
        account above its limit.

        Raises `InvalidToken` where the account is gone, `InsufficientStorage` when there are too many.
        """
        now = time()
        ticket = secrets.token_urlsafe(32)
        expires_at = min(now + self._settings.ticket_seconds, user.expires_at)
        newest_first = (
            select(Ticket.id_hash).where(Ticket.account_id == user.id).order_by(Ticket.issued_at.desc())
        )
        too_old = Ticket.id_hash.in_(newest_first.offset(self._settings.max_connections_per_user))
        async with self._sessions.begin() as session:
            await session.execute(delete(Ticket).where(Ticket.expires_at <= now))
        async with self._sessions.begin() as session:
            await ensure_room(session, Ticket, self._settings.max_tickets)
            session.add(
                Ticket(
                    id_hash=_hash_of(ticket),
                    account_id=user.id,
                    user_expires_at=user.expires_at,
                    issued_at=now,
                    expires_at=expires_at,
                )
            )
            try:
                await session.flush()
            except IntegrityError:
                raise InvalidToken from None
            await session.execute(delete(Ticket).where(too_old))
        return ticket, round(expires_at - now)

    async def use(self, ticket: str) -> SocketUser:
        """Whose it is, once. Raises `Unauthorized` for one that is used, expired or not ours."""
        # Found and deleted in one statement, or two sockets at once would both get in.
        used = (
            delete(Ticket)
            .where(Ticket.id_hash == _hash_of(ticket), Ticket.expires_at > time())
            .returning(Ticket.account_id, Ticket.user_expires_at)
        )
        async with self._sessions.begin() as session:
            found = (await session.execute(used)).one_or_none()
            if found is None:
                raise Unauthorized("The ticket is not valid, or no longer.", {"WWW-Authenticate": "Bearer"})
            account = await session.get_one(Account, found.account_id)
        return SocketUser(account.id, account.username, found.user_expires_at)


def _hash_of(ticket: str) -> str:
    """Who reads the table cannot open a socket with what stands there."""
    return sha256(ticket.encode()).hexdigest()
