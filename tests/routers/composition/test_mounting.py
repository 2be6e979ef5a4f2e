import asyncio
import importlib
import threading
from collections.abc import AsyncIterator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, cast

import httpx2
import pytest
from a2wsgi import WSGIMiddleware
from a2wsgi.wsgi_typing import Environ, StartResponse
from anyio.lowlevel import checkpoint
from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import FastAPIDeprecationWarning
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from openapi_spec_validator import OpenAPIV31SpecValidator
from pydantic import BaseModel
from starlette.exceptions import StarletteDeprecationWarning
from starlette.testclient import WebSocketDenialResponse
from starlette.types import ASGIApp, Message

from app.dependencies import get_settings
from app.errors import EXCEPTION_HANDLERS
from app.main import create_app
from app.routers.composition import mounting
from app.routers.composition.mounting import LEGACY_THREADS, SITE, prepare_file, shop
from app.settings import Settings
from tests.asgi import EMPTY_BODY, LIMIT, Call, http_scope
from tests.server import Server

PROBLEM = "application/problem+json"
BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.fixture
def dist(tmp_path: Path) -> Path:
    """What a build tool leaves, with a file that should not be there."""
    dist = tmp_path / "dist"
    dist.mkdir()
    (dist / "index.html").write_text("index")
    (dist / ".env").write_text("PASSWORD=hunter2")
    return dist


def test_the_lifespan_of_a_mounted_app_is_entered_and_left_with_that_of_its_parent(app: FastAPI) -> None:
    with TestClient(app) as client:
        state = client.app_state
        assert client.get("/composition/shop/items/tea").json()["cents"] == state["prices"]["tea"]
    assert state["prices"] == {}
    with pytest.raises(RuntimeError, match="shutdown"):
        state["legacy"]._middleware.executor.submit(print)


REFUSALS = [
    ("GET", "/composition/shop/items/gold", 404, None),
    ("GET", "/composition/shop/nowhere", 404, None),
    ("GET", "/composition/shop/items/tea/", 404, None),
    ("DELETE", "/composition/shop/items/tea", 405, "GET, HEAD"),
    ("GET", "/composition/shop/openapi.json", 500, None),
    ("DELETE", "/composition/site/site.js", 405, "GET, HEAD"),
]


def test_a_mounted_app_refuses_in_the_same_shape_as_the_service(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise OSError("password=hunter2")

    monkeypatch.setitem(shop.dependency_overrides, get_settings, fail)
    for method, path, status, allow in REFUSALS:
        answer = client.request(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)
        assert answer.json()["instance"] == path
        assert answer.json()["request_id"] == answer.headers["x-request-id"]
        assert answer.headers.get("allow") == allow
        assert "hunter2" not in answer.text


def test_a_405_in_a_mounted_app_or_at_a_host_names_the_methods_that_it_has_there() -> None:
    sub = FastAPI(exception_handlers=EXCEPTION_HANDLERS)
    sub.add_api_route("/orders", lambda: None, methods=["POST", "PUT"])
    app = FastAPI(exception_handlers=EXCEPTION_HANDLERS)
    app.host("shop.example", sub)
    app.mount("/shop", sub)
    app.add_api_route("/orders", lambda: None, methods=["PATCH"])
    client = TestClient(app)
    for url, allowed in (
        ("/shop/orders", "POST, PUT"),
        ("http://shop.example/orders", "POST, PUT"),
        ("/orders", "PATCH"),
    ):
        assert client.delete(url).headers["allow"] == allowed


def test_a_mounted_app_has_a_document_of_its_own_whose_server_is_the_mount(client: TestClient) -> None:
    document = client.get("/composition/shop/openapi.json").json()
    OpenAPIV31SpecValidator(document).validate()
    assert list(document["paths"]) == ["/items/{name}"]
    assert document["servers"] == [{"url": "/composition/shop"}]
    paths = client.get("/openapi.json").json()["paths"]
    assert not any(path.startswith("/composition/shop") for path in paths)


def test_the_document_of_a_mounted_app_is_closed_with_that_of_the_service(settings: Settings) -> None:
    closed = create_app(settings.model_copy(update={"docs": False}))
    with TestClient(closed) as client:
        for path in ("/openapi.json", "/composition/shop/openapi.json"):
            assert client.get(path).status_code == 404
        assert client.get("/composition/shop/items/tea").status_code == 200


def test_a_link_of_a_mounted_app_leads_to_where_it_is_mounted(app: FastAPI) -> None:
    with TestClient(app, root_path="/api") as client:
        path = "/api/composition/shop/items/tea"
        assert client.get(path).json()["url"] == path


class Blocking:
    """A WSGI program that says when it starts, and waits until it may go on."""

    def __init__(self) -> None:
        self.started = threading.Semaphore(0)
        self.release = threading.Event()

    def __call__(self, environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        self.started.release()
        self.release.wait(LIMIT)
        start_response("200 OK", [])
        return []


def with_wait(settings: Settings, seconds: float) -> FastAPI:
    return create_app(settings.model_copy(update={"resource_wait": seconds}))


def test_a_wsgi_app_runs_in_at_most_four_threads(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Blocking()
    monkeypatch.setattr(mounting, "legacy_program", program)
    with TestClient(with_wait(settings, LIMIT)) as client, ThreadPoolExecutor(LEGACY_THREADS + 2) as callers:
        calls = [callers.submit(client.get, "/composition/legacy/") for _ in range(LEGACY_THREADS + 2)]
        try:
            assert all(program.started.acquire(timeout=LIMIT) for _ in range(LEGACY_THREADS))
            assert not program.started.acquire(timeout=0.1)
        finally:
            program.release.set()
        assert [call.result(LIMIT).status_code for call in calls] == [200] * len(calls)


def test_who_waits_too_long_for_a_thread_of_a_wsgi_app_gets_a_503(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Blocking()
    monkeypatch.setattr(mounting, "legacy_program", program)
    with TestClient(with_wait(settings, 0.05)) as client, ThreadPoolExecutor(LEGACY_THREADS) as callers:
        calls = [callers.submit(client.get, "/composition/legacy/") for _ in range(LEGACY_THREADS)]
        try:
            assert all(program.started.acquire(timeout=LIMIT) for _ in range(LEGACY_THREADS))
            refused = client.get("/composition/legacy/")
        finally:
            program.release.set()
        assert (refused.status_code, refused.headers["content-type"]) == (503, PROBLEM)
        assert refused.headers["retry-after"] == "1"
        assert [call.result(LIMIT).status_code for call in calls] == [200] * LEGACY_THREADS
        assert client.get("/composition/legacy/").status_code == 200


def test_a_wsgi_app_has_no_sockets(client: TestClient) -> None:
    with (
        pytest.raises(WebSocketDenialResponse) as denied,
        client.websocket_connect("/composition/legacy/"),
    ):
        pass
    assert (denied.value.status_code, denied.value.headers["content-type"]) == (404, PROBLEM)


BEGUN_BODY: Message = {"type": "http.request", "body": b"x", "more_body": True}


def legacy_call(app: FastAPI, state: Any, *incoming: Message) -> Call:
    return Call(app, {**http_scope("/composition/legacy/", "POST"), "state": state}, *incoming)


@pytest.mark.anyio
async def test_a_body_that_comes_slowly_holds_no_thread_of_a_wsgi_app(app: FastAPI) -> None:
    async with app.router.lifespan_context(app) as state, asyncio.TaskGroup() as tasks:
        slow = [legacy_call(app, state, BEGUN_BODY) for _ in range(LEGACY_THREADS)]
        for call in slow:
            tasks.create_task(call.run())
        while any(call.incoming.qsize() for call in slow):
            await checkpoint()
        quick = legacy_call(app, state, EMPTY_BODY)
        await quick.run()
        for call in slow:
            assert not call.sent
            call.incoming.put_nowait(EMPTY_BODY)
    assert [call.body.partition(b"\n")[0] for call in (quick, *slow)] == [b"0 bytes", *[b"1 bytes"] * 4]


@pytest.mark.anyio
async def test_a_wsgi_app_streams_its_answer(app: FastAPI, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = threading.Event()

    def program(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield b"first "
        seen.wait(LIMIT)
        yield b"last"

    monkeypatch.setattr(mounting, "legacy_program", program)
    async with app.router.lifespan_context(app) as state, asyncio.TaskGroup() as tasks:
        call = legacy_call(app, state, EMPTY_BODY)
        tasks.create_task(call.run())
        await call.until_sent(2)
        assert call.body == b"first "
        seen.set()
    assert call.body == b"first last"


@pytest.mark.anyio
async def test_a_wsgi_app_gives_its_thread_back_when_its_answer_is_not_wanted(
    app: FastAPI, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the head of a `HEAD` there is nobody to send to; the queue to the thread has room for ten."""

    def talk(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain")])
        yield from [b"x"] * 100

    monkeypatch.setattr(mounting, "legacy_program", talk)
    async with app.router.lifespan_context(app) as state:
        for _ in range(LEGACY_THREADS + 1):
            call = Call(app, {**http_scope("/composition/legacy/", "HEAD"), "state": state}, EMPTY_BODY)
            await call.run()
            assert (call.status, call.body) == (200, b"")


def test_a_body_over_the_limit_never_ends_in_a_wsgi_app(
    app: FastAPI, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[int] = []
    answer_with_size = mounting.legacy_program

    def program(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        ended.append(len(environ["wsgi.input"].read()))
        return answer_with_size(environ, start_response)

    monkeypatch.setattr(mounting, "legacy_program", program)
    body = b"x" * (settings.max_body_size + 1)
    with TestClient(app) as client:
        for sent in (body, iter([body[:-1], body[-1:]])):
            answer = client.post("/composition/legacy/", content=sent)
            assert (answer.status_code, answer.headers["content-type"]) == (413, PROBLEM)
        client.post("/composition/legacy/", content=body[:-1])
    assert ended == [settings.max_body_size]


def test_a_middleware_of_one_mount_touches_no_other_path(client: TestClient) -> None:
    answer = client.post("/composition/legacy/a/b", content=b"x" * 100_000)
    assert answer.text == "100000 bytes\n/a/b below /composition/legacy\n"
    assert answer.headers["deprecation"] == "@1767225600"
    assert "deprecation" not in client.get("/composition/shop/items/tea").headers


def test_a_tenant_is_found_by_its_host_in_any_case_and_at_any_port(client: TestClient) -> None:
    for host in ("acme.localhost", "ACME.LOCALHOST", "acme.localhost:8000"):
        assert client.get(f"http://{host}/").json() == "Welcome to acme"


def test_nothing_else_of_the_service_answers_at_the_host_of_a_tenant(client: TestClient) -> None:
    tenant = {"Host": "acme.localhost"}
    for path in ("/health", "/docs", "/openapi.json", "/items/", "/static/style.css", "/composition/site/"):
        assert client.get(path).status_code == 200
        refused = client.get(path, headers=tenant)
        assert (refused.status_code, refused.headers["content-type"]) == (404, PROBLEM)
    assert client.post("/", headers=tenant).headers["allow"] == "GET, HEAD"


STRANGERS = {
    "initech.localhost": 404,
    "a.acme.localhost": 404,
    "*.localhost": 404,
    "acme.localhost.evil.example": 400,
    "acme-localhost": 400,
    "acme.example.org": 400,
    "acme.localhost/": 400,
}


def test_a_strangers_host_meets_no_tenant(client: TestClient) -> None:
    for host, status in STRANGERS.items():
        answer = client.get("/", headers={"Host": host})
        assert (answer.status_code, answer.headers["content-type"]) == (status, PROBLEM)
        assert "acme" not in answer.json()["detail"]


def test_the_version_of_an_answer_is_what_the_header_asks_for_and_the_document_names_both(
    client: TestClient,
) -> None:
    for headers, report in (
        ({}, {"total": "12.50"}),
        ({"X-API-Version": "1"}, {"total": "12.50"}),
        ({"X-API-Version": "2"}, {"cents": 1250}),
    ):
        answer = client.get("/composition/report", headers=headers)
        assert answer.json() == report
        assert "X-API-Version" in answer.headers["vary"]  # or a cache hands one version to all
    operation = client.get("/openapi.json").json()["paths"]["/composition/report"]["get"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert [option["$ref"].rpartition("/")[2] for option in schema["anyOf"]] == ["ReportV1", "ReportV2"]
    assert operation["parameters"][0]["schema"]["enum"] == ["1", "2"]


def test_an_unknown_version_is_refused(client: TestClient) -> None:
    for version in ("3", "", "1.0", "01", "2, 1"):
        answer = client.get("/composition/report", headers={"X-API-Version": version})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["loc"] == ["header", "X-API-Version"]


def test_a_path_that_only_the_script_knows_gets_its_page_and_a_wrong_api_path_gets_404(
    client: TestClient,
) -> None:
    index = (SITE / "index.html").read_text()
    for path in ("", "/", "/about", "/orders/7"):
        answer = client.get(f"/composition/site{path}", headers=BROWSER)
        assert (answer.status_code, answer.text) == (200, index)
    for method in ("GET", "POST", "DELETE"):
        wrong = client.request(method, "/composition/site/api/ordres", headers=BROWSER)
        assert (wrong.status_code, wrong.headers["content-type"]) == (404, PROBLEM)
    for path in ("/about", "/missing.js"):  # a script's own call, or its `<script src>`
        assert client.get(f"/composition/site{path}", headers={"Accept": "*/*"}).status_code == 404


def test_the_files_of_the_front_end_can_be_read_by_get_and_head_and_are_asked_for_again(
    client: TestClient,
) -> None:
    for path in ("/", "/about", "/site.js", "/site.css"):
        answer = client.get(f"/composition/site{path}", headers=BROWSER)
        assert answer.headers["cache-control"] == "no-cache"
        head = client.head(f"/composition/site{path}", headers=BROWSER)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["etag"] == answer.headers["etag"]
        again = client.get(
            f"/composition/site{path}", headers={**BROWSER, "If-None-Match": answer.headers["etag"]}
        )
        assert (again.status_code, again.headers["cache-control"]) == (304, "no-cache")
        assert answer.headers["content-security-policy"].startswith("default-src 'self'")


OUTSIDE = "../secret.txt %2e%2e/secret.txt ..%2fsecret.txt link.txt a%00".split()


def test_nothing_hidden_and_nothing_outside_the_folder_of_the_front_end_is_served(dist: Path) -> None:
    (dist.parent / "secret.txt").write_text("hunter2")
    (dist / "link.txt").symlink_to(dist.parent / "secret.txt")
    app = FastAPI(exception_handlers=EXCEPTION_HANDLERS)
    site = APIRouter(prefix="/site", dependencies=[Depends(prepare_file)])
    site.frontend("/", directory=dist)
    app.include_router(site)
    client = TestClient(app)
    assert client.get("/site/index.html").text == "index"
    for path in (*OUTSIDE, ".env", "./.env", "x/../.env"):
        answer = client.get(f"/site/{path}")
        assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM)


def test_a_prefix_of_the_proxy_is_in_every_link_and_in_the_document(app: FastAPI) -> None:
    with TestClient(app, base_url="https://localhost", root_path="/api") as client:
        caller = client.get("/api/composition/caller").json()
        assert caller["url"] == "https://localhost/api/composition/caller"
        assert client.get("/api/openapi.json").json()["servers"] == [{"url": "/api"}]
        shop_document = client.get("/api/composition/shop/openapi.json").json()
        assert shop_document["servers"] == [{"url": "/api/composition/shop"}]
        assert client.put("/api/tasks/1").headers["allow"] == "DELETE, GET, HEAD"


FORWARDED = {
    "X-Forwarded-For": "203.0.113.7",
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-Prefix": "/evil",
}


def test_a_trusted_proxy_is_believed_and_a_stranger_is_not(live: Server) -> None:
    """By default uvicorn trusts those on 127.0.0.1; from another address it takes nobody's word."""
    believed, refused = (
        httpx2.Client(transport=httpx2.HTTPTransport(local_address=address), headers=FORWARDED)
        for address in ("127.0.0.1", "127.0.0.2")
    )
    with believed, refused:
        caller = believed.get(f"{live.url}/composition/caller").json()
        stranger = refused.get(f"{live.url}/composition/caller").json()
    path = f"{live.host}/composition/caller"
    assert caller == {"client": "203.0.113.7", "scheme": "https", "url": f"https://{path}"}
    assert stranger == {"client": "127.0.0.2", "scheme": "http", "url": f"http://{path}"}


@asynccontextmanager
async def open_till(app: FastAPI) -> AsyncIterator[dict[str, str]]:
    yield {"till": app.title}


def sub_app(*, tell_server: bool = True) -> FastAPI:
    sub = FastAPI(title="sub", lifespan=open_till, root_path_in_servers=tell_server)

    @sub.get("/till", name="till")
    async def till(request: Request) -> str:
        return str(request.state["till"])

    @sub.get("/link")
    async def link(request: Request, name: str) -> str:
        return str(request.url_for(name).path)

    @sub.get("/numbers/{number}")
    async def number(number: int) -> int:
        raise LookupError

    return sub


def test_trap_the_lifespan_of_a_mounted_app_does_not_run() -> None:
    app = FastAPI()
    app.mount("/sub", sub_app())
    with TestClient(app) as client, pytest.raises(KeyError):
        client.get("/sub/till")


async def get_name() -> str:
    return "real"


def test_trap_a_mounted_app_has_no_dependency_override_handler_or_app_state_of_its_parent() -> None:
    passed = []
    app, sub = FastAPI(dependencies=[Depends(lambda: passed.append("guard"))]), sub_app()
    app.state.name = "parent"

    @app.get("/name")
    @sub.get("/name")
    async def name(request: Request, name: Annotated[str, Depends(get_name)]) -> list[str | None]:
        return [name, getattr(request.app.state, "name", None)]

    @app.exception_handler(LookupError)
    async def not_found(request: Request, exc: Exception) -> JSONResponse:
        return JSONResponse(None, 404)

    app.mount("/sub", sub)
    app.dependency_overrides[get_name] = lambda: "fake"
    client = TestClient(app, raise_server_exceptions=False)
    assert (client.get("/name").json(), passed) == (["fake", "parent"], ["guard"])
    assert (client.get("/sub/name").json(), passed) == (["real", None], ["guard"])
    failed = client.get("/sub/numbers/1")
    assert (failed.status_code, failed.text) == (500, "Internal Server Error")
    assert client.get("/sub/numbers/x").json()["detail"][0]["input"] == "x"


def test_trap_a_mounted_app_has_documents_and_slash_redirects_whatever_its_parent_was_told() -> None:
    app = FastAPI(openapi_url=None, redirect_slashes=False)
    app.mount("/sub", sub_app())
    app.mount("/silent", sub_app(tell_server=False))
    client = TestClient(app, base_url="http://evil.example", follow_redirects=False)
    assert client.get("/openapi.json").status_code == 404
    assert client.get("/sub/openapi.json").json()["servers"] == [{"url": "/sub"}]
    assert "servers" not in client.get("/silent/openapi.json").json()
    assert "cdn.jsdelivr.net" in client.get("/sub/docs").text
    assert client.get("/sub/till/").headers["location"] == "http://evil.example/sub/till"
    assert client.get("/sub").status_code == 404  # its own name, which `redirect_slashes` used to mend


def test_trap_url_for_looks_among_the_routes_of_the_outermost_app() -> None:
    app = FastAPI()
    app.mount("/sub", sub_app(), name="sub")
    client = TestClient(app, raise_server_exceptions=False)
    assert client.get("/sub/link?name=till").status_code == 500
    assert client.get("/sub/link?name=sub:till").json() == "/sub/till"
    assert app.url_path_for("sub:till") == "/sub/till"


def test_trap_a_test_client_with_a_root_path_sends_paths_without_it_and_finds_no_mount() -> None:
    """Servers put the prefix into the path, as ASGI asks; `TestClient` leaves that to the test."""
    app = FastAPI()
    app.mount("/sub", sub_app())
    app.add_api_route("/plain", get_name)
    client = TestClient(app, root_path="/api")
    paths = ("/plain", "/api/plain", "/sub/openapi.json", "/api/sub/openapi.json")
    assert [client.get(path).status_code for path in paths] == [200, 200, 404, 200]


def test_trap_a_mount_at_the_root_hides_every_route_after_it() -> None:
    app = FastAPI()
    app.add_api_route("/before", get_name)
    app.mount("/", FastAPI())
    app.add_api_route("/after", get_name)
    assert [TestClient(app).get(path).status_code for path in ("/before", "/after")] == [200, 404]


def test_trap_a_route_with_a_parameter_hides_the_one_after_it() -> None:
    app = FastAPI()
    app.add_api_route("/users/{name}", lambda name: name)
    app.add_api_route("/users/me", lambda: "the caller")
    assert TestClient(app).get("/users/me").json() == "me"


def test_trap_a_host_added_after_the_routes_shares_them_and_a_parameter_matches_dots() -> None:
    app, tenants = FastAPI(), APIRouter()
    app.add_api_route("/admin", get_name)
    tenants.add_api_route("/", lambda request: JSONResponse(request.path_params), methods=["GET"])
    tenants.add_route("/who", lambda request: JSONResponse(request.path_params))
    app.host("{tenant}.example.org", tenants)
    client = TestClient(app, base_url="http://a.b.example.org")
    assert client.get("/admin").json() == "real"
    assert client.get("/who").json() == {"tenant": "a.b"}


@pytest.mark.parametrize(
    ("fallback", "files", "browser", "script"),
    [
        ("auto", ["index.html"], 200, 404),
        ("index.html", ["index.html"], 200, 404),
        ("auto", ["index.html", "404.html"], 404, 404),
        ("404.html", ["404.html"], 404, 404),
        (None, ["index.html"], 404, 404),
    ],
)
def test_trap_a_front_end_that_falls_back_to_its_index_answers_a_wrong_api_path_with_200(
    dist: Path, fallback: Any, files: list[str], browser: int, script: int
) -> None:
    for name in files:
        (dist / name).write_text(name)
    app = FastAPI()
    app.frontend("/", directory=dist, fallback=fallback)
    app.add_api_route("/api/orders", get_name)  # the order does not matter: files come last
    client = TestClient(app)
    assert client.get("/api/orders", headers=BROWSER).json() == "real"
    assert client.get("/api/ordres", headers=BROWSER).status_code == browser
    assert client.get("/api/ordres").status_code == script
    assert client.post("/api/ordres", headers=BROWSER).status_code == 404


def test_trap_a_front_end_serves_hidden_files_and_has_no_rule_for_caches(dist: Path) -> None:
    app = FastAPI()
    app.frontend("/", directory=dist)
    answer = TestClient(app).get("/.env")
    assert answer.text == "PASSWORD=hunter2"
    assert "cache-control" not in answer.headers


def test_trap_a_missing_folder_stops_the_start_but_under_fastapi_dev_it_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "missing"
    with pytest.raises(RuntimeError, match="does not exist"):
        FastAPI().frontend("/", directory=missing)
    monkeypatch.setenv("FASTAPI_ENV", "development")
    with pytest.warns(UserWarning, match="does not exist"):
        FastAPI().frontend("/", directory=missing)
    with pytest.raises(RuntimeError, match="does not exist"):
        FastAPI().frontend("/", directory=missing, check_dir=True)
    FastAPI().frontend("/", directory=missing, check_dir=False)


class Old(BaseModel):
    total: str


class New(BaseModel):
    cents: int


def test_trap_a_model_for_both_versions_beside_a_return_type_asks_for_both_at_once() -> None:
    app = FastAPI()

    @app.get("/report", responses={200: {"model": Old | New}})
    async def report() -> New:
        return New(cents=1250)

    content = app.openapi()["paths"]["/report"]["get"]["responses"]["200"]["content"]
    assert {"$ref", "anyOf"} <= content["application/json"]["schema"].keys()


def test_trap_two_versions_of_one_path_in_the_document_leave_the_last() -> None:
    app = FastAPI()
    app.add_api_route("/report", lambda: "1", name="version 1")
    app.add_api_route("/report", lambda: "2", name="version 2")
    assert app.openapi()["paths"]["/report"]["get"]["summary"] == "Version 2"
    assert TestClient(app).get("/report").json() == "1"


@pytest.mark.anyio
async def test_trap_a_wsgi_app_that_is_mounted_as_it_is_has_no_thread_while_bodies_do_not_come() -> None:
    app = FastAPI()
    legacy = WSGIMiddleware(mounting.legacy_program, workers=1)
    app.mount("/composition/legacy", cast(ASGIApp, legacy))
    slow, quick = legacy_call(app, {}, BEGUN_BODY), legacy_call(app, {}, EMPTY_BODY)
    async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as tasks:
        for call in (slow, quick):
            tasks.create_task(call.run())
        while slow.incoming.qsize() or not legacy.executor._work_queue.qsize():  # one has the thread
            await checkpoint()
        assert not quick.sent
        slow.incoming.put_nowait(EMPTY_BODY)
    assert (slow.status, quick.status) == (200, 200)


def test_trap_the_wsgi_middleware_of_the_framework_is_deprecated() -> None:
    with pytest.warns(StarletteDeprecationWarning, match="a2wsgi"):
        importlib.reload(importlib.import_module("starlette.middleware.wsgi"))


def test_trap_a_root_path_given_to_the_app_is_deprecated() -> None:
    with pytest.warns(FastAPIDeprecationWarning, match="--root-path"):
        FastAPI(root_path="/api")
