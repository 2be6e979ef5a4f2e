import json
import logging

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketDisconnect

from app.errors import TooManyRequests
from app.middleware.unhandled import UnhandledErrorMiddleware
from tests.asgi import CONNECT, EMPTY_BODY, Call, http_scope, socket_scope

pytestmark = pytest.mark.anyio

START: Message = {"type": "http.response.start", "status": 200, "headers": []}
CHUNK: Message = {"type": "http.response.body", "body": b"half", "more_body": True}
ACCEPT: Message = {"type": "websocket.accept"}
CLOSE: Message = {"type": "websocket.close", "code": 4000}


class Fails:
    def __init__(self, exc: Exception, *sent: Message) -> None:
        self.exc = exc
        self.sent = sent

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for message in self.sent:
            await send(dict(message))
        raise self.exc


async def call(app: ASGIApp, scope: Scope) -> Call:
    call = Call(UnhandledErrorMiddleware(app), scope, EMPTY_BODY if scope["type"] == "http" else CONNECT)
    await call.run()
    return call


async def test_an_exception_is_a_500_without_its_text_and_one_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = await call(Fails(RuntimeError("hunter2")), http_scope("/x"))
    assert answer.status == 500
    assert json.loads(answer.body)["title"] == "Internal Server Error"
    assert b"hunter2" not in answer.body
    assert [bool(record.exc_info) for record in caplog.records] == [True]


async def test_an_answer_that_has_begun_is_not_ended(caplog: pytest.LogCaptureFixture) -> None:
    answer = await call(Fails(RuntimeError(), START, CHUNK), http_scope())
    assert answer.sent == [START, CHUNK]
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "exc",
    [
        ClientDisconnect(),
        WebSocketDisconnect(1006),
        ExceptionGroup("", [ClientDisconnect(), ExceptionGroup("", [WebSocketDisconnect()])]),
    ],
)
@pytest.mark.parametrize("scope", [http_scope(), socket_scope()])
async def test_a_client_that_left_is_no_error(
    caplog: pytest.LogCaptureFixture, exc: Exception, scope: Scope
) -> None:
    answer = await call(Fails(exc), dict(scope))
    assert answer.sent == []
    assert caplog.records == []


async def test_a_group_with_a_real_error_in_it_is_one() -> None:
    group = ExceptionGroup("", [ClientDisconnect(), RuntimeError()])
    assert (await call(Fails(group), http_scope())).status == 500


async def test_an_error_for_the_client_from_a_middleware_has_its_own_status(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = await call(Fails(TooManyRequests(headers={"Retry-After": "3"})), http_scope())
    assert (answer.status, answer.headers[b"retry-after"]) == (429, b"3")
    assert caplog.records == []


@pytest.mark.parametrize(
    ("sent", "last"),
    [
        ([], "websocket.http.response.body"),
        ([ACCEPT], "websocket.close"),
        ([ACCEPT, CLOSE], "websocket.close"),
    ],
)
async def test_a_socket_is_refused_or_closed_once(sent: list[Message], last: str) -> None:
    answer = await call(Fails(RuntimeError("hunter2"), *sent), socket_scope())
    assert answer.sent[-1]["type"] == last
    assert [each["type"] for each in answer.sent].count("websocket.close") <= 1
    assert "hunter2" not in str(answer.sent)
    if sent == [ACCEPT]:
        assert answer.sent[-1]["code"] == 1011


async def test_a_socket_that_is_gone_when_it_is_to_be_closed_makes_no_second_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def send(message: Message) -> None:
        if message["type"] == "websocket.close":
            raise ConnectionResetError

    gone = Call(UnhandledErrorMiddleware(Fails(RuntimeError(), ACCEPT)), socket_scope(), CONNECT)
    await gone.app(gone.scope, gone.incoming.get, send)
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
