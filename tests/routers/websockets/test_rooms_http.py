import asyncio
import json
import re
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from itertools import count
from typing import Annotated, Any, Self

import httpx2
import pytest
from fastapi import Body, Depends, FastAPI, Header, Request
from fastapi.responses import StreamingResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, create_async_engine
from websockets.sync.client import connect

from app.database.models import Account
from app.main import create_app
from app.realtime.backplane import Page, Unavailable
from app.realtime.connection import Traffic
from app.realtime.local_rooms import Event
from app.realtime.messages import BEGINNING, Left, Message
from app.realtime.messages import Member as RoomMember
from app.routers.websockets import rooms_http as page
from app.settings import RoomSettings, Settings
from tests.asgi import LIMIT, SlowCall, http_scope
from tests.live.test_rooms_under_attack import next_of
from tests.live.test_rooms_under_attack import token as live_token
from tests.members import Member
from tests.routers.websockets.test_guarded import EVIL, OWN, SOON, House, bearer, running
from tests.server import Server

pytestmark = pytest.mark.anyio

EVENTS = "/rooms/kitchen/events"
MESSAGES = "/rooms/kitchen/messages"


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    cheap = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1),))
    monkeypatch.setattr(PasswordHash, "recommended", lambda: cheap)
    return settings


@pytest.fixture
async def house(app: FastAPI) -> AsyncIterator[House]:
    async with running(app) as house:
        yield house


def limited(settings: Settings, queue_size: int = 64, **limits: Any) -> FastAPI:
    limits = {"stream_queue_size": queue_size, **limits}
    rooms = settings.rooms.model_copy(update=limits)
    return create_app(settings.model_copy(update={"ws_queue_size": queue_size, "rooms": rooms}))


def headers_of(house: House, name: str, seconds: float = 60) -> dict[str, str]:
    return bearer(house.token(Account(id=f"id-of-{name}", username=name), seconds))


class Stream:
    """A follower whose reading the test controls. `answer` has what was refused."""

    def __init__(self, house: House, headers: dict[str, str], query: str = "", path: str = EVENTS) -> None:
        scope = http_scope(path, headers=[(name.encode(), value.encode()) for name, value in headers.items()])
        scope["state"] = dict(house.state)
        scope["query_string"] = query.encode()
        self.call = SlowCall(house.app, scope)
        self.call.reads.set()
        self.received: list[dict[str, Any]] = []
        self._read = 0

    async def __aenter__(self) -> Self:
        self.task = asyncio.create_task(self.call.run())
        await self.call.until_sent(2)  # the head, and that it is connected, or the problem
        return self

    async def __aexit__(self, *_: object) -> None:
        self.call.leave()
        self.call.reads.set()
        await self.task

    async def next(self) -> dict[str, Any]:
        while (blocks := self.call.body.split(b"\n\n")[self._read : -1]) == []:
            await self.call.until_sent(len(self.call.sent) + 1)
        self._read += 1
        fields: dict[str, Any] = {}
        for line in blocks[0].decode().split("\n"):
            name, _, value = line.partition(": ")
            fields[name or "comment"] = json.loads(value) if name == "data" else value
        self.received.append(fields)
        return fields

    async def next_of(self, kind: str) -> dict[str, Any]:
        while (event := await self.next()).get("event") != kind:
            pass
        return event

    async def to_the_end(self) -> str:
        """The reason of the goodbye, the last thing that is sent."""
        goodbye = await self.next_of("goodbye")
        async with asyncio.timeout(LIMIT):
            await asyncio.shield(self.task)
        assert self.call.body.endswith(b"\n\n") and self.call.body.count(b"event: goodbye") == 1
        return str(goodbye["data"]["reason"])


async def post(house: House, name: str, text: str, ref: str = "", **headers: str) -> httpx2.Response:
    async with house.client(house.app) as client:
        sent = {"ref": ref or text.replace(" ", "-"), "text": text}
        return await client.post(MESSAGES, json=sent, headers=headers_of(house, name) | headers)


async def say(house: House, *texts: str) -> list[str]:
    """The ids of what Ada posts."""
    answers = [await post(house, "ada", text) for text in texts]
    assert {answer.status_code for answer in answers} == {201}
    return [answer.json()["id"] for answer in answers]


async def socket_of(house: House, name: str, after: str = "") -> Member:
    query = f"after={after}" if after else ""
    member = Member(await house.join("/rooms/kitchen", query, headers=headers_of(house, name)))
    await member.next_of("welcome")
    return member


async def test_a_socket_and_a_stream_see_the_same_message_under_the_same_id(house: House) -> None:
    ada = await socket_of(house, "ada")
    async with Stream(house, headers_of(house, "bob")) as bob:
        assert bob.call.headers[b"content-type"].startswith(b"text/event-stream")
        assert bob.call.headers[b"x-accel-buffering"] == b"no"
        assert bob.call.headers[b"cache-control"] == b"no-cache"
        await bob.next_of("joined")  # from here on he is told
        ada.say("Tea?\n\nevent: forged")
        said = (await ada.next_of("accepted"))["id"]
        [posted] = await say(house, "From a script")
        on_stream = [await bob.next_of("message") for _ in range(2)]
        on_socket = [message for message in ada.received if message["type"] == "message"]
        while len(on_socket) < 2:
            on_socket.append(await ada.next_of("message"))
        assert [event["data"] for event in on_stream] == on_socket
        assert [event["id"] for event in on_stream] == [said, posted]


async def test_what_was_seen_on_a_socket_is_resumed_on_a_stream_and_the_other_way_round(house: House) -> None:
    ada = await socket_of(house, "ada")
    one, two, three = await say(house, "one", "two", "three")
    seen = (await ada.next_of("message"))["id"]
    assert seen == one
    for headers, query in ({"last-event-id": seen}, ""), ({}, f"after={seen}"):
        async with Stream(house, headers_of(house, "ada") | headers, query) as stream:
            assert [(await stream.next_of("message"))["id"] for _ in range(2)] == [two, three]
            assert "gap" not in {event.get("event") for event in stream.received}
    again = await socket_of(house, "ada", after=two)
    assert (await again.next_of("message"))["id"] == three


async def test_only_messages_have_an_id_and_the_first_line_has_one_to_come_back_with(house: House) -> None:
    for last_id in (BEGINNING, "of a message"):
        if last_id != BEGINNING:
            [last_id] = await say(house, "before")
        async with Stream(house, headers_of(house, "bob")) as bob:
            assert await bob.next() == {"comment": "connected", "id": last_id, "retry": "2000"}
            welcome, joined = await bob.next(), await bob.next()
            assert (welcome["event"], joined["event"]) == ("welcome", "joined")
            assert "id" not in welcome and "id" not in joined
            assert welcome["data"]["last_id"] == last_id
    [missed] = await say(house, "missed")
    async with Stream(house, headers_of(house, "bob") | {"last-event-id": last_id}) as bob:
        assert (await bob.next_of("message"))["id"] == missed
        # Who is cut off before the history is through comes back to where it was.
        assert bob.received[0]["id"] == last_id


async def test_the_header_wins_over_the_query(house: House) -> None:
    one, two = await say(house, "one", "two")
    async with Stream(house, headers_of(house, "bob") | {"last-event-id": one}, f"after={BEGINNING}") as bob:
        assert (await bob.next_of("message"))["id"] == two


async def test_a_follower_is_in_the_room_until_it_leaves(house: House) -> None:
    ada = await socket_of(house, "ada")
    connections = house.state["connections"]
    async with Stream(house, headers_of(house, "bob")) as bob:
        you = (await bob.next_of("welcome"))["data"]["you"]
        assert [(await ada.next_of("joined"))["member"]["name"] for _ in range(2)] == ["ada", "bob"]
        assert (connections.count, connections.stream_count) == (1, 1)
        await say(house, "from outside")
        sender = (await bob.next_of("message"))["data"]["sender"]
    assert (await ada.next_of("left"))["member"] == you
    assert (connections.count, connections.stream_count) == (1, 0)
    # Who posted is a connection of its own, and nobody saw it come.
    assert sender["name"] == "ada" and sender["connection"] != ada.received[0]["you"]["connection"]
    assert not [event for event in ada.received if event.get("member") == sender]


async def refusal(house: House, headers: dict[str, str], query: str = "", path: str = EVENTS) -> int:
    async with Stream(house, headers, query, path) as stream:
        assert stream.call.headers[b"content-type"] == b"application/problem+json"
        return int(json.loads(stream.call.body)["status"])


async def test_what_is_refused_is_an_http_answer_before_the_stream_begins(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = settings.model_copy(update={"ws_max_connections_per_client": 3})
    async with running(limited(few, max_members=2, max_connections_per_user=1)) as house:
        bob = headers_of(house, "bob")
        assert await refusal(house, {}) == 401
        assert await refusal(house, bob | {"origin": EVIL}) == 403
        assert await refusal(house, bob, "after=yesterday") == 422
        assert await refusal(house, bob | {"last-event-id": "7"}) == 422
        assert await refusal(house, bob, path="/rooms/Kitchen/events") == 422
        for _ in range(2):  # the second time in the places of those who have left
            async with Stream(house, bob), Stream(house, headers_of(house, "eve")):
                assert await refusal(house, bob, path="/rooms/garden/events") == 429  # too many of Bob
                assert await refusal(house, headers_of(house, "joe")) == 503  # the room is full
                async with Stream(house, headers_of(house, "joe"), path="/rooms/garden/events"):
                    # Too many of the address.
                    other = headers_of(house, "kim")
                    assert await refusal(house, other, path="/rooms/garden/events") == 429
        monkeypatch.setattr(house.state["hub"].backplane, "open", unavailable)
        assert await refusal(house, bob) == 503
        assert not house.state["hub"].local.rooms


async def unavailable(*_: object) -> str:
    raise Unavailable


async def test_a_message_that_is_posted_again_is_said_once(house: House) -> None:
    async with Stream(house, headers_of(house, "bob")) as bob:
        await bob.next_of("joined")
        answers = [await post(house, "ada", "Tea?", ref="tea") for _ in range(3)]
        other = await post(house, "eve", "Coffee", ref="tea")
        assert {answer.status_code for answer in (*answers, other)} == {201}
        assert len({answer.json()["id"] for answer in answers}) == 1
        told = [(await bob.next_of("message"))["data"]["text"] for _ in range(2)]
        assert told == ["Tea?", "Coffee"]


async def test_too_much_is_answered_with_429_and_an_engine_that_is_away_with_503_both_with_retry_after(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = settings.model_copy(update={"ws_messages_per_second": 1})
    async with running(limited(slow, messages_per_second=0.5)) as house:
        await say(house, *"01234")
        busy = await post(house, "bob", "me too")
        assert (busy.status_code, busy.headers["retry-after"]) == (429, "2")
        await say(house, "0")  # known already
        flood = [await post(house, "ada", "0") for _ in range(5)]  # so many of one user, in whichever room
        assert [answer.status_code for answer in flood] == [201] * 4 + [429]
        assert 1 <= int(flood[-1].headers["retry-after"]) <= 10
        monkeypatch.setattr(house.state["hub"].backplane, "post", unavailable)
        away = await post(house, "bob", "later")
        assert (away.status_code, away.headers["retry-after"]) == (503, "2")
        assert away.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"ref": "a1"},
        {"ref": "a b", "text": "x"},
        {"ref": "a1", "text": ""},
        {"ref": "a1", "text": "x" * 4_001},
        {"ref": "a1", "text": "\ud800"},
        {"ref": "a1", "text": "x", "type": "say"},
        [],
    ],
)
async def test_what_is_no_message_is_a_422(house: House, content: object) -> None:
    async with house.client(house.app) as client:
        headers = headers_of(house, "ada") | {"content-type": "application/json"}
        answer = await client.post(MESSAGES, content=json.dumps(content), headers=headers)
        assert answer.status_code == 422
        answer = await client.post("/rooms/Kitchen/messages", json={"ref": "a", "text": "x"}, headers=headers)
        assert answer.status_code == 422


async def test_a_stream_ends_with_a_farewell_when_its_credential_ends(house: House) -> None:
    ada = await socket_of(house, "ada")
    async with Stream(house, headers_of(house, "bob", SOON)) as bob:
        assert await bob.to_the_end() == "The credential has ended."
        assert (await ada.next_of("left"))["member"]["name"] == "bob"


async def test_a_stream_ends_with_a_farewell_when_the_service_stops(app: FastAPI) -> None:
    async with running(app) as house:
        async with Stream(house, headers_of(house, "bob")) as bob:
            house.state["stopping"].set()
            assert await bob.to_the_end() == "The service restarts, connect again."
        async with Stream(house, headers_of(house, "late")) as late:
            assert await late.to_the_end() == "The service restarts, connect again."


async def test_a_follower_that_reads_too_slowly_finds_its_stream_ended_and_delays_nobody(
    settings: Settings,
) -> None:
    async with running(limited(settings, queue_size=10)) as house:
        ada = await socket_of(house, "ada")
        async with (
            Stream(house, headers_of(house, "bob")) as bob,
            Stream(house, headers_of(house, "eve")) as eve,
        ):
            for stream in (bob, eve):
                await stream.next_of("joined")
            bob.call.reads.clear()
            texts = [str(number) for number in range(25)]
            ids = []
            for text_ in texts:
                ids += await say(house, text_)
                assert (await eve.next_of("message"))["id"] == ids[-1]
            bob.call.reads.set()
            assert await bob.to_the_end() == "The stream was read too slowly."
            assert house.state["connections"].traffic.too_slow == 1
            seen = [event["id"] for event in bob.received if event.get("event") == "message"]
            # One chunk was under way; what waited behind it was dropped.
            assert 1 <= len(seen) < 5 and seen == ids[: len(seen)]
        async with Stream(house, headers_of(house, "bob") | {"last-event-id": seen[-1]}) as bob:
            missed = [(await bob.next_of("message"))["id"] for _ in ids[len(seen) :]]
        assert seen + missed == ids
        assert [(await ada.next_of("message"))["id"] for _ in ids] == ids


def message(number: int, size: int) -> Event:
    sender = RoomMember(connection="c", user="u", name="n")
    return Event(Message(id=f"{number}-0", sender=sender, text="x" * size, sent_at=datetime.now(UTC)))


async def test_an_ended_stream_has_left_the_room_though_it_is_not_read(house: House) -> None:
    ada = await socket_of(house, "ada")
    async with Stream(house, headers_of(house, "bob", SOON)) as bob:
        await bob.next_of("joined")
        bob.call.reads.clear()
        for text_ in ("one", "two", "three"):
            await say(house, text_)
        assert (await ada.next_of("left"))["member"]["name"] == "bob"
        assert house.state["connections"].stream_count == 1
        bob.call.reads.set()
        assert await bob.to_the_end() == "The credential has ended."


async def test_an_ended_stream_is_sent_what_is_under_way_and_its_goodbye() -> None:
    outlet = page.StreamOutlet(10, b"connected", Traffic())
    chunks = outlet.chunks()
    outlet.put(message(1, 1))
    assert await anext(chunks) == b"connected"
    under_way = await anext(chunks)
    assert outlet.put(message(2, 1)) and outlet.put(message(3, 1))
    drained = asyncio.create_task(outlet.drained())  # as the history waits
    outlet.end("For a reason.")
    outlet.end("For another one.")
    assert not outlet.put(message(4, 1))
    rest = [chunk async for chunk in chunks]
    assert b"id: 1-0" in under_way and len(rest) == 1
    assert rest[0].startswith(b"event: goodbye") and b"For a reason." in rest[0]
    async with asyncio.timeout(LIMIT):
        await drained


async def test_a_stream_that_ends_at_once_has_an_id_to_come_back_with() -> None:
    outlet = page.StreamOutlet(10, b"connected", Traffic())
    outlet.put(message(1, 1))
    outlet.say_goodbye()
    first, goodbye = [chunk async for chunk in outlet.chunks()]
    assert first == b"connected" and goodbye.startswith(b"event: goodbye")


async def test_what_waits_for_slow_followers_is_copied_in_small_pieces_only() -> None:
    outlet = page.StreamOutlet(1_000, b"connected", Traffic())
    large = message(0, 1_000_000)
    events = [large, *(message(number, 24_000) for number in range(1, 901))]
    for event in events:
        assert outlet.put(event)
    chunks = outlet.chunks()
    assert await anext(chunks) == b"connected"
    assert await anext(chunks) is large.sse
    pieces = [await anext(chunks) for _ in range(300)]
    assert max(map(len, pieces)) < 100_000
    assert b"".join(pieces) == b"".join(event.sse for event in events[1:])


async def test_a_long_history_comes_in_pieces_that_fit(settings: Settings) -> None:
    async with running(limited(settings, queue_size=10)) as house:
        ids = await say(house, *(str(number) for number in range(40)))
        async with Stream(house, headers_of(house, "bob"), f"after={BEGINNING}") as bob:
            assert [(await bob.next_of("message"))["id"] for _ in ids] == ids
            live = await say(house, "live")
            assert [(await bob.next_of("message"))["id"]] == live


def test_a_queue_that_would_not_hold_a_page_of_the_history_stops_the_start() -> None:
    with pytest.raises(ValueError, match="stream_queue_size"):
        Settings(rooms=RoomSettings(stream_queue_size=63))


@pytest.mark.parametrize(
    ("error", "reason"),
    [(Unavailable(), "The history cannot be read."), (ValueError(), "The service has failed.")],
)
async def test_a_history_that_cannot_be_read_ends_the_stream(
    house: House,
    error: Exception,
    reason: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def history(*_: object) -> Page:
        raise error

    monkeypatch.setattr(house.state["hub"].backplane, "history", history)
    async with Stream(house, headers_of(house, "bob"), f"after={BEGINNING}") as bob:
        assert await bob.to_the_end() == reason
        assert bob.received[0]["id"] == BEGINNING
    assert ("a stream of a room failed" in caplog.text) is isinstance(error, ValueError)


async def test_an_event_is_written_once_for_all_streams(house: House) -> None:
    async with Stream(house, headers_of(house, "bob")) as bob, Stream(house, headers_of(house, "eve")) as eve:
        for stream in (bob, eve):
            await stream.next_of("joined")
        await bob.next_of("joined")
        await say(house, "one")
        for stream in (bob, eve):
            await stream.next_of("message")
        assert bob.call.chunks[-1] is eve.call.chunks[-1]


async def test_what_comes_at_once_is_sent_at_once_and_is_not_too_slow(settings: Settings) -> None:
    """As when a process with many members is killed."""
    async with running(limited(settings, queue_size=100)) as house:
        async with Stream(house, headers_of(house, "bob")) as bob:
            await bob.next_of("joined")
            before = len(bob.call.sent)
            room = house.state["hub"].local.rooms["kitchen"]
            for number in range(90):
                gone = RoomMember(connection=str(number), user="u", name="n")
                house.state["hub"].local.tell(room, Left(member=gone))
            for _ in range(90):
                await bob.next_of("left")
            assert len(bob.call.sent) == before + 1


async def test_a_silent_stream_is_kept_alive_by_comments(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "PING_SECONDS", 0.01)
    async with Stream(house, headers_of(house, "bob")) as bob:
        await bob.next_of("joined")
        assert [await bob.next() for _ in range(2)] == [{"comment": "ping"}] * 2
        [posted] = await say(house, "still here")
        assert (await bob.next_of("message"))["id"] == posted


async def test_with_a_cookie_only_our_own_pages_may_post(house: House) -> None:
    cookie = {"cookie": await house.cookie(await house.register())}
    async with house.client(house.app) as client:

        async def ask(content_type: str, **headers: str) -> int:
            sent = {"content-type": content_type, **cookie, **headers}
            return (await client.post(MESSAGES, content='{"ref":"a1","text":"x"}', headers=sent)).status_code

        assert await ask("application/json", origin=OWN) == 201
        for foreign in ({"origin": EVIL}, {"origin": "null"}, {}):
            for content_type in ("application/json", "text/plain"):
                assert await ask(content_type, **foreign) == 403
        assert await ask("text/plain", origin=OWN) == 422


async def test_trap_a_cookie_alone_lets_any_page_post() -> None:
    said = []
    theirs = FastAPI()

    @theirs.post("/messages")
    async def post_message(request: Request) -> None:
        if "session" in request.cookies:
            said.append((await request.json())["text"])

    transport = httpx2.ASGITransport(theirs)
    async with httpx2.AsyncClient(transport=transport, base_url=OWN) as client:
        # As `fetch(..., {mode: "no-cors", credentials: "include"})` sends it, without asking first.
        simple = {"origin": EVIL, "content-type": "text/plain", "cookie": "session=ada"}
        await client.post("/messages", content='{"text": "I owe Eve 100"}', headers=simple)
    assert said == ["I owe Eve 100"]


async def test_trap_event_source_comes_back_with_the_ticket_that_is_used(house: House) -> None:
    account = await house.register()
    url = f"ticket={await house.ticket(house.token(account))}"
    async with Stream(house, {}, url) as stream:
        assert stream.call.status == 200
    assert await refusal(house, {"last-event-id": BEGINNING}, url) == 401
    fresh = f"ticket={await house.ticket(house.token(account))}&after={BEGINNING}"
    async with Stream(house, {}, fresh) as stream:
        assert stream.call.status == 200


async def test_trap_with_an_id_on_every_event_who_comes_back_after_another_one_gets_all_twice() -> None:
    ids, history = count(1), dict[int, str]()
    theirs = FastAPI()

    @theirs.post("/messages")
    async def post_message(text: Annotated[str, Body()]) -> None:
        history[next(ids)] = text

    @theirs.get("/events", response_class=EventSourceResponse)
    async def events(last_event_id: Annotated[int, Header()] = 0) -> AsyncIterable[ServerSentEvent]:
        kept = [*history]
        for event_id in kept[kept.index(last_event_id) + 1 :] if last_event_id in kept else kept:
            yield ServerSentEvent(raw_data=history[event_id], id=str(event_id))
        yield ServerSentEvent(raw_data="joined", id=str(next(ids)))

    transport = httpx2.ASGITransport(theirs)
    async with httpx2.AsyncClient(transport=transport, base_url=OWN) as client:
        for text_ in ("one", "two"):
            await client.post("/messages", json=text_)
        seen: list[str] = []
        last_id = "0"
        for _ in range(2):  # it is cut off, and comes back
            answer = await client.get("/events", headers={"last-event-id": last_id})
            seen += re.findall("^data: (.+)$", answer.text, re.MULTILINE)
            last_id = re.findall("^id: (.+)$", answer.text, re.MULTILINE)[-1]
    assert seen == ["one", "two", "joined"] * 2


def checked_out(house: House) -> int:
    return int(house.state["sessions"].kw["bind"].pool.checkedout())


async def test_streams_hold_no_database_connection(house: House) -> None:
    account = await house.register()
    async with AsyncExitStack() as stack:
        for headers in ({}, {"cookie": await house.cookie(account)}):
            query = "" if headers else f"ticket={await house.ticket(house.token(account))}"
            stream = await stack.enter_async_context(Stream(house, headers, query))
            assert stream.call.status == 200
            await stream.next_of("joined")
        assert checked_out(house) == 0


async def test_trap_a_session_in_a_dependency_of_a_stream_is_held_as_long_as_the_stream(
    house: House,
) -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    theirs = FastAPI()
    held = 0

    async def session() -> AsyncIterator[AsyncConnection]:
        nonlocal held
        async with engine.connect() as connection:
            held += 1
            yield connection
            held -= 1

    @theirs.get(EVENTS)
    async def follow(session: Annotated[AsyncConnection, Depends(session)]) -> StreamingResponse:
        await session.execute(text("SELECT 1"))  # who this is

        async def events() -> AsyncIterator[bytes]:
            yield b": connected\n\n"
            await asyncio.Event().wait()

        return StreamingResponse(events(), media_type="text/event-stream")

    alike = House(theirs, house.state, AsyncExitStack())
    async with Stream(alike, {}), Stream(alike, {}):
        assert held == 2
    await engine.dispose()


def test_on_the_wire_a_stream_and_a_socket_hear_what_is_posted(live: Server) -> None:
    headers = {"Authorization": f"Bearer {live_token(live, 'wirehttp')}"}
    url = f"{live.url}/rooms/wire-http"
    with (
        connect(f"{live.ws_url}/rooms/wire-http", additional_headers=headers) as socket,
        httpx2.stream("GET", f"{url}/events", headers=headers, timeout=LIMIT) as stream,
    ):
        assert stream.status_code == 200
        lines = stream.iter_lines()
        while next(lines) != "event: joined":
            pass
        sent = {"ref": "a1", "text": "hello"}
        posted = httpx2.post(f"{url}/messages", json=sent, headers=headers, timeout=LIMIT).json()
        while next(lines) != "event: message":
            pass
        data = json.loads(next(lines).removeprefix("data: "))
        assert next(lines) == f"id: {posted['id']}"
        assert next_of(socket, "message") == data
