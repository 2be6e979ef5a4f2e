"""What the tests of the backplanes share: processes with a listener that writes down all it is told."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from app.realtime.backplane import Backplane
from app.realtime.messages import Member, Message
from app.realtime.redis_backplane import RedisBackplane, open_redis_backplane
from app.settings import RoomSettings
from tests.redis import RedisServer

LIMIT = 5.0
"""Seconds for any wait of a test."""

SETTINGS = RoomSettings(history=5, publish_timeout=1.0, heartbeat_seconds=0.2)
HASTY = SETTINGS.model_copy(update={"publish_timeout": 0.2})
SLOW = SETTINGS.model_copy(update={"publish_timeout": 2.0, "heartbeat_seconds": 10.0})

ADA = Member(connection="ada-1", user="1", name="Ada")
BOB = Member(connection="bob-1", user="2", name="Bob")


class Told:
    """A listener. Each event is a tuple that begins with its name."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []
        self._more = asyncio.Event()

    def posted(self, room: str, message: Message) -> None:
        self._note("posted", room, message.id, message.text)

    def lost(self, room: str, last_id: str) -> None:
        self._note("lost", room)

    def joined(self, room: str, member: Member) -> None:
        self._note("joined", room, member)

    def left(self, room: str, member: Member) -> None:
        self._note("left", room, member)

    def elsewhere(self, room: str, members: Sequence[Member]) -> None:
        self._note("elsewhere", room, *members)

    def degraded(self, degraded: bool) -> None:
        self._note("degraded", degraded)

    def of(self, *kinds: str) -> list[tuple[Any, ...]]:
        return [event for event in self.events if event[0] in kinds]

    @property
    def texts(self) -> list[str]:
        return [event[3] for event in self.of("posted")]

    @property
    def elsewhere_now(self) -> set[Member]:
        """Who is here in other processes, by all that was told. Of one room."""
        here: set[Member] = set()
        for kind, _, *members in self.of("elsewhere", "joined", "left"):
            here = set(members) if kind == "elsewhere" else here ^ set(members)
        return here

    async def until(self, condition: Callable[["Told"], bool]) -> None:
        async with asyncio.timeout(LIMIT):
            while not condition(self):
                self._more.clear()
                await self._more.wait()

    async def until_told(self, *event: Any) -> None:
        await self.until(lambda told: event in told.events)

    def _note(self, *event: Any) -> None:
        self.events.append(event)
        self._more.set()


async def say(backplane: Backplane, *texts: str, room: str = "r", sender: Member = ADA) -> list[str]:
    """Each text is its own ref."""
    return [await backplane.post(room, sender, text, text) for text in texts]


@asynccontextmanager
async def process(
    server: RedisServer, *rooms: str, settings: RoomSettings = SETTINGS
) -> AsyncIterator[tuple[RedisBackplane, Told]]:
    """A process, in which these rooms are open."""
    told = Told()
    async with open_redis_backplane(server.url, settings, told) as backplane:
        for room in rooms:
            await backplane.open(room)
        yield backplane, told
