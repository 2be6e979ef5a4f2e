import asyncio
import json
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self, cast

import pytest
from fastapi import FastAPI
from fastapi.sse import ServerSentEvent, format_sse_event
from fastapi.testclient import TestClient
from pydantic import ValidationError

from app.lifespan import State
from app.realtime.feed import Feed
from app.realtime.places import Places
from app.routers.streaming import feed as page
from app.settings import ROOT, FeedSettings, Settings
from tests.asgi import LIMIT, SlowCall, http_scope
from tests.server import serve

URL = "/streaming/feed"
HISTORY = 3


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(
        update={"feed": FeedSettings(history=HISTORY, max_followers=3, max_followers_per_client=2)}
    )


def feed_of(client: TestClient) -> Feed:
    # What the lifespan yielded to this client, and every request finds in `request.state`.
    return cast(State, client.app_state)["feed"]


def publish(client: TestClient, *texts: str) -> list[str]:
    """Their ids."""
    answers = [client.post(URL, json={"text": text}) for text in texts]
    assert {answer.status_code for answer in answers} <= {201}
    return [answer.json()["id"] for answer in answers]


class Follower:
    """An open stream, read one event at a time; in a thread, so that waiting for one has a limit.

    The TestClient of Starlette 1 streams: what is sent can be read while the endless answer goes on.
    """

    def __init__(self, client: TestClient, last_event_id: str = "") -> None:
        headers = {"Last-Event-ID": last_event_id} if last_event_id else {}
        self._stream = client.stream("GET", URL, headers=headers)
        self._reader = ThreadPoolExecutor(1)

    def __enter__(self) -> Self:
        self.answer = self._stream.__enter__()
        self._lines = self.answer.iter_lines()
        return self

    def __exit__(self, *exc: Any) -> None:
        self._stream.__exit__(*exc)
        self._reader.shutdown()

    def next(self) -> dict[str, Any]:
        return self._reader.submit(self._read).result(LIMIT)

    def _read(self) -> dict[str, Any]:
        fields: dict[str, Any] = {}
        for line in self._lines:
            if not line:
                break
            name, _, value = line.partition(": ")
            fields[name or "comment"] = json.loads(value) if name == "data" else value
        return fields


def test_a_follower_gets_what_is_published_as_it_comes(client: TestClient) -> None:
    publish(client, "before anybody listens")
    with Follower(client) as follower:
        headers = follower.answer.headers
        assert headers["content-type"].startswith("text/event-stream")
        assert (headers["cache-control"], headers["x-accel-buffering"]) == ("no-cache", "no")
        assert follower.next()["comment"] == "connected"
        for text in ("one", "two\ndata: forged", "three é 漢"):
            [event_id] = publish(client, text)
            assert follower.next() == {"event": "news", "data": {"text": text}, "id": event_id}


def test_a_client_that_comes_back_gets_what_it_missed_and_nothing_twice(client: TestClient) -> None:
    one, two, three = publish(client, "one", "two", "three")
    with Follower(client, last_event_id=one) as follower:
        follower.next()
        assert [follower.next()["id"] for _ in range(2)] == [two, three]
        [four] = publish(client, "four")
        assert follower.next()["id"] == four


def test_a_client_that_has_seen_nothing_yet_has_an_id_to_come_back_with(client: TestClient) -> None:
    publish(client, "before")
    with Follower(client) as follower:
        first = follower.next()
        assert "data" not in first  # so that a browser notes the id, and dispatches no event
    [missed] = publish(client, "missed")
    with Follower(client, last_event_id=first["id"]) as follower:
        follower.next()
        assert follower.next()["id"] == missed


def test_a_client_that_was_away_for_too_long_is_told_how_much_is_lost(client: TestClient) -> None:
    seen, *_, last_lost, oldest, _, _ = publish(client, *"abcdef")
    with Follower(client, last_event_id=seen) as follower:
        follower.next()
        assert follower.next() == {"event": "gap", "data": {"missed": 2}, "id": last_lost}
        assert follower.next()["id"] == oldest


def test_an_id_from_before_a_restart_is_a_gap_of_unknown_size(client: TestClient) -> None:
    [kept] = publish(client, "since the restart")
    with Follower(client, last_event_id="0badcafe-7") as follower:
        # Without an id: a client that is cut off here comes back with its old one, and is told again.
        assert follower.next() == {"comment": "connected", "retry": "2000"}
        gap = follower.next()
        assert (gap["event"], gap["data"]) == ("gap", {"missed": None})
        assert follower.next()["id"] == kept


def test_a_malformed_or_future_id_is_refused_before_the_stream_begins(client: TestClient) -> None:
    future = feed_of(client).id_of(1)
    for event_id in (future, "1", "-1", "abc", "0badcafe-", "0badcafe-1.5", "x" * 40, "x" * 51):
        with Follower(client, event_id) as refused:
            assert refused.answer.status_code == (422 if len(event_id) > 50 else 400), event_id
            assert refused.answer.headers["content-type"] == "application/problem+json"


def following(app: FastAPI, state: State, host: str = "127.0.0.1") -> SlowCall:
    scope = http_scope(URL)
    scope["state"] = state
    scope["client"] = (host, 1)
    call = SlowCall(app, scope)
    call.reads.set()
    return call


@pytest.mark.anyio
async def test_a_reader_that_stands_still_costs_no_memory_and_is_told_of_its_gap(app: FastAPI) -> None:
    async with app.router.lifespan_context(app) as opened:
        state = cast(State, opened)
        feed = state["feed"]
        call = following(app, state)
        running = asyncio.create_task(call.run())
        await call.until_sent(2)  # the head, and that it is connected
        call.reads.clear()
        for n in range(1_000):
            feed.publish("news", page.News(text=str(n)))
            await asyncio.sleep(0)
        # All that there is of a thousand events, whoever stands still.
        assert feed.last - feed.forgotten == HISTORY
        call.reads.set()
        feed.close()
        await call.until_sent(8)
        call.leave()
        await running
    # It may have waited with one event in its hand.
    *_, gap, a, b, c, goodbye = call.chunks
    assert b"event: gap" in gap and b"event: goodbye" in goodbye
    assert [json.loads(each.split(b"data: ")[1].split(b"\n")[0])["text"] for each in (a, b, c)] == [
        "997",
        "998",
        "999",
    ]


@pytest.mark.anyio
async def test_an_event_is_written_once_for_all_followers(app: FastAPI) -> None:
    async with app.router.lifespan_context(app) as opened:
        state = cast(State, opened)
        calls = [following(app, state) for _ in range(2)]
        running = [asyncio.create_task(call.run()) for call in calls]
        for call in calls:
            await call.until_sent(2)
        state["feed"].publish("news", page.News(text="one"))
        for call in calls:
            await call.until_sent(3)
            call.leave()
        await asyncio.gather(*running)
    first, second = (call.chunks[1] for call in calls)
    assert first is second


def test_a_silent_stream_is_kept_alive_by_comments(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "PING_SECONDS", 0.01)
    with Follower(client) as follower:
        assert [follower.next()["comment"] for _ in range(3)] == ["connected", "ping", "ping"]


@pytest.mark.anyio
async def test_more_followers_than_the_settings_allow_are_refused_in_all_and_of_one_address(
    app: FastAPI,
) -> None:
    async with app.router.lifespan_context(app) as opened:
        for _ in range(2):  # the second time in the places of those who have left
            calls, running = [], []
            for host in ("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2", "192.0.2.3"):
                call = following(app, cast(State, opened), host)
                calls.append(call)
                running.append(asyncio.create_task(call.run()))
                await call.until_sent(2)
            assert [call.status for call in calls] == [200, 200, 429, 200, 503]
            for refused in (calls[2], calls[4]):
                assert refused.headers[b"content-type"] == b"application/problem+json"
            for call in calls:
                call.leave()
            await asyncio.gather(*running)


def test_a_server_that_serves_all_followers_still_has_room_for_others() -> None:
    connections = re.search(r"--limit-concurrency (\d+)", (ROOT / "Makefile").read_text())
    sockets = Settings.model_fields["ws_max_connections"].default
    assert connections and FeedSettings().max_followers + sockets < int(connections[1])


def test_every_stream_whose_client_reads_ends_with_a_farewell_when_the_service_stops(
    client: TestClient,
) -> None:
    with Follower(client) as follower, Follower(client) as other:
        for each in (follower, other):
            each.next()
        # An event of asyncio is set in its own loop, which runs in the thread behind the portal.
        assert client.portal
        client.portal.call(cast(State, client.app_state)["stopping"].set)
        for each in (follower, other):
            assert each.next()["event"] == "goodbye"
            assert each.next() == {}


def test_news_out_of_bounds_are_refused(client: TestClient) -> None:
    for text in ("", "x" * 501, None, 5, "\ud800"):
        content = json.dumps({"text": text})
        answer = client.post(URL, content=content, headers={"Content-Type": "application/json"})
        assert answer.status_code == 422, content
    assert feed_of(client).last == 0


@pytest.mark.anyio
async def test_trap_a_queue_a_follower_fills_the_memory_or_stops_the_publisher() -> None:
    unbounded, bounded = asyncio.Queue[bytes](), asyncio.Queue[bytes](maxsize=HISTORY)
    for _ in range(1_000):
        await unbounded.put(b"news")  # to a reader that stands still
    assert unbounded.qsize() == 1_000

    async def publish_to_all() -> None:
        for _ in range(1_000):
            await bounded.put(b"news")

    publishing = asyncio.create_task(publish_to_all())
    done, _ = await asyncio.wait([publishing], timeout=0.05)
    assert not done and bounded.qsize() == HISTORY
    publishing.cancel()


def test_trap_a_line_break_in_the_event_or_the_id_is_another_event() -> None:
    forged = format_sse_event(event="news\ndata: forged\n", data_str="{}").decode()
    assert "data: forged\n\n" in forged
    with pytest.raises(ValidationError):
        ServerSentEvent(event="news\ndata: forged\n", data={})


def test_trap_a_plain_number_means_another_event_after_a_restart() -> None:
    before, after = Feed(HISTORY, Places(1, 1)), Feed(HISTORY, Places(1, 1))
    for feed, text in ((before, "old"), (after, "new"), (after, "newer")):
        feed.publish("news", page.News(text=text))
    # By the number alone the client from before the restart would be sent `newer`, and never hear of `new`.
    assert after.number_of(before.id_of(1)) is None
    assert after.number_of(after.id_of(1)) == 1


def test_trap_a_reader_that_stands_still_keeps_the_page_that_was_copied_alone_from_stopping(
    tmp_path: Path,
) -> None:
    (tmp_path / "alone.py").write_text(
        "from contextlib import asynccontextmanager\n"
        "from fastapi import FastAPI\n"
        "from app.realtime.feed import open_feed\n"
        "from app.routers.streaming.feed import News, router\n"
        "from app.shutdown import stopping_on_signals\n"
        "@asynccontextmanager\n"
        "async def lifespan(app):\n"
        "    with stopping_on_signals() as stopping:\n"
        "        async with open_feed(20_000, 1, stopping) as feed:\n"
        "            for _ in range(20_000):\n"
        "                feed.publish('news', News(text='x' * 500))\n"
        "            yield {'stopping': stopping, 'feed': feed}\n"
        "app = FastAPI(lifespan=lifespan)\n"
        "app.include_router(router)\n"
    )
    away = f"GET {URL} HTTP/1.1\r\nHost: localhost\r\nLast-Event-ID: 0badcafe-1\r\n\r\n".encode()
    args = ["--timeout-graceful-shutdown", "1"]
    with serve(tmp_path, {"PYTHONPATH": str(ROOT)}, args, "alone:app") as server:
        with server.connect(away, receive_buffer=4_096) as deaf:
            assert deaf.recv(12) == b"HTTP/1.1 200"
            assert server.stop() >= 1
        assert "timeout graceful shutdown exceeded" in server.log
