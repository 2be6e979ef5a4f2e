"""What happens in the rooms, read from Redis and told to the listener.

Every entry of a stream names the one before it. Where that is not the one that was read last, something is
lost: messages, or changes of who is here, which is then looked up anew. A room that was silent for longer
than Redis keeps it looks the same, and its members are told of a gap though there is none.
"""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from redis.asyncio import Redis

from app.realtime.backplane import Listener, MessageKey, key_of
from app.realtime.messages import BEGINNING, Member, Message
from app.realtime.redis_presence import Presence
from app.realtime.redis_store import (
    BATCH,
    ENGINE_ERRORS,
    FORGOTTEN,
    PRESENCE,
    PROCESSES,
    members_of,
    messages_of,
    pause,
    replies,
)
from app.settings import RoomSettings

logger = logging.getLogger("app.realtime")

MAX_ENTRIES_READ = 1_000


@dataclass
class FollowedRoom:
    name: str
    is_open: asyncio.Event = field(default_factory=asyncio.Event)
    cursor: str = BEGINNING
    others: dict[str, dict[str, Member]] = field(default_factory=dict)
    """The members in other processes, by process and connection."""
    empty_until: MessageKey = (0, 0)
    """Before this key it has no message."""

    def misses(self, before: str) -> bool:
        """Whether something is lost between the cursor and an entry which says that this one was before."""
        # The first entry of a room names the newest that went with any room, since the cursor too perhaps.
        return before != self.cursor and not key_of(self.cursor) <= key_of(before) < self.empty_until


class Reader:
    def __init__(
        self,
        redis: Redis,
        settings: RoomSettings,
        listener: Listener,
        presence: Presence,
        answers: asyncio.Event,
    ) -> None:
        self.rooms: dict[str, FollowedRoom] = {}
        self.started = asyncio.Event()
        """Set as soon as Redis has answered, or has not."""
        self._redis = redis
        self._settings = settings
        self._listener = listener
        self._presence = presence
        self._presence_cursor = BEGINNING
        self._answers = answers
        self._degraded = False
        self._unsettled = True
        """Whether the others may be coming back still: what they changed is found at the next heartbeat."""

    async def follow(self) -> None:
        """Goes on for ever, over every outage."""
        failures = 0
        while True:
            try:
                self._unsettled = not await self._beat()
                await self._catch_up()
                failures = 0
                self._set_degraded(False)
                while True:
                    await self._read()
            except ENGINE_ERRORS as exc:
                self._set_degraded(True, str(exc) or type(exc).__name__)
            except Exception:
                # Of a listener, which is not told again; or of a broken reply: redis-py raises anything.
                logger.exception("The rooms could not be followed")
                self._set_degraded(True, "see above")
            await pause(failures)
            failures += 1

    def _set_degraded(self, degraded: bool, reason: str = "") -> None:
        self.started.set()
        if degraded:
            self._answers.clear()
        else:
            self._answers.set()
        if degraded != self._degraded:
            self._degraded = degraded
            logger.warning("Redis %s", f"does not answer: {reason}" if degraded else "answers again")
            self._listener.degraded(degraded)

    async def _catch_up(self) -> None:
        pipe = self._redis.pipeline(transaction=False)
        pipe.xrevrange(PRESENCE, count=1)
        [newest] = await replies(pipe, self._settings.publish_timeout)
        # Before the rooms are looked at: what changes meanwhile is told once more.
        self._presence_cursor = newest[0][0] if newest else BEGINNING
        await self._look(list(self.rooms.values()))

    async def _beat(self) -> bool:
        """False where Redis, or this process, was away for long."""
        was_alive, living = await self._presence.beat()
        # When it was away itself, so were the others, perhaps: they have until the next time.
        if was_alive:
            known = {process for room in self.rooms.values() for process in room.others}
            for process in known.difference(living):
                self._forget(process)
        return was_alive

    async def _look(self, rooms: Sequence[FollowedRoom]) -> None:
        """Reads how the rooms are now. Those that were not open are."""
        for start in range(0, len(rooms), BATCH):
            await self._look_at(rooms[start : start + BATCH])

    async def _look_at(self, rooms: Sequence[FollowedRoom]) -> None:
        pipe = self._redis.pipeline(transaction=False)
        pipe.zrange(PROCESSES, 0, -1)
        # Before the messages are looked at: those of a room that seems empty come after this id.
        pipe.get(FORGOTTEN)
        pipe.time()
        processes, forgotten, (seconds, microseconds) = await replies(pipe, self._settings.publish_timeout)
        others = [process for process in processes if process != self._presence.process]
        for room in rooms:
            pipe.xrevrange(messages_of(room.name), count=1)
            for process in others:
                pipe.hgetall(members_of(room.name, process))
        answers = iter(await replies(pipe, self._settings.publish_timeout))
        for room in rooms:
            newest = next(answers)
            last = newest[0][0] if newest else forgotten or BEGINNING
            seen = {process: _members(next(answers)) for process in others}
            if self.rooms.get(room.name) is not room:
                continue
            if not room.is_open.is_set():
                room.cursor = last
                if not newest:
                    room.empty_until = (seconds * 1_000 + microseconds // 1_000, 0)
            elif key_of(last) < key_of(room.cursor):
                room.cursor = last
                self._listener.lost(room.name, room.cursor)
            room.others |= seen
            members = [member for each in room.others.values() for member in each.values()]
            self._listener.elsewhere(room.name, members)
            room.is_open.set()

    async def _read(self) -> None:
        if monotonic() >= self._presence.next_beat:
            was_unsettled, self._unsettled = self._unsettled, not await self._beat()
            if was_unsettled or self._unsettled:
                return await self._catch_up()
        await self._look([room for room in self.rooms.values() if not room.is_open.is_set()])
        rooms = {messages_of(room.name): room for room in self.rooms.values() if room.is_open.is_set()}
        cursors: dict[Any, Any] = {PRESENCE: self._presence_cursor} | {
            stream: room.cursor for stream, room in rooms.items()
        }
        limit = self._settings.publish_timeout
        wait = max(0.001, min(limit, self._presence.next_beat - monotonic()))
        count = max(1, MAX_ENTRIES_READ // len(cursors))
        async with asyncio.timeout(wait + limit):
            streams: Any = await self._redis.xread(cursors, count=count, block=int(wait * 1_000))
        for stream, entries in streams:
            for entry_id, fields in entries:
                if stream != PRESENCE:
                    self._deliver(rooms[stream], entry_id, fields)
                    await asyncio.sleep(0)  # the receivers have a turn before their outboxes are full
                elif fields.get("before") == self._presence_cursor:
                    self._presence_cursor = entry_id
                    self._hear(fields)
                else:
                    return await self._catch_up()

    def _deliver(self, room: FollowedRoom, entry_id: str, fields: dict[str, str]) -> None:
        if self.rooms.get(room.name) is not room:
            return
        message = message_of(entry_id, fields)
        # What was before an entry that is not ours is not known.
        is_lost = not message or room.misses(fields["before"])
        room.cursor = entry_id
        if is_lost:
            self._listener.lost(room.name, room.cursor)
        if message:
            self._listener.posted(room.name, message)
        else:
            logger.warning("%s of %s is not ours, and is passed over", entry_id, messages_of(room.name))

    def _hear(self, event: Mapping[str, str]) -> None:
        names = ("process", "kind", "room", "connection", "member")
        process, kind, room, connection, written = (event.get(name, "") for name in names)
        followed = self.rooms.get(room)
        if process == self._presence.process:
            return
        if kind == "gone":
            self._forget(process)
        elif followed and followed.is_open.is_set():
            members = followed.others.setdefault(process, {})
            if kind == "joined" and connection not in members and (member := _member(written)):
                members[connection] = member
                self._listener.joined(room, member)
            elif kind == "left" and connection in members:
                self._listener.left(room, members.pop(connection))

    def _forget(self, process: str) -> None:
        for room in self.rooms.values():
            for member in room.others.pop(process, {}).values():
                self._listener.left(room.name, member)


def message_of(entry_id: str, fields: Mapping[str, str]) -> Message | None:
    """None: the entry is not ours."""
    milliseconds, _ = key_of(entry_id)
    try:
        key_of(fields["before"])
        return Message(
            id=entry_id,
            sender=Member.model_validate_json(fields["sender"]),
            text=fields["text"],
            sent_at=datetime.fromtimestamp(milliseconds / 1_000, UTC),
        )
    except (KeyError, ValueError, OverflowError, OSError):  # the last two of a time that cannot be
        return None


def _members(kept: Mapping[str, str]) -> dict[str, Member]:
    return {connection: member for connection, written in kept.items() if (member := _member(written))}


def _member(written: str) -> Member | None:
    """None: it is not ours."""
    try:
        return Member.model_validate_json(written)
    except ValueError:
        return None
