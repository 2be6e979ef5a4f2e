import asyncio
import http.client
import json
import logging
from collections.abc import Iterator
from contextlib import closing
from typing import Annotated, Any, Literal

import fastapi
import httpx2
import pytest
from fastapi import APIRouter, Body, FastAPI, Form, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from fastapi.testclient import TestClient
from pydantic import BaseModel, Field, field_validator
from starlette.exceptions import HTTPException
from starlette.middleware.base import RequestResponseEndpoint
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from app.errors import AppError, Conflict, UnsupportedMediaType
from app.main import create_app
from app.settings import Settings
from tests.server import Server

SECRET = "hunter2"
FOREIGN_PREFLIGHT = {"Origin": "https://evil.example", "Access-Control-Request-Method": "GET"}
BROKEN_FORM = {"Content-Type": "multipart/form-data"}
BINARY = {"Content-Type": "application/octet-stream"}
MEMBERS = {"type", "title", "status", "detail", "instance", "request_id"}


class Cat(BaseModel):
    kind: Literal["cat"]


class Dog(BaseModel):
    kind: Literal["dog"]


class Login(BaseModel, extra="forbid"):
    name: str
    password: Annotated[str, Field(min_length=30)]
    pet: Annotated[Cat | Dog | None, Field(discriminator="kind")] = None
    scores: dict[str, int] = {}

    @field_validator("name")
    @classmethod
    def has_no_space(cls, name: str) -> str:
        if " " in name:
            raise ValueError("a name has no space")
        return name


async def login(login: Login) -> None:
    pass


async def read_body(request: Request) -> int:
    return len(await request.body())


async def read_form(name: Annotated[str, Form()] = "") -> None:
    pass


async def ignore_body() -> str:
    return "done"


async def fail_with(exc: Exception) -> None:
    raise exc


async def fails_in_a_group(kind: str) -> None:
    async with asyncio.TaskGroup() as group:
        if kind == "conflict":
            group.create_task(fail_with(Conflict("It is taken.")))
        elif kind == "teapot":
            group.create_task(fail_with(HTTPException(418, "I am one.")))
        else:
            group.create_task(fail_with(Conflict("It is taken.")))
            group.create_task(fail_with(RuntimeError(SECRET)))


async def refuses_kind() -> None:
    raise UnsupportedMediaType


async def has_a_long_reason(websocket: WebSocket) -> None:
    await websocket.accept()
    raise Conflict("🦄" * 100)


async def fails_after_its_close(websocket: WebSocket) -> None:
    await websocket.accept()
    await websocket.close(4000)
    raise Conflict


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """The service with some more routes, that fail in the ways the service itself does not."""
    folder = tmp_path_factory.mktemp("errors")
    app = create_app(Settings(data_dir=folder / "data", uploads_dir=folder / "uploads", max_body_size=1_000))
    routers = [APIRouter(prefix="/probe") for _ in range(2)]
    routers[0].add_api_route("/login", login, methods=["POST"])
    routers[0].add_api_route("/read", read_body, methods=["POST"])
    routers[0].add_api_route("/ignore", ignore_body, methods=["POST"])
    routers[0].add_api_route("/form", read_form, methods=["POST"])
    routers[0].add_api_route("/kind", refuses_kind, methods=["POST"])
    routers[0].add_api_route("/group/{kind}", fails_in_a_group)
    routers[0].add_api_route("/shared", ignore_body, methods=["PUT"])
    routers[1].add_api_route("/shared", ignore_body, methods=["GET"])
    routers[1].add_api_websocket_route("/long", has_a_long_reason)
    routers[1].add_api_websocket_route("/closed", fails_after_its_close)
    for router in routers:
        app.include_router(router, max_body_size=1_000)
    app.mount("/probe/files", StaticFiles(directory=folder))
    with TestClient(app) as client:
        yield client


def tracebacks(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    return [record for record in caplog.records if record.exc_info]


def test_the_unicorn_is_refused_with_418_and_its_name(client: TestClient) -> None:
    answer = client.get("/unicorns/yolo")
    assert answer.status_code == 418
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": "about:blank",
        "title": "I'm a Teapot",
        "status": 418,
        "detail": "Oops! yolo did something wrong",
        "instance": "/unicorns/yolo",
        "request_id": answer.headers["x-request-id"],
    }
    for name in ("x" * 51, "a%0d%0ab", "a%1b%5b2J", "a%e2%80%aeb"):
        assert client.get(f"/unicorns/{name}").status_code == 422


def test_a_crash_is_a_500_without_a_word_of_the_exception(client: TestClient) -> None:
    answer = client.get("/errors/crash")
    assert answer.status_code == 500
    assert answer.json()["detail"] == "Internal Server Error"
    for word in ("postgres", SECRET, "db.internal", "down", "RuntimeError", "Traceback"):
        assert word not in answer.text


def test_a_crash_is_logged_once_with_its_request_id(live: Server) -> None:
    answer = httpx2.get(f"{live.url}/errors/crash")
    request_id = answer.json()["request_id"]
    assert request_id == answer.headers["x-request-id"]
    live.wait_for(f'app.access.*"{request_id}"')  # the last line of a request
    [line] = [line for line in live.lines if request_id in line and "Traceback" in line]
    assert "hunter2" in line


@pytest.mark.parametrize(
    ("status", "method", "path", "options"),
    [
        (400, "OPTIONS", "/", {"headers": FOREIGN_PREFLIGHT}),
        (400, "GET", "/", {"headers": {"Host": "evil.test"}}),
        (400, "POST", "/probe/form", {"content": b"--x", "headers": BROKEN_FORM}),
        (404, "GET", "/nope", {}),
        (404, "GET", "/probe/files/nope", {}),
        (405, "POST", "/health", {}),
        (413, "POST", "/probe/read", {"content": b"x" * 1_001}),
        (415, "POST", "/probe/kind", {}),
        (418, "GET", "/unicorns/yolo", {}),
        (422, "POST", "/probe/login", {"json": {}}),
        (500, "GET", "/errors/crash", {}),
    ],
)
def test_errors_of_every_kind_have_the_one_shape(
    client: TestClient, status: int, method: str, path: str, options: dict[str, Any]
) -> None:
    answer = client.request(method, path, **options)
    assert answer.status_code == status
    assert answer.headers.get_list("content-type") == ["application/problem+json"]
    problem = answer.json()
    assert set(problem) == (MEMBERS | {"errors"} if status == 422 else MEMBERS)
    assert problem["status"] == status
    assert problem["instance"] == path
    assert problem["request_id"] == answer.headers["x-request-id"]


def test_a_405_lists_every_allowed_method_of_other_routers_and_of_mounts_too(client: TestClient) -> None:
    assert client.delete("/probe/shared").headers["allow"] == "GET, HEAD, PUT"
    assert client.head("/probe/read").headers["allow"] == "POST"
    answer = client.post("/probe/files/a.txt")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")


@pytest.mark.parametrize("path", ["/probe/read", "/probe/ignore", "/probe/login"])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_a_413_declared_or_chunked(
    client: TestClient, path: str, chunked: bool
) -> None:
    fits = client.post(path, content=b" " * 1_000)
    assert fits.status_code != 413
    content = iter([b" " * 600, b" " * 600]) if chunked else b" " * 1_200
    answer = client.post(path, content=content, headers={"Content-Type": "application/json"})
    if path == "/probe/ignore" and chunked:  # nobody has read what would have been too much
        assert answer.status_code == 200
        return
    assert answer.status_code == 413
    told = answer.json()["title"], answer.json()["detail"]
    assert told == ("Content Too Large", "The request body is too large.")
    assert answer.headers.get_list("connection") == ["close"]


@pytest.mark.parametrize(
    "options",
    [
        {"json": {"name": "a b", "password": SECRET}},
        {"json": {"name": SECRET, "password": SECRET, "pet": {"kind": SECRET}}},
        {"json": {"name": [SECRET], "password": {"x": SECRET}}},
        {"json": SECRET},
        {"content": f'{{"password": "{SECRET}'.encode(), "headers": {"Content-Type": "application/json"}},
        {
            "content": b"\x80\x81\xff" + SECRET.encode(),
            "headers": {"Content-Type": "application/octet-stream"},
        },
        {"content": b"\x80\x81\xff" + SECRET.encode()},
        {"content": b'{"scores": {"\\ud800": "x"}}', "headers": {"Content-Type": "application/json"}},
        {"content": b'{"scores": {"a": NaN}}', "headers": {"Content-Type": "application/json"}},
        {"json": {"name": "a", "password": SECRET, "scores": {"k" * 900: "x"}}},
    ],
)
def test_a_422_never_repeats_a_value_of_the_query_or_the_body_not_even_one_that_is_no_text(
    client: TestClient, options: dict[str, Any]
) -> None:
    answer = client.post("/probe/login", **options)
    assert answer.status_code == 422
    assert SECRET not in answer.text
    assert SECRET not in client.get("/items/", params={"limit": SECRET}).text
    assert "k" * 300 not in answer.text
    for error in answer.json()["errors"]:
        assert set(error) == {"loc", "msg", "type"}


def test_a_422_names_a_bounded_number_of_errors(client: TestClient) -> None:
    answer = client.post("/probe/login", json={"scores": dict.fromkeys(map(str, range(90)), "x")})
    assert len(answer.json()["errors"]) == 20


@pytest.mark.parametrize(
    ("kind", "status", "detail"), [("conflict", 409, "It is taken."), ("teapot", 418, "I am one.")]
)
def test_errors_in_a_group_are_answered_like_the_error_alone(
    client: TestClient, kind: str, status: int, detail: str
) -> None:
    answer = client.get(f"/probe/group/{kind}")
    assert (answer.status_code, answer.json()["detail"]) == (status, detail)


def test_a_group_with_one_error_of_ours_is_a_500(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    answer = client.get("/probe/group/both")
    assert answer.status_code == 500
    assert SECRET not in answer.text
    assert len(tracebacks(caplog)) == 1


@pytest.mark.parametrize(
    ("path", "status"), [("/errors/socket/before", 418), ("/errors/socket/never", 422), ("/nope", 404)]
)
def test_a_refused_socket_gets_the_problem_as_an_http_answer(
    client: TestClient, path: str, status: int
) -> None:
    with pytest.raises(WebSocketDenialResponse) as refused, client.websocket_connect(path):
        pass
    answer = refused.value
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["request_id"] == answer.headers["x-request-id"]


@pytest.mark.parametrize(
    ("path", "code", "logged"),
    [
        ("/errors/socket/after", 1008, 0),
        ("/errors/socket/crash", 1011, 1),
        ("/probe/long", 1008, 0),
        ("/probe/closed", 4000, 0),
    ],
)
def test_an_accepted_socket_is_closed_with_a_code_and_not_torn(
    client: TestClient, caplog: pytest.LogCaptureFixture, path: str, code: int, logged: int
) -> None:
    with client.websocket_connect(path) as socket, pytest.raises(WebSocketDisconnect) as closed:
        socket.receive_text()
    assert closed.value.code == code
    assert SECRET not in closed.value.reason
    assert len(closed.value.reason.encode()) <= 123
    assert len(tracebacks(caplog)) == logged


def test_a_stream_that_fails_half_way_is_seen_to_be_cut(live: Server) -> None:
    with closing(http.client.HTTPConnection(live.host, timeout=10)) as connection:
        connection.request("GET", "/errors/stream", headers={"X-Request-ID": "cut-stream-1"})
        with connection.getresponse() as answer, pytest.raises(http.client.IncompleteRead) as cut:
            answer.read()
    assert cut.value.partial == b"first\n"
    live.wait_for(r'"app\.access".*"cut-stream-1"', 10)
    lines = [json.loads(line) for line in live.lines if "cut-stream-1" in line]
    assert [line["outcome"] for line in lines if line["message"] == "request"] == ["failed"]
    assert sum("traceback" in line for line in lines) == 1


def test_trap_the_text_of_an_exception_is_handed_out_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    app = FastAPI()

    @app.middleware("http")
    async def handle_errors(request: Request, call_next: RequestResponseEndpoint) -> Response:
        try:
            return await call_next(request)
        except Exception as exc:
            return JSONResponse({"error": str(exc)}, 500)

    @app.get("/")
    async def crash() -> None:
        raise RuntimeError(f"postgres://admin:{SECRET}@db")

    assert SECRET in TestClient(app).get("/").text
    assert not tracebacks(caplog)


def test_trap_a_handler_for_the_exception_of_fastapi_misses_404_and_405() -> None:
    app = FastAPI()

    @app.exception_handler(fastapi.HTTPException)
    async def ours(request: Request, exc: fastapi.HTTPException) -> Response:
        return JSONResponse({"ours": True}, exc.status_code)

    assert TestClient(app).get("/nope").json() == {"detail": "Not Found"}


def test_trap_the_errors_of_pydantic_are_no_json() -> None:
    app = FastAPI()
    app.add_api_route("/", login, methods=["POST"])

    @app.exception_handler(RequestValidationError)
    async def handler(request: Request, exc: RequestValidationError) -> Response:
        return JSONResponse({"detail": exc.errors()}, 422)

    client = TestClient(app)
    with pytest.raises(TypeError, match="ValueError is not JSON serializable"):
        client.post("/", json={"name": "a b", "password": SECRET})
    assert SECRET in client.post("/", json={"name": "a", "password": SECRET}).text


def test_trap_a_binary_body_is_a_500_by_default() -> None:
    app = FastAPI()

    @app.post("/")
    async def takes_json(value: Annotated[dict[str, Any], Body()]) -> None:
        pass

    with pytest.raises(UnicodeDecodeError):
        TestClient(app).post("/", content=b"\x80\x81\xff")


def test_trap_a_json_response_is_sent_into_an_accepted_socket() -> None:
    app = FastAPI()

    @app.exception_handler(AppError)
    async def handler(request: Request, exc: AppError) -> Response:
        return JSONResponse({"detail": exc.detail}, exc.status)

    @app.websocket("/")
    async def socket(websocket: WebSocket) -> None:
        await websocket.accept()
        raise Conflict

    with TestClient(app).websocket_connect("/") as session:
        assert session.receive()["type"] == "websocket.http.response.start"  # a server tears the socket here


def test_trap_debug_shows_the_source_and_passes_over_the_handler() -> None:
    app = FastAPI(debug=True)

    @app.exception_handler(Exception)
    async def handler(request: Request, exc: Exception) -> Response:
        return JSONResponse({"detail": "constant"}, 500)

    @app.get("/")
    async def crash() -> None:
        raise RuntimeError(SECRET)

    answer = TestClient(app, raise_server_exceptions=False).get("/")
    assert SECRET in answer.text
    assert "constant" not in answer.text


def test_trap_a_handler_for_500_never_sees_an_http_exception_of_500() -> None:
    app = FastAPI()

    @app.exception_handler(Exception)
    async def handler(request: Request, exc: Exception) -> Response:
        return JSONResponse({"detail": "constant"}, 500)

    @app.get("/")
    async def fails() -> None:
        raise HTTPException(500, SECRET)

    assert SECRET in TestClient(app, raise_server_exceptions=False).get("/").text


def test_the_detail_of_an_http_exception_of_500_is_not_shown(settings: Settings) -> None:
    app = create_app(settings)

    @app.get("/probe")
    async def fails() -> None:
        raise HTTPException(503, SECRET, {"Retry-After": "7"})

    with TestClient(app) as client:
        answer = client.get("/probe")
    assert answer.json()["detail"] == "Service Unavailable"
    assert answer.headers["retry-after"] == "7"
