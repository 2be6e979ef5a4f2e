"""Behind the rooms of one process: the history, in memory. It ends with the process."""

from bisect import bisect_right
from collections import OrderedDict, deque
from datetime import UTC, datetime
from itertools import islice
from time import monotonic, time_ns

from app.realtime.backplane import Listener, Page, RoomBusy, key_of
from app.realtime.messages import BEGINNING, Member, Message
from app.realtime.token_bucket import TokenBucket
from app.settings import RoomSettings


class KeptRoom:
    """What is kept of a room, whether anybody is in it or not."""

    def __init__(self, rate: float, forgotten: str) -> None:
        self.bucket = TokenBucket(rate)
        self.messages: deque[Message] = deque()
        self.ids: OrderedDict[tuple[str, str], tuple[str, float]] = OrderedDict()
        """By the user and the `ref` of a message: its id, and when it was posted."""
        self.forgotten = forgotten
        """The last id that may have been here, and is not kept any more."""

    @property
    def last_id(self) -> str:
        return self.messages[-1].id if self.messages else self.forgotten


class MemoryBackplane:
    def __init__(self, settings: RoomSettings, listener: Listener) -> None:
        self._settings = settings
        self._listener = listener
        self._rooms: OrderedDict[str, KeptRoom] = OrderedDict()
        """Those with messages. The one that was used least lately comes first."""
        self._open: dict[str, str] = {}
        """The last id of each as it was opened. From then on nothing of it is forgotten in silence."""
        self._forgotten = BEGINNING
        """The newest id of all rooms that were forgotten."""

    async def open(self, room: str) -> str:
        kept = self._rooms.get(room)
        last_id = kept.last_id if kept else self._forgotten
        self._open.setdefault(room, last_id)
        return last_id

    def close(self, room: str) -> None:
        self._open.pop(room, None)

    async def post(self, room: str, sender: Member, ref: str, text: str) -> str:
        kept = self._used(room)
        self._forget_refs(kept)
        if known := kept.ids.get((sender.user, ref)):
            return known[0]
        if not kept.bucket.take():
            raise RoomBusy
        message = Message(id=_next_id(kept.last_id), sender=sender, text=text, sent_at=datetime.now(UTC))
        if len(kept.messages) == self._settings.history:
            kept.forgotten = kept.messages.popleft().id
        kept.messages.append(message)
        kept.ids[sender.user, ref] = message.id, monotonic()
        if room in self._open:
            self._listener.posted(room, message)
        return message.id

    async def history(self, room: str, after: str, limit: int) -> Page:
        kept = self._rooms.get(room)
        if kept is None:
            return Page([], after == self._open.get(room, self._forgotten))
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

    def _used(self, room: str) -> KeptRoom:
        kept = self._rooms.get(room)
        if kept is None:
            self._make_room()
            forgotten = self._open.get(room, self._forgotten)
            kept = self._rooms[room] = KeptRoom(self._settings.messages_per_second, forgotten)
        self._rooms.move_to_end(room)
        return kept

    def _make_room(self) -> None:
        """Forgets a room in which nobody is. Where there is none, there are as many as connections."""
        if len(self._rooms) >= self._settings.max_rooms:
            unused = next((name for name in self._rooms if name not in self._open), None)
            if unused:
                self._forgotten = max(self._forgotten, self._rooms.pop(unused).last_id, key=key_of)

    def _forget_refs(self, kept: KeptRoom) -> None:
        long_ago = monotonic() - self._settings.remembered_seconds
        while kept.ids and next(iter(kept.ids.values()))[1] < long_ago:
            kept.ids.popitem(last=False)


def _next_id(last: str) -> str:
    """Of this millisecond, unless the clock stands or was put back: ids grow, over a restart too."""
    milliseconds, number = key_of(last)
    now = time_ns() // 1_000_000
    return f"{now}-0" if now > milliseconds else f"{milliseconds}-{number + 1}"
