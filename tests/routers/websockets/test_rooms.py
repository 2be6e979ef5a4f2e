import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from time import time
from typing import Any

import pytest
from fastapi import FastAPI
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from starlette.types import Message

from app.main import create_app
from app.realtime.messages import BEGINNING, MAX_TEXT_LENGTH
from app.security.handshake import socket_user
from app.security.socket_user import SocketUser
from app.settings import Settings
from tests.live.traps import create_tutorial
from tests.members import House, Member, open_house
from tests.redis import redis_server
from tests.sockets import LIMIT, Peer

pytestmark = pytest.mark.anyio


@pytest.fixture
async def house(app: FastAPI) -> AsyncIterator[House]:
    async with open_house(app) as house:
        yield house


def limited(settings: Settings, **limits: Any) -> FastAPI:
    return create_app(settings.model_copy(update={"rooms": settings.rooms.model_copy(update=limits)}))


def problem(answer: Sequence[Message]) -> tuple[int, dict[str, Any]]:
    start, body = answer
    return start["status"], json.loads(body["body"])


async def test_everybody_in_a_room_gets_a_message_once_and_its_sender_is_told_its_id(house: House) -> None:
    ada, bob = await house.join("kitchen", "ada"), await house.join("kitchen", "bob")
    elsewhere = await house.join("garden", "eve")
    ada.say("Tea?")
    accepted = await ada.next_of("accepted")
    ada.send({"type": "ping"})
    bob.send({"type": "ping"})
    elsewhere.send({"type": "ping"})
    for member in (ada, bob, elsewhere):
        await member.next_of("pong")
    said = [message for message in bob.received if message["type"] == "message"]
    assert [message["id"] for message in said] == [accepted["id"]]
    assert said[0]["text"] == "Tea?"
    assert said[0]["sender"] == ada.received[0]["you"]
    assert [message for message in ada.received if message["type"] == "message"] == said
    assert not [message for message in elsewhere.received if message["type"] == "message"]


async def test_those_who_come_and_go_are_told_to_the_others_and_two_sockets_of_one_user_are_two_connections(
    house: House,
) -> None:
    ada = await house.join("kitchen", "ada")
    first, second = await house.join("kitchen", "bob"), await house.join("kitchen", "bob")
    one, two = first.received[0]["you"], second.received[0]["you"]
    assert one["user"] == two["user"] and one["connection"] != two["connection"]
    assert second.received[0]["here"] == [ada.received[0]["you"], one]
    assert [(await ada.next_of("joined"))["member"] for _ in range(3)] == [ada.received[0]["you"], one, two]
    first.peer.leave()
    assert (await ada.next())["member"] == one
    assert ada.received[-1]["type"] == "left"
    late = await house.join("kitchen", "eve")
    assert late.received[0]["here"] == [ada.received[0]["you"], two]


async def talk(member: Member, *texts: str) -> list[str]:
    """The ids of what it said."""
    ids = []
    for text in texts:
        member.say(text, ref=text)
        ids.append((await member.next_of("accepted"))["id"])
    return ids


async def test_a_client_that_comes_back_gets_what_it_missed_once_and_in_order(house: House) -> None:
    ada, bob = await house.join("kitchen", "ada"), await house.join("kitchen", "bob")
    before = bob.received[0]["last_id"]
    await talk(ada, "one")
    seen = await bob.next_of("message")
    bob.peer.leave()
    texts = [str(number) for number in range(100)]  # more than an outbox, and than a page of the history
    ids = await talk(ada, *texts)
    again = await house.join("kitchen", "bob", after=seen["id"])
    assert [(await again.next_of("message"))["id"] for _ in texts] == ids
    assert again.received[0]["last_id"] == ids[-1]
    from_start = await house.join("kitchen", "eve", after=before)
    assert [(await from_start.next_of("message"))["text"] for _ in range(101)] == ["one", *texts]
    assert "gap" not in {message["type"] for message in again.received + from_start.received}


async def test_a_message_said_while_the_history_is_sent_comes_once(house: House) -> None:
    ada = await house.join("kitchen", "ada")
    await talk(ada, *(str(number) for number in range(100)))
    peer = await house.knock("kitchen", "bob", after=BEGINNING)
    peer.reading.clear()  # so that the history waits in the middle
    bob = Member(peer)
    await talk(ada, *(str(number) for number in range(100, 120)))
    peer.reading.set()
    assert [(await bob.next_of("message"))["text"] for _ in range(120)] == [str(n) for n in range(120)]
    await talk(ada, "live")
    assert (await bob.next_of("message"))["text"] == "live"


async def test_what_is_forgotten_is_told_as_a_gap(settings: Settings) -> None:
    async with open_house(limited(settings, history=5)) as house:
        ada = await house.join("kitchen", "ada")
        ids = await talk(ada, *"0123456789")
        for after, gap in ((BEGINNING, True), (ids[3], True), (ids[4], False), ("1-1", True)):
            member = await house.join("kitchen", "bob", after=after)
            assert [(await member.next_of("message"))["text"] for _ in range(5)] == [*"56789"]
            assert ("gap" in {message["type"] for message in member.received}) is gap
        member = await house.join("kitchen", "bob", after="999999999999999-0")  # an id that never was
        await member.next_of("gap")
        await talk(ada, "live")
        assert (await member.next_of("message"))["text"] == "live"


async def test_a_message_that_is_sent_again_is_said_once(house: House) -> None:
    ada, bob = await house.join("kitchen", "ada"), await house.join("kitchen", "bob")
    other = await house.join("kitchen", "ada")  # as after a cut: another connection of the same user
    ids = []
    for member in (ada, other, ada):
        member.say("Tea?", ref="tea")
        ids.append((await member.next_of("accepted"))["id"])
    bob.say("Coffee", ref="tea")  # the ref of another user is another message
    assert len({*ids}) == 1
    assert [(await bob.next_of("message"))["text"] for _ in range(2)] == ["Tea?", "Coffee"]


@pytest.mark.parametrize(
    "content",
    [
        "no json",
        "[]",
        '{"type": "shout"}',
        '{"type": "say", "ref": "a1"}',
        '{"type": "say", "ref": "a b", "text": "x"}',
        '{"type": "say", "ref": "a1", "text": "x", "as": "bob"}',
        '{"type": "say", "ref": "a1", "text": "\\ud800"}',
        json.dumps({"type": "say", "ref": "a1", "text": "x" * (MAX_TEXT_LENGTH + 1)}),
        "[" * 10_000,
        json.dumps({"type": "ping"} | {f"junk{number}": 1 for number in range(4_000)}),
    ],
)
async def test_what_is_no_message_is_answered_and_loses_nothing(house: House, content: str) -> None:
    ada = await house.join("kitchen", "ada")
    ada.peer.send(content)
    invalid = await ada.next_of("invalid")
    assert 1 <= len(invalid["errors"]) <= 2
    assert "shout" not in str(invalid) and "bob" not in str(invalid)
    await talk(ada, "still-here")


async def test_a_room_in_which_too_much_is_said_refuses_the_message_and_not_the_client(
    settings: Settings,
) -> None:
    async with open_house(limited(settings, messages_per_second=0.5)) as house:
        ada, bob = await house.join("kitchen", "ada"), await house.join("kitchen", "bob")
        await talk(ada, *"01234")
        bob.say("me too", ref="b1")
        assert await bob.next_of("refused") == {"type": "refused", "ref": "b1", "reason": "busy"}
        ada.say("0", ref="0")  # known already, so it costs nothing
        await ada.next_of("accepted")


async def test_a_user_with_many_sockets_may_say_no_more_than_with_one_and_come_only_so_often(
    settings: Settings,
) -> None:
    rooms = settings.rooms.model_copy(update={"visits_per_minute": 3})
    app = create_app(settings.model_copy(update={"ws_messages_per_second": 1, "rooms": rooms}))
    async with open_house(app) as house:
        first, second = await house.join("kitchen", "ada"), await house.join("kitchen", "ada")
        for member, ref in zip((first, second) * 5, "0123456789", strict=True):
            await talk(member, ref)
        second.say("too much", ref="x")
        assert await second.next_of("refused") == {"type": "refused", "ref": "x", "reason": "busy"}
        await house.join("garden", "ada")
        peer = await house.knock("garden", "ada")
        assert problem([peer.answer, await peer.receive()])[0] == 429
        await talk(await house.join("kitchen", "bob"), "hello")


async def test_a_client_that_says_nothing_for_too_long_is_closed_with_4408(settings: Settings) -> None:
    async with open_house(limited(settings, idle_seconds=0.05)) as house:
        ada = await house.join("kitchen", "ada")
        assert await ada.peer.close_code() == 4408


async def test_a_client_that_only_sends_pings_is_not_closed(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop, jumped = asyncio.get_running_loop(), 0.0
    clock = loop.time
    monkeypatch.setattr(loop, "time", lambda: clock() + jumped)
    async with open_house(limited(settings, idle_seconds=10)) as house:
        ada = await house.join("kitchen", "ada")
        for _ in range(3):
            jumped += 7
            ada.send({"type": "ping"})
            await ada.next_of("pong")
        jumped += 10
        assert await ada.peer.close_code() == 4408


async def test_a_credential_that_ends_closes_its_socket_with_4401(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending = SocketUser("1", "ada", expires_at=time() + 0.2)
    monkeypatch.setitem(house.app.dependency_overrides, socket_user, lambda: ending)
    ada = await house.join("kitchen", "ada")
    assert await ada.peer.close_code() == 4401
    assert time() >= ending.expires_at


async def test_a_client_without_a_credential_is_refused_before_the_handshake(house: House) -> None:
    peer = await house.knock("kitchen")
    status, body = problem([peer.answer, await peer.receive()])
    assert (status, body["status"]) == (401, 401)
    for wrong in ("Kitchen", "a_b", "-a", "a" * 65):
        peer = await house.knock(wrong, "ada")
        assert problem([peer.answer, await peer.receive()])[0] == 422
    peer = await house.knock("kitchen", "ada", after="yesterday")
    assert problem([peer.answer, await peer.receive()])[0] == 422


async def test_a_room_that_is_full_and_a_user_with_too_many_connections_are_refused(
    settings: Settings,
) -> None:
    async with open_house(limited(settings, max_members=3, max_connections_per_user=2)) as house:
        first = await house.join("kitchen", "ada")
        await house.join("garden", "ada")
        peer = await house.knock("cellar", "ada")
        assert problem([peer.answer, await peer.receive()])[0] == 429
        await house.join("kitchen", "bob")
        await house.join("kitchen", "eve")
        peer = await house.knock("kitchen", "joe")
        assert problem([peer.answer, await peer.receive()])[0] == 503
        first.peer.leave()
        await first.peer.ended()
        await house.join("kitchen", "joe")


async def test_when_redis_is_away_all_are_told_and_nothing_can_be_said_but_nobody_is_cut_off(
    settings: Settings, tmp_path: Path
) -> None:
    with redis_server(tmp_path) as server:
        rooms = settings.rooms.model_copy(update={"publish_timeout": 0.3, "heartbeat_seconds": 0.2})
        app = create_app(settings.model_copy(update={"redis_url": server.url, "rooms": rooms}))
        async with open_house(app) as house:
            ada, bob = await house.join("kitchen", "ada"), await house.join("kitchen", "bob")
            server.freeze()
            try:
                ada.say("tea", ref="tea")
                refused = await ada.next_of("refused")
                assert (refused["ref"], refused["reason"]) == ("tea", "unavailable")
                assert (await bob.next_of("service"))["state"] == "degraded"
                eve = await house.join("kitchen", "eve")
                assert eve.received[0]["service"] == "degraded"
                back = await house.join("kitchen", "joe", after=BEGINNING)
                assert await back.peer.close_code() == 1013
            finally:
                server.thaw()
            for member, states in {ada: ["degraded", "ok"], bob: ["degraded", "ok"], eve: ["ok"]}.items():
                while (await member.next_of("service"))["state"] != "ok":
                    pass
                assert [told["state"] for told in member.received if told["type"] == "service"] == states
            ids = await talk(ada, "tea", "milk")
            assert [(await bob.next_of("message"))["id"] for _ in range(2)] == ids


async def test_trap_history_and_live_messages_from_two_sources_lose_what_is_said_between(
    tmp_path: Path,
) -> None:
    """The usual order: read the history, send it, then subscribe."""
    with redis_server(tmp_path) as server:
        redis = Redis.from_url(server.url.get_secret_value(), decode_responses=True)

        async def say(text: str) -> None:
            await redis.rpush("history", text)
            await redis.publish("kitchen", text)

        async with redis, redis.pubsub() as bob, asyncio.timeout(LIMIT):
            await say("before")
            received = await redis.lrange("history", 0, -1)
            await say("between")  # while he is sent that
            await bob.subscribe("kitchen")
            assert (await anext(bob.listen()))["type"] == "subscribe"
            await say("after")
            received.append((await anext(bob.listen()))["data"])
            assert received == ["before", "after"]


async def test_trap_a_message_that_is_sent_again_after_a_lost_answer_is_said_twice() -> None:
    tutorial = create_tutorial()
    async with Peer(tutorial, "/chat") as bob, Peer(tutorial, "/chat") as ada:
        ada.send("Tea?")
        assert await bob.text() == "User said: Tea?"
        ada.leave()  # before it has read that
        async with Peer(tutorial, "/chat") as again:
            again.send("Tea?")
            assert await bob.text() == "User said: Tea?"


async def test_trap_redis_pub_sub_forgets_what_is_sent_while_one_is_away(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        # Without `retry` the listener ends with the connection, and hears nothing ever after.
        retry = Retry(ExponentialBackoff(cap=0.1, base=0.01), 10)
        redis = Redis.from_url(server.url.get_secret_value(), decode_responses=True, retry=retry)
        async with redis, redis.pubsub() as bob, asyncio.timeout(LIMIT):
            await bob.subscribe("kitchen")
            assert (await anext(bob.listen()))["type"] == "subscribe"
            await redis.client_kill_filter(_type="pubsub")  # as a cut of the network does
            await redis.publish("kitchen", "Tea?")
            assert (await anext(bob.listen()))["type"] == "subscribe"  # it is back by itself
            await redis.publish("kitchen", "Nobody?")
            assert (await anext(bob.listen()))["data"] == "Nobody?"
