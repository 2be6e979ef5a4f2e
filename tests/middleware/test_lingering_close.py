import asyncio
from collections.abc import Iterable

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from starlette.responses import PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from app.middleware import body_deadline
from app.middleware.lingering_close import LingeringCloseMiddleware
from tests.asgi import LIMIT, http_scope

pytestmark = pytest.mark.anyio


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers without a look at the body."""
    await PlainTextResponse("no", 413)(scope, receive, send)


async def accept(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("yes")(scope, receive, send)


async def read_and_refuse(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive()).get("more_body"):
        pass
    await refuse(scope, receive, send)


def chunk(size: int, more_body: bool = True) -> Message:
    return {"type": "http.request", "body": b"x" * size, "more_body": more_body}


async def exchange(
    app: LingeringCloseMiddleware,
    messages: Iterable[Message],
    *headers: tuple[bytes, bytes],
    stopping: bool = False,
) -> list[str | tuple[str, bool]]:
    """What went over the connection, in order: `received` for a piece of the body, else the message sent."""
    events: list[str | tuple[str, bool]] = []
    pieces = iter(messages)

    async def receive() -> Message:
        for message in pieces:
            events.append("received")
            return message
        return await asyncio.Future()

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            closes = (b"connection", b"close") in message["headers"]
            events.append(("closing head" if closes else "head", True))
        else:
            events.append((message.get("body", b"").decode(), message.get("more_body", False)))

    scope = http_scope(headers=headers or [(b"content-length", b"99")])
    if stopping:
        scope["state"]["stopping"].set()
    await app(scope, receive, send)
    return events


async def test_the_answer_leaves_first_then_the_rest_is_taken_in_then_comes_the_end() -> None:
    app = LingeringCloseMiddleware(refuse, size=1_000, seconds=5)
    assert await exchange(app, [chunk(10), chunk(10, more_body=False)]) == [
        ("closing head", True),
        ("no", True),
        "received",
        "received",
        ("", False),
    ]


async def test_no_more_is_taken_in_than_the_limit() -> None:
    app = LingeringCloseMiddleware(refuse, size=25, seconds=5)
    events = await exchange(app, [chunk(10)] * 100)
    assert events.count("received") == 3
    assert events[-1] == ("", False)


async def test_no_longer_is_waited_than_the_limit() -> None:
    app = LingeringCloseMiddleware(refuse, size=1_000, seconds=0.01)
    async with asyncio.timeout(5):
        assert (await exchange(app, [chunk(10)]))[-1] == ("", False)


async def test_it_waits_no_longer_when_the_service_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_deadline, "STILL_SECONDS", 0.01)
    app = LingeringCloseMiddleware(refuse, size=1_000, seconds=3_600)
    async with asyncio.timeout(LIMIT):
        assert await exchange(app, [], stopping=True) == [
            ("closing head", True),
            ("no", True),
            ("", False),
        ]


async def test_a_client_that_has_left_ends_it() -> None:
    app = LingeringCloseMiddleware(refuse, size=1_000, seconds=60)
    async with asyncio.timeout(5):
        assert (await exchange(app, [{"type": "http.disconnect"}]))[-1] == ("", False)


async def test_an_answer_after_the_whole_body_is_left_alone() -> None:
    whole = [chunk(10, more_body=False)]
    app = LingeringCloseMiddleware(read_and_refuse, size=1_000, seconds=5)
    assert await exchange(app, whole) == ["received", ("head", True), ("no", False)]


async def test_a_success_that_did_not_look_at_the_body_ends_the_connection_too() -> None:
    app = LingeringCloseMiddleware(accept, size=25, seconds=5)
    events = await exchange(app, [chunk(10)] * 100)
    assert events[:2] == [("closing head", True), ("yes", True)]
    assert events.count("received") == 3


async def test_an_answer_that_reads_on_is_not_held_up() -> None:
    async def echo(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200})
        while (await receive()).get("more_body"):
            pass
        await send({"type": "http.response.body", "body": b"all"})

    app = LingeringCloseMiddleware(echo, size=1_000, seconds=5)
    events = await exchange(app, [chunk(10), chunk(10, more_body=False)])
    assert events == [("closing head", True), "received", "received", ("all", False)]


async def test_a_request_without_a_body_is_left_alone() -> None:
    app = LingeringCloseMiddleware(refuse, size=1_000, seconds=5)
    assert await exchange(app, [], (b"host", b"x")) == [("head", True), ("no", False)]


def test_the_service_does_so_for_every_answer(client: TestClient) -> None:
    for method, path in (("POST", "/nope"), ("POST", "/health"), ("GET", "/health")):
        answer = client.request(method, path, content=b"x" * 100)
        assert answer.headers["connection"] == "close"
        assert "connection" not in client.request(method, path, content=b"").headers


def test_trap_without_it_a_refusal_ends_before_the_body_was_taken_in() -> None:
    app = FastAPI(max_body_size=10)
    taken = 0

    @app.post("/")
    async def read(request: Request) -> int:
        return len(await request.body())

    async def counts(scope: Scope, receive: Receive, send: Send) -> None:
        async def counting() -> Message:
            nonlocal taken
            taken += 1
            return await receive()

        await app(scope, counting, send)

    answer = TestClient(counts).post("/", content=b"x" * 100)
    assert (answer.status_code, taken) == (413, 0)
    assert "connection" not in answer.headers
