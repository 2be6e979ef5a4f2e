import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, Any

import pytest
from fastapi import Body, FastAPI, Form, Request
from fastapi.responses import PlainTextResponse, StreamingResponse
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from app.errors import AppError, add_exception_handlers
from app.middleware import body_deadline
from app.middleware.body_deadline import BodyDeadlineMiddleware
from tests.asgi import Call, http_scope

pytestmark = pytest.mark.anyio

HALF: Message = {"type": "http.request", "body": b"a=", "more_body": True}
REST: Message = {"type": "http.request", "body": b"b", "more_body": False}
LENGTH = (b"content-length", b"3")
FORM = (b"content-type", b"application/x-www-form-urlencoded")
JSON = (b"content-type", b"application/json")
FAST = 1_000_000.0
"""Bytes a second: what these bodies bring gives them no time worth mentioning."""


def service(seconds: float) -> FastAPI:
    app = FastAPI()
    add_exception_handlers(app)
    app.add_middleware(BodyDeadlineMiddleware, seconds=seconds, rate=FAST)

    @app.post("/raw")
    async def raw(request: Request) -> PlainTextResponse:
        return PlainTextResponse(await request.body())

    @app.post("/form")
    async def form(a: Annotated[str, Form()]) -> str:
        return a

    @app.post("/json")
    async def json(value: Annotated[dict[str, Any], Body()]) -> None:
        pass

    @app.post("/group")
    async def group(request: Request) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(request.body())

    return app


@pytest.mark.parametrize(
    ("path", "kind"), [("/raw", FORM), ("/form", FORM), ("/json", JSON), ("/group", FORM)]
)
async def test_a_body_that_does_not_arrive_is_a_408_however_it_is_read(
    path: str, kind: tuple[bytes, bytes]
) -> None:
    call = Call(service(0.01), http_scope(path, "POST", [LENGTH, kind]), HALF)
    await call.run()
    assert call.status == 408
    assert call.headers[b"content-type"] == b"application/problem+json"
    assert call.headers[b"connection"] == b"close"


async def test_a_body_in_time_is_passed_on_and_a_slow_endpoint_is_not_cut() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass
        # The deadline is long over when the endpoint asks again whether the client is there.
        async with asyncio.timeout(5):
            assert (await receive())["type"] == "http.disconnect"
        await PlainTextResponse("done")(scope, receive, send)

    scope = http_scope("/", "POST", [LENGTH])
    call = Call(BodyDeadlineMiddleware(slow, seconds=0.05, rate=FAST), scope, HALF, REST)
    running = asyncio.create_task(call.run())
    asyncio.get_running_loop().call_later(0.2, call.incoming.put_nowait, {"type": "http.disconnect"})
    await running
    assert call.body == b"done"


async def test_a_body_that_stands_still_while_the_service_stops_is_a_408(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(body_deadline, "STILL_SECONDS", 0.01)
    call = Call(service(3_600), http_scope("/raw", "POST", [LENGTH]), HALF)
    call.scope["state"]["stopping"].set()
    await call.run()
    assert call.status == 408


async def test_an_answer_that_has_begun_is_not_cut() -> None:
    async def lines() -> AsyncIterator[str]:
        yield "first"
        await asyncio.sleep(0.05)
        yield "last"

    app = BodyDeadlineMiddleware(StreamingResponse(lines()), seconds=0.01, rate=FAST)
    call = Call(app, http_scope("/", "POST", [LENGTH]))  # announces a body and never sends it
    await call.run()
    assert call.body == b"firstlast"


async def test_the_limit_is_for_the_whole_body_and_not_for_each_piece() -> None:
    async def read(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass

    call = Call(BodyDeadlineMiddleware(read, seconds=0.1, rate=FAST), http_scope("/", "POST", [LENGTH]))
    loop = asyncio.get_running_loop()
    for tick in range(20):
        loop.call_later(tick * 0.05, call.incoming.put_nowait, REST if tick == 19 else HALF)
    with pytest.raises(HTTPException, match="408"):
        await call.run()


async def test_each_byte_that_arrived_gives_the_body_more_time(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    async def receive_within(seconds: float, receive: Receive, stopping: asyncio.Event) -> Message:
        given.append(seconds)
        return await receive()

    async def read(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass

    monkeypatch.setattr(body_deadline, "perf_counter", lambda: 0.0)
    monkeypatch.setattr(body_deadline, "receive_within", receive_within)
    scope = http_scope("/", "POST", [LENGTH])
    await Call(BodyDeadlineMiddleware(read, seconds=10, rate=4), scope, HALF, HALF, REST).run()
    assert given == [10, 10.5, 11]


async def test_a_body_that_takes_longer_than_its_seconds_is_passed_on_while_it_keeps_its_rate() -> None:
    async def read(scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive())["more_body"]:
            pass

    call = Call(BodyDeadlineMiddleware(read, seconds=0.1, rate=10), http_scope("/", "POST", [LENGTH]))
    loop = asyncio.get_running_loop()
    for tick in range(5):
        loop.call_later(tick * 0.05, call.incoming.put_nowait, REST if tick == 4 else HALF)
    await call.run()


@pytest.mark.parametrize("header", [LENGTH, (b"transfer-encoding", b"chunked")])
async def test_only_a_request_that_announces_a_body_is_timed(header: tuple[bytes, bytes]) -> None:
    given: list[Receive] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        given.append(receive)

    for headers in ([], [(b"content-length", b"0")], [header]):
        call = Call(BodyDeadlineMiddleware(app, seconds=1, rate=FAST), http_scope(headers=headers))
        await call.run()
    assert [receive.__name__ for receive in given] == ["get", "get", "receive_in_time"]


async def test_trap_an_error_of_our_own_in_a_reader_is_taken_for_a_broken_body() -> None:
    class TooLate(AppError):
        status = 408

    async def receive_nothing() -> Message:
        raise TooLate

    app = FastAPI()
    add_exception_handlers(app)

    @app.post("/json")
    async def json(value: Annotated[dict[str, Any], Body()]) -> None:
        pass

    call = Call(app, http_scope("/json", "POST", [LENGTH, JSON]))
    await app(call.scope, receive_nothing, call._send)
    assert call.status == 400
