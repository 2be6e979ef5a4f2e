"""What Redis keeps has an end, and no loss goes unnoticed.

Above `APP_ROOMS__MAX_ROOMS` the room whose last message is oldest is forgotten.
"""

from time import time_ns

import pytest

from app.realtime.backplane import key_of
from app.realtime.messages import BEGINNING, Member
from app.realtime.redis_store import FORGOTTEN, PRESENCE, ROOMS, connect, messages_of
from tests.contract.rooms import ADA, LIMIT, SETTINGS, process, say
from tests.redis import RedisServer

pytestmark = pytest.mark.anyio

FEW = SETTINGS.model_copy(update={"max_rooms": 2})


async def test_the_room_with_the_oldest_last_message_is_forgotten(server: RedisServer) -> None:
    async with process(server, settings=FEW) as (one, _):
        for room in ("a", "b", "a", "c", "a", "d"):  # a comes again each time
            await say(one, str(time_ns()), room=room)
        assert [server.command("EXISTS", messages_of(room)) for room in "abcd"] == [":1", ":0", ":0", ":1"]
        assert server.command("ZCARD", ROOMS) == ":2"
        assert (await one.history("a", BEGINNING, 9)).complete


async def test_the_room_in_which_a_message_was_just_posted_stays_though_the_clock_was_put_back(
    server: RedisServer,
) -> None:
    async with process(server, settings=FEW) as (one, _):
        await say(one, "1", room="a")
        for room in ("b", "c"):
            server.command("ZADD", ROOMS, "9999999999999999", messages_of(room))
        [kept] = await say(one, "2", room="d")
        assert (await one.history("d", kept, 9)).complete


async def test_more_rooms_than_may_be_are_forgotten_little_by_little(server: RedisServer) -> None:
    async with process(server, settings=FEW) as (one, _):
        for number in range(50):
            server.command("ZADD", ROOMS, str(time_ns() // 1_000), messages_of(f"r{number}"))
        await say(one, "1", room="a")
        assert server.command("ZCARD", ROOMS) == ":41"
        for text in "23456":
            await say(one, text, room="a")
        assert server.command("ZCARD", ROOMS) == ":2"


async def test_the_history_of_a_room_that_was_forgotten_is_incomplete(server: RedisServer) -> None:
    async with process(server, settings=FEW) as (one, _):
        ids = await say(one, "1", "2", room="a")
        await say(one, "3", room="b")
        assert await one.open("c") == BEGINNING
        await say(one, "4", room="c")
        for after in (BEGINNING, ids[0]):
            page = await one.history("a", after, 9)
            assert (page.messages, page.complete) == ([], False)
        # Who has seen its last message has missed nothing, nor has who joins now and comes back.
        assert (await one.history("a", ids[1], 9)).complete
        joined = await one.open("a")
        assert (await one.history("a", joined, 9)).complete
        [again] = await say(one, "5", room="a")
        assert key_of(again) > key_of(joined)
        for after, complete in {BEGINNING: False, ids[0]: False, ids[1]: True, joined: True}.items():
            page = await one.history("a", after, 9)
            assert ([message.text for message in page.messages], page.complete) == (["5"], complete)


async def test_the_ids_of_a_room_that_was_forgotten_go_on_though_the_clock_stands(
    server: RedisServer,
) -> None:
    async with process(server, "a") as (one, told):
        server.command("SET", FORGOTTEN, "9999999999999-7")
        assert await say(one, "1", "2", room="b") == ["9999999999999-8", "9999999999999-9"]
        assert await say(one, "1", room="a") == ["9999999999999-8"]
        await told.until(lambda told: told.texts == ["1"])


@pytest.mark.parametrize(
    "foreign_id", ["9999999999999-0", "18446744073709551614-5", "5-18446744073709551615"]
)
async def test_the_ids_of_other_rooms_do_not_go_on_from_that_of_a_stranger(
    server: RedisServer, foreign_id: str
) -> None:
    async with process(server, settings=FEW) as (one, _):
        server.command("XADD", messages_of("a"), foreign_id, "hello", "world")
        server.command("ZADD", ROOMS, str(time_ns() // 1_000 - 1_000_000), messages_of("a"))
        for room in "bc":
            await say(one, "x", room=room)
        assert server.command("EXISTS", messages_of("a")) == ":0"
        milliseconds, number = key_of(await one.open("r"))
        assert 0 < milliseconds <= time_ns() // 1_000_000 and number == 0
        [first] = await say(one, "1")
        assert key_of(first)[0] <= time_ns() // 1_000_000
        assert not (await one.history("a", BEGINNING, 9)).complete


async def test_rooms_whose_messages_have_expired_do_not_count(server: RedisServer) -> None:
    async with process(server, settings=FEW) as (one, _):
        for number in range(50):
            last = time_ns() // 1_000 - (FEW.history_seconds + 1) * 1_000_000
            server.command("ZADD", ROOMS, str(last), messages_of(f"r{number}"))
        await say(one, "1", room="a")
        assert server.command("ZCARD", ROOMS) == ":1"


async def test_who_follows_a_room_that_was_forgotten_is_told_what_is_lost(server: RedisServer) -> None:
    async with process(server, "a", settings=FEW) as (one, told), process(server, settings=FEW) as (two, _):
        await say(one, "1", room="a")
        await told.until(lambda told: told.texts == ["1"])
        one._reader.rooms["a"].cursor = "1-1"  # as if it had not read that
        for room in "bcd":
            await say(two, "x", room=room)
        await say(one, "2", room="a")
        await told.until(lambda told: told.texts[-1:] == ["2"])
        assert [event[0] for event in told.of("lost", "posted")][-2:] == ["lost", "posted"]


async def test_nothing_is_lost_in_an_empty_room_while_others_are_forgotten(server: RedisServer) -> None:
    async with process(server, settings=FEW) as (one, told):
        for room in "abc":
            last = (await say(one, "x", room=room))[0]
        while time_ns() // 1_000_000 == key_of(last)[0]:
            pass  # what is posted in the millisecond of the opening may be of either side
        opened_at = await one.open("r")
        for room in "de":
            await say(one, "x", room=room)
        assert server.command("EXISTS", messages_of("c")) == ":0"
        [first] = await say(one, "1")
        await told.until(lambda told: told.texts == ["1"])
        await one._reader._catch_up()
        await say(one, "2")
        await told.until(lambda told: told.texts == ["1", "2"])
        assert key_of(opened_at) <= key_of(last) < key_of(first)
        assert not told.of("lost")


async def test_what_is_kept_for_it_goes_with_the_last_room(server: RedisServer) -> None:
    async with process(server, settings=FEW) as (one, _):
        for room in "abc":
            await say(one, "1", room=room)
        for key in (ROOMS, FORGOTTEN):
            assert 0 < int(server.command("TTL", key)[1:]) <= FEW.history_seconds


async def test_a_ref_is_known_for_remembered_seconds(server: RedisServer) -> None:
    async with process(server, settings=SETTINGS.model_copy(update={"remembered_seconds": 77})) as (one, _):
        await one.post("r", ADA, "tea", "Tea?")
        async with connect(server.url, 1, LIMIT) as redis:
            [key] = await redis.keys(f"*:tea:{ADA.user}")
            assert 70 < await redis.ttl(key) <= 77


async def test_nothing_stays_for_ever_and_the_stream_of_presence_is_bounded(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.realtime.redis_presence.MAX_PRESENCE_EVENTS", 100)
    members = [Member(connection=f"c{n}", user="1", name="Ada") for n in range(500)]
    async with process(server, "r") as (one, _), process(server, "r") as (_, told):
        for member in members:
            one.announce("r", member, here=True)
        await say(one, "1")
        await told.until(lambda told: told.elsewhere_now == set(members))
        async with connect(server.url, 1, LIMIT) as redis:
            keys = [key async for key in redis.scan_iter()]
            assert len(keys) == 8
            assert all([await redis.pttl(key) > 0 for key in keys])
            assert await redis.xlen(PRESENCE) < 300
