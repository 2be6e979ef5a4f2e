import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial, wraps
from typing import Annotated, Any, Literal, get_args

import anyio
import pytest
from anyio.lowlevel import checkpoint
from fastapi import Depends, FastAPI, HTTPException, Request, WebSocket
from fastapi.exceptions import DependencyScopeError, FastAPIError
from fastapi.testclient import TestClient
from typing_extensions import TypeAliasType

from app.dependencies import SettingsDep
from app.routers.dependencies.resources import (
    MAX_LINES,
    MAX_TIMELINES,
    Line,
    LineDep,
    PageState,
    PageStateDep,
    Partner,
    TurnDep,
    open_line,
    wait_for_turn,
)
from app.settings import Settings
from tests.asgi import EMPTY_BODY, Call, http_scope

LIMIT = 10.0
"""Seconds for any wait of a test."""

TEA = "/dependencies/prices/tea"


def in_loop(client: TestClient, function: Callable[[], Awaitable[None]]) -> None:
    """Runs it in the loop of the app, for not longer than `LIMIT`."""

    async def limited() -> None:
        with anyio.fail_after(LIMIT):
            await function()

    assert client.portal
    client.portal.call(limited)


def call(client: TestClient, path: str) -> Call:
    scope = http_scope(path)
    scope["state"] = dict(client.app_state)
    return Call(client.app, scope, EMPTY_BODY)


def lines(client: TestClient) -> tuple[int, int]:
    """How many are open, and how many have been at the same time."""
    partner = client.get("/dependencies/partner").json()
    return partner["lines"], partner["most_lines"]


async def until(holds: Callable[[], bool]) -> None:
    while not holds():
        await checkpoint()


def test_function_scope_is_left_before_the_answer_and_request_scope_after_the_tasks(
    client: TestClient,
) -> None:
    started = client.post("/dependencies/timelines")
    assert started.status_code == 201
    # The answer is made before either is left, and cannot tell.
    assert started.json() == ["request scope entered", "function scope entered", "endpoint"]
    assert client.get(started.headers["location"]).json() == [
        *started.json(),
        "function scope left",
        "background task",
        "request scope left",
    ]


def test_only_the_latest_timelines_are_kept(client: TestClient) -> None:
    locations = [client.post("/dependencies/timelines").headers["location"] for _ in range(MAX_TIMELINES + 1)]
    found = [client.get(location).status_code for location in (locations[0], locations[1], locations[-1])]
    assert found == [404, 200, 200]


def test_a_commit_that_fails_in_the_exit_code_is_a_409_and_nothing_is_changed(client: TestClient) -> None:
    assert client.put(TEA, json={"price": 6, "instead_of": 4}).json() == {"name": "tea", "price": 6}
    refused = client.put(TEA, json={"price": 7, "instead_of": 4})
    assert refused.status_code == 409
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["detail"] == "The price has changed. Read it again."
    assert client.get(TEA).json()["price"] == 6
    assert lines(client)[0] == 0


def test_what_the_partner_raises_inside_the_endpoint_becomes_a_404(client: TestClient) -> None:
    for answer in (
        client.get("/dependencies/prices/milk"),
        client.put("/dependencies/prices/milk", json={"price": 1, "instead_of": 1}),
    ):
        assert answer.status_code == 404
        assert answer.json()["detail"] == "The partner does not have this."
    assert lines(client)[0] == 0


@pytest.mark.parametrize("body", [{"price": -1, "instead_of": 4}, {"price": 10**9, "instead_of": 4}, {}])
def test_a_price_out_of_bounds_is_refused_and_the_line_closed(
    client: TestClient, body: dict[str, int]
) -> None:
    assert client.put(TEA, json=body).status_code == 422
    assert client.get(TEA, params={"hold": 3}).status_code == 422
    assert lines(client)[0] == 0


class Gate:
    """An endpoint that keeps its line until the gate is opened."""

    def __init__(self) -> None:
        self.opened = anyio.Event()

    async def __call__(self, line: LineDep) -> int:
        await self.opened.wait()
        return line.read("tea")


def partner_of(client: TestClient) -> Partner:
    partner = client.app_state["partner"]
    assert isinstance(partner, Partner)
    return partner


def test_at_most_two_lines_are_open_at_a_time_whichever_routes_use_them(
    app: FastAPI, client: TestClient
) -> None:
    gate = Gate()
    app.add_api_route("/gate", gate.__call__)
    partner = partner_of(client)
    waiting = call(client, TEA)

    async def scenario() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(MAX_LINES):
                tasks.start_soon(call(client, "/gate").run)
            await until(lambda: partner.lines == MAX_LINES)
            tasks.start_soon(waiting.run)
            await anyio.wait_all_tasks_blocked()
            assert partner.lines == MAX_LINES and not waiting.sent
            gate.opened.set()

    in_loop(client, scenario)
    assert waiting.status == 200
    assert lines(client) == (0, MAX_LINES)


def test_a_turn_that_comes_as_the_time_runs_out_opens_no_line(app: FastAPI, client: TestClient) -> None:
    gate = Gate()
    app.add_api_route("/gate", gate.__call__)
    partner = partner_of(client)
    late = call(client, TEA)
    turns: list[anyio.CancelScope] = []

    async def wait_in_sight(settings: SettingsDep) -> AsyncIterator[anyio.CancelScope]:
        async with asynccontextmanager(wait_for_turn)(settings) as turn:
            turns.append(turn)
            yield turn

    app.dependency_overrides[wait_for_turn] = wait_in_sight

    async def scenario() -> None:
        async with anyio.create_task_group() as tasks:
            for _ in range(MAX_LINES):
                tasks.start_soon(call(client, "/gate").run)
            await until(lambda: partner.lines == MAX_LINES)
            tasks.start_soon(late.run)
            await anyio.wait_all_tasks_blocked()
            gate.opened.set()
            # A line is closed: the turn has been handed over, and who waits for it has not run since.
            await until(lambda: partner.lines < MAX_LINES)
            turns[-1].deadline = -math.inf

    in_loop(client, scenario)
    assert late.status == 503
    assert lines(client) == (0, MAX_LINES)
    assert client.get(TEA).status_code == 200


class TestImpatient:
    """With a short wait."""

    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"resource_wait": 0.05})

    def test_who_waits_too_long_for_a_line_gets_a_503_and_the_others_are_served(
        self, app: FastAPI, client: TestClient
    ) -> None:
        gate = Gate()
        app.add_api_route("/gate", gate.__call__)
        partner = partner_of(client)
        served = [call(client, "/gate") for _ in range(MAX_LINES)]
        late = call(client, TEA)

        async def scenario() -> None:
            async with anyio.create_task_group() as tasks:
                for each in served:
                    tasks.start_soon(each.run)
                await until(lambda: partner.lines == MAX_LINES)
                await late.run()
                assert partner.lines == MAX_LINES
                gate.opened.set()

        in_loop(client, scenario)
        assert late.status == 503
        assert late.headers[b"content-type"] == b"application/problem+json"
        assert late.headers[b"retry-after"] == b"1"
        # They kept their lines for longer than anybody waits.
        assert [each.status for each in served] == [200] * MAX_LINES
        assert client.get(TEA).status_code == 200

    def test_requests_that_wait_for_each_others_resources_end_with_a_503(
        self, app: FastAPI, client: TestClient
    ) -> None:
        add_circle(app, get_args(TurnDep)[1])
        calls = [call(client, "/there"), call(client, "/back")]

        async def scenario() -> None:
            async with anyio.create_task_group() as tasks:
                for each in calls:
                    tasks.start_soon(each.run)

        in_loop(client, scenario)
        assert 503 in {each.status for each in calls} <= {200, 503}


def add_circle(app: FastAPI, turn: Any) -> None:
    """Two routes that take the same two resources in opposite order, both the first before the second."""
    have_one: list[str] = []

    async def resource(turn: Annotated[anyio.CancelScope, turn]) -> AsyncIterator[None]:
        turn.deadline = math.inf
        yield

    async def meet() -> None:
        have_one.append("")
        await until(lambda: len(have_one) == 2)

    first = Depends(partial(resource), scope="function", max_concurrency=1)
    second = Depends(partial(resource), scope="function", max_concurrency=1)

    async def done() -> None: ...

    app.add_api_route("/there", done, dependencies=[first, Depends(meet), second])
    app.add_api_route("/back", done, dependencies=[second, Depends(meet), first])


def test_a_line_is_closed_when_the_request_is_cancelled(app: FastAPI, client: TestClient) -> None:
    app.add_api_route("/gate", Gate().__call__)
    partner = partner_of(client)
    in_loop(client, lambda: cancelled(call(client, "/gate"), lambda: partner.lines == 1))
    assert lines(client)[0] == 0


async def cancelled(request: Call, when: Callable[[], bool]) -> None:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(request.run)
        await until(when)
        tasks.cancel_scope.cancel()


def test_a_positional_argument_of_a_partial_is_no_parameter_of_the_request(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert "parameters" not in paths["/dependencies/timelines"]["post"]
    location = client.post("/dependencies/timelines?name=mine").headers["location"]
    assert client.get(location).json()[0] == "request scope entered"


def test_the_same_dependencies_serve_a_socket(app: FastAPI, client: TestClient) -> None:
    @app.websocket("/tea")
    async def tea(websocket: WebSocket, line: LineDep, state: PageStateDep) -> None:
        await websocket.accept()
        await websocket.send_json({"price": line.read("tea"), "open": state["partner"].lines})
        await websocket.close()

    with client.websocket_connect("/tea") as socket:
        assert socket.receive_json() == {"price": 4, "open": 1}
    assert lines(client)[0] == 0


def test_an_override_in_a_test_is_subject_to_the_same_limit(app: FastAPI, client: TestClient) -> None:
    fake = Partner({"tea": 1})
    opened = anyio.Event()

    async def open_fake() -> AsyncIterator[Line]:
        line = Line(fake)
        await opened.wait()
        yield line

    # The key is the function that is replaced. The app is made for this test, so nothing need be put back.
    app.dependency_overrides[open_line] = open_fake
    calls = [call(client, TEA) for _ in range(MAX_LINES + 1)]

    async def scenario() -> None:
        async with anyio.create_task_group() as tasks:
            for each in calls:
                tasks.start_soon(each.run)
            await until(lambda: fake.lines == MAX_LINES)
            await anyio.wait_all_tasks_blocked()
            assert fake.lines == MAX_LINES
            opened.set()

    in_loop(client, scenario)
    assert [json.loads(each.body)["price"] for each in calls] == [1] * len(calls)
    assert partner_of(client).most_lines == 0


def test_an_alias_by_type_statement_is_a_dependency_like_any_other() -> None:
    # On Python 3.12: type Number = Annotated[int, Depends(draw)]
    Number = TypeAliasType("Number", Annotated[int, Depends(lambda: 7)])
    app = FastAPI()

    @app.get("/")
    async def read(number: Number) -> int:
        return number

    assert TestClient(app).get("/").json() == 7


async def plain(left: list[str]) -> AsyncIterator[None]:
    """As many write it."""
    yield
    left.append("plain")


async def guarded(left: list[str]) -> AsyncIterator[None]:
    try:
        yield
    finally:
        await checkpoint()
        left.append("guarded")


def lending(left: list[str], endpoint: Callable[[], Any]) -> FastAPI:
    app = FastAPI()
    dependencies = [Depends(partial(plain, left)), Depends(partial(guarded, left))]
    app.add_api_route("/", endpoint, dependencies=dependencies)
    return app


def test_trap_without_finally_nothing_is_closed_when_the_endpoint_raises() -> None:
    async def refuse() -> None:
        raise HTTPException(404)

    left: list[str] = []
    assert TestClient(lending(left, refuse)).get("/").status_code == 404
    assert left == ["guarded"]


@pytest.mark.anyio
async def test_trap_without_finally_nothing_is_closed_when_the_request_is_cancelled() -> None:
    started: list[str] = []

    async def wait() -> None:
        started.append("")
        await anyio.sleep_forever()

    left: list[str] = []
    request = Call(lending(left, wait), http_scope(), EMPTY_BODY)
    with anyio.fail_after(LIMIT):
        await cancelled(request, lambda: bool(started))
    assert left == ["guarded"]


@pytest.mark.anyio
async def test_trap_a_context_manager_of_the_endpoint_is_not_shielded() -> None:
    steps: list[str] = []

    async def hold() -> None:
        try:
            steps.append("opened")
            await anyio.sleep_forever()
        finally:
            await checkpoint()
            steps.append("closed")

    left: list[str] = []
    request = Call(lending(left, hold), http_scope(), EMPTY_BODY)
    with anyio.fail_after(LIMIT):
        await cancelled(request, lambda: bool(steps))
    assert (steps, left) == (["opened"], ["guarded"])


@pytest.mark.parametrize(("scope", "status"), [("request", 200), ("function", 409)])
def test_trap_a_refusal_in_the_exit_code_is_too_late_in_request_scope(
    scope: Literal["request", "function"], status: int
) -> None:
    async def session() -> AsyncIterator[None]:
        yield
        raise HTTPException(409)

    app = FastAPI()
    app.add_api_route("/", lambda: None, dependencies=[Depends(session, scope=scope)])
    assert TestClient(app, raise_server_exceptions=False).get("/").status_code == status
    if scope == "request":
        with pytest.raises(RuntimeError, match="response already started"):
            TestClient(app).get("/")


def test_trap_an_exception_that_is_caught_at_the_yield_and_not_raised_again_is_a_500() -> None:
    async def swallow() -> AsyncIterator[None]:
        try:
            yield
        except Exception:  # meant for the session, and met by every refusal
            return

    async def refuse() -> None:
        raise HTTPException(404)

    app = FastAPI()
    app.add_api_route("/", refuse, dependencies=[Depends(swallow)])
    assert TestClient(app, raise_server_exceptions=False).get("/").status_code == 500
    with pytest.raises(FastAPIError, match="Response not awaited"):
        TestClient(app).get("/")


@pytest.mark.anyio
async def test_trap_two_depends_objects_are_two_limits() -> None:
    open_now: list[str] = []
    opened = anyio.Event()

    async def pooled() -> AsyncIterator[None]:
        open_now.append("")
        await opened.wait()
        yield

    app = FastAPI()
    for path in ("/one", "/other"):
        app.add_api_route(path, lambda: None, dependencies=[Depends(pooled, max_concurrency=2)])
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            for path in ("/one", "/other") * 3:
                tasks.start_soon(Call(app, http_scope(path), EMPTY_BODY).run)
            await until(lambda: len(open_now) == 4)
            opened.set()


@pytest.mark.anyio
async def test_trap_requests_that_wait_for_each_others_resources_wait_for_ever() -> None:
    async def no_clock() -> AsyncIterator[anyio.CancelScope]:
        with anyio.CancelScope() as scope:
            yield scope

    app = FastAPI()
    add_circle(app, Depends(no_clock, scope="function"))
    calls = [Call(app, http_scope(path), EMPTY_BODY) for path in ("/there", "/back")]
    with anyio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            for each in calls:
                tasks.start_soon(each.run)
            await anyio.wait_all_tasks_blocked()
            # Each waits for the other, and no timer is set that could wake one.
            assert [each.sent for each in calls] == [[], []]
            tasks.cancel_scope.cancel()


def test_trap_a_wrapper_without_wraps_asks_the_client_for_its_args() -> None:
    async def page(limit: int = 10) -> int:
        return limit

    def careless(function: Callable[..., Awaitable[int]]) -> Callable[..., Awaitable[int]]:
        async def call(*args: Any, **kwargs: Any) -> int:
            return await function(*args, **kwargs)

        return call

    def careful(function: Callable[..., Awaitable[int]]) -> Callable[..., Awaitable[int]]:
        return wraps(function)(careless(function))

    app = FastAPI()

    @app.get("/careless")
    async def read_careless(limit: Annotated[int, Depends(careless(page))]) -> int:
        return limit

    @app.get("/careful")
    async def read_careful(limit: Annotated[int, Depends(careful(page))]) -> int:
        return limit

    refused = TestClient(app).get("/careless?limit=5")
    assert [error["loc"] for error in refused.json()["detail"]] == [["query", "args"], ["query", "kwargs"]]
    assert TestClient(app).get("/careful?limit=5").json() == 5


def test_trap_a_request_with_a_typed_state_is_no_parameter() -> None:
    async def read(request: Request[PageState]) -> None: ...

    with pytest.raises(FastAPIError, match="Invalid args"):
        FastAPI().add_api_route("/", read)


def test_trap_a_resource_is_opened_although_a_parameter_of_the_endpoint_is_refused() -> None:
    opened: list[str] = []

    async def resource() -> AsyncIterator[None]:
        opened.append("")
        yield

    async def checked(number: int) -> int:
        return number

    async def after_check(number: Annotated[int, Depends(checked)]) -> AsyncIterator[None]:
        opened.append("")
        yield

    async def endpoint(number: int) -> int:
        return number

    app = FastAPI()
    app.add_api_route("/late", endpoint, dependencies=[Depends(resource)])
    app.add_api_route("/early", endpoint, dependencies=[Depends(after_check)])
    for path, count in (("/late", 1), ("/early", 1)):
        assert TestClient(app).get(path, params={"number": "x"}).status_code == 422
        assert len(opened) == count


def test_trap_use_cache_has_no_effect_among_the_dependencies_of_a_route() -> None:
    runs: list[str] = []

    async def audit() -> None:
        runs.append("")

    app = FastAPI()
    fresh = Depends(audit, use_cache=False)

    @app.get("/decorator", dependencies=[fresh, fresh])
    async def decorator() -> int:
        return len(runs)

    @app.get("/parameters")
    async def parameters(one: Annotated[None, fresh], two: Annotated[None, fresh]) -> int:
        return len(runs)

    assert TestClient(app).get("/decorator").json() == 1
    assert TestClient(app).get("/parameters").json() == 1 + 2


def test_trap_request_scope_cannot_depend_on_function_scope() -> None:
    async def needs_a_line(line: LineDep) -> AsyncIterator[Line]:
        yield line

    app = FastAPI()
    with pytest.raises(DependencyScopeError, match='cannot depend on dependencies with scope "function"'):
        app.add_api_route("/", lambda: None, dependencies=[Depends(needs_a_line)])
    app.add_api_route("/", lambda: None, dependencies=[Depends(needs_a_line, scope="function")])


def test_trap_an_override_does_not_reach_a_mounted_app_nor_the_documentation() -> None:
    async def real(token: str) -> str:
        return token

    async def fake(name: str = "fake") -> str:
        return name

    async def read(value: Annotated[str, Depends(real)]) -> str:
        return value

    app, mounted = FastAPI(), FastAPI()
    for each in (app, mounted):
        each.add_api_route("/", read)
    app.mount("/mounted", mounted)
    app.dependency_overrides[real] = fake
    client = TestClient(app)
    assert client.get("/").json() == "fake"
    assert client.get("/?name=other").json() == "other"
    assert client.get("/mounted/").status_code == 422
    (parameter,) = client.get("/openapi.json").json()["paths"]["/"]["get"]["parameters"]
    assert parameter["name"] == "token"
    mounted.dependency_overrides = app.dependency_overrides
    assert client.get("/mounted/").json() == "fake"


def test_trap_the_dependencies_of_the_app_run_neither_for_a_404_nor_for_a_mounted_app() -> None:
    runs: list[str] = []

    async def guard() -> None:
        runs.append("")

    app, mounted = FastAPI(dependencies=[Depends(guard)]), FastAPI()
    for each in (app, mounted):
        each.add_api_route("/", lambda: None)
    app.mount("/mounted", mounted)
    client = TestClient(app)
    assert client.get("/nothing").status_code == 404
    assert client.get("/mounted/").status_code == 200
    assert runs == []
    client.get("/")
    assert len(runs) == 1
