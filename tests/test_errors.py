"""The corners of the error shape that no page shows."""

import asyncio
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import fastapi
import pytest
from fastapi import FastAPI, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response
from fastapi.testclient import TestClient
from pydantic import BaseModel, ByteSize, ConfigDict, ImportString, ValidationError
from starlette.exceptions import HTTPException
from starlette.testclient import WebSocketDenialResponse
from starlette.types import Message
from starlette.websockets import WebSocketDisconnect

from app.errors import PROBLEM_RESPONSES, AppError, Conflict, add_exception_handlers
from app.main import create_app
from app.openapi import completed
from app.settings import Settings
from tests.asgi import CONNECT, Call, socket_scope


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("errors")
    app = create_app(Settings(data_dir=folder / "data", uploads_dir=folder / "uploads"))

    @app.get("/probe/status/{status}")
    async def fails(status: int) -> None:
        headers = {"Location": "/health"} if status in (303, 307) else None
        raise HTTPException(status, headers=headers)

    @app.get("/probe/object")
    async def has_an_object_for_a_detail() -> None:
        raise fastapi.HTTPException(400, {"password": "hunter2"})

    @app.get("/probe/cause")
    async def is_missing() -> None:
        try:
            raise FileNotFoundError("/etc/hunter2")
        except FileNotFoundError as exc:
            raise HTTPException(404, "No such file.") from exc

    @app.get("/probe/types")
    async def takes_odd_types(size: ByteSize, module: ImportString[Any], id: UUID) -> None: ...

    class Key(BaseModel):
        model_config = ConfigDict(val_json_bytes="hex")

        key: bytes

    @app.post("/probe/hex")
    async def takes_hex(request: fastapi.Request) -> None:
        try:
            Key.model_validate_json(await request.body())
        except ValidationError as exc:
            raise RequestValidationError(exc.errors()) from None

    @app.get("/probe/dependency")
    async def fails_with_headers() -> None:
        raise Conflict("Taken.", {"Retry-After": "3"})

    @app.get("/probe/deep")
    async def fails_in_groups_of_groups() -> None:
        async def inner() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(fails_with_headers())

        async with asyncio.TaskGroup() as group:
            group.create_task(inner())

    @app.websocket("/probe/{moment}/{status}")
    async def socket(websocket: WebSocket, moment: str, status: int) -> None:
        if moment == "after":
            await websocket.accept()
        raise HTTPException(status, "reason")

    with TestClient(app, follow_redirects=False) as client:
        yield client


@pytest.mark.parametrize("status", [204, 304, 303, 307])
def test_an_exception_that_is_no_error_has_no_body(client: TestClient, status: int) -> None:
    answer = client.get(f"/probe/status/{status}")
    assert (answer.status_code, answer.content) == (status, b"")
    assert answer.headers.get("location") == ("/health" if status in (303, 307) else None)


@pytest.mark.parametrize("status", [402, 451, 499, 507, 599])
def test_every_status_has_a_problem_known_or_not(client: TestClient, status: int) -> None:
    answer = client.get(f"/probe/status/{status}")
    assert answer.status_code == answer.json()["status"] == status
    assert answer.json()["title"]


@pytest.mark.parametrize(
    ("status", "title"),
    [
        (413, "Content Too Large"),
        (414, "URI Too Long"),
        (416, "Range Not Satisfiable"),
        (422, "Unprocessable Content"),
    ],
)
def test_the_title_of_a_status_is_that_of_the_rfc_whatever_python_runs(
    client: TestClient, status: int, title: str
) -> None:
    assert client.get(f"/probe/status/{status}").json()["title"] == title


def test_trap_a_plain_app_that_names_the_shape_of_its_errors_refers_to_nothing() -> None:
    app = FastAPI(responses=PROBLEM_RESPONSES)
    app.add_api_route("/", lambda: None)
    document = app.openapi()
    assert "#/components/schemas/Problem" in str(document["paths"])
    assert "Problem" not in document.get("components", {}).get("schemas", {})
    assert "Problem" in completed(document)["components"]["schemas"]


def test_a_detail_that_is_no_text_is_not_shown(client: TestClient) -> None:
    assert client.get("/probe/object").json()["detail"] == "Bad Request"


def test_an_http_exception_raised_from_an_os_error_keeps_its_status(client: TestClient) -> None:
    answer = client.get("/probe/cause")
    assert (answer.status_code, answer.json()["detail"]) == (404, "No such file.")


def test_no_message_of_pydantic_repeats_the_input(client: TestClient) -> None:
    answer = client.get("/probe/types", params={"size": "12hunter2", "module": "hunter2:x", "id": "hunter2"})
    assert answer.status_code == 422 and len(answer.json()["errors"]) == 3
    assert "hunter2" not in answer.text
    [error] = client.post("/probe/hex", content='{"key": "0é"}').json()["errors"]
    assert error == {"loc": ["key"], "msg": "Input should be valid", "type": "bytes_invalid_encoding"}


@pytest.mark.parametrize("path", ["/probe/dependency", "/probe/deep"])
def test_an_error_keeps_its_headers(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, answer.json()["detail"], answer.headers["retry-after"]) == (
        409,
        "Taken.",
        "3",
    )


@pytest.mark.parametrize(
    ("path", "status"),
    [("/nope", 404), ("/errors/crash", 500), ("/unicorns/x", 418), ("/probe/status/503", 503)],
)
def test_the_head_of_an_error_is_that_of_its_get(client: TestClient, path: str, status: int) -> None:
    get, head = client.get(path), client.head(path)
    assert get.status_code == head.status_code == status
    assert head.headers["content-type"] == "application/problem+json"


def test_a_long_path_is_cut_between_its_characters(client: TestClient) -> None:
    instance = client.get("/" + "é" * 900).json()["instance"]
    assert instance == "/" + "%C3%A9" * 199


@pytest.mark.parametrize("status", [303, 403, 404, 503])
def test_an_http_exception_before_accept_is_the_answer_to_the_handshake(
    client: TestClient, status: int
) -> None:
    with (
        pytest.raises(WebSocketDenialResponse) as refused,
        client.websocket_connect(f"/probe/before/{status}"),
    ):
        pass
    assert refused.value.status_code == status


@pytest.mark.parametrize(("status", "code"), [(303, 1008), (403, 1008), (503, 1011)])
def test_an_http_exception_after_accept_closes_the_socket(client: TestClient, status: int, code: int) -> None:
    with (
        client.websocket_connect(f"/probe/after/{status}") as socket,
        pytest.raises(WebSocketDisconnect) as closed,
    ):
        socket.receive_text()
    assert closed.value.code == code


@pytest.mark.anyio
@pytest.mark.parametrize("who", ["we", "they"])
async def test_nothing_is_sent_into_a_socket_that_is_closed(who: str) -> None:
    app = FastAPI()
    add_exception_handlers(app)

    @app.websocket("/")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        if who == "we":
            await websocket.close(4000)
        else:
            await websocket.receive()
        raise Conflict

    left: Message = {"type": "websocket.disconnect", "code": 1001}
    sent = await Call(app, socket_scope(), CONNECT, left).run()
    expected = ["websocket.accept", "websocket.close"] if who == "we" else ["websocket.accept"]
    assert [message["type"] for message in sent] == expected


def test_a_subclass_without_a_handler_of_its_own_is_answered() -> None:
    class Teapot(AppError):
        status = 418

    class SmallTeapot(Teapot):
        detail = "Short and stout."

    app = FastAPI()
    add_exception_handlers(app)

    @app.get("/")
    async def fails() -> Response:
        raise SmallTeapot

    assert TestClient(app).get("/").json()["detail"] == "Short and stout."


def test_trap_an_error_raised_in_a_group_finds_no_handler() -> None:
    app = FastAPI()

    @app.exception_handler(Conflict)
    async def handler(request: object, exc: Conflict) -> Response:
        return PlainTextResponse("handled", 409)

    @app.get("/")
    async def fails() -> None:
        raise ExceptionGroup("tasks", [Conflict()])

    with pytest.raises(ExceptionGroup):
        TestClient(app).get("/")
