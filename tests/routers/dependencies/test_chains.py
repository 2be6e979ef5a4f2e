import threading
from contextvars import ContextVar
from functools import partial
from typing import Annotated, Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx2
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient

from app.routers.dependencies.chains import MAX_LIMIT, MAX_SEARCH_LENGTH, MAX_SKIP, Window

OUT_OF_BOUNDS: list[dict[str, str | int]] = [
    {"limit": 0},
    {"limit": -1},
    {"limit": MAX_LIMIT + 1},
    {"limit": 10**25},
    {"limit": "many"},
    {"limit": ""},
    {"skip": -5},
    {"skip": MAX_SKIP + 1},
    {"q": "x" * (MAX_SEARCH_LENGTH + 1)},
    {"q": "x" * 60_000},
]


@pytest.mark.parametrize("path", ["/items/", "/items"])
def test_the_window_has_its_defaults_and_refuses_values_out_of_bounds(client: TestClient, path: str) -> None:
    assert client.get(path).json() == {"q": None, "skip": 0, "limit": 100}
    edge: dict[str, str | int] = {"q": "x" * MAX_SEARCH_LENGTH, "skip": MAX_SKIP, "limit": 1}
    assert client.get(path, params=edge).json() == edge
    for query in OUT_OF_BOUNDS:
        refused = client.get(path, params=query)
        assert refused.status_code == 422
        assert refused.headers["content-type"] == "application/problem+json"
        assert [error["loc"] for error in refused.json()["errors"]] == [["query", *query]]


def test_the_answer_is_described_in_the_schema(client: TestClient) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/items/"]["get"]
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer == {"$ref": "#/components/schemas/Window"}


def wanted(client: TestClient, query: dict[str, str], cookie: str | None = None) -> str | None:
    headers = {"Cookie": f"last_query={cookie}"} if cookie is not None else {}
    answer = client.get("/items/query-or-cookie", params=query, headers=headers)
    assert answer.status_code == 200
    assert list(answer.json()) == ["q_or_cookie"]
    found: str | None = answer.json()["q_or_cookie"]
    return found


def test_the_query_wins_over_the_cookie_and_an_empty_query_does_not(client: TestClient) -> None:
    assert wanted(client, {"q": "new"}, "old") == "new"
    assert wanted(client, {}, "old") == "old"
    assert wanted(client, {"q": ""}, "old") == "old"
    assert wanted(client, {}) is None


def test_a_cookie_out_of_bounds_is_refused(client: TestClient) -> None:
    headers = {"Cookie": "last_query=" + "x" * (MAX_SEARCH_LENGTH + 1)}
    assert client.get("/items/query-or-cookie", headers=headers).status_code == 422


def test_a_plain_class_is_made_in_a_worker_thread_and_an_async_class_method_is_not(
    client: TestClient,
) -> None:
    threads = client.get("/dependencies/threads").json()
    assert threads["async_class_method"] == threads["endpoint"]
    assert threads["plain_class"] != threads["endpoint"]
    assert "worker thread" in threads["plain_class"]


def test_the_window_and_the_parameter_model_never_wait_for_a_thread(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a thread was asked for")

    monkeypatch.setattr("fastapi.dependencies.utils.run_in_threadpool", refuse)
    with TestClient(app) as client:
        for path in ("/items/", "/items/query-or-cookie", "/dependencies/model"):
            assert client.get(path).status_code == 200


def test_a_dependency_runs_once_in_a_request_unless_it_asks_not_to_be_cached(client: TestClient) -> None:
    draws = client.get("/dependencies/cache").json()
    assert draws["first"] == draws["second"] != draws["fresh"]
    assert draws["first"] != client.get("/dependencies/cache").json()["first"]


def test_a_parameter_model_refuses_parameters_it_does_not_know(client: TestClient) -> None:
    assert client.get("/dependencies/model?limit=5").json() == {"q": None, "skip": 0, "limit": 5}
    assert client.get("/dependencies/model?limt=5").status_code == 422
    assert client.get("/items/?limt=5").json()["limit"] == 100


def test_an_object_with_an_async_call_is_a_dependency_with_arguments(client: TestClient) -> None:
    assert client.get("/dependencies/preview?skip=100").json()["skip"] == 100
    refused = client.get("/dependencies/preview?skip=101")
    assert refused.status_code == 403
    assert refused.json()["detail"] == "Only the first 200 rows are open to everybody."


class CommonQueryParams:
    """As the tutorials write it."""

    def __init__(self, q: str | None = None, skip: int = 0, limit: int = 100) -> None:
        self.q = q
        self.skip = skip
        self.limit = limit


async def window_of(common: Annotated[CommonQueryParams, Depends()]) -> dict[str, Any]:
    return vars(common)


@pytest.mark.parametrize("query", [{"limit": -1}, {"limit": 10**25}, {"skip": -5}, {"q": "x" * 60_000}])
def test_trap_a_class_without_bounds_accepts_anything(query: dict[str, Any]) -> None:
    app = FastAPI()
    app.add_api_route("/items/", window_of)
    answer = TestClient(app).get("/items/", params=query)
    assert answer.status_code == 200
    assert answer.json().items() >= query.items()


async def window_by_method(window: Annotated[Window, Depends(Window.from_query)]) -> None: ...


async def window_by_class(common: Annotated[CommonQueryParams, Depends()]) -> None: ...


@pytest.mark.anyio
async def test_trap_a_class_waits_while_all_worker_threads_are_busy() -> None:
    app = FastAPI()
    app.add_api_route("/class", window_by_class)
    app.add_api_route("/method", window_by_method)
    threads = anyio.to_thread.current_default_thread_limiter()
    before, threads.total_tokens = threads.total_tokens, 1
    answers: list[str] = []
    release = threading.Event()
    transport = httpx2.ASGITransport(app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://test") as client:

        async def ask(path: str) -> None:
            await client.get(path)
            answers.append(path)

        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                try:
                    tasks.start_soon(anyio.to_thread.run_sync, release.wait, 10)
                    tasks.start_soon(ask, "/class")
                    while not threads.statistics().tasks_waiting:
                        await anyio.lowlevel.checkpoint()
                    await ask("/method")
                finally:
                    release.set()
    threads.total_tokens = before
    assert answers == ["/method", "/class"]


TENANT: ContextVar[str] = ContextVar("tenant", default="nobody")


class SetsTenant:
    def __init__(self) -> None:
        TENANT.set("alice")

    @classmethod
    async def make(cls) -> "SetsTenant":
        return cls()


def test_trap_a_context_variable_set_by_a_class_is_lost_in_its_thread() -> None:
    app = FastAPI()

    @app.get("/class")
    async def by_class(_: Annotated[SetsTenant, Depends()]) -> str:
        return TENANT.get()

    @app.get("/method")
    async def by_method(_: Annotated[SetsTenant, Depends(SetsTenant.make)]) -> str:
        return TENANT.get()

    client = TestClient(app)
    assert client.get("/class").json() == "nobody"
    assert client.get("/method").json() == "alice"


def test_trap_a_keyword_of_a_partial_is_only_a_default() -> None:
    async def rows(limit: int = 10) -> int:
        return limit

    app = FastAPI()

    @app.get("/rows")
    async def read(limit: Annotated[int, Depends(partial(rows, limit=50))]) -> int:
        return limit

    client = TestClient(app)
    assert client.get("/rows").json() == 50
    assert client.get("/rows?limit=1000000").json() == 1_000_000
