from collections.abc import Iterator
from typing import Annotated, Any

import httpx2
from fastapi import APIRouter, Body, FastAPI, Form, Request, UploadFile
from fastapi.testclient import TestClient

from app.routers.validation.requests import MAX_NOTE_SIZE, router


def chunked(body: bytes) -> Iterator[bytes]:
    return iter([body])


async def size_of_body(request: Request) -> int:
    return len(await request.body())


def app_with_limits() -> FastAPI:
    app = FastAPI(max_body_size=10)
    inner, outer = APIRouter(prefix="/router", max_body_size=20), APIRouter()
    app.add_api_route("/app", size_of_body, methods=["POST"])
    app.add_api_route("/route", size_of_body, methods=["POST"], max_body_size=40)
    app.add_api_route("/none", size_of_body, methods=["POST"], max_body_size=0)
    outer.add_api_route("/include", size_of_body, methods=["POST"])
    inner.add_api_route("/", size_of_body, methods=["POST"])
    inner.add_api_route("/route", size_of_body, methods=["POST"], max_body_size=5)
    app.include_router(outer, max_body_size=30)
    app.include_router(inner, max_body_size=30)
    return app


LIMITS = {"/app": 10, "/route": 40, "/none": 0, "/include": 30, "/router/": 20, "/router/route": 5}


def test_the_innermost_limit_of_a_body_wins_up_or_down() -> None:
    client = TestClient(app_with_limits())
    for path, most in LIMITS.items():
        assert client.post(path, content=chunked(b"x" * most)).json() == most
        assert client.post(path, content=b"x" * most).json() == most
        assert client.post(path, content=chunked(b"x" * (most + 1))).status_code == 413
        assert client.post(path, content=b"x" * (most + 1)).status_code == 413


def test_a_body_over_the_limit_is_a_problem_declared_or_chunked(client: TestClient) -> None:
    assert client.post("/validation/note", content=b"x" * MAX_NOTE_SIZE).json() == MAX_NOTE_SIZE
    too_large = b"x" * (MAX_NOTE_SIZE + 1)
    for body in (too_large, chunked(too_large)):
        refused = client.post("/validation/note", content=body)
        assert refused.status_code == 413
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["title"]


def test_trap_a_body_over_the_limit_is_refused_in_one_of_two_shapes() -> None:
    client = TestClient(app_with_limits())
    declared = client.post("/app", content=b"x" * 100)
    grown = client.post("/app", content=chunked(b"x" * 100))
    assert declared.status_code == grown.status_code == 413
    assert declared.headers["content-type"].startswith("text/plain")
    assert grown.json() == {"detail": "Content Too Large"}


def test_trap_an_endpoint_that_never_reads_its_body_runs_before_the_refusal() -> None:
    ran: list[str] = []
    app = FastAPI(max_body_size=10)

    @app.post("/")
    async def pay() -> None:
        ran.append("paid")

    assert TestClient(app).post("/", content=b"x" * 100).status_code == 413
    assert ran == ["paid"]


def test_a_form_has_a_limit_of_fields_of_files_and_of_text(client: TestClient) -> None:
    def send(answers: list[str], name: str = "answer", in_parts: bool = False) -> httpx2.Response:
        form: dict[str, Any] = {"data": {name: answers}}
        if in_parts:
            form = {"files": [(name, (None, answer)) for answer in answers]}
        return client.post("/validation/survey", **form)

    # Among parts the value counts; in a URL-encoded form the name too.
    assert send(["yes", "no", "x" * (1_024 - len("answer")), "", "5"]).json() == 5
    assert send(["yes", "no", "x" * 1_024, "", "5"], in_parts=True).json() == 5
    for refused in (
        send(["yes"] * 6),
        send(["yes"] * 6, in_parts=True),
        send(["x" * 1_024]),
        send(["x" * 1_025], in_parts=True),
        send([""], name="x" * 1_025),
        client.post("/validation/survey", files={"answer": ("a.txt", b"text")}),
    ):
        assert refused.status_code == 400
        assert refused.headers["content-type"] == "application/problem+json"


async def count_parts(
    note: Annotated[list[str] | None, Form()] = None, file: list[UploadFile] | None = None
) -> int:
    return len(note or []) + len(file or [])


def test_the_limits_of_a_form_are_inherited_one_by_one() -> None:
    app = FastAPI(form_limits={"max_fields": 1, "max_files": 1})
    router = APIRouter(form_limits={"max_part_size": 10})
    router.add_api_route("/included", count_parts, methods=["POST"])
    router.add_api_route("/route", count_parts, methods=["POST"], form_limits={"max_fields": 3})
    app.include_router(router, form_limits={"max_fields": 2})
    client = TestClient(app)
    for path, most in {"/included": 2, "/route": 3}.items():
        assert client.post(path, data={"note": ["x"] * most}).json() == most
        assert client.post(path, data={"note": ["x"] * (most + 1)}).status_code == 400
        assert client.post(path, data={"note": ["x" * 11]}).status_code == 400
        assert client.post(path, files=[("file", b"x")] * 2).status_code == 400


def test_a_body_without_a_content_type_is_refused(client: TestClient) -> None:
    for kind in (None, "text/plain", "application/octet-stream"):
        headers = {"Content-Type": kind} if kind else {}
        refused = client.post("/validation/measurements", content=b"[1]", headers=headers)
        assert refused.status_code == 422


def test_trap_without_the_strict_content_type_any_page_may_send_json_with_the_cookies_of_its_visitor() -> (
    None
):
    async def pay(amount: Annotated[int, Body(embed=True)], request: Request) -> str | None:
        return request.cookies.get("user")

    lax = APIRouter(prefix="/lax", strict_content_type=False)
    lax.add_api_route("/", pay, methods=["POST"])
    strict, lax_app = FastAPI(), FastAPI(strict_content_type=False)
    for app in (strict, lax_app):
        app.add_api_route("/", pay, methods=["POST"])
    strict.include_router(lax)
    # What `fetch(url, {method: "POST", body: new Blob([...])})` sends: no type, and no preflight before it.
    blob: dict[str, Any] = {"content": b'{"amount": 5}', "headers": {"Cookie": "user=ada"}}
    assert TestClient(strict).post("/lax/", **blob).json() == "ada"
    assert TestClient(lax_app).post("/", **blob).json() == "ada"
    assert TestClient(strict).post("/", **blob).status_code == 422


def test_trap_the_media_type_of_a_body_is_documentation_only() -> None:
    app = FastAPI()

    @app.patch("/")
    async def change(
        patch: Annotated[dict[str, int], Body(media_type="application/merge-patch+json")],
    ) -> int:
        return len(patch)

    client = TestClient(app)
    (documented,) = app.openapi()["paths"]["/"]["patch"]["requestBody"]["content"]
    assert documented == "application/merge-patch+json"
    for kind in (documented, "application/json", "application/geo+json"):
        assert client.patch("/", content=b'{"a": 1}', headers={"Content-Type": kind}).json() == 1


def test_a_query_searches_by_its_body_and_is_documented_with_it(client: TestClient) -> None:
    def ask(**body: Any) -> Any:
        return client.request("QUERY", "/validation/search", json=body)

    assert ask(words=["CARD"]).json() == ["Punched cards"]
    assert ask(words=["punch", "card"]).json() == ["Punched cards"]
    assert len(ask(words=[], limit=2).json()) == 2
    assert ask(words=["100%"]).json() == ask(words=["_"]).json() == []
    assert len(ask(words=[]).json()) == 8
    assert ask(words=[], limit=101).status_code == ask(words=["x"] * 11).status_code == 422
    refused = client.post("/validation/search", json={"words": []})
    assert (refused.status_code, refused.headers["allow"]) == (405, "QUERY")
    app = FastAPI()
    app.include_router(router)
    operation = app.openapi()["paths"]["/validation/search"]["query"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["words"]


def test_trap_a_query_is_documented_without_its_body() -> None:
    app = FastAPI()

    @app.api_route("/search", methods=["QUERY"])
    async def search(words: Annotated[list[str], Body()]) -> list[str]:
        return words

    assert TestClient(app).request("QUERY", "/search", json=["a"]).json() == ["a"]
    assert "requestBody" not in app.openapi()["paths"]["/search"]["query"]
