import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from app.errors import ServiceUnavailable
from app.realtime.backplane import Page
from app.realtime.hub import Hub
from app.realtime.local_rooms import Event, LocalRooms
from app.realtime.memory_backplane import MemoryBackplane
from app.realtime.messages import BEGINNING, Member, Message
from app.security.socket_user import SocketUser
from app.settings import RoomSettings, Settings

pytestmark = pytest.mark.anyio

ADA = SocketUser("1", "Ada", expires_at=0)
BOB = Member(connection="bob-1", user="2", name="Bob")
PAGE_SIZE = 2


class Talk:
    """What Bob says when his next chance comes."""

    def __init__(self, *texts: str) -> None:
        self.unsaid = list(texts)
        self.backplane: MemoryBackplane | None = None

    async def go_on(self) -> None:
        if self.unsaid and self.backplane:
            text = self.unsaid.pop(0)
            await self.backplane.post("kitchen", BOB, text, text)


class InterruptedMemory(MemoryBackplane):
    """One that takes its time: while it answers, Bob says something."""

    def __init__(self, settings: RoomSettings, local: LocalRooms, talk: Talk) -> None:
        super().__init__(settings, local)
        self._talk = talk

    async def history(self, room: str, after: str, limit: int) -> Page:
        page = await super().history(room, after, limit)
        await self._talk.go_on()
        return page


class Reader:
    """An outlet to somebody slow: while it drains, Bob says something."""

    def __init__(self, talk: Talk) -> None:
        self._talk = talk
        self.told: list[dict[str, Any]] = []

    def put(self, event: Event) -> bool:
        self.told.append(json.loads(event.text.content))
        return True

    async def drained(self) -> None:
        await self._talk.go_on()

    @property
    def texts(self) -> list[str]:
        return [content["text"] for content in self.told if content["type"] == "message"]


def hub_of(settings: Settings, backplane: MemoryBackplane, local: LocalRooms) -> Hub:
    return Hub(settings.model_copy(update={"ws_queue_size": 2 * PAGE_SIZE}), local, backplane)


async def follow(settings: Settings, before: Sequence[str], while_read: Talk, while_sent: Talk) -> Reader:
    """Who has read all of the kitchen, and then what was said at last."""
    local = LocalRooms()
    backplane = InterruptedMemory(settings.rooms, local, while_read)
    hub = hub_of(settings, backplane, local)
    for text in before:
        await backplane.post("kitchen", BOB, text, text)
    while_read.backplane = while_sent.backplane = backplane
    reader = Reader(while_sent)
    async with hub.visit("kitchen", ADA) as visit:
        await visit.follow(reader, BEGINNING)
        await backplane.post("kitchen", BOB, "last", "last")
    return reader


@pytest.mark.parametrize("before", ["", "1", "123"])
@pytest.mark.parametrize("said", ["a", "ab", "abcde"])
async def test_what_is_said_while_the_welcome_or_the_history_drains_comes_once_and_in_order(
    settings: Settings, before: str, said: str
) -> None:
    reader = await follow(settings, before, Talk(), Talk(*said))
    assert reader.texts == [*before, *said, "last"]


@pytest.mark.parametrize("before", ["", "1", "123"])
@pytest.mark.parametrize("said", ["a", "ab", "abcde"])
async def test_what_is_said_while_the_history_is_looked_up_comes_once_and_in_order(
    settings: Settings, before: str, said: str
) -> None:
    reader = await follow(settings, before, Talk(*said), Talk())
    assert reader.texts == [*before, *said, "last"]


async def test_members_in_other_processes_count_and_those_of_this_one_count_once(settings: Settings) -> None:
    rooms = settings.rooms.model_copy(update={"max_members": 3})
    local = LocalRooms()
    hub = hub_of(settings.model_copy(update={"rooms": rooms}), MemoryBackplane(rooms, local), local)
    async with hub.visit("kitchen", ADA) as first:
        await first.follow(Reader(Talk()), None)
        local.elsewhere("kitchen", [BOB])
        async with hub.visit("kitchen", ADA):
            with pytest.raises(ServiceUnavailable, match="full"):
                async with hub.visit("kitchen", ADA):
                    pytest.fail("four are in a room for three")
            local.left("kitchen", BOB)
            async with hub.visit("kitchen", ADA):
                assert local.rooms["kitchen"].visits == 3


class BusyMemory(MemoryBackplane):
    """One whose listener is told of a message before `open` has answered."""

    def __init__(self, settings: RoomSettings, local: LocalRooms, opened_at: str, told: str) -> None:
        super().__init__(settings, local)
        self._local = local
        self._opened_at = opened_at
        self._told = told

    async def open(self, room: str) -> str:
        self._local.posted(room, Message(id=self._told, sender=BOB, text="Tea?", sent_at=datetime.now(UTC)))
        return self._opened_at


@pytest.mark.parametrize("ids", [("9-0", "10-0"), ("10-0", "9-0")])
async def test_the_last_id_is_the_newer_one_of_what_was_found_and_what_was_told_meanwhile(
    settings: Settings, ids: tuple[str, str]
) -> None:
    local = LocalRooms()
    hub = hub_of(settings, BusyMemory(settings.rooms, local, *ids), local)
    async with hub.visit("kitchen", ADA) as visit:
        assert visit.last_id == "10-0"


async def test_who_comes_back_after_a_loss_gets_all_that_is_kept(settings: Settings) -> None:
    local = LocalRooms()
    hub = hub_of(settings, MemoryBackplane(settings.rooms, local), local)
    async with hub.visit("kitchen", ADA):
        ids = [await hub.backplane.post("kitchen", BOB, str(n), str(n)) for n in range(5 * PAGE_SIZE)]
        local.lost("kitchen", ids[-1])
        back = Reader(Talk())
        async with hub.visit("kitchen", ADA) as visit:
            await visit.follow(back, ids[0])
        assert back.texts == [str(n) for n in range(1, 5 * PAGE_SIZE)]
        assert back.told[0]["last_id"] == ids[-1]
