"""The rooms as the connections of this process see them: who is here, and who is told what.

Nothing here waits. An event is written once, as the text that all are sent, and then put to each. What
happens in other processes is told by a backplane, which calls the methods of `Listener`.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property

from fastapi.sse import format_sse_event

from app.realtime.backplane import MessageKey, key_of
from app.realtime.messages import BEGINNING, Gap, Joined, Left, Member, Message, Sent, Service
from app.realtime.text import Text

NOT_YET: MessageKey = (2**63, 0)
"""Beyond the key of every message."""
FOR_ALL: MessageKey = (2**63, 1)
"""Of what is told to those too that have not caught up."""


class Event:
    """One thing to tell, for any number of receivers."""

    def __init__(self, content: Sent) -> None:
        self._content = content

    @cached_property
    def text(self) -> Text:
        """As sockets are sent it."""
        return Text(self._content.model_dump_json())

    @cached_property
    def sse(self) -> bytes:
        """As streams are sent it. The id is what a client comes back with, so only messages have one."""
        event_id = self._content.id if isinstance(self._content, Message) else None
        return format_sse_event(event=self._content.type, data_str=self.text.content, id=event_id)


@dataclass
class Seat:
    """Where one connection is told what happens in a room."""

    put: Callable[[Event], bool]
    """Whether the event will be sent. It waits for nobody."""
    after: MessageKey = NOT_YET
    """It is told the messages after this one; those before it come to it out of the history."""


@dataclass
class Room:
    """As its connections in this process see it. What is kept of it, the backplane has."""

    visits: int = 0
    opening: asyncio.Lock = field(default_factory=asyncio.Lock)
    is_open: bool = False
    last_id: str = BEGINNING
    seats: dict[str, Seat] = field(default_factory=dict)
    """By connection: those of this process."""
    here: dict[str, Member] = field(default_factory=dict)
    """By connection: those of all processes."""
    own: set[str] = field(default_factory=set)
    """The connections among them that are of this process."""


@dataclass
class Counts:
    """What happened in the rooms of this process since its start."""

    messages: int = 0
    gaps: int = 0
    lag_seconds: float = 0.0
    """How old the newest message was when it came here."""


class LocalRooms:
    def __init__(self) -> None:
        self.rooms: dict[str, Room] = {}
        """Those that somebody of this process is in."""
        self.is_degraded = False
        self.counts = Counts()

    def tell(self, room: Room, content: Sent, key: MessageKey = FOR_ALL) -> None:
        event = Event(content)
        for connection, seat in tuple(room.seats.items()):
            if key > seat.after and not seat.put(event):
                room.seats.pop(connection, None)

    def come(self, room: Room, member: Member) -> None:
        """Somebody of this process."""
        room.own.add(member.connection)
        room.here[member.connection] = member
        self.tell(room, Joined(member=member))

    def go(self, room: Room, member: Member) -> None:
        room.own.discard(member.connection)
        room.seats.pop(member.connection, None)
        self._gone(room, member)

    def posted(self, room: str, message: Message) -> None:
        self.counts.messages += 1
        self.counts.lag_seconds = max(0.0, (datetime.now(UTC) - message.sent_at).total_seconds())
        if open_room := self.rooms.get(room):
            open_room.last_id = message.id
            self.tell(open_room, message, key_of(message.id))

    def lost(self, room: str, last_id: str) -> None:
        self.counts.gaps += 1
        if open_room := self.rooms.get(room):
            self.tell(open_room, Gap())
            open_room.last_id = last_id
            for seat in open_room.seats.values():
                if seat.after != NOT_YET:
                    seat.after = key_of(BEGINNING)

    def joined(self, room: str, member: Member) -> None:
        open_room = self.rooms.get(room)
        if open_room and member.connection not in open_room.here:
            open_room.here[member.connection] = member
            self.tell(open_room, Joined(member=member))

    def left(self, room: str, member: Member) -> None:
        if open_room := self.rooms.get(room):
            self._gone(open_room, member)

    def elsewhere(self, room: str, members: Sequence[Member]) -> None:
        if open_room := self.rooms.get(room):
            present = {member.connection for member in members} | open_room.own
            for gone in [member for member in open_room.here.values() if member.connection not in present]:
                self._gone(open_room, gone)
            for member in members:
                self.joined(room, member)

    def degraded(self, degraded: bool) -> None:
        self.is_degraded = degraded
        for room in self.rooms.values():
            self.tell(room, Service(state="degraded" if degraded else "ok"))

    def _gone(self, room: Room, member: Member) -> None:
        if room.here.pop(member.connection, None):
            self.tell(room, Left(member=member))
