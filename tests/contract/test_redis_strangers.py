"""What is not ours: entries that others have written into Redis, and answers that are none of Redis."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import SecretStr

from app.realtime.backplane import Unavailable
from app.realtime.messages import BEGINNING
from app.realtime.redis_backplane import open_redis_backplane
from app.realtime.redis_store import PRESENCE, connect, members_of, messages_of
from tests.contract.rooms import ADA, BOB, LIMIT, SETTINGS, SLOW, Told, process, say
from tests.redis import RedisServer

pytestmark = pytest.mark.anyio


class Line:
    """A way to Redis on which, while it is broken, another one answers."""

    def __init__(self, server: RedisServer) -> None:
        self.broken_reply = b""
        self.has_broken = asyncio.Event()
        self._server = server
        self._ends: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[SecretStr]:
        async with await asyncio.start_server(self._connected, "127.0.0.1", 0) as listening:
            yield SecretStr(f"redis://127.0.0.1:{listening.sockets[0].getsockname()[1]}/0")
            for end in self._ends:
                end.cancel()

    async def _connected(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        redis, to_redis = await asyncio.open_connection("127.0.0.1", self._server.port)
        requests = asyncio.create_task(self._pass_on(client, to_redis, to_client))
        answers = asyncio.create_task(self._pass_on(redis, to_client, to_client))
        self._ends |= {requests, answers}
        await asyncio.wait([requests, answers], return_when=asyncio.FIRST_COMPLETED)
        to_redis.close()
        to_client.close()

    async def _pass_on(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, to_client: asyncio.StreamWriter
    ) -> None:
        while data := await source.read(2**16):
            if self.broken_reply:
                self.has_broken.set()
                to_client.write(self.broken_reply)
            else:
                target.write(data)


@pytest.mark.parametrize("reply", [b":x\r\n", b"$zz\r\n", b"*1\r\n:q\r\n"])
async def test_a_broken_reply_is_none_and_what_it_kept_from_being_told_is_told_later(
    server: RedisServer, reply: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    line, told_one = Line(server), Told()
    async with process(server, "r", settings=SLOW) as (_, told), line.open() as url:
        async with open_redis_backplane(url, SLOW, told_one) as one:
            await one.open("r")
            await one.check()  # by now the reader waits for what happens, and asks for nothing
            line.broken_reply = reply
            one.announce("r", ADA, here=True)
            await asyncio.wait_for(line.has_broken.wait(), LIMIT)
            for broken in (say(one, "1"), one.history("r", BEGINNING, 9), one.open("s")):
                with pytest.raises(Unavailable):
                    await broken
            line.broken_reply = b""
            await told.until_told("joined", "r", ADA)
            line.broken_reply = reply
        assert "could not be told" in caplog.text


@pytest.mark.parametrize(
    "entry", [("hello", "world"), ("before", '"\\xff"'), ("before", "0-0", "sender", "{}", "text", "x")]
)
async def test_an_entry_that_is_not_ours_is_passed_over(
    server: RedisServer, caplog: pytest.LogCaptureFixture, entry: tuple[str, ...]
) -> None:
    async with process(server, "r", "innocent") as (one, told):
        [first] = await say(one, "first")
        await told.until(lambda told: told.texts == ["first"])
        for _ in range(2):
            server.command("XADD", messages_of("r"), "*", *entry)
        await say(one, "innocent", room="innocent")
        last = (await say(one, "second", "third"))[-1]
        await told.until(lambda told: len(told.texts) == 4)
        assert set(told.texts) == {"first", "innocent", "second", "third"}
        assert not told.of("degraded")
        # Of what was before the first of them nothing is known; those that come after name each other.
        in_room = [event[0] for event in told.of("posted", "lost") if event[1] == "r"]
        assert in_room == ["posted", "lost", "lost", "posted", "posted"]
        warnings = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(warnings) == 2
        page = await one.history("r", first, 2)
        assert ([message.text for message in page.messages], page.complete) == (["second", "third"], True)
        assert await one.open("r") == last


async def test_a_page_of_nothing_but_strangers_is_not_the_end_of_the_history(server: RedisServer) -> None:
    async with process(server) as (one, _):
        [first] = await say(one, "first")
        for _ in range(3):
            server.command("XADD", messages_of("r"), "*", "hello", "world")
        await say(one, "second")
        page = await one.history("r", first, 1)
        assert ([message.text for message in page.messages], page.complete) == (["second"], True)


async def test_events_and_members_that_are_not_ours_are_passed_over(server: RedisServer) -> None:
    async with process(server, "r") as (one, _), process(server, "r") as (_, told):
        one.announce("r", ADA, here=True)
        await told.until_told("joined", "r", ADA)
        server.command("XADD", PRESENCE, "*", "hello", "world")
        async with connect(server.url, 1, LIMIT) as redis:
            newest: Any = await redis.xrevrange(PRESENCE, count=1)
            event: Any = {"before": newest[0][0], "kind": "joined", "room": "r", "member": "{"}
            await redis.xadd(PRESENCE, event)
            await redis.hset(members_of("r", one._presence.process), "stranger", "{")
        one.announce("r", BOB, here=True)
        await told.until(lambda told: told.elsewhere_now == {ADA, BOB})
        async with process(server, "r", settings=SETTINGS) as (_, told_later):
            await told_later.until(lambda told: told.elsewhere_now == {ADA, BOB})
        assert not told.of("degraded")
