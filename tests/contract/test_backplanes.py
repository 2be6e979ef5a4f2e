"""What every backplane of the rooms does, in the process and on Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.realtime.backplane import Backplane, Page, RoomBusy, key_of
from app.realtime.memory_backplane import MemoryBackplane
from app.realtime.messages import BEGINNING
from app.realtime.redis_backplane import open_redis_backplane
from app.settings import RoomSettings
from tests.contract.rooms import ADA, BOB, SETTINGS, Told, say
from tests.redis import RedisServer

pytestmark = pytest.mark.anyio


@pytest.fixture(params=["memory", "redis"])
def engine(request: pytest.FixtureRequest) -> Any:
    if request.param == "memory":
        return None
    return request.getfixturevalue("server")


@asynccontextmanager
async def backplane(
    engine: RedisServer | None, listener: Told, settings: RoomSettings = SETTINGS
) -> AsyncIterator[Backplane]:
    if engine is None:
        yield MemoryBackplane(settings, listener)
    else:
        async with open_redis_backplane(engine.url, settings, listener) as backplane:
            yield backplane


def texts(page: Page) -> list[str]:
    return [message.text for message in page.messages]


async def test_messages_are_told_in_the_order_of_their_ids_each_once(engine: Any) -> None:
    told = Told()
    async with backplane(engine, told) as rooms:
        assert await rooms.open("r") == BEGINNING
        ids = await say(rooms, "1", "2", "3", sender=BOB)
        await told.until(lambda told: len(told.texts) == 3)
        assert told.of("posted", "lost") == [("posted", "r", ids[n], str(n + 1)) for n in range(3)]
        assert ids == sorted(set(ids), key=key_of)
        page = await rooms.history("r", BEGINNING, 1)
        [message] = page.messages
        assert (message.id, message.sender, message.text) == (ids[0], BOB, "1")


async def test_many_who_post_at_once_are_told_in_order(engine: Any) -> None:
    told = Told()
    async with backplane(engine, told, SETTINGS.model_copy(update={"history": 100})) as rooms:
        await rooms.open("r")
        ids = await asyncio.gather(*(rooms.post("r", ADA, f"r{n}", str(n)) for n in range(100)))
        await told.until(lambda told: len(told.texts) == 100)
        assert [event[2] for event in told.of("posted")] == sorted(ids, key=key_of)
        assert not told.of("lost")


async def test_one_ref_of_one_user_is_one_message(engine: Any) -> None:
    told = Told()
    async with backplane(engine, told) as rooms:
        await rooms.open("r")
        first = await rooms.post("r", ADA, "ref", "once")
        elsewhere = ADA.model_copy(update={"connection": "ada-2"})
        assert await rooms.post("r", elsewhere, "ref", "again") == first
        assert await rooms.post("r", BOB, "ref", "of Bob") != first
        await rooms.post("other", ADA, "ref", "in another room")
        assert texts(await rooms.history("other", BEGINNING, 9)) == ["in another room"]
        await told.until(lambda told: len(told.texts) == 2)
        assert told.texts == ["once", "of Bob"]


async def test_the_history_comes_in_pages(engine: Any) -> None:
    async with backplane(engine, Told()) as rooms:
        ids = await say(rooms, "1", "2", "3", "4", "5")
        assert texts(await rooms.history("r", BEGINNING, 2)) == ["1", "2"]
        assert texts(await rooms.history("r", ids[1], 2)) == ["3", "4"]
        assert texts(await rooms.history("r", ids[3], 2)) == ["5"]
        assert await rooms.history("r", ids[4], 2) == Page([], complete=True)


async def test_the_history_says_exactly_whether_messages_before_it_are_forgotten(engine: Any) -> None:
    async with backplane(engine, Told()) as rooms:
        assert await rooms.history("r", BEGINNING, 9) == Page([], complete=True)
        ids = await say(rooms, "1", "2", "3", "4", "5")
        for after in (BEGINNING, *ids):
            assert (await rooms.history("r", after, 9)).complete
        ids += await say(rooms, "6", "7")  # five are kept
        for after, complete in {BEGINNING: False, ids[0]: False, ids[1]: True, ids[2]: True}.items():
            page = await rooms.history("r", after, 9)
            assert (texts(page)[-1], page.complete) == ("7", complete)
        assert texts(await rooms.history("r", BEGINNING, 9)) == ["3", "4", "5", "6", "7"]


async def test_an_id_of_another_life_of_the_service_is_forgotten(engine: Any) -> None:
    async with backplane(engine, Told()) as rooms:
        assert not (await rooms.history("r", "1785000000000-3", 9)).complete
        await say(rooms, "1")
        page = await rooms.history("r", "1785000000000-3", 9)
        assert (texts(page), page.complete) == (["1"], False)
        assert await rooms.history("r", "999999999999999-999999999999999", 9) == Page([], complete=False)


async def test_more_than_the_rate_of_a_room_is_refused_but_not_what_was_posted_before(engine: Any) -> None:
    settings = SETTINGS.model_copy(update={"messages_per_second": 0.2})
    async with backplane(engine, Told(), settings) as rooms:
        [first, _] = await say(rooms, "1", "2")
        with pytest.raises(RoomBusy):
            await say(rooms, "3")
        assert await say(rooms, "1") == [first]
        await say(rooms, "1", room="another")
        assert texts(await rooms.history("r", BEGINNING, 9)) == ["1", "2"]


async def test_only_open_rooms_are_told(engine: Any) -> None:
    told = Told()
    async with backplane(engine, told) as rooms:
        await rooms.open("r")
        await say(rooms, "in r")
        await say(rooms, "unheard", room="closed")
        last = (await say(rooms, "last", room="s"))[0]
        await told.until(lambda told: told.texts == ["in r"])
        rooms.close("r")
        assert await rooms.open("s") == last
        await say(rooms, "after r", room="r")
        await say(rooms, "in s", room="s")
        await told.until(lambda told: len(told.texts) == 2)
        assert await rooms.open("r") == (await rooms.history("r", BEGINNING, 9)).messages[-1].id
        await say(rooms, "again in r")
        await told.until(lambda told: len(told.texts) == 3)
        assert told.texts == ["in r", "in s", "again in r"]
        assert not told.of("lost")


async def test_what_is_not_ascii_and_the_longest_text_are_kept_as_they_are(engine: Any) -> None:
    told = Told()
    text = "né \0\r\n\U0001f984".ljust(4_000, "\u2028")
    async with backplane(engine, told) as rooms:
        await rooms.open("r")
        await rooms.post("r", ADA, "ref", text)
        await told.until(lambda told: told.texts == [text])
        assert texts(await rooms.history("r", BEGINNING, 1)) == [text]


async def test_an_engine_that_answers_passes_the_check(engine: Any) -> None:
    async with backplane(engine, Told()) as rooms:
        await rooms.check()
