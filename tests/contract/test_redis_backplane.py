"""Many processes on one Redis."""

import asyncio
from time import monotonic

import pytest

from app.realtime.messages import Member
from app.realtime.redis_presence import Presence
from tests.contract.rooms import ADA, BOB, SETTINGS, process, say
from tests.redis import RedisServer

pytestmark = pytest.mark.anyio


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
        await told.until(
            lambda told: {m for e in told.of("elsewhere", "joined") for m in e[2:]} == set(members)
        )
        assert len(told.of("elsewhere", "joined")) + len(told.of("elsewhere")[0]) - 3 == len(members)


async def test_the_members_of_a_process_that_ends_have_left(server: RedisServer) -> None:
    async with process(server, "r") as (_, told):
        async with process(server, "r") as (one, _):
            one.announce("r", ADA, here=True)
            await told.until_told("joined", "r", ADA)
        await told.until_told("left", "r", ADA)
        async with process(server, "r") as (_, told_later):
            assert told_later.events == [("elsewhere", "r")]


async def test_the_members_of_a_process_that_dies_have_left_after_three_heartbeats(
    server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with process(server, "r") as (_, told):
        async with process(server, "r") as (one, _):
            one.announce("r", ADA, here=True)
            await told.until_told("joined", "r", ADA)
            monkeypatch.setattr(Presence, "say_goodbye", say_nothing)
        died = monotonic()
        await told.until_told("left", "r", ADA)
        assert 0.1 < monotonic() - died < 1
        async with process(server, "r") as (_, told_later):
            assert told_later.events == [("elsewhere", "r")]
