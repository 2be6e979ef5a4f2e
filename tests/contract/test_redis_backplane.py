"""Many processes on one Redis."""

import asyncio
from time import monotonic
from typing import Any

import pytest

from app.realtime.messages import Member, Message
from app.realtime.redis_backplane import open_redis_backplane
from app.realtime.redis_presence import Presence
from app.realtime.redis_store import PRESENCE, PROCESSES, connect, members_of, messages_of
from tests.contract.rooms import ADA, BOB, LIMIT, SETTINGS, SLOW, Told, process, say
from tests.redis import RedisServer

pytestmark = pytest.mark.anyio

QUICK = SETTINGS.model_copy(update={"heartbeat_seconds": 0.1})


async def say_nothing(self: Presence) -> None:
    """The goodbye of a process that is killed."""


async def test_what_is_posted_in_one_process_is_told_in_all_in_the_same_order(server: RedisServer) -> None:
    settings = SETTINGS.model_copy(update={"history": 100})
    async with process(server, "r", settings=settings) as (one, told_one):
        async with process(server, "r", settings=settings) as (two, told_two):
            await asyncio.gather(say(one, *"abcdefghij"), say(two, *"0123456789", sender=BOB))
            for told in (told_one, told_two):
                await told.until(lambda told: len(told.texts) == 20)
                assert not told.of("lost")
            assert told_one.of("posted") == told_two.of("posted")
            assert [text for text in told_one.texts if text.isalpha()] == list("abcdefghij")


async def test_who_comes_and_goes_is_told_in_the_other_processes_only(server: RedisServer) -> None:
    async with process(server, "r") as (one, told_one), process(server, "r", "s") as (_, told_two):
        one.announce("r", ADA, here=True)
        one.announce("r", BOB, here=True)
        await told_two.until_told("joined", "r", BOB)
        one.announce("r", ADA, here=False)
        await told_two.until_told("left", "r", ADA)
        assert told_two.of("joined", "left") == [
            ("joined", "r", ADA),
            ("joined", "r", BOB),
            ("left", "r", ADA),
        ]
        assert not told_one.of("joined", "left")
        again = ADA.model_copy(update={"connection": "ada-2"})
        one.announce("r", again, here=True)
        await told_two.until_told("joined", "r", again)
        assert one._presence._told == {("r", BOB.connection), ("r", again.connection)}


async def test_who_was_here_before_is_told_when_a_room_is_opened(server: RedisServer) -> None:
    async with process(server, "r") as (one, _), process(server, "r") as (two, told_two):
        one.announce("r", ADA, here=True)
        two.announce("r", BOB, here=True)
        await told_two.until_told("joined", "r", ADA)
        async with process(server, "r") as (three, told_three):
            [elsewhere] = told_three.of("elsewhere")
            assert set(elsewhere[2:]) == {ADA, BOB}
            one.announce("r", ADA, here=False)
            await told_three.until_told("left", "r", ADA)
            assert not told_three.of("joined")
            three.close("r")
            await three.open("r")
            assert told_three.events[-1] == ("elsewhere", "r", BOB)


async def test_nobody_is_missed_who_comes_while_a_room_is_opened(server: RedisServer) -> None:
    members = [Member(connection=f"c{n}", user="1", name="Ada") for n in range(60)]
    async with process(server, "r") as (one, _), process(server) as (two, told):
        for number, member in enumerate(members):
            one.announce("r", member, here=True)
            if number % 3 == 0:
                await asyncio.sleep(0)
            if number == 30:
                opening = asyncio.create_task(two.open("r"))
        await opening
        await told.until(lambda told: told.elsewhere_now == set(members))
        assert len(told.of("elsewhere", "joined")) + len(told.of("elsewhere")[0]) - 3 == len(members)


async def test_the_members_of_a_process_that_ends_have_left_at_once(server: RedisServer) -> None:
    async with process(server, "r", settings=SLOW) as (_, told):
        async with process(server, "r", settings=SLOW) as (one, _):
            one.announce("r", ADA, here=True)
            await told.until_told("joined", "r", ADA)
        await told.until_told("left", "r", ADA)
        async with process(server, "r") as (_, told_later):
            assert told_later.events == [("elsewhere", "r")]


async def test_the_members_of_a_process_that_dies_have_left_after_three_heartbeats(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with process(server, "r", settings=QUICK) as (_, told):
        async with process(server, "r", settings=QUICK) as (one, _):
            one.announce("r", ADA, here=True)
            await told.until_told("joined", "r", ADA)
            monkeypatch.setattr(Presence, "say_goodbye", say_nothing)
        died = monotonic()
        await told.until_told("left", "r", ADA)
        assert 0.1 < monotonic() - died < 1
        async with process(server, "r", settings=QUICK) as (_, told_later):
            assert told_later.events == [("elsewhere", "r")]


async def test_a_process_that_was_taken_for_dead_announces_its_members_again(server: RedisServer) -> None:
    sluggish = QUICK.model_copy(update={"heartbeat_seconds": 5 * QUICK.heartbeat_seconds})
    async with (
        process(server, "r", settings=sluggish) as (one, _),
        process(server, "r", settings=QUICK) as (_, told),
    ):
        one.announce("r", ADA, here=True)
        await told.until(lambda told: len(told.of("joined", "left")) == 3)
        assert [event[0] for event in told.of("joined", "left")] == ["joined", "left", "joined"]


async def test_after_an_outage_the_others_have_one_heartbeat_to_come_back(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with process(server, "r", settings=QUICK) as (_, told):
        async with process(server, "r", settings=QUICK) as (one, _):
            one.announce("r", ADA, here=True)
            await told.until_told("joined", "r", ADA)
            monkeypatch.setattr(Presence, "say_goodbye", say_nothing)
        told.events.clear()
        server.command("FLUSHALL")
        await told.until_told("left", "r", ADA)
        assert told.events == [("elsewhere", "r", ADA), ("left", "r", ADA)]


async def test_who_left_before_their_process_was_back_is_not_here(server: RedisServer) -> None:
    async with process(server, "r", settings=SLOW) as (one, _), process(server, "r") as (_, told):
        for member in (ADA, BOB):
            one.announce("r", member, here=True)
            await told.until_told("joined", "r", member)
        told.events.clear()
        async with connect(server.url, 1, LIMIT) as redis:
            await redis.hdel(members_of("r", one._presence.process), ADA.connection)
            await redis.delete(PROCESSES)
            await told.until(lambda told: bool(told.of("elsewhere")))
            assert told.elsewhere_now == {ADA, BOB}
            await redis.zadd(PROCESSES, {one._presence.process: 2.0**42})
            await told.until(lambda told: told.elsewhere_now == {BOB})


async def test_what_was_missed_of_who_comes_and_goes_is_looked_up(server: RedisServer) -> None:
    async with (
        process(server, "r", settings=SLOW) as (one, _),
        process(server, "r", settings=SLOW) as (_, told),
    ):
        async with connect(server.url, 1, LIMIT) as redis:
            # Bob comes, and the event of it is gone from the stream when the others read on.
            here = members_of("r", one._presence.process)
            await redis.hset(here, BOB.connection, BOB.model_dump_json())
            event: Any = dict.fromkeys(("process", "kind", "room", "connection", "member"), "")
            await redis.xadd(PRESENCE, {**event, "before": "1-1"})
        await told.until(lambda told: told.elsewhere_now == {BOB})
        one.announce("r", ADA, here=True)
        await told.until_told("joined", "r", ADA)


async def test_what_redis_has_forgotten_of_who_is_here_is_told_again(server: RedisServer) -> None:
    async with process(server, "r") as (one, _), process(server, "r") as (_, told):
        one.announce("r", ADA, here=True)
        await told.until_told("joined", "r", ADA)
        async with connect(server.url, 1, LIMIT) as redis:
            here = members_of("r", one._presence.process)
            await redis.hset(here, BOB.connection, BOB.model_dump_json())
            await redis.hdel(here, ADA.connection)
        async with process(server, "r") as (_, told_later):
            await told_later.until(lambda told: told.elsewhere_now == {ADA})


async def test_a_room_is_opened_at_once_though_nobody_says_anything(server: RedisServer) -> None:
    async with process(server, settings=SLOW) as (one, _):
        started = monotonic()
        await one.open("r")
        assert monotonic() - started < SLOW.publish_timeout / 2


async def test_a_room_that_is_closed_amid_many_messages_is_told_no_more(server: RedisServer) -> None:
    class Closing(Told):
        def posted(self, room: str, message: Message) -> None:
            super().posted(room, message)
            one.close("r")

    told = Closing()
    async with open_redis_backplane(server.url, SETTINGS, told) as one:
        await one.open("r")
        async with connect(server.url, 1, LIMIT) as redis, redis.pipeline() as at_once:
            for number in range(3):
                message: Any = {"before": f"1-{number}", "sender": ADA.model_dump_json(), "text": str(number)}
                at_once.xadd(messages_of("r"), message, id=f"1-{number + 1}")
            await at_once.execute()
        await told.until(lambda told: bool(told.texts))
        await one.open("s")
        assert told.texts == ["0"]


async def test_the_receivers_have_a_turn_between_two_messages(server: RedisServer) -> None:
    settings = SETTINGS.model_copy(update={"history": 100})
    turns: list[int] = [0]

    class Counting(Told):
        def posted(self, room: str, message: Message) -> None:
            super().posted(room, message)
            turns.append(0)

    async def receive() -> None:
        while True:
            turns[-1] += 1
            await asyncio.sleep(0)

    told = Counting()
    async with open_redis_backplane(server.url, settings, told) as one:
        await one.open("r")
        receiver = asyncio.create_task(receive())
        await asyncio.gather(*(say(one, str(number)) for number in range(50)))
        await told.until(lambda told: len(told.texts) == 50)
        receiver.cancel()
    assert all(turns[1:-1])
