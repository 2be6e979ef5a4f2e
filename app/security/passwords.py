"""Argon2 for passwords, in threads and few at a time: each hash takes 64 MiB and a core for a while."""

import unicodedata

import anyio
import anyio.to_thread
from pwdlib import PasswordHash

from app.errors import ServiceUnavailable
from app.settings import SecuritySettings

MIN_LENGTH = 8
MAX_LENGTH = 256


class Passwords:
    def __init__(self, hasher: PasswordHash, settings: SecuritySettings) -> None:
        self._hasher = hasher
        self._most_waiting = settings.password_hashes_waiting
        self._running = anyio.CapacityLimiter(settings.password_hashes_at_once)

    async def hash(self, password: str) -> str:
        await self._ensure_turn()
        return await anyio.to_thread.run_sync(
            self._hasher.hash, _in_one_form(password), limiter=self._running
        )

    async def check(self, password: str, known: str | None) -> tuple[bool, str | None]:
        """Whether it is the password of the hash `known`, and a newer hash if that one should be replaced.

        Where there is no account there is no hash, and the work is done all the same: a caller who is
        answered sooner would know that the name is not taken.
        """
        if len(password) > MAX_LENGTH:
            return False, None
        if known is None:
            await self.hash(password)
            return False, None
        await self._ensure_turn()
        return await anyio.to_thread.run_sync(
            self._hasher.verify_and_update, _in_one_form(password), known, limiter=self._running
        )

    async def _ensure_turn(self) -> None:
        if self._running.statistics().tasks_waiting >= self._most_waiting:
            raise ServiceUnavailable


def _in_one_form(password: str) -> bytes:
    """The same bytes from every keyboard: a letter may be sent whole, or as base and accent."""
    return unicodedata.normalize("NFKC", password).encode(errors="surrogatepass")
