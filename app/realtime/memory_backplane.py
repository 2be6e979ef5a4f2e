"""Behind the rooms of one process: the history, in memory. It ends with the process."""

from bisect import bisect_right
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from time import time_ns

from app.realtime.backplane import Listener, Page, RoomBusy, key_of
from app.realtime.messages import BEGINNING, Member, Message
from app.realtime.token_bucket import TokenBucket
from app.settings import RoomSettings


@dataclass
class KeptRoom:
    bucket: TokenBucket
    messages: deque[Message] = field(default_factory=deque)
    ids: dict[tuple[str, str], str] = field(default_factory=dict)
    """By the user and the `ref` of each message that is kept."""
    forgotten: str = BEGINNING
    """The last id that is not kept any more."""

    @property
    def last_id(self) -> str:
        return self.messages[-1].id if self.messages else BEGINNING


class MemoryBackplane:
    def __init__(self, settings: RoomSettings, listener: Listener) -> None:
        self._settings = settings
        self._listener = listener
        self._rooms: OrderedDict[str, KeptRoom] = OrderedDict()
        self._open: set[str] = set()

    async def open(self, room: str) -> str:
        self._open.add(room)
        return self._kept(room).last_id

    def close(self, room: str) -> None:
        self._open.discard(room)

    async def post(self, room: str, sender: Member, ref: str, text: str) -> str:
        kept = self._kept(room)
        known = kept.ids.get((sender.user, ref))
        if known:
            return known
        if not kept.bucket.take():
            raise RoomBusy
        message = Message(id=_next_id(kept.last_id), sender=sender, text=text, sent_at=datetime.now(UTC))
        if len(kept.messages) == self._settings.history:
            kept.forgotten = kept.messages.popleft().id
            del kept.ids[next(iter(kept.ids))]
        kept.messages.append(message)
        kept.ids[sender.user, ref] = message.id
        if room in self._open:
            self._listener.posted(room, message)
        return message.id

    async def history(self, room: str, after: str, limit: int) -> Page:
        kept = self._kept(room)
        first = bisect_right(kept.messages, key_of(after), key=lambda message: key_of(message.id))
        page = list(islice(kept.messages, first, first + limit))
        # What is before them all is complete if it is the last that is forgotten. Another id that is not
        # kept is forgotten, or from before the start of this process, of which nothing is known.
        complete = kept.messages[first - 1].id == after if first else after == kept.forgotten
        return Page(page, complete)

    def announce(self, room: str, member: Member, *, here: bool) -> None:
        """There is no other process to tell."""

    async def check(self) -> None:
        """Memory always answers."""

    def _kept(self, room: str) -> KeptRoom:
        kept = self._rooms.pop(room, None) or KeptRoom(TokenBucket(self._settings.messages_per_second))
        self._rooms[room] = kept  # the last: those that were used least lately are first
        if len(self._rooms) > self._settings.max_rooms:
            unused = next(name for name in self._rooms if name not in self._open or name == room)
            del self._rooms[unused]
        return kept


def _next_id(last: str) -> str:
    """Of this millisecond, unless the clock stands or was put back: ids grow, over a restart too."""
    milliseconds, number = key_of(last)
    now = time_ns() // 1_000_000
    return f"{now}-0" if now > milliseconds else f"{milliseconds}-{number + 1}"
