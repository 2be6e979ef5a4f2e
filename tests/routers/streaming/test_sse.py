import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from fastapi import Depends, FastAPI, HTTPException
from fastapi.sse import EventSourceResponse, ServerSentEvent
from fastapi.testclient import TestClient
from pydantic import ValidationError

from app.lifespan import State
from app.routers.streaming import sse
from app.settings import Settings
from tests.asgi import SlowCall, http_scope
from tests.server import Server, serve

URL = "/streaming/events"
TIMEOUT = 10.0


def parse(text: str) -> list[dict[str, str]]:
    """The events of a stream: their fields, comments left out."""
    events = []
    for block in text.strip().split("\n\n"):
        fields = [line.split(": ", 1) for line in block.splitlines() if not line.startswith(":")]
        events.append({name: value for name, value in fields})
    return events


def ticks(text: str) -> list[int]:
    return [json.loads(event["data"])["n"] for event in parse(text) if event.get("event") == "tick"]


def test_the_events_are_numbered_and_the_last_one_says_that_the_stream_is_complete(
    client: TestClient,
) -> None:
    answer = client.get(URL, params={"count": 3, "interval": 0})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-accel-buffering"] == "no"
    events = parse(answer.text)
    assert [event["id"] for event in events if event.get("event") == "tick"] == ["1", "2", "3"]
    assert events[-1] == {"event": "complete", "data": '{"events": 3}', "id": "4"}


def test_a_client_that_reconnects_gets_what_follows_the_last_event_it_saw(client: TestClient) -> None:
    answer = client.get(URL, params={"count": 5, "interval": 0}, headers={"Last-Event-ID": "3"})
    assert ticks(answer.text) == [4, 5]
    seen_all = client.get(URL, params={"count": 5, "interval": 0}, headers={"Last-Event-ID": "5"})
    assert ticks(seen_all.text) == []
    assert parse(seen_all.text)[-1]["event"] == "complete"


def test_a_client_that_has_seen_the_last_event_is_told_by_204_to_stay_away(client: TestClient) -> None:
    answer = client.get(URL, params={"count": 5, "interval": 0}, headers={"Last-Event-ID": "6"})
    assert answer.status_code == 204
    assert answer.content == b""


@pytest.mark.parametrize("last", ["7", "-1", "abc", "1.5", "\u0663", "9" * 20])
def test_a_malformed_or_future_last_event_id_is_refused_before_the_stream_begins(
    client: TestClient, last: str
) -> None:
    answer = client.get(URL, params={"count": 5, "interval": 0}, headers={b"Last-Event-ID": last.encode()})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"


def test_more_events_than_one_stream_may_send_are_refused(client: TestClient, settings: Settings) -> None:
    answer = client.get(URL, params={"count": settings.stream_max_events + 1})
    assert answer.status_code == 400


def test_a_silent_stream_is_kept_alive_by_comments(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.01)
    answer = client.get(URL, params={"count": 2, "interval": 0.1})
    assert "\n: ping\n" in answer.text
    assert ticks(answer.text) == [1, 2]


@pytest.mark.anyio
async def test_a_slow_reader_holds_the_generator_back(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []

    class CountedEvent(ServerSentEvent):
        def model_post_init(self, context: Any) -> None:
            made.append("event")

    monkeypatch.setattr(sse, "ServerSentEvent", CountedEvent)
    scope = http_scope(URL)
    scope["query_string"] = b"count=1000&interval=0"
    async with app.router.lifespan_context(app) as state:
        scope["state"] = state
        call = SlowCall(app, scope)
        running = asyncio.create_task(call.run())
        for _ in range(1_000):
            await asyncio.sleep(0)
        assert 0 < len(made) < 10
        call.reads.set()
        await running
    assert len(made) == 1_002


ANSWERS = "/streaming/answers"


def test_an_answer_to_a_post_is_streamed_word_by_word(client: TestClient) -> None:
    answer = client.post(ANSWERS, json={"text": "one  two é"})
    assert answer.headers["content-type"].startswith("text/event-stream")
    *words, done = parse(answer.text)
    # Not JSON: without quotation marks.
    assert words == [{"event": "word", "data": word} for word in ("one", "two", "é")]
    assert done == {"event": "done", "data": '{"words":3}'}
    assert parse(client.post(ANSWERS, json={"text": " "}).text) == [{"event": "done", "data": '{"words":0}'}]
    for text in ("", "x" * 501, None):
        assert client.post(ANSWERS, json={"text": text}).status_code == 422


def answer_by(app: FastAPI, answerer: sse.Answerer) -> None:
    async def get() -> sse.Answerer:
        return answerer

    app.dependency_overrides[sse.get_answerer] = get


def test_a_failure_in_mid_stream_is_an_event_without_the_text_of_the_exception(
    app: FastAPI, client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    async def break_down(text: str) -> AsyncGenerator[str]:
        yield "one"
        raise RuntimeError("key sk-hunter2 is not valid")

    answer_by(app, break_down)
    answer = client.post(ANSWERS, json={"text": "?"}, headers={"X-Request-ID": "failed-id-1"})
    assert answer.status_code == 200
    one, failed = parse(answer.text)  # and the stream has its end: nothing is torn
    assert one["data"] == "one"
    assert failed["event"] == "failed"
    assert json.loads(failed["data"]) == {"detail": "The answer is not whole.", "request_id": "failed-id-1"}
    [logged] = [record for record in caplog.records if record.exc_info]
    assert logged.name == sse.__name__


def test_when_the_client_leaves_the_source_of_the_words_is_stopped(app: FastAPI, client: TestClient) -> None:
    stopped: list[str] = []

    async def talk(text: str) -> AsyncGenerator[str]:
        try:
            while True:
                yield "more"
        finally:
            stopped.append(text)

    answer_by(app, talk)
    with client.stream("POST", ANSWERS, json={"text": "?"}) as answer:
        next(answer.iter_lines())
    assert stopped == ["?"]


def test_an_answer_that_is_being_given_ends_with_a_farewell_when_the_service_stops(
    app: FastAPI, client: TestClient
) -> None:
    stopped: list[str] = []

    async def stop_the_service(text: str) -> AsyncGenerator[str]:
        try:
            cast(State, client.app_state)["stopping"].set()
            yield "one"
            yield "two"
        finally:
            stopped.append(text)

    answer_by(app, stop_the_service)
    events = parse(client.post(ANSWERS, json={"text": "?"}).text)
    assert [event["event"] for event in events] == ["word", "goodbye"]
    assert stopped == ["?"]


def test_an_open_stream_is_ended_with_a_farewell_when_the_server_stops(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        url = f"{server.url}{URL}"
        with httpx2.stream("GET", url, params={"interval": 60}, timeout=TIMEOUT) as answer:
            lines = answer.iter_lines()
            assert next(line for line in lines if line.startswith("event:")) == "event: tick"
            seconds = server.stop()
            assert "event: goodbye" in list(lines)
        assert seconds < 2
        assert "Traceback" not in server.log


def test_when_the_client_leaves_the_generator_is_cleaned_up(live: Server) -> None:
    headers = {"X-Request-ID": "leaves-early"}
    url = f"{live.url}{URL}"
    with httpx2.stream("GET", url, params={"interval": 60}, headers=headers, timeout=TIMEOUT) as answer:
        next(answer.iter_lines())
    live.wait_for("event stream closed.*leaves-early")


def test_trap_a_stream_that_does_not_watch_for_the_stop_keeps_the_server_alive(tmp_path: Path) -> None:
    (tmp_path / "endless.py").write_text(
        "import asyncio\n"
        "from fastapi import FastAPI\n"
        "from fastapi.sse import EventSourceResponse\n"
        "app = FastAPI()\n"
        "@app.get('/', response_class=EventSourceResponse)\n"
        "async def events():\n"
        "    yield 1\n"
        "    await asyncio.Event().wait()\n"
    )
    with serve(tmp_path, app="endless:app", args=["--timeout-graceful-shutdown", "1"]) as server:
        with httpx2.stream("GET", server.url, timeout=TIMEOUT) as answer:
            lines = answer.iter_lines()
            next(lines)
            assert server.stop() >= 1
        assert "timeout graceful shutdown exceeded" in server.log


@pytest.mark.anyio
async def test_trap_a_client_that_stands_still_never_takes_the_goodbye(app: FastAPI) -> None:
    scope = http_scope(URL)
    async with app.router.lifespan_context(app) as opened:
        state = cast(State, opened)
        scope["state"] = state
        call = SlowCall(app, scope)  # on no server, so without a transport that could be aborted
        running = asyncio.create_task(call.run())
        state["stopping"].set()
        done, _ = await asyncio.wait([running], timeout=0.05)
        assert not done
        call.reads.set()
        await running
    assert b"event: goodbye" in call.chunks[-1]


def test_trap_a_refusal_inside_the_generator_is_a_200() -> None:
    app = FastAPI()

    @app.get("/", response_class=EventSourceResponse)
    async def events(allowed: bool = False) -> AsyncIterable[int]:
        if not allowed:
            raise HTTPException(403)
        yield 1

    answer = TestClient(app, raise_server_exceptions=False).get("/")
    assert answer.status_code == 200


def sent_by(*events: Any) -> str:
    app = FastAPI()

    @app.get("/", response_class=EventSourceResponse)
    async def stream() -> AsyncIterable[Any]:
        for event in events:
            yield event

    return TestClient(app).get("/").text


def test_trap_text_as_data_arrives_in_quotation_marks_and_raw_line_breaks_become_one_kind() -> None:
    assert sent_by(ServerSentEvent(data="a\r\nb")) == 'data: "a\\r\\nb"\n\n'
    assert sent_by(ServerSentEvent(raw_data="a\r\nb")) == "data: a\ndata: b\n\n"


@pytest.mark.parametrize(
    "fields",
    [
        {"data": 1, "raw_data": "1"},
        {"event": "a\nid: 7"},
        {"id": "a\rb"},
        {"id": "a\0b"},
        {"retry": -1},
    ],
    ids=str,
)
def test_an_event_that_would_be_read_as_another_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ServerSentEvent(**fields)


def test_trap_the_generator_is_not_closed_by_the_time_its_request_has_ended() -> None:
    app = FastAPI()
    closed: list[str] = []
    generators: list[object] = []  # kept, so that no garbage collector comes to help

    async def dependency() -> AsyncIterator[None]:
        try:
            yield
        finally:
            closed.append("dependency")

    async def numbers() -> AsyncIterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed.append("generator")

    @app.get("/", response_class=EventSourceResponse, dependencies=[Depends(dependency)])
    async def stream() -> AsyncIterable[int]:
        source = numbers()
        generators.append(source)
        async for number in source:
            yield number

    with TestClient(app) as client:
        with client.stream("GET", "/") as answer:
            next(answer.iter_lines())
        assert closed == ["dependency"]


def test_trap_a_returned_event_source_response_writes_nothing_by_itself() -> None:
    app = FastAPI()

    @app.get("/")
    async def returned() -> EventSourceResponse:
        return EventSourceResponse(str(n) for n in range(3))

    assert TestClient(app).get("/").text == "012"
