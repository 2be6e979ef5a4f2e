"""Rooms: who may come in, what was said before, and what is said.

A visit is one connection in one room. `Hub.visit` is entered before a socket is accepted, for it can refuse;
`Visit.follow` begins to tell what happens. The history and the live messages meet in the `Seat`: it is told
live messages only after the last one of the history, so none comes twice, and none is missed.
"""

import secrets
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from limits import RateLimitItemPerMinute, RateLimitItemPerSecond

from app.errors import ServiceUnavailable, TooManyRequests
from app.realtime.backplane import Backplane, Unavailable, key_of
from app.realtime.local_rooms import Event, LocalRooms, Room, Seat
from app.realtime.memory_backplane import MemoryBackplane
from app.realtime.messages import Gap, Member, Welcome
from app.realtime.token_bucket import BURST_SECONDS
from app.security.socket_user import SocketUser
from app.security.throttle import Throttle
from app.settings import Settings


class Outlet(Protocol):
    """Where a visitor is sent what happens."""

    def put(self, event: Event) -> bool:
        """Whether it will be sent. It waits for nobody."""

    async def drained(self) -> None:
        """When all that was put is sent."""


class Visit:
    """One connection in one room."""

    def __init__(self, hub: "Hub", room_name: str, room: Room, member: Member) -> None:
        self.member = member
        self._hub = hub
        self._name = room_name
        self._room = room

    @property
    def last_id(self) -> str:
        """Of the last message of the room."""
        return self._room.last_id

    async def follow(self, outlet: Outlet, after: str | None) -> None:
        """Tells the outlet who is here, what was said after `after`, and from then on all that happens.

        Raises `Unavailable` if the history cannot be read.
        """
        room, local = self._room, self._hub.local
        outlet.put(
            Event(
                Welcome(
                    you=self.member,
                    here=list(room.here.values()),
                    last_id=room.last_id,
                    service="degraded" if local.is_degraded else "ok",
                )
            )
        )
        seat = room.seats[self.member.connection] = Seat(outlet.put)
        local.come(room, self.member)
        self._hub.backplane.announce(self._name, self.member, here=True)
        seat.after = key_of(room.last_id if after is None else await self._catch_up(outlet, after))

    async def post(self, ref: str, text: str) -> str:
        """The id of the message. Raises as `Hub.post` does."""
        return await self._hub.post_as(self.member, self._name, ref, text)

    async def _catch_up(self, outlet: Outlet, after: str) -> str:
        """Sends the history; the id of the message from which on the live ones follow."""
        while True:
            live = self._room.last_id
            page = await self._hub.backplane.history(self._name, after, self._hub.page_size)
            if not page.complete:
                outlet.put(Event(Gap()))
            for message in page.messages:
                if not outlet.put(Event(message)):
                    return after
                after = message.id
            await outlet.drained()
            if not page.messages:
                # Of what was live before the look nothing is left to read. An id that never was is no place.
                after = max(after, live, key=key_of) if page.complete else live
            if key_of(self._room.last_id) <= key_of(after):
                return after


def new_member(user: SocketUser) -> Member:
    return Member(connection=secrets.token_hex(8), user=user.id, name=user.name)


class Hub:
    def __init__(self, settings: Settings, local: LocalRooms, backplane: Backplane) -> None:
        self.local = local
        self.backplane = backplane
        # So that what others do in the meantime finds room in the outbox as well.
        self.page_size = settings.ws_queue_size // 2
        self._settings = settings.rooms
        self._connections_of: Counter[str] = Counter()
        self._throttle = Throttle()
        self._posts_of_one_user = RateLimitItemPerSecond(
            settings.ws_messages_per_second * BURST_SECONDS, BURST_SECONDS, namespace="posts"
        )
        self._visits_of_one_user = RateLimitItemPerMinute(
            settings.rooms.visits_per_minute, namespace="visits"
        )

    async def post(self, room_name: str, user: SocketUser, ref: str, text: str) -> str:
        """The id of the message of somebody who need not be here.

        Raises `RoomBusy`, `Unavailable`, and `TooManyRequests` for a user who says too much.
        """
        return await self.post_as(new_member(user), room_name, ref, text)

    async def post_as(self, sender: Member, room_name: str, ref: str, text: str) -> str:
        # Of all connections of a user, for many of them together could fill a room.
        async with self._throttle.counted(self._posts_of_one_user, sender.user):
            return await self.backplane.post(room_name, sender, ref, text)

    @asynccontextmanager
    async def visit(self, room_name: str, user: SocketUser) -> AsyncIterator[Visit]:
        """A visit for the block.

        Raises `TooManyRequests` for a user with too many connections, or who comes too often,
        `ServiceUnavailable` where the room is full, or cannot be opened.
        """
        async with (
            self._throttle.counted(self._visits_of_one_user, user.id),
            self._visit(room_name, user) as visit,
        ):
            yield visit

    @asynccontextmanager
    async def _visit(self, room_name: str, user: SocketUser) -> AsyncIterator[Visit]:
        if self._connections_of[user.id] >= self._settings.max_connections_per_user:
            raise TooManyRequests("You have too many connections.")
        self._connections_of[user.id] += 1
        room = self.local.rooms.setdefault(room_name, Room())
        room.visits += 1
        member = new_member(user)
        try:
            await self._open(room_name, room)
            if len(room.here.keys() - room.own) + room.visits > self._settings.max_members:
                raise ServiceUnavailable("The room is full.")
            yield Visit(self, room_name, room, member)
        finally:
            if member.connection in room.own:
                self.local.go(room, member)
                self.backplane.announce(room_name, member, here=False)
            room.visits -= 1
            if not room.visits:
                del self.local.rooms[room_name]
                self.backplane.close(room_name)
            self._connections_of[user.id] -= 1
            if not self._connections_of[user.id]:
                del self._connections_of[user.id]

    async def _open(self, room_name: str, room: Room) -> None:
        # Whoever comes while the first one opens it finds it open.
        async with room.opening:
            if not room.is_open:
                try:
                    last_id = await self.backplane.open(room_name)
                except Unavailable:
                    raise ServiceUnavailable("The room cannot be opened. Try again later.") from None
                room.last_id = max(room.last_id, last_id, key=key_of)
                room.is_open = True


@asynccontextmanager
async def open_hub(settings: Settings) -> AsyncIterator[Hub]:
    """Rooms of this process, or of all that use the same Redis."""
    local = LocalRooms()
    if settings.redis_url:
        # Imported where it is used, for it takes a tenth of the time of a start.
        from app.realtime.redis_backplane import open_redis_backplane

        async with open_redis_backplane(settings.redis_url, settings.rooms, local) as backplane:
            yield Hub(settings, local, backplane)
    else:
        yield Hub(settings, local, MemoryBackplane(settings.rooms, local))
