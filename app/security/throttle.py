"""The brake on guessing passwords, and on calling others: so many attempts a minute, by a name.

Nobody is locked out by a count that stays: a minute later there are new attempts. Nor does an attempt count
that is refused with 503, because too many passwords wait to be hashed: nobody has looked at it.

The memory has a limit by itself, for names fall into a fixed number of buckets. Two names may share one, but
nobody can choose which, for the buckets are drawn with a secret of this process.
"""

import hmac
import math
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_network

from fastapi.requests import HTTPConnection
from limits import RateLimitItem
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from app.errors import ServiceUnavailable, TooManyRequests

BUCKETS = 4_096


class Throttle:
    def __init__(self) -> None:
        self._storage = MemoryStorage()
        self._limiter = FixedWindowRateLimiter(self._storage)
        self._secret = secrets.token_bytes(32)

    @asynccontextmanager
    async def counted(self, limit: RateLimitItem, name: str) -> AsyncIterator[None]:
        """Counts an attempt, and takes it back when the service was too busy to make it."""
        await self._count(limit, name)
        try:
            yield
        except ServiceUnavailable:
            await self._take_back(limit, name)
            raise

    @asynccontextmanager
    async def attempt(self, limit: RateLimitItem, name: str) -> AsyncIterator[None]:
        """Also takes it back when it succeeds: only failures use the limit up."""
        async with self.counted(limit, name):
            yield
        await self._take_back(limit, name)

    async def _count(self, limit: RateLimitItem, name: str) -> None:
        """Counts first and asks then, so that many at once do not pass together."""
        bucket = self._bucket_of(name)
        if not await self._limiter.hit(limit, bucket):
            window = await self._limiter.get_window_stats(limit, bucket)
            seconds = max(1, math.ceil(window.reset_time - time.time()))
            raise TooManyRequests("Too many attempts. Try again later.", {"Retry-After": str(seconds)})

    async def _take_back(self, limit: RateLimitItem, name: str) -> None:
        await self._storage.decr(limit.key_for(self._bucket_of(name)))

    def _bucket_of(self, name: str) -> str:
        drawn = hmac.digest(self._secret, name.encode(errors="surrogatepass"), "sha256")
        return str(int.from_bytes(drawn[:8]) % BUCKETS)


def network_of(connection: HTTPConnection) -> str:
    """The address of the caller; of IPv6 the network, for one customer has 2**64 addresses of it."""
    host = connection.client.host if connection.client else ""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if address.version == 4:
        return host
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ip_network((int(address), 64), strict=False))
