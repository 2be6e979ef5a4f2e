"""What routers and test clients do that the pages and their tests rest on."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, Depends, FastAPI, Request, WebSocket
from fastapi.responses import JSONResponse, PlainTextResponse, RedirectResponse
from fastapi.testclient import TestClient
from starlette.types import Receive, Scope, Send

Events = list[str]


def tells(
    events: Events, name: str, **state: str
) -> Callable[[object], AbstractAsyncContextManager[dict[str, str]]]:
    """A lifespan that says when it begins and ends."""

    @asynccontextmanager
    async def lifespan(app: object) -> AsyncIterator[dict[str, str]]:
        events.append(f"{name} begins")
        yield state
        events.append(f"{name} ends")

    return lifespan


def test_the_lifespans_of_included_routers_run_inside_that_of_the_app_whose_state_wins() -> None:
    events: Events = []
    outer = APIRouter(lifespan=tells(events, "outer", who="outer", outer="here"))
    outer.include_router(APIRouter(lifespan=tells(events, "inner", who="inner", inner="here")))
    app = FastAPI(lifespan=tells(events, "app", who="app"))
    app.include_router(outer)
    with TestClient(app) as client:
        assert client.app_state == {"who": "app", "outer": "here", "inner": "here"}
    names = ["app", "outer", "inner"]
    assert events == [f"{name} begins" for name in names] + [f"{name} ends" for name in reversed(names)]


@pytest.mark.parametrize(
    ("lifespan", "ran"),
    [
        (False, ["app", "app again", "router", "router", "router stops", "app stops", "router stops"]),
        (True, ["lifespan begins", "router", "router stops", "lifespan ends"]),
    ],
)
def test_trap_start_handlers_of_an_app_are_ignored_beside_a_lifespan_and_those_of_a_router_run_twice_without(
    lifespan: bool, ran: Events
) -> None:
    events: Events = []
    router = APIRouter(
        on_startup=[lambda: events.append("router")], on_shutdown=[lambda: events.append("router stops")]
    )
    app = FastAPI(
        on_startup=[lambda: events.append("app")],
        on_shutdown=[lambda: events.append("app stops")],
        lifespan=tells(events, "lifespan") if lifespan else None,
    )
    app.router.add_event_handler("startup", lambda: events.append("app again"))
    app.include_router(router)
    with TestClient(app):
        pass
    assert events == ran


def test_prefixes_add_up_and_may_have_parameters() -> None:
    app = FastAPI()
    stores, regions = APIRouter(prefix="/stores"), APIRouter(prefix="/regions/{region}")
    stores.add_api_route("/{store}", lambda region, store: [region, store], name="store")
    regions.include_router(stores)
    app.include_router(regions, prefix="/v1")
    path = app.url_path_for("store", region="north", store="7")
    assert TestClient(app).get(path).json() == ["north", "7"]
    assert path == "/v1/regions/north/stores/7"


def test_a_router_that_includes_itself_over_others_stops_the_import() -> None:
    first, second = APIRouter(), APIRouter()
    first.include_router(second)
    for router in (first, second):
        with pytest.raises(AssertionError, match="Cannot include"):
            second.include_router(router)


async def double(request: Request) -> PlainTextResponse:
    return PlainTextResponse(str(2 * int(request.query_params["number"])))


async def greet(socket: WebSocket) -> None:
    await socket.accept()
    await socket.close(reason="hello")


def test_trap_routes_of_starlette_have_no_dependencies_no_validation_and_no_place_in_the_document() -> None:
    passed: Events = []
    app = FastAPI(dependencies=[Depends(lambda: passed.append("guard"))])
    router = APIRouter()
    app.add_route("/app", double)
    router.route("/router")(double)
    app.websocket_route("/app/socket")(greet)
    router.websocket_route("/router/socket")(greet)
    router.add_websocket_route("/added/socket", greet)
    app.include_router(router)
    client = TestClient(app, raise_server_exceptions=False)
    for path in ("/app", "/router"):
        assert client.get(path, params={"number": 4}).text == "8"
        assert client.get(path, params={"number": "x"}).status_code == 500
    for path in ("/app/socket", "/router/socket", "/added/socket"):
        with client.websocket_connect(path) as socket:
            assert socket.receive()["reason"] == "hello"
    assert (passed, app.openapi()["paths"]) == ([], {})


def test_trap_slashes_are_redirected_by_the_app_whatever_its_router_says() -> None:
    router = APIRouter(redirect_slashes=False)
    router.add_api_route("/items/", lambda: None)
    app, strict = FastAPI(), FastAPI(redirect_slashes=False)
    statuses = []
    for each in (app, strict):
        each.include_router(router)
        statuses.append(TestClient(each, follow_redirects=False).get("/items").status_code)
    assert statuses == [307, 404]


async def default(scope: Scope, receive: Receive, send: Send) -> None:
    await JSONResponse("mine", 404)(scope, receive, send)


def test_trap_the_default_of_a_router_is_asked_only_where_the_router_is_an_app_of_its_own() -> None:
    app, router = FastAPI(), APIRouter(default=default)
    router.add_api_route("/x", lambda: None)
    app.include_router(router)
    app.mount("/mounted", router)
    client = TestClient(app)
    assert client.get("/nowhere").json() == {"detail": "Not Found"}
    assert client.get("/mounted/nowhere").json() == "mine"
    assert TestClient(APIRouter().not_found).get("/").headers["content-type"].startswith("text/plain")


async def get_name() -> str:
    return "real"


def test_trap_a_router_that_is_an_app_of_its_own_knows_no_overrides_unless_it_is_told_whose() -> None:
    app = FastAPI()
    app.dependency_overrides[get_name] = lambda: "fake"
    for path, router in (
        ("/deaf", APIRouter()),
        ("/told", APIRouter(dependency_overrides_provider=app)),
    ):

        @router.get("/name")
        async def name(name: Annotated[str, Depends(get_name)]) -> str:
            return name

        app.mount(path, router)
    client = TestClient(app)
    assert [client.get(f"{path}/name").json() for path in ("/deaf", "/told")] == ["real", "fake"]


def test_a_test_client_stands_for_any_caller() -> None:
    app = FastAPI()

    @app.get("/caller")
    async def caller(request: Request) -> list[Any]:
        assert request.client
        url = str(request.url_for("caller"))
        return [url, request.client.host, request.headers["accept-language"], request.cookies]

    @app.get("/old")
    async def old() -> RedirectResponse:
        return RedirectResponse("/caller")

    @app.get("/crash")
    async def crash() -> None:
        raise OSError

    client = TestClient(
        app,
        base_url="https://shop.example",
        root_path="/api",
        client=("203.0.113.7", 4711),
        headers={"Accept-Language": "de"},
        cookies={"theme": "dark"},
        follow_redirects=False,
        raise_server_exceptions=False,
        backend="asyncio",
        backend_options={"use_uvloop": True},
    )
    seen = ["https://shop.example/api/caller", "203.0.113.7", "de", {"theme": "dark"}]
    assert client.get("/caller").json() == seen
    assert client.get("/old").status_code == 307
    assert client.get("/crash").status_code == 500


@pytest.mark.anyio
async def test_trap_a_client_without_its_with_runs_no_lifespan_and_has_a_loop_for_each_request() -> None:
    events: Events = []
    app = FastAPI(lifespan=tells(events, "app"))

    @app.get("/loop")
    async def loop() -> int:
        loops.append(asyncio.get_running_loop())
        return len(events)

    loops: list[asyncio.AbstractEventLoop] = []
    client = TestClient(app)
    assert [client.get("/loop").json() for _ in range(2)] == [0, 0]
    assert loops[0] is not loops[1]

    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://test") as ours:
        assert (await ours.get("/loop")).json() == 0
        async with app.router.lifespan_context(app):
            assert (await ours.get("/loop")).json() == 1
    assert loops[2] is loops[3] is asyncio.get_running_loop()
