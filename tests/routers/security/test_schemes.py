import base64
import secrets
from collections.abc import Callable, Iterator
from hashlib import sha256
from timeit import repeat
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.middleware import Middleware
from fastapi.requests import HTTPConnection
from fastapi.security import (
    APIKeyCookie,
    APIKeyHeader,
    APIKeyQuery,
    HTTPAuthorizationCredentials,
    HTTPBasic,
    HTTPBearer,
    HTTPDigest,
    OAuth2,
    OAuth2AuthorizationCodeBearer,
    OpenIdConnect,
)
from fastapi.testclient import TestClient
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from pydantic import ValidationError
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    AuthenticationError,
    BaseUser,
    SimpleUser,
    requires,
)
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.testclient import WebSocketDenialResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.utils import get_path_with_query_string

from app.main import create_app
from app.settings import SecuritySettings, Settings
from tests.asgi import http_scope
from tests.server import Server

KEY = secrets.token_urlsafe(32)
OTHER_KEY = secrets.token_urlsafe(32)
ACCOUNT = {"username": "ada", "password": "correct horse battery"}
ATTEMPTS = 3

WAYS: list[dict[str, Any]] = [
    {"headers": {"X-API-Key": KEY}},
    {"headers": {"Authorization": f"Bearer {KEY}"}},
    {"params": {"api_key": KEY}},
    {"headers": {"Cookie": f"api_key={KEY}"}},
]


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    cheap = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1),))
    monkeypatch.setattr(PasswordHash, "recommended", lambda: cheap)
    keys = {name: sha256(key.encode()).hexdigest() for name, key in (("ci", KEY), ("backup", OTHER_KEY))}
    security = SecuritySettings(api_keys=keys, attempts_per_address=ATTEMPTS)
    return settings.model_copy(update={"security": security})


def test_a_missing_and_an_empty_and_a_wrong_key_are_the_same_401_with_a_challenge(client: TestClient) -> None:
    answers = [
        client.get("/security/caller", headers=headers)
        for headers in ({}, {"X-API-Key": ""}, {"X-API-Key": KEY[:-1]}, {"Authorization": "Bearer"})
    ]
    assert {answer.status_code for answer in answers} == {401}
    assert {answer.headers["content-type"] for answer in answers} == {"application/problem+json"}
    assert {answer.headers["www-authenticate"] for answer in answers} == {
        'Bearer realm="keys", APIKey realm="keys"'
    }
    assert {answer.json()["detail"] for answer in answers} == {"A valid API key is needed."}


def test_a_key_is_taken_from_a_header_or_as_a_bearer_token_or_from_the_query_or_a_cookie(
    client: TestClient,
) -> None:
    for way in WAYS:
        assert client.get("/security/caller", **way).json() == {"name": "ci"}
        assert client.get("/security/visitor", **way).json() == {"name": "ci"}


def test_every_configured_key_has_its_own_name(client: TestClient) -> None:
    assert client.get("/security/caller", headers={"X-API-Key": OTHER_KEY}).json() == {"name": "backup"}


def test_without_a_configured_key_nobody_gets_in(settings: Settings) -> None:
    none = settings.model_copy(update={"security": SecuritySettings()})
    with TestClient(create_app(none)) as client:
        for way in (*WAYS, {"headers": {"X-API-Key": ""}}):
            assert client.get("/security/caller", **way).status_code == 401


def test_a_key_beyond_ascii_is_refused_like_any_other(client: TestClient) -> None:
    for header in (
        (b"X-API-Key", b"\xe9"),
        (b"Cookie", b'api_key="\\351"'),
        (b"Authorization", b"Bearer \xff"),
    ):
        assert client.get("/security/caller", headers=[header]).status_code == 401
    for query in ("%C3%A9%00", "%ff%ed%a0%80"):
        assert client.get(f"/security/caller?api_key={query}").status_code == 401


@pytest.mark.parametrize(
    "value", [KEY, "", sha256(b"").hexdigest().upper()], ids=["key", "empty", "capitals"]
)
def test_the_settings_take_a_digest_and_no_key(value: str) -> None:
    with pytest.raises(ValidationError, match="api_keys") as refused:
        SecuritySettings(api_keys={"ci": value})
    assert KEY not in str(refused.value)


def test_a_wrong_key_is_refused_where_none_is_needed(client: TestClient) -> None:
    assert client.get("/security/visitor").json() == {"name": None}
    assert client.get("/security/visitor", headers={"X-API-Key": "wrong"}).status_code == 401


def test_a_socket_without_a_key_is_denied_with_401_before_the_handshake(client: TestClient) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        socket = client.websocket_connect("/security/socket", headers=headers)
        with pytest.raises(WebSocketDenialResponse) as denied, socket:
            pass
        assert denied.value.status_code == 401
        assert denied.value.headers["content-type"] == "application/problem+json"
        assert denied.value.headers["www-authenticate"].startswith("Bearer")
    for headers in ({"Authorization": f"Bearer {KEY}"}, {"Cookie": f"api_key={KEY}"}):
        with client.websocket_connect("/security/socket", headers=headers) as socket:
            socket.send_text("hello")
            assert socket.receive_text() == "ci: hello"


def test_a_page_of_a_foreign_origin_opens_no_socket_by_a_cookie(client: TestClient) -> None:
    headers = {"Cookie": f"api_key={KEY}", "Origin": "https://evil.example"}
    socket = client.websocket_connect("/security/socket", headers=headers)
    with pytest.raises(WebSocketDenialResponse) as denied, socket:
        pass
    assert denied.value.status_code == 403


def test_a_key_in_the_query_is_not_in_the_log(live: Server) -> None:
    request = b"GET /security/caller?api_key=%s HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
    with live.connect(request % KEY.encode()) as connection:
        assert connection.recv(1_000).startswith(b"HTTP/1.1 401")
    live.wait_for('"path":"/security/caller"')
    assert KEY not in live.log


def test_the_document_names_each_way_in_and_where_none_is_needed(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    names = ("KeyInHeader", "KeyAsBearer", "KeyInQuery", "KeyInCookie")
    ways: list[dict[str, list[str]]] = [{name: []} for name in names]
    assert document["paths"]["/security/caller"]["get"]["security"] == ways
    assert document["paths"]["/security/visitor"]["get"]["security"] == [*ways, {}]
    assert document["paths"]["/security/account"]["get"]["security"] == [{"Password": []}]
    schemes = document["components"]["securitySchemes"]
    assert schemes["KeyInHeader"].items() >= {"type": "apiKey", "in": "header", "name": "X-API-Key"}.items()
    assert schemes["KeyInQuery"]["in"] == "query" and schemes["KeyInCookie"]["in"] == "cookie"
    bearer = {"type": "http", "scheme": "bearer", "bearerFormat": "opaque"}
    assert schemes["KeyAsBearer"].items() >= bearer.items()
    assert schemes["Password"].items() >= {"type": "http", "scheme": "basic"}.items()
    assert all(schemes[name]["description"] for name in (*names, "Password"))


@pytest.fixture
def member(client: TestClient) -> TestClient:
    assert client.post("/security/oauth2/accounts", json=ACCOUNT).status_code == 201
    return client


def login(client: TestClient, username: str, password: str) -> Any:
    return client.get("/security/account", auth=(username, password))


def test_basic_takes_the_name_and_password_of_an_account(member: TestClient) -> None:
    assert login(member, **ACCOUNT).json() == {"name": "ada"}
    refused = [login(member, "ada", "wrong"), login(member, "nobody", ACCOUNT["password"])]
    for answer in refused:
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Basic realm="accounts"'
        assert answer.headers["content-type"] == "application/problem+json"
    assert refused[0].json()["detail"] == refused[1].json()["detail"]
    assert member.get("/security/account").headers["www-authenticate"] == 'Basic realm="accounts"'


def test_after_too_many_wrong_passwords_an_address_is_refused_and_no_other(app: FastAPI) -> None:
    address = "198.51.100.7"

    async def behind_a_proxy(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, "client": (address, 1)}, receive, send)

    with TestClient(behind_a_proxy) as client:
        assert client.post("/security/oauth2/accounts", json=ACCOUNT).status_code == 201  # counts as well
        wrong = [login(client, "ada", "wrong").status_code for _ in range(ATTEMPTS)]
        assert wrong == [401] * (ATTEMPTS - 1) + [429]
        right = login(client, **ACCOUNT)
        assert right.status_code == 429 and 1 <= int(right.headers["retry-after"]) <= 60
        address = "203.0.113.9"
        assert login(client, **ACCOUNT).json() == {"name": "ada"}


def basic(credentials: bytes) -> dict[str, str]:
    return {"Authorization": f"Basic {base64.b64encode(credentials).decode()}"}


def test_a_password_beyond_ascii_and_a_malformed_header_are_a_401(client: TestClient) -> None:
    malformed = [basic("ada:pässword".encode()), basic(b"ada:p\xe4ssword"), basic(b"no colon")]
    malformed += [{"Authorization": "Basic"}, {"Authorization": "Basic ===="}, {"Authorization": "Digest x"}]
    for headers in malformed:
        answer = client.get("/security/account", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"] == 'Basic realm="accounts"'


FLOWS = {
    "clientCredentials": {"tokenUrl": "https://login.example/token", "scopes": {"read": "Read."}},
}
CODE = OAuth2AuthorizationCodeBearer(
    authorizationUrl="https://login.example/authorize",
    tokenUrl="https://login.example/token",
    refreshUrl="https://login.example/refresh",
    scopes={"read": "Read."},
    scheme_name="Code",
    description="By the page of the provider.",
)
NONSENSE: dict[Callable[..., Any], dict[str, Any]] = {
    APIKeyHeader(name="X-Key"): {"headers": {"X-Key": "nonsense"}},
    APIKeyQuery(name="key"): {"params": {"key": "nonsense"}},
    APIKeyCookie(name="key"): {"headers": {"Cookie": "key=nonsense"}},
    HTTPBasic(): {"headers": basic(b":")},
    HTTPBearer(): {"headers": {"Authorization": "Bearer nonsense"}},
    HTTPDigest(scheme_name="Digest", description="A stub."): {
        "headers": {"Authorization": "Digest nonsense"}
    },
    OAuth2(flows=FLOWS, scheme_name="Client", description="Machines."): {
        "headers": {"Authorization": "Basic nonsense"}
    },
    CODE: {"headers": {"Authorization": "Bearer "}},
    OpenIdConnect(
        openIdConnectUrl="https://login.example/.well-known/openid-configuration",
        scheme_name="Provider",
        description="Discovered.",
    ): {"headers": {"Authorization": "nonsense"}},
}


@pytest.mark.parametrize("scheme", NONSENSE, ids=lambda scheme: type(scheme).__name__)
def test_trap_no_class_verifies_anything(scheme: Callable[..., Any]) -> None:
    app = FastAPI()

    @app.get("/secret", dependencies=[Depends(scheme)])
    async def secret() -> str:
        return "secret"

    client = TestClient(app)
    assert client.get("/secret").status_code == 401
    assert client.get("/secret", **NONSENSE[scheme]).json() == "secret"


def test_the_docs_learn_from_a_class_where_to_log_in() -> None:
    app = FastAPI()
    for scheme in NONSENSE:
        app.get(f"/{type(scheme).__name__}", dependencies=[Depends(scheme)])(lambda: None)
    schemes = app.openapi()["components"]["securitySchemes"]
    assert schemes["Digest"] == {"type": "http", "scheme": "digest", "description": "A stub."}
    assert schemes["Client"] == {"type": "oauth2", "flows": FLOWS, "description": "Machines."}
    flow = schemes["Code"]["flows"]["authorizationCode"]
    assert flow == {
        "authorizationUrl": "https://login.example/authorize",
        "tokenUrl": "https://login.example/token",
        "refreshUrl": "https://login.example/refresh",
        "scopes": {"read": "Read."},
    }
    assert schemes["Provider"]["openIdConnectUrl"].endswith("/.well-known/openid-configuration")


@pytest.mark.parametrize("scheme", [HTTPDigest, HTTPBasic, HTTPBearer])
def test_what_is_optional_is_none_without_a_header(scheme: Any) -> None:
    app = FastAPI()

    @app.get("/")
    async def read(given: Annotated[Any, Depends(scheme(auto_error=False))]) -> bool:
        return given is None

    assert TestClient(app).get("/").json() is True
    assert TestClient(app).get("/", headers={"Authorization": "Other x"}).json() is True


def test_trap_two_equal_texts_are_compared_until_they_differ() -> None:
    known = "k" * 2_000_000
    early, late = "x" + known[1:], known[:-1] + "x"

    def seconds(compare: Callable[[str, str], bool], guess: str) -> float:
        return min(repeat(lambda: compare(guess, known), number=1, repeat=20))

    assert seconds(str.__eq__, late) > 20 * seconds(str.__eq__, early)
    assert seconds(secrets.compare_digest, late) < 5 * seconds(secrets.compare_digest, early)


def test_trap_a_letter_beyond_ascii_crashes_the_comparison_of_texts() -> None:
    app = FastAPI()

    @app.get("/")
    async def read(key: Annotated[str, Depends(APIKeyHeader(name="X-Key"))]) -> bool:
        return secrets.compare_digest(key, KEY)

    client = TestClient(app, raise_server_exceptions=False)
    assert client.get("/", headers={"X-Key": "e"}).json() is False
    assert client.get("/", headers=[(b"X-Key", b"\xe9")]).status_code == 500


def test_trap_two_classes_that_insist_demand_both_credentials_but_the_document_says_either() -> None:
    app = FastAPI()

    @app.get("/")
    async def read(
        key: Annotated[str, Depends(APIKeyHeader(name="X-Key"))],
        token: Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())],
    ) -> None: ...

    assert TestClient(app).get("/", headers={"X-Key": "x"}).status_code == 401
    assert app.openapi()["paths"]["/"]["get"]["security"] == [{"APIKeyHeader": []}, {"HTTPBearer": []}]


def test_trap_two_objects_of_one_class_have_one_name_in_the_document() -> None:
    app = FastAPI()
    for name in ("X-Reader", "X-Writer"):
        app.get(f"/{name}", dependencies=[Depends(APIKeyHeader(name=name))])(lambda: None)
    schemes = app.openapi()["components"]["securitySchemes"]
    assert schemes == {"APIKeyHeader": {"type": "apiKey", "in": "header", "name": "X-Writer"}}


def test_trap_a_malformed_basic_header_is_refused_where_none_is_needed() -> None:
    app = FastAPI()

    @app.get("/")
    async def read(given: Annotated[Any, Depends(HTTPBasic(auto_error=False))]) -> None: ...

    assert TestClient(app).get("/").status_code == 200
    assert TestClient(app).get("/", headers=basic("ü:".encode())).status_code == 401


def test_trap_the_access_log_of_the_server_has_the_keys_of_the_query() -> None:
    scope: Any = {**http_scope("/security/caller"), "query_string": f"api_key={KEY}".encode()}
    assert KEY in get_path_with_query_string(scope)


class KeyBackend(AuthenticationBackend):
    async def authenticate(self, conn: HTTPConnection) -> tuple[AuthCredentials, BaseUser] | None:
        key = conn.headers.get("X-Key")
        if key == KEY:
            return AuthCredentials(["reader"]), SimpleUser("ci")
        if key:
            raise AuthenticationError(f"{key} is no key")
        return None


@pytest.fixture
def guarded_by_middleware() -> Iterator[TestClient]:
    app = FastAPI(middleware=[Middleware(AuthenticationMiddleware, backend=KeyBackend())])

    @app.get("/")
    @requires("reader", status_code=401)
    async def read(request: Request) -> str:
        return str(request.user.display_name)

    yield TestClient(app)


def test_trap_the_authentication_of_a_middleware_is_not_in_the_document(
    guarded_by_middleware: TestClient,
) -> None:
    client = guarded_by_middleware
    assert client.get("/", headers={"X-Key": KEY}).json() == "ci"
    refused = client.get("/")
    assert refused.status_code == 401 and "www-authenticate" not in refused.headers
    document = client.get("/openapi.json", headers={"X-Key": KEY}).json()
    assert "security" not in document["paths"]["/"]["get"]
    assert "securitySchemes" not in document.get("components", {})
    # A wrong key is refused on every path, in plain text that repeats it.
    assert client.get("/openapi.json", headers={"X-Key": "hunter2"}).text == "hunter2 is no key"
