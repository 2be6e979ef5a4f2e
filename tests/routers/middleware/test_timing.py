import re
import time
from collections.abc import Iterator
from contextvars import ContextVar

import httpx2
import pytest
from fastapi import FastAPI, Request, Response
from fastapi.middleware import Middleware
from fastapi.testclient import TestClient
from starlette.middleware.base import RequestResponseEndpoint
from starlette.types import ASGIApp, Receive, Scope, Send

from app.middleware.timing import TimingMiddleware
from tests.server import Server

USER: ContextVar[str] = ContextVar("user", default="nobody")


@pytest.mark.parametrize(
    "path", ["/middleware/timing/sleep?seconds=0", "/nope", "/middleware/timing/sleep?seconds=x"]
)
def test_every_answer_has_a_process_time_errors_too(client: TestClient, path: str) -> None:
    assert "x-process-time" in client.get(path).headers


def test_the_process_time_is_fixed_point_and_never_negative(client: TestClient) -> None:
    for _ in range(20):
        value = client.get("/middleware/timing/sleep", params={"seconds": 0}).headers["x-process-time"]
        assert re.fullmatch(r"\d+\.\d{6}", value)


def test_the_header_is_sent_with_the_first_byte_and_does_not_hold_back_the_rest(live: Server) -> None:
    url = f"{live.url}/middleware/timing/stream"
    with httpx2.stream("GET", url, params={"seconds": 0.5}) as answer:
        assert float(answer.headers["x-process-time"]) < 0.4
        started = time.perf_counter()
        answer.read()
        assert time.perf_counter() - started > 0.2


class ReadsUser:
    def __init__(self, app: ASGIApp, seen: list[str]) -> None:
        self.app = app
        self.seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
        self.seen.append(USER.get())


async def sets_user() -> None:
    USER.set("alice")


def test_a_context_variable_set_in_the_endpoint_is_seen_by_the_middleware() -> None:
    seen: list[str] = []
    app = FastAPI(middleware=[Middleware(ReadsUser, seen=seen), Middleware(TimingMiddleware)])
    app.add_api_route("/", sets_user)
    TestClient(app).get("/")
    assert seen == ["alice"]


def test_trap_a_context_variable_is_lost_below_a_function_middleware() -> None:
    seen: list[str] = []
    app = FastAPI()
    app.add_api_route("/", sets_user)

    @app.middleware("http")
    async def reads_user(request: Request, call_next: RequestResponseEndpoint) -> Response:
        response = await call_next(request)
        seen.append(USER.get())
        return response

    TestClient(app).get("/")
    assert seen == ["nobody"]


def test_trap_the_wall_clock_can_make_a_request_end_before_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    app = FastAPI()
    clock: Iterator[float] = iter([3600.0, 0.0])
    monkeypatch.setattr(time, "time", lambda: next(clock))

    @app.middleware("http")
    async def timing(request: Request, call_next: RequestResponseEndpoint) -> Response:
        started = time.time()
        response = await call_next(request)
        response.headers["X-Process-Time"] = str(time.time() - started)
        return response

    app.add_api_route("/", lambda: None)
    assert float(TestClient(app).get("/").headers["x-process-time"]) < 0
