import json
from collections.abc import AsyncIterable
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI, HTTPException
from fastapi.sse import EventSourceResponse
from fastapi.testclient import TestClient

from app.settings import Settings
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


def test_trap_a_refusal_inside_the_generator_is_a_200() -> None:
    app = FastAPI()

    @app.get("/", response_class=EventSourceResponse)
    async def events(allowed: bool = False) -> AsyncIterable[int]:
        if not allowed:
            raise HTTPException(403)
        yield 1

    answer = TestClient(app, raise_server_exceptions=False).get("/")
    assert answer.status_code == 200
