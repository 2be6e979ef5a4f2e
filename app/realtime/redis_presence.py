"""What this process tells the others, by Redis: that it lives, and who is here.

Its members are a hash for each room. The hashes expire unless the process says that it lives, and each
change is also an event in the stream of presence. What is told is always the present state, so it can be
told again: after an outage, or when Redis has lost it.
"""

import asyncio
import logging
from collections.abc import Sequence
from itertools import islice
from secrets import token_hex
from time import monotonic

from redis.asyncio import Redis

from app.realtime.messages import Member
from app.realtime.redis_store import (
    APPEND,
    BATCH,
    BEAT,
    ENGINE_ERRORS,
    MAX_PRESENCE_EVENTS,
    PRESENCE,
    PROCESSES,
    TELL,
    members_of,
    pause,
    replies,
    told_of,
)
from app.settings import RoomSettings

logger = logging.getLogger("app.realtime")


class Presence:
    def __init__(self, redis: Redis, settings: RoomSettings, answers: asyncio.Event) -> None:
        self.process = token_hex(8)
        self.next_beat = 0.0
        """When, by the monotonic clock."""
        self._redis = redis
        self._settings = settings
        self._answers = answers
        self._silence = int(settings.heartbeat_seconds * 3_000)
        self._here: dict[str, dict[str, Member]] = {}
        """By room and connection."""
        self._told: set[tuple[str, str]] = set()
        """Of whom the others may know, by room and connection."""
        # A dict as an ordered set. It holds a connection once, however often it comes and goes.
        self._untold: dict[tuple[str, str], None] = {}
        self._has_untold = asyncio.Event()
        self._batches = 0

    def announce(self, room: str, member: Member, here: bool) -> None:
        key = (room, member.connection)
        if here:
            self._here.setdefault(room, {})[member.connection] = member
        elif members := self._here.get(room):
            members.pop(member.connection, None)
            if not members:
                del self._here[room]
        if here or key in self._told:
            self._will_tell(key)
        else:
            self._untold.pop(key, None)

    async def tell(self) -> None:
        """Tells the others of each change, for ever."""
        failures = 0
        while True:
            await self._has_untold.wait()
            await self._answers.wait()
            batch = list(islice(self._untold, BATCH))
            for key in batch:
                del self._untold[key]
            try:
                await self._tell(batch)
                failures = 0
            except Exception as exc:
                # An outage is logged by the reader. Of a broken reply redis-py raises anything.
                if not isinstance(exc, ENGINE_ERRORS):
                    logger.exception("Who is here could not be told. It will be")
                for key in batch:
                    self._will_tell(key)
                await pause(failures)
                failures += 1
            if not self._untold:
                self._has_untold.clear()

    async def wake(self) -> None:
        """Ends the read that waits for events, in this process as in the others."""
        await self._redis.eval(APPEND, 1, PRESENCE, *self._event("wake"))

    async def beat(self) -> tuple[bool, list[str]]:
        """Says that this process lives. Whether it was alive to the others, and which others are."""
        self.next_beat = monotonic() + self._settings.heartbeat_seconds
        pipe = self._redis.pipeline(transaction=False)
        pipe.eval(BEAT, 2, PROCESSES, PRESENCE, self.process, self._silence)
        rooms = list(self._here)
        for room in rooms:
            pipe.pexpire(members_of(room, self.process), self._silence)
            pipe.hkeys(members_of(room, self.process))
        (was_alive, living), *rest = await replies(pipe, self._settings.publish_timeout)
        for room, connections in zip(rooms, rest[1::2], strict=True):
            kept, own = set(connections), self._here.get(room, {}).keys()
            for connection in own ^ kept if was_alive else own | kept:
                self._will_tell((room, connection))
        return bool(was_alive), [process for process in living if process != self.process]

    async def say_goodbye(self) -> None:
        """Takes all members of this process away. Where it fails, the others find out by the silence."""
        pipe = self._redis.pipeline(transaction=False)
        pipe.zrem(PROCESSES, self.process)
        pipe.eval(APPEND, 1, PRESENCE, *self._event("gone"))
        await replies(pipe, self._settings.publish_timeout)

    def _will_tell(self, key: tuple[str, str]) -> None:
        self._untold[key] = None
        self._has_untold.set()

    async def _tell(self, batch: Sequence[tuple[str, str]]) -> None:
        self._batches += 1
        pipe = self._redis.pipeline(transaction=False)
        gone = []
        for room, connection in batch:
            if member := self._here.get(room, {}).get(connection):
                self._told.add((room, connection))
                event = self._event("joined", room, connection, member.model_dump_json())
            else:
                gone.append((room, connection))
                event = self._event("left", room, connection)
            keys = [PRESENCE, members_of(room, self.process), told_of(self.process)]
            pipe.eval(TELL, len(keys), *keys, *event, self._batches, self._silence)
        await replies(pipe, self._settings.publish_timeout)
        self._told.difference_update(gone)

    def _event(self, kind: str, room: str = "", connection: str = "", member: str = "") -> list[str | int]:
        """The first arguments of APPEND and TELL; the names are those of `Reader._hear`."""
        fields = {
            "process": self.process,
            "kind": kind,
            "room": room,
            "connection": connection,
            "member": member,
        }
        return [MAX_PRESENCE_EVENTS, *(part for field in fields.items() for part in field)]
