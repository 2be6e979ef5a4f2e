"""The bytes of a file as they come, in pieces of any size, for who wants them in its own."""

import time
from collections.abc import Generator
from typing import TypeVar

from app.errors import UnsupportedMediaType

MAX_STEPS = 100_000
"""Of one walk. A whole GIF of 10 MB takes about 41 thousand; more are made to waste time."""
LEAST_STEP = 128
"""Bytes, on average, of the steps of a longer walk: that of a whole GIF goes through 255 at once."""
STEPS_AT_ONCE = 2_000
"""About a millisecond. Then the event loop may have the interpreter, which a thread gives up unasked every
five, and one turn of the loop may need it several times."""
PAUSE_SECONDS = 0.000_1

T = TypeVar("T")
Walk = Generator[None, bytes, T]
"""Stops at `yield` until the next bytes are there, and gets b"" when there are no more. A walk that waits
even then has not seen a whole file."""


def wrong() -> UnsupportedMediaType:
    return UnsupportedMediaType("The content is not what the extension of the name says, or not whole.")


class Incoming:
    """The bytes of a file, for a walk: `yield from` each method, which waits for what it needs.

    Where a limit is met, they raise.
    """

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self._piece = b""
        self._at = 0
        self._size = 0
        self._steps = 0

    def take(self, count: int) -> Walk[bytes]:
        """The next bytes. For few: they are gathered."""
        self._steps += 1
        if self._steps > MAX_STEPS and self._steps * LEAST_STEP > self._size - len(self._piece) + self._at:
            raise wrong()
        if self._steps % STEPS_AT_ONCE == 0:
            time.sleep(PAUSE_SECONDS)
        while self._at + count > len(self._piece):
            self._piece, self._at = self._piece[self._at :] + (yield from self._more()), 0
        self._at += count
        return self._piece[self._at - count : self._at]

    def skip(self, count: int) -> Walk[None]:
        while self._at + count > len(self._piece):
            count -= len(self._piece) - self._at
            self._piece, self._at = (yield from self._more()), 0
        self._at += count

    def expect(self, *choices: bytes) -> Walk[None]:
        """One byte out of each."""
        for choice in choices:
            if (yield from self.take(1)) not in choice:
                raise wrong()

    def rest(self) -> Walk[bytes]:
        """All that is there and was not taken, or else what comes next, b"" at the end."""
        rest, self._piece, self._at = self._piece[self._at :], b"", 0
        return rest or (yield)

    def end(self) -> Walk[None]:
        if (yield from self.rest()):
            raise wrong()

    def check_area(self, width: int, height: int) -> int:
        """The pixels."""
        if width * height > self._max_pixels:
            raise UnsupportedMediaType("The image has more pixels than are accepted.")
        return width * height

    def _more(self) -> Walk[bytes]:
        piece = yield
        self._size += len(piece)
        return piece
