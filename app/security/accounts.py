"""Accounts: made by whoever asks, with the lesser scopes; proven by a password."""

import re
import uuid

from limits import RateLimitItemPerMinute
from pwdlib import PasswordHash
from sqlalchemy import exists, select, update
from sqlalchemy.exc import IntegrityError

from app.database.models import Account, Login
from app.database.room import ensure_room
from app.database.session import SessionMaker
from app.errors import Conflict
from app.security.oauth_errors import OAuthError
from app.security.passwords import Passwords
from app.security.throttle import Throttle
from app.settings import SecuritySettings

USERNAME = r"^[a-z][a-z0-9._-]{2,31}$"
"""Plain letters, so that no two names look alike."""


class Accounts:
    """No database connection is held while a password is hashed, or a few logins would take them all."""

    def __init__(self, sessions: SessionMaker, hasher: PasswordHash, settings: SecuritySettings) -> None:
        self._sessions = sessions
        self._most = settings.max_accounts
        self._passwords = Passwords(hasher, settings)
        self._throttle = Throttle()
        self._by_address = RateLimitItemPerMinute(settings.attempts_per_address, namespace="address")
        self._by_account = RateLimitItemPerMinute(settings.attempts_per_account, namespace="account")

    async def register(self, username: str, password: str, scopes: str, network: str) -> Account:
        async with self._throttle.counted(self._by_address, network):
            password_hash = await self._passwords.hash(password)
        account = Account(id=uuid.uuid4().hex, username=username, password_hash=password_hash, scopes=scopes)
        async with self._sessions.begin() as session:
            await ensure_room(session, Account, self._most)
            session.add(account)
            try:
                await session.flush()
            except IntegrityError:
                raise Conflict("There is an account with this name.") from None
        return account

    async def authenticate(self, username: str, password: str, network: str) -> Account:
        """The account of that name and password. Which of the two was wrong is not told, nor by the time."""
        async with self._throttle.attempt(self._by_address, network):
            account, is_known_there = await self._find(username, network)
            # Who is logged in from there already has attempts of their own. Strangers who try the name
            # elsewhere use up those of everybody else, and keep no owner out.
            name = f"{username} {network}" if is_known_there else username
            async with self._throttle.attempt(self._by_account, name):
                is_right, newer_hash = await self._passwords.check(
                    password, account.password_hash if account else None
                )
                if account is None or not is_right:
                    raise OAuthError("invalid_grant", "The username or the password is wrong.")
        if newer_hash:
            await self._replace_hash(account, newer_hash)
        return account

    async def _find(self, username: str, network: str) -> tuple[Account | None, bool]:
        if not re.fullmatch(USERNAME, username):  # nor does every database take every text
            return None, False
        logged_in_there = exists().where(Login.account_id == Account.id, Login.network == network)
        query = select(Account, logged_in_there).where(Account.username == username)
        async with self._sessions() as session:
            found = (await session.execute(query)).one_or_none()
        return (found[0], found[1]) if found else (None, False)

    async def _replace_hash(self, account: Account, newer_hash: str) -> None:
        # Only the hash that was checked: the password may have been changed meanwhile.
        is_still = (Account.id == account.id, Account.password_hash == account.password_hash)
        async with self._sessions.begin() as session:
            await session.execute(update(Account).where(*is_still).values(password_hash=newer_hash))
