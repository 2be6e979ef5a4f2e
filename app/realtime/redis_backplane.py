"""Behind the rooms of many processes: one Redis (not a cluster, for one read is of all rooms).

Each room is a stream of messages; one more stream says who comes and goes, in all rooms. One task of each
process, `Reader`, reads them all, each from the last entry that it has seen: after an outage it goes on
where it was. Another one, `Presence`, writes who is here.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

from pydantic import SecretStr
from redis.asyncio import Redis

from app.realtime.backplane import Listener, Page, RoomBusy, Unavailable, key_of
from app.realtime.messages import BEGINNING, Member, Message
from app.realtime.redis_presence import Presence
from app.realtime.redis_reader import FollowedRoom, Reader, message_of
from app.realtime.redis_store import FORGOTTEN, POST, PREFIX, ROOMS, connect, messages_of
from app.realtime.token_bucket import BURST_SECONDS
from app.settings import RoomSettings

MAX_REQUESTS = 16
"""Requests to Redis at once; more wait, within their time."""


class RedisBackplane:
    def __init__(self, redis: Redis, settings: RoomSettings, listener: Listener) -> None:
        self._redis = redis
        self._settings = settings
        self._answers = asyncio.Event()
        """Set while Redis does."""
        self._presence = Presence(redis, settings, self._answers)
        self._reader = Reader(redis, settings, listener, self._presence, self._answers)
        # In redis-py's own pool that waits, one can wait beside a free connection when another is cancelled.
        self._turns = asyncio.Semaphore(MAX_REQUESTS)

    async def open(self, room: str) -> str:
        followed = self._reader.rooms.setdefault(room, FollowedRoom(room))
        try:
            async with self._in_time():
                async with self._turns:
                    await self._presence.wake()
                await followed.is_open.wait()
        except BaseException:
            self.close(room)
            raise
        return followed.cursor

    def close(self, room: str) -> None:
        self._reader.rooms.pop(room, None)

    async def post(self, room: str, sender: Member, ref: str, text: str) -> str:
        settings = self._settings
        keys = [messages_of(room), f"{PREFIX}rate:{room}", f"{PREFIX}posted:{room}:{ref}:{sender.user}"]
        keys += [ROOMS, FORGOTTEN]
        limits = [BURST_SECONDS, settings.messages_per_second * BURST_SECONDS, settings.remembered_seconds]
        kept = [settings.history, settings.history_seconds, settings.max_rooms]
        async with self._in_time(), self._turns:
            message_id = await self._redis.eval(
                POST, len(keys), *keys, *limits, *kept, sender.model_dump_json(), text
            )
            if message_id is not None:
                key_of(message_id)  # what is no id is no answer
        if message_id is None:
            raise RoomBusy
        return str(message_id)

    async def history(self, room: str, after: str, limit: int) -> Page:
        after = "{}-{}".format(*key_of(after))  # as Redis writes it
        async with self._in_time(), self._turns:
            pipe = self._redis.pipeline(transaction=False)
            pipe.xrange(messages_of(room), min=after, count=limit + 1)
            # After the messages were looked at: what has just gone with the room is not missed.
            pipe.get(FORGOTTEN)
            entries, forgotten = await pipe.execute()
            first_id, first = entries[0] if entries else (None, {"before": forgotten or BEGINNING})
            complete = after in (first_id, first.get("before"))
            if first_id == after:
                entries = entries[1:]
            while not (messages := _messages(entries)) and entries:
                # None of them is ours. An empty page would be the end of the history.
                past: Any = f"({entries[-1][0]}"
                entries = await self._redis.xrange(messages_of(room), min=past, count=limit)
        return Page(messages[:limit], complete)

    def announce(self, room: str, member: Member, *, here: bool) -> None:
        self._presence.announce(room, member, here)

    async def check(self) -> None:
        async with self._in_time(), self._turns:
            await self._redis.ping()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Tells the listener what happens, and the other processes what happens here, in the block."""
        tasks = [asyncio.create_task(self._reader.follow()), asyncio.create_task(self._presence.tell())]
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.publish_timeout):
                    await self._reader.started.wait()
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            if self._answers.is_set():
                with suppress(Exception):  # of a broken reply too: the others find out by the silence
                    await self._presence.say_goodbye()

    @asynccontextmanager
    async def _in_time(self) -> AsyncIterator[None]:
        if not self._answers.is_set():
            raise Unavailable
        try:
            async with asyncio.timeout(self._settings.publish_timeout):
                yield
        except Exception as exc:
            # For a broken reply redis-py raises anything, and nothing but a request is in the block.
            raise Unavailable from exc


def _messages(entries: Sequence[tuple[str, Mapping[str, str]]]) -> list[Message]:
    return [message for entry in entries if (message := message_of(*entry))]


@asynccontextmanager
async def open_redis_backplane(
    url: SecretStr, settings: RoomSettings, listener: Listener
) -> AsyncIterator[RedisBackplane]:
    """Connected, or degraded until Redis answers. Raises `ValueError` for what is no URL of Redis."""
    async with connect(url, MAX_REQUESTS + 2, settings.publish_timeout) as redis:
        backplane = RedisBackplane(redis, settings, listener)
        async with backplane.running():
            yield backplane
