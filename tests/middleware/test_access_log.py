import asyncio
import logging
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.middleware.access_log import AccessLogMiddleware, logger
from tests.asgi import EMPTY_BODY, Call, http_scope, socket_scope

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def the_level_lets_records_through() -> Iterator[None]:
    logger.setLevel(logging.INFO)
    yield
    logger.setLevel(logging.NOTSET)


START: Message = {"type": "http.response.start", "status": 200, "headers": []}


async def record_of(app: ASGIApp, scope: Scope, *incoming: Message) -> dict[str, Any]:
    """The fields of the one record that the call leaves."""
    with suppress(RuntimeError, asyncio.CancelledError):
        await Call(AccessLogMiddleware(app), scope, *incoming).run()
    [fields] = scope["state"]["log"].lines
    assert isinstance(fields, dict)
    return fields


async def answers(scope: Scope, receive: Receive, send: Send) -> None:
    await receive()
    await send(START)
    await send({"type": "http.response.body", "body": b"12345", "more_body": True})
    await send({"type": "http.response.body", "body": b"678"})


async def crashes(scope: Scope, receive: Receive, send: Send) -> None:
    raise RuntimeError


async def breaks_off(scope: Scope, receive: Receive, send: Send) -> None:
    await send(START)
    await send({"type": "http.response.body", "body": b"12345", "more_body": True})


async def waits_for_the_client_to_leave(scope: Scope, receive: Receive, send: Send) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def refuses_after_the_client_left(scope: Scope, receive: Receive, send: Send) -> None:
    await waits_for_the_client_to_leave(scope, receive, send)
    await send({**START, "status": 400})
    await send({"type": "http.response.body", "body": b""})


async def is_cancelled(scope: Scope, receive: Receive, send: Send) -> None:
    raise asyncio.CancelledError


LEFT: Message = {"type": "http.disconnect"}


@pytest.mark.parametrize(
    ("app", "incoming", "expected"),
    [
        (answers, [EMPTY_BODY], (200, "complete", 8)),
        (crashes, [EMPTY_BODY], (0, "failed", 0)),
        (breaks_off, [EMPTY_BODY], (200, "failed", 5)),
        (waits_for_the_client_to_leave, [EMPTY_BODY, LEFT], (0, "disconnected", 0)),
        (refuses_after_the_client_left, [LEFT], (400, "disconnected", 0)),
    ],
)
async def test_there_is_one_record_whatever_the_outcome(
    app: ASGIApp, incoming: list[Message], expected: tuple[int, str, int]
) -> None:
    fields = await record_of(app, http_scope("/x", "POST"), *incoming)
    assert (fields["status"], fields["outcome"], fields["bytes"]) == expected
    assert (fields["method"], fields["path"]) == ("POST", "/x")
    assert 0 <= fields["seconds"] < 10


async def test_a_cancelled_request_has_a_record_too() -> None:
    assert (await record_of(is_cancelled, http_scope(), EMPTY_BODY))["outcome"] == "failed"


async def test_the_level_of_the_logger_turns_the_records_off() -> None:
    logger.setLevel(logging.WARNING)
    with pytest.raises(ValueError, match="not enough values"):
        await record_of(answers, http_scope(), EMPTY_BODY)


async def test_a_long_path_is_cut() -> None:
    assert len((await record_of(answers, http_scope("/" + "x" * 60_000), EMPTY_BODY))["path"]) == 1_000


async def test_the_query_string_is_not_logged() -> None:
    scope = {**http_scope("/login"), "query_string": b"password=hunter2"}
    assert "hunter2" not in str(await record_of(answers, scope, EMPTY_BODY))


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        ([{"type": "websocket.accept"}, {"type": "websocket.close", "code": 1008}], 1008),
        ([{"type": "websocket.accept"}], 1001),
        (
            [
                {"type": "websocket.http.response.start", "status": 403, "headers": []},
                {"type": "websocket.http.response.body", "body": b"no"},
            ],
            403,
        ),
    ],
)
async def test_a_socket_has_a_record_when_it_ends(sent: list[Message], status: int) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for message in sent:
            await send(dict(message))
        await receive()

    left: Message = {"type": "websocket.disconnect", "code": 1001}
    fields = await record_of(app, socket_scope("/ws"), left)
    assert (fields["method"], fields["status"], fields["outcome"]) == ("WEBSOCKET", status, "complete")
