"""Places for those who stay: so many in all, and so many of one address."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from fastapi.requests import HTTPConnection

from app.errors import ServiceUnavailable, TooManyRequests


class Places:
    def __init__(self, most: int, most_per_client: int) -> None:
        self._most = most
        self._most_per_client = most_per_client
        self._taken_from: Counter[str] = Counter()

    @property
    def taken(self) -> int:
        return self._taken_from.total()

    @contextmanager
    def take(self, connection: HTTPConnection) -> Iterator[None]:
        """One place for the block. Raises `ServiceUnavailable` when all are taken, `TooManyRequests` when
        those of the address are."""
        address = connection.client.host if connection.client else ""
        if self.taken >= self._most:
            raise ServiceUnavailable
        if self._taken_from[address] >= self._most_per_client:
            raise TooManyRequests
        self._taken_from[address] += 1
        try:
            yield
        finally:
            self._taken_from[address] -= 1
            if not self._taken_from[address]:
                del self._taken_from[address]
