"""A limit on how often, which lets short bursts through."""

from time import monotonic

BURST_SECONDS = 10


class TokenBucket:
    """Lets `rate` a second through on average, and ten seconds' worth of them at once."""

    def __init__(self, rate: float) -> None:
        self._rate = rate
        self._size = rate * BURST_SECONDS
        self._tokens = self._size
        self._filled_at = monotonic()

    def take(self) -> bool:
        now = monotonic()
        self._tokens = min(self._size, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True
