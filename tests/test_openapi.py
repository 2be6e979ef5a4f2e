"""What each level of an app says in its document: the app, a router, an inclusion, a route."""

import re
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Header
from fastapi.openapi.docs import get_redoc_html, get_swagger_ui_html
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from starlette.routing import BaseRoute

from app.openapi import DocumentedApp, document_of, operation_id


async def report(limit: int = 1) -> None: ...


async def call_back() -> None: ...


def only_operation(app: FastAPI) -> dict[str, Any]:
    [item] = app.openapi()["paths"].values()
    [operation] = item.values()
    assert isinstance(operation, dict)
    return operation


def test_what_is_said_of_the_app_heads_its_document() -> None:
    app = FastAPI(
        title="Weather",
        version="2.1.0",
        description="What the *weather* is like.",
        terms_of_service="https://weather.example/terms",
        contact={"name": "The desk", "email": "desk@weather.example"},
        license_info={"name": "MIT", "identifier": "MIT"},
        servers=[{"url": "https://api.weather.example", "description": "The one"}],
        openapi_tags=[{"name": "stations", "description": "Where it is measured"}],
        openapi_external_docs={"url": "https://weather.example/docs", "description": "How to measure"},
    )
    document = app.openapi()
    assert document["info"] == {
        "title": "Weather",
        "version": "2.1.0",
        "description": "What the *weather* is like.",
        "termsOfService": "https://weather.example/terms",
        "contact": {"name": "The desk", "email": "desk@weather.example"},
        "license": {"name": "MIT", "identifier": "MIT"},
    }
    assert (document["servers"], document["tags"]) == (app.servers, app.openapi_tags)
    assert document["externalDocs"] == app.openapi_external_docs
    part = document_of(app, "Stations", [], app.openapi_tags or [])
    assert part["info"] == {"title": "Stations", "version": "2.1.0"}


def test_trap_every_app_that_does_not_say_otherwise_is_version_0_1_0() -> None:
    assert FastAPI().openapi()["info"] == {"title": "FastAPI", "version": "0.1.0"}


def test_the_prefix_of_a_proxy_comes_before_the_servers_of_the_app() -> None:
    app = FastAPI(servers=[{"url": "https://api.weather.example"}])
    behind = TestClient(app, root_path="/weather").get("/openapi.json").json()
    assert [server["url"] for server in behind["servers"]] == ["/weather", "https://api.weather.example"]
    assert [server["url"] for server in app.openapi()["servers"]] == ["https://api.weather.example"]


def test_one_router_is_two_versions_with_two_documents() -> None:
    async def not_after_2030(client: Annotated[str, Header()]) -> None: ...

    reports = APIRouter()
    reports.add_api_route("/reports", report)
    app = FastAPI()
    app.include_router(
        reports,
        prefix="/v1",
        tags=["v1"],
        deprecated=True,
        dependencies=[Depends(not_after_2030)],
        responses={410: {"description": "After 2030"}},
        generate_unique_id_function=lambda route: f"{route.name}_v1",
    )
    app.include_router(reports, prefix="/v2", tags=["v2"], generate_unique_id_function=operation_id)
    app.include_router(reports, prefix="/internal", include_in_schema=False)
    paths = app.openapi()["paths"]
    assert list(paths) == ["/v1/reports", "/v2/reports"]
    old, new = paths["/v1/reports"]["get"], paths["/v2/reports"]["get"]
    assert (old["operationId"], new["operationId"]) == ("report_v1", "v2_report")
    assert (old["deprecated"], "deprecated" in new) == (True, False)
    assert ("410" in old["responses"], "410" in new["responses"]) == (True, False)
    assert [parameter["name"] for parameter in old["parameters"]] == ["limit", "client"]
    client = TestClient(app)
    assert [client.get(f"/{path}/reports").status_code for path in ("v1", "v2", "internal")] == [
        422,
        200,
        200,
    ]


def test_trap_a_router_that_is_included_twice_has_its_fixed_ids_twice() -> None:
    reports = APIRouter()
    reports.add_api_route("/reports", report, operation_id="report")
    app = FastAPI()
    for prefix in ("/v1", "/v2"):
        app.include_router(reports, prefix=prefix)
    with pytest.warns(UserWarning, match="Duplicate Operation ID report"):
        app.openapi()


def test_the_innermost_level_that_names_operations_does() -> None:
    router = APIRouter(generate_unique_id_function=lambda route: "by_the_router")

    @router.get("/by_route", generate_unique_id_function=lambda route: "by_the_route")
    @router.get("/by_router")
    async def named_within() -> None: ...

    plain = APIRouter()
    plain.add_api_route("/by_inclusion", report)
    app = FastAPI(generate_unique_id_function=lambda route: "by_the_app")
    app.add_api_route("/by_app", report)
    app.include_router(plain, generate_unique_id_function=lambda route: "by_the_inclusion")
    app.include_router(router, generate_unique_id_function=lambda route: "never_asked")
    ids = {path: item["get"]["operationId"] for path, item in app.openapi()["paths"].items()}
    assert ids == {
        "/by_app": "by_the_app",
        "/by_inclusion": "by_the_inclusion",
        "/by_router": "by_the_router",
        "/by_route": "by_the_route",
    }


def callbacks(level: str) -> list[BaseRoute]:
    return [APIRoute(f"{{$request.query.{level}}}", call_back, name=level, methods=["POST"])]


def answers(status: int, level: str) -> dict[int | str, dict[str, Any]]:
    return {status: {"description": level}, 404: {"description": level}}


def test_responses_and_callbacks_of_all_levels_add_up_and_the_innermost_describes() -> None:
    router = APIRouter(callbacks=callbacks("router"), responses=answers(402, "router"))

    @router.get("/", callbacks=callbacks("route"), responses={**answers(403, "route"), 422: {}})
    async def pay(amount: int) -> None: ...

    app = FastAPI(callbacks=callbacks("app"), responses=answers(400, "app"))
    app.include_router(router, callbacks=callbacks("inclusion"), responses=answers(401, "inclusion"))
    operation = only_operation(app)
    described = {status: answer["description"] for status, answer in operation["responses"].items()}
    levels = {"400": "app", "401": "inclusion", "402": "router", "403": "route"}
    assert described.items() >= (levels | {"404": "route"}).items()
    assert set(operation["callbacks"]) == set(levels.values())
    # Instead of FastAPI's own, which describes a body that this service does not send.
    assert list(operation["responses"]["422"]) == ["description"]


def test_an_app_or_a_router_is_deprecated_or_hidden_as_a_whole() -> None:
    for app, router in ((FastAPI(deprecated=True), APIRouter()), (FastAPI(), APIRouter(deprecated=True))):
        router.add_api_route("/", report)
        app.include_router(router)
        assert only_operation(app)["deprecated"] is True
    hidden = FastAPI(include_in_schema=False)
    hidden.add_api_route("/", report)
    assert hidden.openapi()["paths"] == {} and TestClient(hidden).get("/").status_code == 200


def test_what_a_route_adds_is_merged_into_its_operation() -> None:
    app = FastAPI()
    cost = {"name": "cost", "in": "query", "schema": {"type": "integer"}}

    @app.get(
        "/",
        summary="A report",
        description="Of *today*.",
        response_description="The report",
        tags=["reports"],
        openapi_extra={"parameters": [cost], "responses": {"200": {"x-cost": 1}}, "x-owner": "desk"},
    )
    async def read(limit: int = 1) -> None:
        """The description of the decorator comes before this one."""

    operation = only_operation(app)
    assert (operation["summary"], operation["description"]) == ("A report", "Of *today*.")
    assert [parameter["name"] for parameter in operation["parameters"]] == ["limit", "cost"]
    assert operation["responses"]["200"].items() >= {"description": "The report", "x-cost": 1}.items()
    assert (operation["tags"], operation["x-owner"]) == (["reports"], "desk")


def test_the_pages_of_fastapi_take_files_of_our_own_but_start_by_an_inline_script() -> None:
    swagger = get_swagger_ui_html(
        openapi_url="/openapi.json",
        title="Docs",
        swagger_js_url="/_docs/swagger-ui-bundle.js",
        swagger_css_url="/_docs/swagger-ui.css",
        swagger_favicon_url="/static/icon.svg",
        swagger_ui_parameters={"docExpansion": "none"},
    )
    redoc = get_redoc_html(
        openapi_url="/openapi.json",
        title="Docs",
        redoc_js_url="/_docs/redoc.standalone.js",
        redoc_favicon_url="/static/icon.svg",
        with_google_fonts=False,
    )
    for page in (bytes(swagger.body).decode(), bytes(redoc.body).decode()):
        assert re.findall(r"(?:src|href)=\"(https?:[^\"]*)\"", page) == []
    assert '"docExpansion": "none"' in bytes(swagger.body).decode()
    # Which is why ours are templates: the policy of this service forbids inline scripts.
    assert "<script>" in bytes(swagger.body).decode()


async def search(
    q: str | None = None, limit: int | str | None = None, ids: Annotated[list[int] | None, Header()] = None
) -> None: ...


def schemas_of_parameters(app: FastAPI) -> list[dict[str, Any]]:
    app.add_api_route("/", search)
    parameters = only_operation(app)["parameters"]
    assert not any(parameter["required"] for parameter in parameters)
    return [parameter["schema"] for parameter in parameters]


def test_a_parameter_may_be_left_out_and_is_never_null() -> None:
    app = DocumentedApp()
    assert schemas_of_parameters(app) == [
        {"type": "string", "title": "Q"},
        {"anyOf": [{"type": "integer"}, {"type": "string"}], "title": "Limit"},
        {"type": "array", "items": {"type": "integer"}, "title": "Ids"},
    ]
    assert app.openapi() == app.openapi()


def test_trap_the_document_promises_that_a_parameter_may_be_null() -> None:
    app = FastAPI()
    assert [schema["anyOf"][-1] for schema in schemas_of_parameters(app)] == [{"type": "null"}] * 3
    assert TestClient(app).get("/?q=null").status_code == 200  # a text of four letters
    assert TestClient(app).get("/", headers={"ids": "null"}).status_code == 422
