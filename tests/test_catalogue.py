"""The rules that keep the catalogue, the files and the running app the same thing."""

import re
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from inspect import iscoroutinefunction
from itertools import pairwise
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from openapi_spec_validator import OpenAPIV32SpecValidator
from starlette.routing import BaseRoute, Host, Mount

from app.catalogue import GROUPS, PAGES, Page, describe_group, read_page, read_tests
from app.commands import curl_command, routes_of, sample, socket_command
from app.errors import Problem
from app.main import create_app
from app.settings import ROOT, Settings

READING_ORDER = (
    "middleware websockets background dependencies responses graphql "
    "application validation files streaming security composition"
).split()

OWN_MODULES = {"app.explorer", "app.api_docs"}
OWN_PATHS = {"/static", "/_docs", "/openapi.json"}

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    """One for the module, for it is only looked at."""
    folder = tmp_path_factory.mktemp("catalogue")
    return create_app(Settings(data_dir=folder, uploads_dir=folder))


def test_every_module_of_the_groups_is_a_page() -> None:
    files = {
        f"{path.parent.name}/{path.stem}"
        for path in (ROOT / "app" / "routers").glob("*/*.py")
        if path.stem != "__init__"
    }
    assert files == {page.path for page in PAGES}


def test_the_groups_stand_in_reading_order_and_hold_their_own_pages() -> None:
    assert list(GROUPS) == sorted(GROUPS, key=READING_ORDER.index)
    for name, pages in GROUPS.items():
        assert pages and all(page.path.startswith(f"{name}/") for page in pages)
        title, description = describe_group(name)
        assert title and description.endswith(".")


def test_every_route_belongs_to_a_page_or_to_the_explorer(app: FastAPI) -> None:
    on_pages = {
        (method, route.path)
        for page in PAGES
        for route in iter_route_contexts(page.router.routes)
        for method in route.methods or {"WS"}
    }
    for route in iter_route_contexts(app.routes):
        if isinstance(route.original_route, Host):
            continue  # which has no path, and is described by its page
        if getattr(route.endpoint, "__module__", "") not in OWN_MODULES and route.path not in OWN_PATHS:
            assert {(method, route.path) for method in route.methods or {"WS"}} <= on_pages, route.path


def test_operation_ids_are_unique_and_tagged_with_their_group(app: FastAPI) -> None:
    operations = [operation for path in app.openapi()["paths"].values() for operation in path.values()]
    ids = Counter(operation["operationId"] for operation in operations)
    assert [id for id, count in ids.items() if count > 1] == []
    for operation in operations:
        assert set(operation["tags"]) <= {*GROUPS, "explorer"} and operation["tags"]


def test_the_openapi_document_is_valid_as_the_version_it_names(app: FastAPI) -> None:
    document = app.openapi()
    assert document["openapi"] == "3.2.0"
    OpenAPIV32SpecValidator(document).validate()


def test_every_operation_documents_its_errors_as_problems(app: FastAPI) -> None:
    document = app.openapi()
    assert document["components"]["schemas"]["Problem"]["required"][:2] == ["type", "title"]
    for path, item in document["paths"].items():
        for operation in item.values():
            for errors in ("4XX", "5XX"):
                content = operation["responses"][errors]["content"]
                assert content == {
                    "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
                }, path


def test_trap_a_model_among_the_responses_is_documented_as_plain_json() -> None:
    app = FastAPI(responses={"4XX": {"model": Problem}})
    app.add_api_route("/", lambda: None)
    assert list(app.openapi()["paths"]["/"]["get"]["responses"]["4XX"]["content"]) == ["application/json"]


@each_page
def test_a_page_is_read_from_its_files(page: Page) -> None:
    text = read_page(page)
    assert text.title and not text.title.endswith(".") and text.summary.endswith(".")
    assert text.source == Path(page.module.__file__ or "").read_text()
    assert text.code and '"""' + text.title not in text.code
    assert text.claims and [claim for claim, proof in text.proofs.items() if proof is None] == []
    assert text.section("The trap") and text.traps
    shown = [*text.proofs.values(), *text.traps, *text.other_tests]
    assert sorted(test.name for test in shown if test) == sorted(test.name for test in text.tests)


@each_page
def test_a_page_lists_every_route_of_its_router_that_is_documented(page: Page, app: FastAPI) -> None:
    listed = {(route.method, route.path) for route in routes_of(page.router, app.openapi(), "http://host")}
    assert listed == {(method, path) for method, path in documented(page.router.routes) if method != "HEAD"}


def documented(routes: Sequence[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Method and path of each route that is no other spelling; of a mounted app its routes, else `MOUNT`."""
    for route in iter_route_contexts(routes):
        path = f"{prefix}{route.path}"
        if isinstance(route.original_route, Mount):
            yield from list(documented(route.original_route.routes, path)) or [("MOUNT", path)]
        elif not route.methods or route.include_in_schema:
            yield from ((method, path) for method in route.methods or {"WS"})


def test_a_test_is_shown_with_its_decorators_and_as_a_sentence(tmp_path: Path) -> None:
    module = tmp_path / "test_x.py"
    module.write_text(
        '@mark(\n  "a"\n)\nasync def test_trap_it_fails():\n    assert 1\n\n\ndef helper(): ...\n'
    )
    [test] = read_tests(module)
    assert (test.name, test.sentence) == ("test_trap_it_fails", "It fails")
    assert test.source == '@mark(\n  "a"\n)\nasync def test_trap_it_fails():\n    assert 1'


def test_the_tests_of_a_class_are_shown_like_the_others(tmp_path: Path) -> None:
    module = tmp_path / "test_x.py"
    module.write_text("class TestX:\n    def test_it(self):\n        assert 1\n")
    assert [test.source for test in read_tests(module)] == ["def test_it(self):\n    assert 1"]


def test_where_tests_are_not_installed_there_are_none(tmp_path: Path) -> None:
    assert read_tests(tmp_path / "test_x.py") == []


def test_pages_are_read_in_threads_and_never_on_the_event_loop(app: FastAPI) -> None:
    own = [route for route in iter_route_contexts(app.routes) if route.endpoint]
    own = [route for route in own if getattr(route.endpoint, "__module__", "") in OWN_MODULES]
    assert len(own) == 6
    assert not any(iscoroutinefunction(route.endpoint) for route in own)


def test_every_command_that_guesses_nothing_is_accepted(client: TestClient, app: FastAPI) -> None:
    """Neither the path, the method, the parameters nor the media type of a shown command is refused."""
    refused = []
    for page in PAGES:
        for route in routes_of(page.router, app.openapi(), "http://testserver"):
            words = shlex.split(route.command)
            if words[0] != "curl" or words[1] == "-N" or guesses(words):
                continue
            status = run(client, words)
            if status in (400, 405, 415, 422):
                refused.append((status, route.command))
    assert refused == []


def guesses(words: list[str]) -> bool:
    """Whether something in capitals is left to fill in: in the path or among the fields of a form."""
    fields = [value for option, value in pairwise(words) if option == "-d"]
    return any(part.isupper() for word in (words[-1], *fields) for part in re.split("[/=]", word))


def run(client: TestClient, words: list[str]) -> int:
    """What curl does with the options that our commands use."""
    options = list(zip(words[2:-1:2], words[3:-1:2], strict=True))
    method = next((value for option, value in options if option == "-X"), "")
    headers = dict(value.split(": ", 1) for option, value in options if option == "-H")
    data = "&".join(value for option, value in options if option == "-d")
    parts = [value.split("=@") for option, value in options if option == "-F"]
    files = {name: (Path(path).name, (ROOT / path).read_bytes()) for name, path in parts}
    method = method or ("POST" if data or files else "GET")
    if data and "Content-Type" not in headers:
        headers["Content-Type"] = "application/x-www-form-urlencoded"
    answer = client.request(
        method, words[-1], headers=headers, content=data or None, files=files or None, follow_redirects=False
    )
    return answer.status_code


DOCUMENT = {
    "components": {
        "securitySchemes": {
            "token": {"type": "oauth2"},
            "basic": {"type": "http", "scheme": "basic"},
            "key": {"type": "apiKey", "in": "header", "name": "X-Key"},
        },
        "schemas": {
            "Pet": {
                "type": "object",
                "required": ["name", "age", "tags"],
                "properties": {
                    "name": {"type": "string", "examples": ["it's Rex"]},
                    "age": {"type": "integer", "exclusiveMinimum": 3},
                    "tags": {"type": "array", "items": {"type": "string"}, "minItems": 1},
                    "note": {"type": "string"},
                },
            }
        },
    },
    "paths": {
        "/pets/{pet_id}": {
            "put": {
                "parameters": [
                    {
                        "in": "path",
                        "name": "pet_id",
                        "required": True,
                        "schema": {"type": "string", "pattern": "x"},
                    },
                    {
                        "in": "query",
                        "name": "to",
                        "required": True,
                        "schema": {"type": "string", "format": "email"},
                    },
                    {"in": "query", "name": "page", "required": False, "schema": {"type": "integer"}},
                ],
                "requestBody": {
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Pet"}}}
                },
            }
        },
        "/mine": {"get": {"security": [{"token": ["me"]}, {"basic": []}]}},
        "/anybodys": {"get": {"security": [{"token": []}, {}]}},
        "/basic": {"get": {"security": [{"basic": []}]}},
        "/key": {"get": {"security": [{"key": []}]}},
        "/events": {"get": {"responses": {"200": {"content": {"text/event-stream": {}}}}}},
        "/image": {"get": {"responses": {"200": {"content": {"image/png": {}}}}}},
        "/upload": {
            "post": {
                "requestBody": {
                    "content": {
                        "multipart/form-data": {
                            "schema": {
                                "type": "object",
                                "required": ["file"],
                                "properties": {"file": {"type": "string"}},
                            }
                        }
                    }
                }
            }
        },
    },
}


@pytest.mark.parametrize(
    ("method", "path", "words"),
    [
        ("GET", "/unlisted", ["curl", "-i", "http://host/unlisted"]),
        ("GET", "/events", ["curl", "-N", "http://host/events"]),
        ("GET", "/mine", ["curl", "-i", "-H", "Authorization: Bearer ACCESS_TOKEN", "http://host/mine"]),
        ("GET", "/anybodys", ["curl", "-i", "http://host/anybodys"]),
        ("GET", "/basic", ["curl", "-i", "-u", "USERNAME:PASSWORD", "http://host/basic"]),
        ("GET", "/key", ["curl", "-i", "-H", "X-Key: API_KEY", "http://host/key"]),
        ("GET", "/image", ["curl", "-OJ", "http://host/image"]),
        ("POST", "/upload", ["curl", "-i", "-F", "file=@docs/screenshot.png", "http://host/upload"]),
        (
            "PUT",
            "/pets/{pet_id}",
            [
                *("curl", "-i", "-X", "PUT", "-H", "Content-Type: application/json"),
                *("-d", '{"name": "it\'s Rex", "age": 4, "tags": ["text"]}'),
                "http://host/pets/PET_ID?to=ada%40example.com",
            ],
        ),
    ],
)
def test_a_command_follows_the_document(method: str, path: str, words: list[str]) -> None:
    assert shlex.split(curl_command(method, path, DOCUMENT, "http://host")) == words


def test_a_command_quotes_what_a_shell_would_read() -> None:
    assert curl_command("GET", "/", DOCUMENT, "http://host;id").endswith("'http://host;id/'")
    assert socket_command("/ws/{client_id}", "https://host") == "python -m websockets wss://host/ws/1"


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        ({"example": 0}, 0),
        ({"examples": {"first": {"value": "a"}}}, "a"),
        ({"enum": ["b", "c"]}, "b"),
        ({"const": "d"}, "d"),
        ({"type": "integer", "default": 0, "minimum": -5}, 0),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}], "default": None}, True),
        ({"type": "array", "items": {"type": "string"}}, []),
        ({"schema": {"type": "number", "minimum": 2}}, 2),
        ({"schema": {"type": "number"}, "example": 9}, 9),
        ({}, "text"),
        ({"name": "file_id", "type": "string"}, "FILE_ID"),
        ({"name": "password", "type": "string"}, "PASSWORD"),
        ({"name": "grant_type", "type": "string", "pattern": "^password$"}, "password"),
    ],
)
def test_a_sample_is_the_plainest_value_the_schema_accepts(schema: dict[str, object], value: object) -> None:
    assert sample(schema, DOCUMENT) == value


def test_two_apps_share_no_document(tmp_path: Path) -> None:
    first, second = (create_app(Settings(data_dir=tmp_path, uploads_dir=tmp_path)) for _ in range(2))
    assert first.openapi() is not second.openapi()
