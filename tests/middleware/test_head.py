import asyncio
from collections.abc import AsyncIterator

import pytest
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from app.middleware.head import HeadMiddleware
from tests.asgi import EMPTY_BODY, Call, http_scope

pytestmark = pytest.mark.anyio


async def test_the_get_route_runs_and_its_body_is_dropped() -> None:
    ran: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        ran.append(scope["method"])
        response = PlainTextResponse("x" * 100, background=BackgroundTask(ran.append, "background"))
        await response(scope, receive, send)

    call = Call(HeadMiddleware(app), http_scope(method="HEAD"), EMPTY_BODY)
    await call.run()
    assert (call.body, call.headers[b"content-length"]) == (b"", b"100")
    assert call.sent[-1]["more_body"] is False
    assert ran == ["GET", "background"]


@pytest.mark.parametrize("spec", ["2.3", "2.4"])
@pytest.mark.parametrize("waits", [False, True])
async def test_an_endless_stream_ends_with_its_head(spec: str, waits: bool) -> None:
    async def lines() -> AsyncIterator[str]:
        while True:
            yield "line\n"
            await (asyncio.Event().wait() if waits and spec == "2.3" else asyncio.sleep(0))

    scope = {**http_scope(method="HEAD"), "asgi": {"version": "3.0", "spec_version": spec}}
    call = Call(HeadMiddleware(StreamingResponse(lines())), scope, EMPTY_BODY)
    await call.run()
    assert [message["type"] for message in call.sent] == ["http.response.start", "http.response.body"]
    assert call.body == b""


async def test_an_endpoint_that_reads_gets_the_body_before_it_answers() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        body = await Request(scope, receive).body()
        await PlainTextResponse(body)(scope, receive, send)

    message = {"type": "http.request", "body": b"12345", "more_body": False}
    call = Call(HeadMiddleware(app), http_scope(method="HEAD"), message)
    await call.run()
    assert call.headers[b"content-length"] == b"5"


async def test_an_error_before_the_head_is_an_error() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        await Call(HeadMiddleware(app), http_scope(method="HEAD"), EMPTY_BODY).run()


async def test_an_error_after_the_head_is_an_error_too() -> None:
    async def fails() -> None:
        raise ConnectionRefusedError

    app = HeadMiddleware(PlainTextResponse("x", background=BackgroundTask(fails)))
    with pytest.raises(ConnectionRefusedError):
        await Call(app, http_scope(method="HEAD"), EMPTY_BODY).run()


async def test_other_methods_pass_unchanged() -> None:
    call = Call(HeadMiddleware(Response(b"body")), http_scope(), EMPTY_BODY)
    await call.run()
    assert call.body == b"body"
