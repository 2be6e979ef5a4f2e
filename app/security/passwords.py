"""Argon2 for passwords, in threads and few at a time: each hash takes 64 MiB and a core for a while."""

import unicodedata
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.to_thread
from pwdlib import PasswordHash

from app.errors import ServiceUnavailable
from app.settings import SecuritySettings

MIN_LENGTH = 8
MAX_LENGTH = 256

T = TypeVar("T")


class Passwords:
    def __init__(self, hasher: PasswordHash, settings: SecuritySettings) -> None:
        self._hasher = hasher
        self._at_once = anyio.CapacityLimiter(settings.password_hashes_at_once)
        self._most = settings.password_hashes_at_once + settings.password_hashes_waiting
        self._present = 0

    async def hash(self, password: str) -> str:
        return await self._in_turn(self._hasher.hash, _in_one_form(password))

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
        return await self._in_turn(self._hasher.verify_and_update, _in_one_form(password), known)

    async def _in_turn(self, work: Callable[..., T], *arguments: bytes | str) -> T:
        # Counted here, for the limiter knows of a waiting task one turn of the loop too late.
        if self._present >= self._most:
            raise ServiceUnavailable
        self._present += 1
        try:
            return await anyio.to_thread.run_sync(work, *arguments, limiter=self._at_once)
        finally:
            self._present -= 1


def _in_one_form(password: str) -> bytes:
    """The same bytes from every keyboard: a letter may be sent whole, or as base and accent."""
    return unicodedata.normalize("NFKC", password).encode(errors="surrogatepass")
