import json

import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketClose

from app.middleware.problems import ProblemMiddleware
from tests.asgi import CONNECT, EMPTY_BODY, Call, http_scope, socket_scope

pytestmark = pytest.mark.anyio


async def restated(app: ASGIApp, scope: Scope) -> Call:
    call = Call(ProblemMiddleware(app), scope, EMPTY_BODY if scope["type"] == "http" else CONNECT)
    await call.run()
    return call


@pytest.mark.parametrize(
    "response",
    [
        PlainTextResponse("no", 400, {"X-Own": "1"}),
        StreamingResponse(iter(["n", "o"]), 413, {"X-Own": "1"}, "text/plain"),
    ],
)
async def test_a_refusal_in_plain_text_becomes_a_problem_and_keeps_its_headers(response: Response) -> None:
    call = await restated(response, http_scope("/x"))
    headers = call.sent[0]["headers"]
    assert sorted(name for name, _ in headers if name.startswith(b"content")) == [
        b"content-length",
        b"content-type",
    ]
    assert (call.status, call.headers[b"x-own"]) == (response.status_code, b"1")
    assert call.headers[b"content-type"] == b"application/problem+json"
    assert len(call.body) == int(call.headers[b"content-length"])
    assert json.loads(call.body)["instance"] == "/x"
    assert [name for name, _ in headers].count(b"connection") == (call.status == 413)


@pytest.mark.parametrize(
    "response", [PlainTextResponse("yes"), JSONResponse({"a": 1}, 400), Response(status_code=404)]
)
async def test_other_answers_pass_unchanged(response: Response) -> None:
    call = await restated(response, http_scope())
    assert (call.status, call.body) == (response.status_code, response.body)


async def closes_twice(scope: Scope, receive: Receive, send: Send) -> None:
    for _ in range(2):
        await WebSocketClose(1008)(scope, receive, send)


@pytest.mark.parametrize(("known", "status"), [(True, 403), (False, 404)])
async def test_a_socket_closed_before_it_was_accepted_gets_a_problem(known: bool, status: int) -> None:
    scope = socket_scope("/ws")
    if known:
        scope["endpoint"] = restated
    call = await restated(closes_twice, scope)
    assert (call.sent[0]["type"], call.status) == ("websocket.http.response.start", status)
    assert json.loads(call.body)["status"] == status
    assert len(call.sent) == 2


async def test_a_socket_is_closed_as_ever_where_a_server_knows_no_refusal_or_has_accepted() -> None:
    scope = {**socket_scope(), "extensions": {}}
    assert [each["type"] for each in (await restated(WebSocketClose(), scope)).sent] == ["websocket.close"]

    async def accepts(scope: Scope, receive: Receive, send: Send) -> None:
        socket = WebSocket(scope, receive, send)
        await socket.accept()
        await socket.close(4000)

    sent = (await restated(accepts, socket_scope())).sent
    assert [each["type"] for each in sent] == ["websocket.accept", "websocket.close"]
