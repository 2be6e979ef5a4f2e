"""A Redis that is away, hangs, is full, or has forgotten; and callers that do not wait for it."""

import asyncio
import logging
from pathlib import Path
from time import monotonic, time_ns

import pytest
from pydantic import SecretStr

from app.realtime.backplane import Unavailable, key_of
from app.realtime.messages import BEGINNING
from app.realtime.redis_backplane import MAX_REQUESTS, open_redis_backplane
from app.realtime.redis_store import PRESENCE, TELL, connect, members_of, messages_of, told_of
from tests.contract.rooms import ADA, BOB, HASTY, LIMIT, SETTINGS, SLOW, Told, process, say
from tests.redis import RedisServer

pytestmark = pytest.mark.anyio

OK, DEGRADED = ("degraded", False), ("degraded", True)


async def test_a_server_that_is_restarted_costs_no_message_and_brings_none_twice(
    lasting: RedisServer,
) -> None:
    async with process(lasting, "r") as (one, told_one), process(lasting, "r") as (_, told_two):
        one.announce("r", ADA, here=True)
        await say(one, "before")
        for told in (told_one, told_two):
            await told.until(lambda told: told.texts == ["before"])
        await told_two.until_told("joined", "r", ADA)
        lasting.stop()
        for told in (told_one, told_two):
            await told.until_told(*DEGRADED)
        with pytest.raises(Unavailable):
            await say(one, "meanwhile")
        for here in (True, False, True, False):
            one.announce("r", BOB, here=here)
        assert not one._presence._untold  # of who comes and goes meanwhile, nothing is left to tell
        lasting.start()
        for told in (told_one, told_two):
            await told.until_told(*OK)
        await say(one, "before", "meanwhile", "after")
        for told in (told_one, told_two):
            await told.until(lambda told: len(told.texts) == 3)
            assert told.texts == ["before", "meanwhile", "after"]
            assert told.of("degraded", "lost") == [DEGRADED, OK]
        assert not told_two.of("left")
        assert told_two.of("elsewhere")[-1] == ("elsewhere", "r", ADA)


async def test_a_server_that_has_lost_everything_is_told_as_lost_and_presence_comes_back(
    lasting: RedisServer, tmp_path: Path
) -> None:
    async with process(lasting, "r", "quiet") as (one, told_one), process(lasting, "r") as (_, told_two):
        one.announce("r", ADA, here=True)
        await say(one, "before")
        await told_two.until(lambda told: told.texts == ["before"])
        lasting.stop()
        (tmp_path / "appendonlydir").rename(tmp_path / "lost")
        lasting.start()
        for told in (told_one, told_two):
            await told.until_told(*OK)
            assert told.of("lost") == [("lost", "r")]
        await say(one, "after")
        for told in (told_one, told_two):
            await told.until(lambda told: told.texts == ["before", "after"])
            assert told.of("lost") == [("lost", "r")]
        async with process(lasting, "r") as (_, told_later):
            await told_later.until(lambda told: told.elsewhere_now == {ADA})
        assert not told_two.of("left")


async def test_a_server_that_is_emptied_is_told_as_lost(server: RedisServer) -> None:
    async with process(server, "r") as (one, told):
        [before] = await say(one, "before")
        await told.until(lambda told: told.texts == ["before"])
        server.command("FLUSHALL")
        while time_ns() // 1_000_000 == key_of(before)[0]:
            pass  # the next one might have the same id
        await say(one, "after")
        await told.until(lambda told: told.texts == ["before", "after"])
        assert [event[0] for event in told.of("posted", "lost")] == ["posted", "lost", "posted"]
        assert not (await one.history("r", before, 9)).complete


async def test_an_emptied_server_whose_clock_was_put_back_is_followed_again(server: RedisServer) -> None:
    fields = ["before", BEGINNING, "sender", ADA.model_dump_json().replace('"', '\\"'), "text", "future"]
    quoted = [f'"{field}"' for field in fields]
    async with process(server, "r") as (one, told):
        server.command("XADD", messages_of("r"), "9999999999999-0", *quoted)
        await told.until(lambda told: told.texts == ["future"])
        server.command("FLUSHALL")
        await told.until_told("lost", "r")
        await say(one, "present")
        await told.until(lambda told: told.texts == ["future", "present"])


async def test_a_server_that_hangs_holds_up_nobody_for_longer_than_the_limit(server: RedisServer) -> None:
    async with process(server, "r", settings=HASTY) as (one, told):
        server.freeze()
        try:
            started = monotonic()
            results = await asyncio.gather(
                *(one.post("r", ADA, f"{n}", "text") for n in range(3 * MAX_REQUESTS)),
                one.history("r", BEGINNING, 9),
                one.open("s"),
                one.check(),
                return_exceptions=True,
            )
            assert {type(result) for result in results} == {Unavailable}
            assert monotonic() - started < HASTY.publish_timeout + 0.2
            await told.until_told(*DEGRADED)
            started = monotonic()
            with pytest.raises(Unavailable):
                await one.check()
            assert monotonic() - started < 0.1
        finally:
            server.thaw()
        await told.until_told(*OK)
        # Each was posted once or not at all; sent again, each is there once.
        ids = await asyncio.gather(*(one.post("r", ADA, f"{n}", "text") for n in range(3 * MAX_REQUESTS)))
        assert len(set(ids)) == 3 * MAX_REQUESTS


async def test_what_could_not_be_told_is_told_later(server: RedisServer) -> None:
    async with process(server, settings=SLOW) as (one, _), process(server, "r", settings=SLOW) as (_, told):
        one.announce("r", ADA, here=True)
        await told.until_told("joined", "r", ADA)
        server.command("CONFIG", "SET", "maxmemory", "1")
        try:
            one.announce("r", ADA, here=False)
            for _ in range(5):  # by then the change is refused as well
                with pytest.raises(Unavailable):
                    await say(one, "1")
        finally:
            server.command("CONFIG", "SET", "maxmemory", "0")
        await told.until_told("left", "r", ADA)


async def test_what_arrives_late_from_a_connection_that_was_given_up_changes_nothing(
    server: RedisServer,
) -> None:
    async with process(server) as (one, _), process(server, "r", settings=SLOW) as (_, told):
        for member in (ADA, BOB):
            one.announce("r", member, here=True)
            await told.until_told("joined", "r", member)
        members, last = members_of("r", one._presence.process), told_of(one._presence.process)
        late = one._presence._event("left", "r", BOB.connection)
        async with connect(server.url, 1, LIMIT) as redis:
            assert await redis.eval(TELL, 3, PRESENCE, members, last, *late, 1, 1_000) is None
            assert await redis.hlen(members) == 2


async def test_a_room_that_could_not_be_opened_is_not_told(server: RedisServer) -> None:
    async with process(server, settings=HASTY) as (one, told):
        server.freeze()
        try:
            with pytest.raises(Unavailable):
                await one.open("r")
            await told.until_told(*DEGRADED)
        finally:
            server.thaw()
        await told.until_told(*OK)
        await say(one, "unheard")
        await one.open("s")
        await say(one, "heard", room="s")
        await told.until(lambda told: bool(told.texts))
        assert told.texts == ["heard"]


async def test_a_server_that_may_not_write_is_degraded_until_it_may(server: RedisServer) -> None:
    async with process(server, "r") as (one, told):
        server.command("CONFIG", "SET", "maxmemory", "1")
        try:
            with pytest.raises(Unavailable):
                await say(one, "1")
            await told.until_told(*DEGRADED)
        finally:
            server.command("CONFIG", "SET", "maxmemory", "0")
        await told.until_told(*OK)
        await say(one, "1")


async def test_who_is_cancelled_leaves_no_answer_behind_for_another(server: RedisServer) -> None:
    settings = SETTINGS.model_copy(update={"publish_timeout": 5.0, "history": 1_000})
    async with process(server, "r", settings=settings) as (one, _):
        ids = {}
        for turn in range(40):
            posts = [asyncio.create_task(one.post("r", ADA, f"{turn}-{n}", f"{turn}-{n}")) for n in range(20)]
            for _ in range(turn):
                await asyncio.sleep(0)
            for post in posts[::2]:
                post.cancel()
            for result, n in zip(await asyncio.gather(*posts[1::2]), range(1, 20, 2), strict=True):
                ids[f"{turn}-{n}"] = result
        by_text: dict[str, str] = {}
        after = BEGINNING
        while page := (await one.history("r", after, 500)).messages:
            by_text |= {message.text: message.id for message in page}
            after = page[-1].id
        assert {text: by_text[text] for text in ids} == ids
        async with asyncio.timeout(LIMIT):  # and no connection is lost
            await asyncio.gather(*(one.check() for _ in range(5 * MAX_REQUESTS)))


async def test_who_waits_for_a_turn_gets_it_when_another_is_cancelled(server: RedisServer) -> None:
    async with process(server) as (one, _):
        for _ in range(10):
            checks = [asyncio.create_task(one.check()) for _ in range(3 * MAX_REQUESTS)]
            await asyncio.wait(checks, return_when=asyncio.FIRST_COMPLETED)
            for check in checks[::2]:
                check.cancel()
            await asyncio.gather(*checks[1::2])


async def test_a_start_without_the_server_is_degraded_until_it_comes(lasting: RedisServer) -> None:
    lasting.stop()
    async with process(lasting) as (one, told):
        await told.until_told(*DEGRADED)
        with pytest.raises(Unavailable):
            await one.open("r")
        lasting.start()
        await told.until_told(*OK)
        assert await one.open("r") == BEGINNING


async def test_nobody_is_told_the_password(lasting: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    lasting.command("CONFIG", "SET", "requirepass", "secret-1")
    caplog.set_level(logging.DEBUG)
    told = Told()
    url = SecretStr(f"redis://:secret-2@127.0.0.1:{lasting.port}/0")
    async with open_redis_backplane(url, SETTINGS, told) as one:
        await told.until_told(*DEGRADED)
        with pytest.raises(Unavailable) as raised:
            await one.check()
        exc: BaseException | None = raised.value
        while exc:
            assert "secret" not in str(exc)
            exc = exc.__cause__ or exc.__context__
    with pytest.raises(ValueError, match="APP_REDIS_URL") as refused:
        async with open_redis_backplane(SecretStr("redis://:secret/3@host/0"), SETTINGS, told):
            pytest.fail("it is open")
    assert "secret" not in str(refused.value)
    assert "Redis does not answer" in caplog.text
    assert "secret" not in caplog.text
