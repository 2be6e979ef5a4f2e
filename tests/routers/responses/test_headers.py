import sys
from collections.abc import Iterator
from http.cookies import SimpleCookie
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Form, Header, HTTPException, Response
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi.testclient import TestClient

from app.routers.responses.headers import DOCUMENTATION, HOST_COOKIE
from tests.asgi import EMPTY_BODY, Call, http_scope
from tests.server import Server, read_to_end


@pytest.fixture
def https(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app, base_url="https://testserver") as client:
        yield client


def attributes(header: str) -> set[str]:
    return {part.strip().partition("=")[0].lower() for part in header.split(";")[1:]}


def test_the_cookie_is_random_httponly_samesite_lax_and_secure_over_https(
    client: TestClient, https: TestClient
) -> None:
    values = set()
    for of_client, secure in ((client, False), (https, True)):
        answer = of_client.get("/set-cookie")
        assert answer.json() == {"message": "Cookie set"}
        header = answer.headers["set-cookie"]
        cookie = SimpleCookie(header)["user"]
        values.add(cookie.value)
        assert len(cookie.value) >= 40
        assert cookie["httponly"] and cookie["samesite"] == "lax" and cookie["max-age"] == "3600"
        assert ("secure" in attributes(header)) is secure
        assert answer.headers["cache-control"] == "no-store"
    assert len(values) == 2


def test_a_host_cookie_is_set_by_post_read_by_get_and_deleted_with_the_attributes_it_was_set_with(
    https: TestClient,
) -> None:
    assert https.get("/responses/visit").json() == {"started": False}
    started = https.post("/responses/visit")
    assert started.status_code == 201
    set_by = started.headers["set-cookie"]
    assert set_by.startswith(f"{HOST_COOKIE}=") and "Path=/" in set_by
    # What the prefix demands (RFC 6265bis, section 4.1.3.2).
    assert "secure" in attributes(set_by) and "domain" not in attributes(set_by)
    assert https.get("/responses/visit").json() == {"started": True}

    ended = https.delete("/responses/visit")
    assert ended.status_code == 204
    assert attributes(ended.headers["set-cookie"]) - {"expires"} == attributes(set_by)
    assert https.get("/responses/visit").json() == {"started": False}


def test_a_cookie_whose_name_merely_looks_like_the_host_cookie_is_not_read(client: TestClient) -> None:
    def started(cookies: str) -> object:
        return client.get("/responses/visit", headers=[(b"Cookie", cookies.encode("latin-1"))]).json()

    assert started(f"a=1; {HOST_COOKIE}=ours; b=2") == {"started": True}
    # What Python strips from a name, and no browser.
    for space in ("\x0b", "\x0c", "\x1c", "\x1f", "\x85", "\xa0"):
        assert started(f"{space}{HOST_COOKIE}=tossed") == {"started": False}


def test_a_request_header_that_is_not_sent_is_null(client: TestClient) -> None:
    assert client.get("/headers", headers={"User-Agent": "curl/8"}).json() == {"User-Agent": "curl/8"}
    del client.headers["user-agent"]
    assert client.get("/headers").json() == {"User-Agent": None}


def test_a_request_header_out_of_bounds_is_refused(client: TestClient) -> None:
    assert client.get("/headers", headers={"User-Agent": "x" * 1_001}).status_code == 422


def test_a_header_set_on_the_response_parameter_is_sent(client: TestClient) -> None:
    answer = client.get("/custom-headers")
    assert answer.json() == {"message": "Hello"}
    assert answer.headers["x-custom-header"] == "FastAPI"


def test_a_dependency_sets_the_status_and_headers_of_the_answer(client: TestClient) -> None:
    busy = client.get("/responses/report?busy=true")
    assert (busy.status_code, busy.headers["retry-after"]) == (202, "5")
    done = client.get("/responses/report")
    assert done.status_code == 200 and "retry-after" not in done.headers


def test_the_status_of_a_dependency_beats_that_of_the_route_and_the_endpoint_has_the_last_word() -> None:
    async def accept(response: Response) -> None:
        response.status_code = 202

    async def says_nothing(_: Annotated[None, Depends(accept)]) -> None: ...

    async def says(_: Annotated[None, Depends(accept)], response: Response) -> None:
        response.status_code = 203

    assert answer_of(says_nothing, status_code=201).status_code == 202
    assert answer_of(says, status_code=201).status_code == 203


HINT = b"</static/style.css>; rel=preload; as=style"


@pytest.mark.anyio
@pytest.mark.parametrize("encoding", [b"gzip", None])
async def test_early_hints_are_sent_before_the_answer_where_the_server_offers_it(
    app: FastAPI, encoding: bytes | None
) -> None:
    headers = [(b"accept-encoding", encoding)] if encoding else []
    scope = http_scope("/responses/hints", headers=headers)
    scope["extensions"]["http.response.early_hint"] = {}
    early, start, *_ = await Call(app, scope, EMPTY_BODY).run()
    assert early == {"type": "http.response.early_hint", "links": [HINT]}
    assert start["status"] == 200 and (b"link", HINT) in start["headers"]


def test_without_that_the_hints_are_on_the_answer_alone(live: Server) -> None:
    head = b"GET /responses/hints HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with live.connect(head) as connection:
        received = read_to_end(connection)
    assert received.startswith(b"HTTP/1.1 200 ") and b" 103 " not in received
    assert b"link: " + HINT in received


def test_the_redirect_to_the_documentation_is_a_307_to_a_fixed_address(client: TestClient) -> None:
    answer = client.get(
        "/redirect?next=https://evil.example", headers={"Host": "localhost"}, follow_redirects=False
    )
    assert (answer.status_code, answer.headers["location"]) == (307, DOCUMENTATION)


def test_the_redirect_after_a_form_is_a_303_that_is_followed_by_get(client: TestClient) -> None:
    for name in ("Ada Lovelace", "a&b=c#d?e", "é", "x\r\nSet-Cookie: user=evil", "//evil.example"):
        answer = client.post("/responses/greeting", data={"name": name})
        assert [step.status_code for step in answer.history] == [303]
        assert answer.request.method == "GET"
        assert answer.url.host == "testserver" and answer.url.path == "/responses/greeting"
        assert answer.json() == {"message": f"Hello {name}"}
        assert not client.cookies


@pytest.fixture
def behind_a_proxy(app: FastAPI) -> Iterator[TestClient]:
    """What uvicorn passes on with `--root-path /api`: the prefix is a part of every path."""
    with TestClient(app, root_path="/api") as client:
        yield client


def test_a_location_has_the_prefix_under_which_a_proxy_serves_the_app_and_no_host(
    behind_a_proxy: TestClient,
) -> None:
    post = behind_a_proxy.post
    uploaded = post("/api/upload/", files={"file": ("a.txt", b"text")})
    for answer in (
        uploaded,
        post("/api/tasks", json={"file_id": uploaded.json()["id"]}),
        post("/api/users", json={"name": "Katherine Johnson", "email": "katherine@example.com"}),
    ):
        location = answer.headers["location"]
        assert location.startswith("/api/")
        assert behind_a_proxy.get(location).status_code == 200


GET_PATHS = (
    "/headers",
    "/custom-headers",
    "/set-cookie",
    "/redirect",
    "/items/",
    "/items/1",
    "/responses/orjson",
)


def test_head_has_the_headers_of_get_and_no_body(client: TestClient) -> None:
    for path in GET_PATHS:
        # One id for both, for the pages tell it.
        head, get = (
            client.request(method, path, headers={"X-Request-ID": "of-both-requests"}, follow_redirects=False)
            for method in ("HEAD", "GET")
        )
        assert head.status_code == get.status_code
        assert head.content == b""
        assert set(head.headers) == set(get.headers)
        assert head.headers.get("content-length") == get.headers.get("content-length")


def answer_of(endpoint: Any, **options: Any) -> Any:
    app = FastAPI()
    app.add_api_route("/", endpoint, methods=["GET", "POST"], **options)
    return TestClient(app, base_url="https://testserver").get("/")


def test_trap_a_plain_cookie_can_be_read_by_scripts_and_forged() -> None:
    async def login(response: Response) -> None:
        response.set_cookie("user", "alice")

    header = answer_of(login).headers["set-cookie"]
    assert header.startswith("user=alice;")
    assert not {"httponly", "secure"} & attributes(header)


def test_trap_a_header_is_lost_when_a_response_is_returned_or_an_error_raised() -> None:
    async def returns(response: Response) -> JSONResponse:
        response.headers["X-Custom-Header"] = "FastAPI"
        return JSONResponse({})

    async def raises(response: Response) -> None:
        response.set_cookie("attempts", "1")
        raise HTTPException(401)

    async def keeps() -> JSONResponse:
        return JSONResponse({}, headers={"X-Custom-Header": "FastAPI"})

    assert "x-custom-header" not in answer_of(returns).headers
    assert "set-cookie" not in answer_of(raises).headers
    assert answer_of(keeps).headers["x-custom-header"] == "FastAPI"


def test_trap_the_default_redirect_sends_the_form_a_second_time() -> None:
    paid: list[str] = []
    app = FastAPI()

    @app.post("/pay")
    async def pay(amount: Annotated[str, Form()]) -> RedirectResponse:
        paid.append(amount)
        return RedirectResponse("/thanks")

    @app.api_route("/thanks", methods=["GET", "POST"])
    async def thanks(amount: Annotated[str | None, Form()] = None) -> str | None:
        return amount

    answer = TestClient(app).post("/pay", data={"amount": "5"})
    assert answer.history[0].status_code == 307
    assert answer.request.method == "POST"
    assert answer.json() == "5"


def test_trap_a_header_that_is_a_text_by_its_type_is_none() -> None:
    async def read(user_agent: str = Header(None)) -> str | None:
        return user_agent

    app = FastAPI()
    app.add_api_route("/", read)
    client = TestClient(app)
    del client.headers["user-agent"]
    assert client.get("/").json() is None
    (parameter,) = client.get("/openapi.json").json()["paths"]["/"]["get"]["parameters"]
    assert parameter["schema"]["type"] == "string"


def test_trap_a_deletion_without_the_attributes_is_not_for_a_host_cookie() -> None:
    async def logout(response: Response) -> None:
        response.delete_cookie(HOST_COOKIE)

    assert "secure" not in attributes(answer_of(logout).headers["set-cookie"])


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="there it works")
def test_trap_a_partitioned_cookie_needs_a_newer_python() -> None:
    with pytest.raises(ValueError, match=r"Python 3\.14"):
        Response().set_cookie("embedded", "x", secure=True, samesite="none", partitioned=True)


def test_trap_a_location_written_by_hand_leads_out_of_the_prefix() -> None:
    app = FastAPI()

    @app.post("/users", status_code=201)
    async def create(response: Response) -> None:
        response.headers["Location"] = "/users/1"

    @app.get("/users/{user_id}")
    async def read(user_id: int) -> int:
        return user_id

    behind = TestClient(app, root_path="/api")
    location = behind.post("/api/users").headers["location"]
    # To the proxy this is the path of another service.
    assert not location.startswith("/api/")


def test_trap_a_get_route_refuses_head() -> None:
    app = FastAPI()
    app.add_api_route("/", lambda: None)
    assert TestClient(app).head("/").status_code == 405


def test_trap_the_redirect_of_a_missing_slash_is_made_from_the_host_header(client: TestClient) -> None:
    app = FastAPI()
    app.add_api_route("/upload", lambda: None, methods=["POST"])
    evil = {"Host": "evil.example"}
    theirs = TestClient(app).post("/upload/", headers=evil, follow_redirects=False)
    assert theirs.headers["location"] == "http://evil.example/upload"

    assert client.get("/custom-headers/", headers=evil).status_code == 400
    ours = client.get("/custom-headers/", follow_redirects=False)
    assert ours.status_code == 404 and "location" not in ours.headers
