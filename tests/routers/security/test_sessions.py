import base64
import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import pytest
from fastapi import APIRouter, Depends, FastAPI, Form, Request, Response
from fastapi.middleware import Middleware
from fastapi.middleware.httpsredirect import HTTPSRedirectMiddleware
from fastapi.middleware.trustedhost import TrustedHostMiddleware
from fastapi.testclient import TestClient
from itsdangerous import TimestampSigner
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from pydantic import BaseModel, ConfigDict, SecretStr
from starlette.middleware.sessions import SessionMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app.errors import Forbidden
from app.main import create_app
from app.routers.security import sessions
from app.security import web_sessions
from app.security.plain_cookies import plain_cookies
from app.security.session_cookie import COOKIE, SessionRoute
from app.settings import SecuritySettings, Settings
from tests.asgi import http_scope

FORM = "/security/session"
ACCOUNT = {"username": "ada", "password": "correct horse battery"}
ORIGIN = "https://testserver"
SIBLING = {"Origin": "https://evil.testserver", "Sec-Fetch-Site": "same-site"}
MOST_LOGINS = 2
MAX_COOKIE_SIZE = 4_096
KEYS = [SecretStr(letter * 32) for letter in "ab"]


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    cheap = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1),))
    monkeypatch.setattr(PasswordHash, "recommended", lambda: cheap)
    security = SecuritySettings(max_logins_per_account=MOST_LOGINS)
    return settings.model_copy(update={"security": security})


def as_sent(app: ASGIApp) -> ASGIApp:
    """The headers byte for byte. `TestClient` encodes what is not ASCII once more, as UTF-8."""

    async def pass_on(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            headers = [(name, value.decode().encode("latin-1")) for name, value in scope["headers"]]
            scope = {**scope, "headers": headers}
        await app(scope, receive, send)

    return pass_on


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """Over https, for its cookies are `Secure`; with an account, and logged in by nobody."""
    with TestClient(as_sent(app), base_url=ORIGIN) as client:
        assert client.post("/security/oauth2/accounts", json=ACCOUNT).status_code == 201
        yield client


def token(client: TestClient) -> str:
    found = re.search(r'name="csrf_token" value="([\w-]+)"', client.get(FORM).text)
    assert found
    return found[1]


def send(client: TestClient, action: str, headers: dict[str, str] | None = None, **fields: str) -> Any:
    data = {"csrf_token": token(client), **fields}
    return client.post(f"{FORM}/{action}", data=data, headers=headers, follow_redirects=False)


def log_in(client: TestClient) -> str:
    """The cookie of a new login, as one who reads it off the wire would have it."""
    answer = send(client, "login", None, **ACCOUNT)
    assert (answer.status_code, answer.headers["location"]) == (303, FORM)
    return str(client.cookies[COOKIE])


def member(client: TestClient, cookie: str | None = None, name: str = COOKIE) -> Any:
    if cookie is None:
        return client.get(f"{FORM}/member")
    return client.get(f"{FORM}/member", headers=[(b"Cookie", f"{name}={cookie}".encode("latin-1"))])


def content(cookie: str) -> dict[str, Any]:
    """No key is needed to read it."""
    decoded = json.loads(base64.b64decode(cookie.partition(".")[0]))
    assert isinstance(decoded, dict)
    return decoded


def test_the_form_logs_in_and_shows_who_it_is_and_the_logout_ends_it(client: TestClient) -> None:
    assert "Nobody is logged in" in client.get(FORM).text
    refused = member(client)
    assert refused.status_code == 401 and refused.headers["www-authenticate"] == "APIKey"
    log_in(client)
    assert "Hello ada" in client.get(FORM).text
    assert member(client).json() == {"username": "ada", "notes": []}
    assert send(client, "logout").status_code == 303
    assert "Nobody is logged in" in client.get(FORM).text and member(client).status_code == 401


def test_a_wrong_password_leaves_the_session_as_it_is(client: TestClient) -> None:
    refused = send(client, "login", username="ada", password="wrong")
    assert refused.status_code == 403 and "set-cookie" not in refused.headers
    assert member(client).status_code == 401


def test_a_changed_or_a_foreign_cookie_is_an_empty_session(client: TestClient) -> None:
    cookie = log_in(client)
    payload, rest = cookie.split(".", 1)
    forged = base64.b64encode(json.dumps({**content(cookie), "notes": ["x"]}).encode()).decode()
    foreign = TimestampSigner("another key").sign(payload).decode()
    for changed in (f"{forged}.{rest}", foreign, cookie[:-2], payload, "null", 'ÿ."\\377'):
        assert member(client, changed).status_code == 401
    assert member(client, cookie).status_code == 200


def test_a_login_leaves_nothing_of_the_session_before_it(client: TestClient) -> None:
    planted = token(client)
    send(client, "note", note="planted")
    before = client.cookies[COOKIE]
    after = log_in(client)
    assert set(content(before)) == {"csrf_token", "notes"} and set(content(after)) == {"id"}
    assert token(client) != planted
    assert member(client, before).status_code == 401
    first = content(after)["id"]
    assert content(log_in(client))["id"] != first


def test_a_cookie_copied_before_the_logout_is_worth_nothing_after_it(client: TestClient) -> None:
    copied = log_in(client)
    assert member(client, copied).status_code == 200
    send(client, "logout")
    assert member(client, copied).status_code == 401


def test_a_login_ends_after_its_time_and_the_oldest_when_there_are_too_many(
    client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    cookies = []
    for _ in range(MOST_LOGINS + 1):
        client.cookies.clear()
        cookies.append(log_in(client))
    assert [member(client, cookie).status_code for cookie in cookies] == [401, 200, 200]

    class Later(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> Any:
            return datetime.now(tz) + timedelta(seconds=settings.security.session_seconds)

    monkeypatch.setattr(web_sessions, "datetime", Later)
    assert member(client, cookies[-1]).status_code == 401


def test_a_session_without_a_login_ends_too(
    client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = token(client)
    late = int(datetime.now(UTC).timestamp()) + settings.security.session_seconds + 1
    monkeypatch.setattr(TimestampSigner, "get_timestamp", lambda _: late)
    assert token(client) != old


FOREIGN = [
    SIBLING,
    {"Origin": "https://evil.testserver"},
    {"Origin": "http://testserver"},
    {"Origin": f"{ORIGIN}:444"},
    {"Origin": "null"},
    {"Origin": "http://localhost:3000"},  # may read answers by CORS, and sends no form all the same
    {"Sec-Fetch-Site": "same-site"},
    {"Sec-Fetch-Site": "cross-site", "Origin": ORIGIN},
]


def test_a_form_from_another_origin_is_refused_from_a_sibling_subdomain_too(client: TestClient) -> None:
    for headers in FOREIGN:
        refused = send(client, "login", headers, **ACCOUNT)
        assert refused.status_code == 403
        assert refused.json()["detail"] == "Only our own pages may send this form."
    assert member(client).status_code == 401
    own = {"Origin": ORIGIN, "Sec-Fetch-Site": "same-origin"}
    assert send(client, "login", own, **ACCOUNT).status_code == 303


def test_a_form_without_the_token_of_its_session_is_refused(client: TestClient) -> None:
    def post(**fields: str) -> int:
        return client.post(f"{FORM}/login", data=ACCOUNT | fields, follow_redirects=False).status_code

    of_another = token(client)
    client.cookies.clear()
    assert post(csrf_token=of_another) == 403  # there is no session yet
    own = token(client)
    assert [post(csrf_token=wrong) for wrong in (of_another, "é", own[:-1])] == [403] * 3
    assert [post(), post(csrf_token="")] == [403] * 2
    assert client.post(f"{FORM}/login", json=ACCOUNT | {"csrf_token": own}).status_code == 403
    assert post(csrf_token=own) == 303


@pytest.mark.anyio
async def test_a_token_that_is_no_text_is_a_wrong_one() -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="csrf_token"\r\n\r\n+2AA-\r\n--x--\r\n'
    # Half of a surrogate pair, where no middleware refuses the charset.
    utf_7 = (b"content-type", b"multipart/form-data; boundary=x; charset=utf-7")

    async def receive() -> Message:
        return {"type": "http.request", "body": part, "more_body": False}

    scope = http_scope(f"{FORM}/login", "POST", [utf_7])
    request = Request({**scope, "session": {"csrf_token": "known"}}, receive)
    with pytest.raises(Forbidden, match="another session"):
        await sessions.check_token(request)


class Note(BaseModel):
    model_config = ConfigDict(extra="forbid")

    note: str


class OwnNote(sessions.OwnForm):
    note: str


@pytest.fixture
def forms(app: FastAPI) -> None:
    """More forms, made as the page makes its own."""
    router = APIRouter(prefix=FORM, route_class=SessionRoute, dependencies=[Depends(sessions.check_token)])

    @router.post("/plain")
    async def plain() -> None: ...

    @router.post("/own")
    async def own(form: Annotated[OwnNote, Form()]) -> str:
        return form.note

    @router.post("/forgetful")
    async def forgetful(form: Annotated[Note, Form()]) -> str:
        return form.note

    app.include_router(router)


@pytest.mark.usefixtures("forms")
def test_a_form_may_forbid_what_it_does_not_know_if_it_declares_the_token(client: TestClient) -> None:
    assert send(client, "own", note="x").json() == "x"
    refused = send(client, "own", note="x", unknown="y")
    assert refused.status_code == 422
    assert [(error["loc"], error["type"]) for error in refused.json()["errors"]] == [
        (["body", "unknown"], "extra_forbidden")
    ]
    assert client.post(f"{FORM}/own", data={"unknown": "y"}).status_code == 403


@pytest.mark.usefixtures("forms")
def test_trap_a_form_that_forbids_what_it_does_not_know_refuses_the_token(client: TestClient) -> None:
    refused = send(client, "forgetful", note="x")
    assert refused.status_code == 422
    assert [error["loc"] for error in refused.json()["errors"]] == [["body", "csrf_token"]]


@pytest.mark.usefixtures("forms")
def test_a_form_without_a_model_is_read_within_the_same_limits(client: TestClient) -> None:
    assert send(client, "plain").status_code == 200
    fields = {f"field_{n}": "x" for n in range(sessions.MAX_FIELDS)}
    assert send(client, "plain", None, **fields).status_code == 400
    for size, status in ((sessions.MAX_FIELD_SIZE - len("note"), 200), (sessions.MAX_FIELD_SIZE, 400)):
        assert send(client, "plain", note="x" * size).status_code == status
    file = {"csrf_token": ("name", b"x")}
    assert client.post(f"{FORM}/plain", files=file).status_code == 400


def test_the_document_has_the_token_in_each_form(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for action in ("login", "note", "logout"):
        [form] = document["paths"][f"{FORM}/{action}"]["post"]["requestBody"]["content"].values()
        schema = document["components"]["schemas"][form["schema"]["$ref"].rpartition("/")[2]]
        assert "csrf_token" in schema["required"] and schema["properties"]["csrf_token"]["minLength"] == 1


def test_get_changes_nothing(client: TestClient) -> None:
    log_in(client)
    for action in ("login", "note", "logout"):
        refused = client.get(f"{FORM}/{action}")
        assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert member(client).status_code == 200


def attributes(header: str) -> set[str]:
    return {part.strip().lower() for part in header.split(";")[1:]}


def test_the_cookie_is_bound_to_this_host_hidden_from_scripts_and_deleted_as_it_was_set(
    client: TestClient,
) -> None:
    made = client.get(FORM).headers["set-cookie"]
    bound = {"path=/", "httponly", "samesite=lax", "secure"}
    assert made.startswith("__Host-") and attributes(made) == bound | {"max-age=28800"}
    deleted = send(client, "logout").headers["set-cookie"]
    assert attributes(deleted) == bound | {"expires=thu, 01 jan 1970 00:00:00 gmt"}


def test_a_session_never_outgrows_what_a_browser_keeps(client: TestClient) -> None:
    for letter in ("x", "é", "𝄞", '"'):
        log_in(client)
        sent = [send(client, "note", note=letter * 200) for _ in range(15)]
        assert sent[-1].status_code == 409 and sent[-1].json()["detail"] == "The session is full."
        assert all(len(answer.headers.get("set-cookie", "")) <= MAX_COOKIE_SIZE for answer in sent)
        kept = [answer for answer in sent if answer.status_code == 303]
        assert kept and member(client).json()["notes"] == [letter * 200] * len(kept)


def test_only_the_routes_of_this_page_vary_by_the_cookie(client: TestClient) -> None:
    log_in(client)
    page = client.get(FORM)
    assert "Cookie" in page.headers["vary"] and page.headers["cache-control"] == "no-store"
    assert "Cookie" in member(client).headers["vary"]
    for path in ("/items/", "/security/visitor", "/health"):
        answer = client.get(path)
        assert "Cookie" not in answer.headers["vary"] and "set-cookie" not in answer.headers


SPACES = ("\x0b", "\x0c", "\x1c", "\x1f", "\x85", "\xa0")
"""What Python strips from a name, and no browser."""


def test_a_cookie_whose_name_merely_looks_like_ours_is_not_read(client: TestClient) -> None:
    cookie = log_in(client)
    for space in SPACES:
        assert member(client, cookie, name=f"{space}{COOKIE}").status_code == 401
        assert member(client, cookie, name=f"{COOKIE}=none; {space}{COOKIE}").status_code == 401
        assert member(client, cookie, name=f"{space}{COOKIE}=tossed; {COOKIE}").status_code == 200


def test_other_cookies_reach_the_session_as_they_were_sent() -> None:
    assert plain_cookies(b"a=1; b=2;c") == b"a=1; b=2;c"
    assert plain_cookies(b'a="\\303"; \xa0b=2; c=\xff; d=4') == b'a="\\303"; d=4'
    assert plain_cookies(b"") == b""


def test_a_new_key_signs_while_sessions_of_the_old_one_are_still_read(settings: Settings) -> None:
    def app_with(*keys: SecretStr) -> FastAPI:
        return create_app(settings.model_copy(update={"security": SecuritySettings(signing_keys=keys)}))

    old, new = KEYS
    with TestClient(app_with(old), base_url=ORIGIN) as client:
        client.post("/security/oauth2/accounts", json=ACCOUNT)
        of_old = log_in(client)
    with TestClient(app_with(new, old), base_url=ORIGIN) as client:
        assert member(client, of_old).status_code == 200
        of_new = log_in(client)
    with TestClient(app_with(new), base_url=ORIGIN) as client:
        assert member(client, of_old).status_code == 401
        assert member(client, of_new).status_code == 200


@pytest.fixture
def usual() -> Iterator[TestClient]:
    """A session as it comes: no record, no token, no prefix."""
    app = FastAPI(middleware=[Middleware(SessionMiddleware, secret_key="secret")])
    known: dict[str, str] = {}

    @app.post("/login")
    async def login(request: Request, name: str = Form()) -> None:
        request.session.setdefault("id", "planted" if name == "mallory" else "own")
        known[request.session["id"]] = name

    @app.post("/append")
    async def append(request: Request) -> None:
        request.session.setdefault("notes", []).append("x" * 4_000)

    @app.post("/grow")
    async def grow(request: Request) -> None:
        request.session["notes"] = "x" * 4_000

    @app.get("/logout")
    async def logout(request: Request) -> None:
        request.session.clear()

    @app.get("/me")
    async def me(request: Request) -> str | None:
        return known.get(request.session.get("id", ""))

    yield TestClient(app)


def me(client: TestClient, cookie: str) -> Any:
    client.cookies.clear()
    return client.get("/me", headers={"Cookie": f"session={cookie}"}).json()


def test_trap_a_session_is_readable_without_the_key(client: TestClient) -> None:
    send(client, "note", note="my diagnosis")
    assert content(client.cookies[COOKIE])["notes"] == ["my diagnosis"]


def test_trap_a_cookie_copied_before_the_logout_works_after_it(usual: TestClient) -> None:
    usual.post("/login", data={"name": "ada"})
    copied = usual.cookies["session"]
    usual.get("/logout")
    assert "session" not in usual.cookies
    assert me(usual, copied) == "ada"


def test_trap_whoever_planted_a_session_is_logged_in_with_its_owner(usual: TestClient) -> None:
    usual.post("/login", data={"name": "mallory"})
    planted = usual.cookies["session"]
    usual.post("/login", data={"name": "ada"})  # in the browser into which it was planted
    assert me(usual, planted) == "ada"


def test_trap_a_change_inside_a_value_is_lost(usual: TestClient) -> None:
    assert "set-cookie" in usual.post("/append").headers
    assert "set-cookie" not in usual.post("/append").headers


def test_trap_a_cookie_is_sent_that_no_browser_keeps(usual: TestClient) -> None:
    assert len(usual.post("/grow").headers["set-cookie"]) > MAX_COOKIE_SIZE


def test_trap_samesite_lax_alone_takes_the_form_of_a_sibling_subdomain(
    client: TestClient, usual: TestClient
) -> None:
    # What a browser sends for such a form, cookie included; tests/browser/test_sessions.py sees one do it.
    answer = usual.post("/login", data={"name": "mallory"}, headers=SIBLING)
    assert answer.status_code == 200 and "samesite=lax" in answer.headers["set-cookie"]
    assert send(client, "login", SIBLING, **ACCOUNT).status_code == 403


def test_trap_a_link_logs_out(usual: TestClient) -> None:
    usual.post("/login", data={"name": "ada"})
    # A navigation from anywhere: Lax brings the cookie along.
    usual.get("/logout", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"})
    assert usual.get("/me").json() is None


def test_trap_a_byte_before_the_name_defeats_the_prefix() -> None:
    app = FastAPI()

    @app.get("/")
    async def read(request: Request) -> str:
        return request.cookies[COOKIE]

    # A browser lets any sibling subdomain set the second: its name does not begin with the prefix.
    tossed = f"{COOKIE}=own; \xa0{COOKIE}=evil".encode("latin-1")
    assert TestClient(as_sent(app)).get("/", headers=[(b"Cookie", tossed)]).json() == "evil"


def test_trap_the_redirect_to_https_never_ends_behind_a_proxy_that_is_not_trusted() -> None:
    app = FastAPI(middleware=[Middleware(HTTPSRedirectMiddleware)])
    app.get("/")(lambda: "here")

    def ask(trusted: str) -> Any:
        """As the proxy asks, which has ended the TLS of `https://testserver/`."""
        server = ProxyHeadersMiddleware(app, trusted_hosts=trusted)  # type: ignore[arg-type]
        proxy = TestClient(server, client=("10.0.0.2", 1), follow_redirects=False)  # type: ignore[arg-type]
        return proxy.get("/", headers={"X-Forwarded-Proto": "https"})

    assert ask(trusted="10.0.0.2").json() == "here"
    looping = ask(trusted="127.0.0.1")
    assert (looping.status_code, looping.headers["location"]) == (307, "https://testserver/")


def test_trap_without_a_redirect_the_other_name_of_the_site_is_an_error() -> None:
    def ask(www_redirect: bool) -> Any:
        app = FastAPI()
        hosts = ["www.example.com"]
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=hosts, www_redirect=www_redirect)
        app.get("/form")(lambda: "here")
        return TestClient(app, base_url="https://example.com").get("/form?a=1", follow_redirects=False)

    assert ask(www_redirect=False).status_code == 400
    moved = ask(www_redirect=True)
    assert (moved.status_code, moved.headers["location"]) == (307, "https://www.example.com/form?a=1")


def test_trap_partitioned_is_set_by_the_middleware_but_not_by_a_response_before_python_3_14() -> None:
    class Old:
        version_info = (3, 13)

    app = FastAPI(middleware=[Middleware(SessionMiddleware, secret_key="secret", partitioned=True)])

    @app.get("/")
    async def read(request: Request) -> None:
        request.session["a"] = 1

    assert "; partitioned" in TestClient(app).get("/").headers["set-cookie"]
    set_cookie: Callable[..., None] = Response().set_cookie
    with pytest.MonkeyPatch.context() as patch, pytest.raises(ValueError, match=r"3\.14"):
        patch.setattr("starlette.responses.sys", Old)
        set_cookie("a", partitioned=True)
