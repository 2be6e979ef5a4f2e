"""What stands behind the rooms of a process: the history, and the other processes.

Two implementations: `MemoryBackplane` for one process, `RedisBackplane` for many. One contract suite,
`tests/contract/test_backplanes.py`, holds for both.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from app.realtime.messages import Member, Message

MessageKey = tuple[int, int]


def key_of(message_id: str) -> MessageKey:
    """By which ids are in order. As texts they are not."""
    milliseconds, number = message_id.split("-")
    return int(milliseconds), int(number)


class Page(NamedTuple):
    messages: list[Message]
    complete: bool
    """False: messages before the first of these are forgotten."""


class RoomBusy(Exception):
    """More is said in the room than `APP_ROOMS__MESSAGES_PER_SECOND`."""


class Unavailable(Exception):
    """The engine did not answer in time. What was asked of it may be done or not."""


class Listener(Protocol):
    """Who is told what happens in the rooms that are open here. None of these waits."""

    def posted(self, room: str, message: Message) -> None:
        """In the order of the ids, each once."""

    def lost(self, room: str, last_id: str) -> None:
        """What was posted since the last one may be forgotten, and cannot be delivered. It goes on after
        `last_id`, which may be smaller than ids that were told: the engine may be another."""

    def joined(self, room: str, member: Member) -> None:
        """In another process."""

    def left(self, room: str, member: Member) -> None:
        """In another process, or with it."""

    def elsewhere(self, room: str, members: Sequence[Member]) -> None:
        """All who are here in other processes: when the room is opened, and after a time in which it was
        not known."""

    def degraded(self, degraded: bool) -> None: ...


class Backplane(Protocol):
    async def open(self, room: str) -> str:
        """From here on the listener is told of the room. The id of its last message, `BEGINNING` if there
        is none. Raises `Unavailable`."""

    def close(self, room: str) -> None:
        """The listener is told of it no more."""

    async def post(self, room: str, sender: Member, ref: str, text: str) -> str:
        """The id under which it is kept: the same again for the same user and `ref`, which are posted once.

        Raises `RoomBusy`, and `Unavailable` after `APP_ROOMS__PUBLISH_TIMEOUT`.
        """

    async def history(self, room: str, after: str, limit: int) -> Page:
        """The first messages after this id that are kept, oldest first. Raises `Unavailable`."""

    def announce(self, room: str, member: Member, *, here: bool) -> None:
        """Tells the other processes who came and who left, as soon as they can be told."""

    async def check(self) -> None:
        """Raises `Unavailable` unless the engine answers."""
