import asyncio
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, cast
from urllib.parse import urljoin

import jwt
import pytest
from fastapi import Depends, FastAPI, Security, WebSocket
from fastapi.security import OAuth2PasswordBearer, OAuth2PasswordRequestForm, SecurityScopes
from fastapi.testclient import TestClient
from httpx2 import Response
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from pydantic import SecretStr
from sqlalchemy import delete, select
from starlette.testclient import WebSocketDenialResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app.database.models import Account, Login
from app.database.session import SessionMaker
from app.dependencies import CurrentUser, SessionDep
from app.keys import open_keys
from app.lifespan import State
from app.main import create_app
from app.routers.security import oauth2
from app.security.access_tokens import CLAIMS, AccessTokens, AuthenticatedUser
from app.security.accounts import Accounts
from app.security.bearer import current_user
from app.security.oauth_errors import OAuthError
from app.settings import ROOT, SecuritySettings, Settings

PREFIX = "/security/oauth2"
PASSWORD = "correct horse battery staple"
KEY = "k" * 32


def hasher(rounds: int = 1) -> PasswordHash:
    """Argon2 with the least work: the real one takes a tenth of a second."""
    return PasswordHash((Argon2Hasher(time_cost=rounds, memory_cost=8, parallelism=1),))


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(PasswordHash, "recommended", hasher)
    return with_security(settings, signing_keys=(SecretStr(KEY),))


def with_security(settings: Settings, **changed: Any) -> Settings:
    return settings.model_copy(update={"security": settings.security.model_copy(update=changed)})


def register(client: TestClient, username: str = "ada") -> Response:
    return client.post(f"{PREFIX}/accounts", json={"username": username, "password": PASSWORD})


def log_in(client: TestClient, username: str = "ada", password: str = PASSWORD, scope: str = "") -> Response:
    form = {"grant_type": "password", "username": username, "password": password, "scope": scope}
    return client.post(f"{PREFIX}/token", data=form)


def refresh(client: TestClient, token: str, scope: str = "") -> Response:
    form = {"grant_type": "refresh_token", "refresh_token": token, "scope": scope}
    return client.post(f"{PREFIX}/refresh", data=form)


def tokens(client: TestClient, username: str = "ada", scope: str = "") -> dict[str, Any]:
    register(client, username)
    return dict(log_in(client, username, scope=scope).json())


def get(client: TestClient, path: str, token: str) -> Response:
    return client.get(PREFIX + path, headers={"Authorization": f"Bearer {token}"})


def change(settings: Settings, statement: str) -> None:
    with closing(sqlite3.connect(settings.data_dir / "app.sqlite3")) as database, database:
        assert database.execute(statement).rowcount == 1


def statement_of_the_page() -> str:
    statement = re.search(r"UPDATE accounts .*", oauth2.__doc__ or "")
    assert statement
    return statement[0]


def test_a_name_and_a_password_bring_an_access_token_and_a_refresh_token_that_no_cache_may_store(
    client: TestClient,
) -> None:
    assert register(client).status_code == 201
    answer = log_in(client)
    assert answer.headers["cache-control"] == "no-store"
    given = answer.json()
    assert set(given) == {"access_token", "token_type", "expires_in", "refresh_token", "scope"}
    assert (given["token_type"], given["expires_in"], given["scope"]) == ("bearer", 600, "me")
    assert get(client, "/me", given["access_token"]).json()["username"] == "ada"
    assert set(jwt.decode(given["access_token"], options={"verify_signature": False})) == set(CLAIMS)
    assert refresh(client, given["refresh_token"]).headers["cache-control"] == "no-store"


LOGIN = {"grant_type": "password", "username": "ada", "password": PASSWORD}
REFUSED: list[tuple[str, dict[str, str], str]] = [
    ("/token", {}, "invalid_request"),
    ("/token", {"username": "ada", "password": PASSWORD}, "invalid_request"),
    ("/token", {**LOGIN, "grant_type": "implicit"}, "unsupported_grant_type"),
    ("/token", {**LOGIN, "password": "wrong password"}, "invalid_grant"),
    ("/token", {**LOGIN, "password": "x" * 10_000}, "invalid_grant"),
    ("/token", {**LOGIN, "password": "x" * 50_000}, "invalid_request"),
    ("/token", {**LOGIN, **{f"field_{n}": "x" for n in range(20)}}, "invalid_request"),
    ("/token", {**LOGIN, "username": "\0"}, "invalid_grant"),
    ("/token", {**LOGIN, "scope": "admin"}, "invalid_scope"),
    ("/refresh", {"grant_type": "refresh_token", "refresh_token": "a.b"}, "invalid_grant"),
    ("/refresh", {"grant_type": "refresh_token", "refresh_token": "\0"}, "invalid_request"),
    ("/refresh", {"grant_type": "password", "refresh_token": "a.b"}, "unsupported_grant_type"),
    ("/revoke", {}, "invalid_request"),
    ("/revoke", {"token": "x" * 50_000}, "invalid_request"),
    ("/revoke", {"token": "a.b.c"}, "unsupported_token_type"),
]


def test_a_refusal_is_problem_details_that_also_have_the_error_of_oauth(client: TestClient) -> None:
    register(client)
    for path, form, error in REFUSED:
        refused = client.post(PREFIX + path, data=form)
        assert (refused.status_code, refused.headers["content-type"]) == (400, "application/problem+json")
        assert refused.headers["cache-control"] == "no-store"
        problem = refused.json()
        assert (problem["error"], problem["error_description"]) == (error, problem["detail"])
        assert problem["type"] == "about:blank" and PASSWORD not in refused.text


def test_an_account_needs_a_free_plain_name_and_a_password_of_some_length(client: TestClient) -> None:
    assert register(client).status_code == 201
    assert register(client).status_code == 409
    for username in ("", "a", "Ada", "a" * 33, "ada lovelace", "ada\n", "\0\0\0", "\u0430da"):
        assert register(client, username).status_code == 422
    for password, status in (("x" * 7, 422), ("x" * 8, 201), ("x" * 257, 422)):
        new = {"username": "eve", "password": password}
        assert client.post(f"{PREFIX}/accounts", json=new).status_code == status


def test_a_token_has_only_scopes_that_were_asked_for_and_that_the_account_has(
    client: TestClient, settings: Settings
) -> None:
    register(client)
    assert log_in(client, scope="accounts").json()["error"] == "invalid_scope"
    change(settings, statement_of_the_page())
    assert log_in(client).json()["scope"] == "me"
    assert log_in(client, scope="accounts accounts").json()["scope"] == "accounts"
    both = log_in(client, scope="accounts me").json()
    assert both["scope"] == "accounts me"

    change(settings, "UPDATE accounts SET scopes = 'me'")
    later = refresh(client, both["refresh_token"]).json()
    assert later["scope"] == "me"
    assert get(client, "/accounts", later["access_token"]).status_code == 403


def test_an_account_from_before_a_scope_was_open_to_all_still_logs_in(
    client: TestClient, settings: Settings
) -> None:
    register(client)
    change(settings, "UPDATE accounts SET scopes = ''")
    answer = log_in(client)
    assert (answer.status_code, answer.json()["scope"]) == (200, "")
    assert log_in(client, scope="me").json()["error"] == "invalid_scope"
    assert get(client, "/greeting", answer.json()["access_token"]).status_code == 200


def test_nobody_gets_a_scope_by_asking_but_by_the_documented_statement(
    client: TestClient, settings: Settings
) -> None:
    greedy = {"username": "ada", "password": PASSWORD, "scopes": "me accounts"}
    assert client.post(f"{PREFIX}/accounts", json=greedy).status_code == 422
    assert register(client).json()["scopes"] == ["me"]
    assert log_in(client, scope="me accounts").status_code == 400
    change(settings, statement_of_the_page())
    token = log_in(client, scope="me accounts").json()["access_token"]
    assert [each["username"] for each in get(client, "/accounts", token).json()] == ["ada"]
    assert get(client, "/accounts?after=ada", token).json() == []


def test_of_what_can_be_read_no_token_is_a_401_and_no_scope_a_403_that_names_the_scopes_the_outermost_first(
    app: FastAPI, client: TestClient
) -> None:
    async def writer(
        user: Annotated[AuthenticatedUser, Security(current_user, scopes=["inner"])],
    ) -> None: ...

    @app.post("/test", dependencies=[Security(writer, scopes=["outer"])])
    async def write(new: oauth2.Greeting) -> None: ...

    for missing in (client.get(f"{PREFIX}/accounts"), client.post("/test", json="not valid")):
        # Without an error: who says nothing has done nothing wrong (RFC 6750, section 3.1).
        assert (missing.status_code, missing.headers["www-authenticate"]) == (401, "Bearer")
    bad = get(client, "/accounts", "x")
    assert (bad.status_code, bad.headers["www-authenticate"]) == (401, 'Bearer error="invalid_token"')
    token = tokens(client)["access_token"]
    lacking = get(client, "/accounts", token)
    assert lacking.status_code == 403
    assert lacking.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="accounts"'
    assert lacking.headers["content-type"] == bad.headers["content-type"] == "application/problem+json"
    nested = client.post("/test", json={"message": "x"}, headers={"Authorization": f"Bearer {token}"})
    assert nested.headers["www-authenticate"] == 'Bearer error="insufficient_scope", scope="outer inner"'


def test_trap_broken_json_is_a_422_before_anybody_asks_for_a_token(app: FastAPI, client: TestClient) -> None:
    @app.post("/test")
    async def write(user: CurrentUser, new: oauth2.Greeting) -> None: ...

    refused = client.post("/test", content="{", headers={"Content-Type": "application/json"})
    assert (refused.status_code, refused.json()["errors"][0]["type"]) == (422, "json_invalid")
    assert client.post("/test", json={}).status_code == 401


def test_scopes_are_asked_for_where_they_are_needed_and_the_account_itself_needs_none(
    client: TestClient, settings: Settings
) -> None:
    register(client)
    change(settings, statement_of_the_page())
    token = log_in(client, scope="accounts").json()["access_token"]
    assert get(client, "/accounts", token).status_code == 200
    assert get(client, "/me", token).headers["www-authenticate"].endswith('scope="me"')


def login_row(account_id: str) -> Login:
    return Login(
        id="1", account_id=account_id, token_hash="1", scope="me", network="1", expires_at=datetime.now(UTC)
    )


def test_where_the_account_is_asked_for_one_that_is_gone_is_a_401_though_its_token_is_good(
    app: FastAPI, client: TestClient, settings: Settings
) -> None:
    @app.post("/test")
    async def store(
        account: Annotated[Account, Security(oauth2.current_account)], session: SessionDep
    ) -> None:
        session.add(login_row(account.id))

    client.headers["Authorization"] = f"Bearer {tokens(client)['access_token']}"
    assert client.post("/test").status_code == 200
    change(settings, "DELETE FROM accounts")
    assert client.post("/test").status_code == 401
    assert client.get(f"{PREFIX}/me").status_code == 401


def test_trap_a_row_under_the_id_of_a_token_is_a_500_when_the_account_is_gone(
    app: FastAPI, client: TestClient, settings: Settings
) -> None:
    @app.post("/test")
    async def store(user: CurrentUser, session: SessionDep) -> None:
        session.add(login_row(user.id))

    client.headers["Authorization"] = f"Bearer {tokens(client)['access_token']}"
    change(settings, "DELETE FROM accounts")
    assert client.post("/test").status_code == 500


NOW = datetime.now(UTC)
GOOD: dict[str, Any] = {
    "iss": "fastapi-reference",
    "aud": "fastapi-reference",
    "sub": "0" * 32,
    "iat": NOW,
    "exp": NOW + timedelta(hours=1),
    "jti": "1",
    "scope": "me",
    "username": "ada",
}


FORGERIES: list[dict[str, Any]] = [
    *({"claims": {name: None}} for name in CLAIMS),
    {"claims": {"iss": "somebody"}},
    {"claims": {"aud": "another"}},
    {"claims": {"exp": NOW - timedelta(hours=1)}},
    {"claims": {"iat": NOW + timedelta(hours=1)}},
    {"algorithm": "HS384"},
    {"algorithm": "HS512"},
    {"algorithm": "none", "key": None},
    {"headers": {"kid": None}},
    {"headers": {"kid": "another"}},
]


@pytest.mark.filterwarnings("ignore::jwt.warnings.InsecureKeyLengthWarning")
def test_a_token_that_another_key_algorithm_issuer_or_audience_made_or_that_lacks_a_claim_is_refused(
    client: TestClient, settings: Settings
) -> None:
    [own_key], [other_key] = (open_keys(settings).for_purpose(purpose) for purpose in ("tokens", "sessions"))
    genuine = AccessTokens([own_key], settings.security).issue(Account(id="0", username="ada"), "me")
    key_id = jwt.get_unverified_header(genuine)["kid"]

    def signed(key: Any = own_key, algorithm: str = "HS256", claims: Any = (), headers: Any = ()) -> str:
        given, named = {**GOOD, **dict(claims)}, {"kid": key_id, **dict(headers)}
        given = {name: value for name, value in given.items() if value is not None}
        named = {name: value for name, value in named.items() if value is not None}
        return jwt.encode(given, key, algorithm, headers=named)

    good = signed()
    assert get(client, "/greeting", good).json() == {"message": "Hello ada"}
    forged = [signed(**forgery) for forgery in FORGERIES]
    for token in (*forged, signed(other_key), good[:-2], f"{good}.x", "a.b.c", ""):
        assert get(client, "/greeting", token).status_code == 401, token


def test_of_two_services_that_share_a_key_neither_takes_the_tokens_of_the_other(
    client: TestClient, settings: Settings
) -> None:
    ours = tokens(client)["access_token"]
    with TestClient(create_app(with_security(settings, issuer="another"))) as another:
        theirs = log_in(another).json()["access_token"]
        assert [get(another, "/me", token).status_code for token in (ours, theirs)] == [401, 200]
    assert [get(client, "/me", token).status_code for token in (ours, theirs)] == [200, 401]


def test_a_service_has_a_name_to_issue_tokens_under() -> None:
    with pytest.raises(ValueError, match="at least 1 character"):
        SecuritySettings(issuer="")


def test_a_new_key_signs_while_tokens_of_the_old_one_are_still_read(
    client: TestClient, settings: Settings
) -> None:
    old = tokens(client)
    keys = (SecretStr("n" * 32), SecretStr(KEY))
    with TestClient(create_app(with_security(settings, signing_keys=keys))) as both:
        assert get(both, "/me", old["access_token"]).status_code == 200
        new = refresh(both, old["refresh_token"]).json()["access_token"]
        assert get(both, "/me", new).status_code == 200
    with TestClient(create_app(with_security(settings, signing_keys=keys[:1]))) as later:
        assert get(later, "/me", old["access_token"]).status_code == 401
        assert get(later, "/me", new).status_code == 200
    assert get(client, "/me", new).status_code == 401


def test_where_a_login_is_optional_no_token_is_nobody_and_a_bad_one_is_a_401(client: TestClient) -> None:
    assert client.get(f"{PREFIX}/greeting").json() == {"message": "Hello stranger"}
    assert get(client, "/greeting", tokens(client)["access_token"]).json() == {"message": "Hello ada"}
    assert get(client, "/greeting", "x").status_code == 401
    document = client.get("/openapi.json").json()
    assert document["paths"][f"{PREFIX}/greeting"]["get"]["security"] == [{"OAuth2": []}, {}]


def test_a_socket_is_opened_by_the_same_token_and_refused_before_it_is_accepted(
    app: FastAPI, client: TestClient
) -> None:
    @app.websocket("/test")
    async def greet(websocket: WebSocket, user: CurrentUser) -> None:
        await websocket.accept()
        await websocket.send_text(user.username)
        await websocket.close()

    headers = {"Authorization": f"Bearer {tokens(client)['access_token']}"}
    with client.websocket_connect("/test", headers=headers) as socket:
        assert socket.receive_text() == "ada"
    for bad in ({}, {"Authorization": "Bearer x"}):
        with (
            pytest.raises(WebSocketDenialResponse) as refused,
            client.websocket_connect("/test", headers=bad),
        ):
            pass
        assert refused.value.status_code == 401
        assert refused.value.headers["www-authenticate"].startswith("Bearer")


class CountingHasher(Argon2Hasher):
    """Counts how often Argon2 ran."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1)
        self.runs = 0

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        self.runs += 1
        return super().hash(password, salt=salt)

    def verify(self, password: str | bytes, hash: str | bytes) -> bool:
        self.runs += 1
        return super().verify(password, hash)


def use_hasher(client: TestClient, settings: Settings, hasher: PasswordHash) -> None:
    state = cast(State, client.app_state)
    state["accounts"] = Accounts(state["sessions"], hasher, settings.security)


def test_a_wrong_password_and_an_unknown_name_cost_the_same_work(
    client: TestClient, settings: Settings
) -> None:
    register(client)
    counting = CountingHasher()
    use_hasher(client, settings, PasswordHash((counting,)))
    answers = []
    for username in ("ada", "eve", "NO NAME", "\0"):
        before = counting.runs
        refused = log_in(client, username, "wrong password").json()
        assert counting.runs == before + 1
        answers.append((refused["error"], refused["detail"]))
    assert len(set(answers)) == 1


def test_a_name_that_nobody_can_have_is_not_looked_for(client: TestClient, settings: Settings) -> None:
    no_database = cast(SessionMaker, None)  # Postgres fails on a NUL
    state = cast(State, client.app_state)
    state["accounts"] = Accounts(no_database, hasher(), settings.security)
    assert log_in(client, "\0").status_code == 400


def test_trap_an_unknown_name_is_answered_without_a_hash() -> None:
    counting = CountingHasher()
    hasher = PasswordHash((counting,))
    hashes = {"ada": hasher.hash(PASSWORD)}
    counting.runs = 0

    def is_right(username: str, password: str) -> bool:
        known = hashes.get(username)
        return known is not None and hasher.verify(password, known)

    assert not is_right("ada", "wrong password")
    assert counting.runs == 1
    assert not is_right("eve", "wrong password")
    assert counting.runs == 1


def test_a_hash_of_old_parameters_is_replaced_at_the_next_login(
    client: TestClient, settings: Settings
) -> None:
    def stored() -> str:
        with closing(sqlite3.connect(settings.data_dir / "app.sqlite3")) as database:
            return str(database.execute("SELECT password_hash FROM accounts").fetchone()[0])

    register(client)
    old = stored()
    use_hasher(client, settings, hasher(rounds=2))
    log_in(client, password="wrong password")
    assert stored() == old and ",t=1," in old
    assert log_in(client).status_code == 200
    new = stored()
    assert ",t=2," in new
    assert log_in(client).status_code == 200
    assert stored() == new


def test_a_refresh_token_works_once_and_its_second_use_ends_the_login(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    account_id = register(client).json()["id"]
    first = log_in(client).json()["refresh_token"]
    other_login = log_in(client).json()["refresh_token"]
    second = refresh(client, first).json()["refresh_token"]
    third = refresh(client, second).json()["refresh_token"]
    assert refresh(client, first).json()["error"] == "invalid_grant"
    assert refresh(client, third).json()["error"] == "invalid_grant"
    assert refresh(client, other_login).status_code == 200
    [warning] = [record for record in caplog.records if record.name == "app.security.logins"]
    assert vars(warning)["fields"] == {"account": account_id}


def test_a_refresh_may_ask_for_fewer_scopes_and_what_it_is_refused_does_not_use_its_token_up(
    client: TestClient, settings: Settings
) -> None:
    register(client)
    change(settings, statement_of_the_page())
    first = log_in(client, scope="me accounts").json()["refresh_token"]
    narrow = refresh(client, first, "accounts").json()
    assert narrow["scope"] == "accounts"
    assert get(client, "/me", narrow["access_token"]).status_code == 403
    whole = refresh(client, narrow["refresh_token"]).json()
    assert whole["scope"] == "me accounts"
    change(settings, "UPDATE accounts SET scopes = 'me'")
    for scope in ("accounts", "me accounts", "admin"):
        assert refresh(client, whole["refresh_token"], scope).json()["error"] == "invalid_scope"
    assert refresh(client, whole["refresh_token"], "me").json()["scope"] == "me"


def test_of_many_refreshes_at_once_with_one_token_at_most_one_wins_and_the_losers_end_the_login(
    client: TestClient,
) -> None:
    token = tokens(client)["refresh_token"]
    logins = cast(State, client.app_state)["logins"]

    async def refresh_at_once() -> list[Any]:
        async with asyncio.timeout(10):
            return await asyncio.gather(
                *(logins.refresh(token, []) for _ in range(8)), return_exceptions=True
            )

    assert client.portal
    outcomes = client.portal.call(refresh_at_once)
    [(_, _, newest)] = [outcome for outcome in outcomes if not isinstance(outcome, OAuthError)]
    assert refresh(client, newest).status_code == 400


def test_trap_two_requests_that_read_first_and_write_then_both_win(client: TestClient) -> None:
    tokens(client)
    sessions = cast(State, client.app_state)["sessions"]

    async def refresh_twice() -> list[bool]:
        both_have_read = asyncio.Barrier(2)

        async def refresh() -> bool:
            async with sessions.begin() as session:
                login = (await session.scalars(select(Login))).one()
                unused = login.token_hash != "used"
                await both_have_read.wait()
                login.token_hash = "used"
                return unused

        async with asyncio.timeout(10):
            return list(await asyncio.gather(refresh(), refresh()))

    assert client.portal
    assert client.portal.call(refresh_twice) == [True, True]


def test_trap_an_error_in_the_transaction_takes_the_end_of_a_login_back(client: TestClient) -> None:
    token = tokens(client)["refresh_token"]
    sessions = cast(State, client.app_state)["sessions"]

    async def end_and_refuse() -> None:
        async with sessions.begin() as session:
            await session.execute(delete(Login))
            raise OAuthError("invalid_grant", "The refresh token was used twice.")

    assert client.portal
    with pytest.raises(OAuthError):
        client.portal.call(end_and_refuse)
    assert refresh(client, token).status_code == 200


def test_a_logout_ends_the_login_and_a_token_that_is_not_known_is_no_error(client: TestClient) -> None:
    first = tokens(client)["refresh_token"]
    newest = refresh(client, first).json()["refresh_token"]
    for token in (first, "no.token"):
        assert client.post(f"{PREFIX}/revoke", data={"token": token}).status_code == 200
    assert refresh(client, newest).status_code == 400


def test_an_account_has_so_many_logins_and_the_oldest_ends(settings: Settings) -> None:
    with TestClient(create_app(with_security(settings, max_logins_per_account=2))) as client:
        begun = [tokens(client)["refresh_token"] for _ in range(3)]
        assert tokens(client, "eve")["scope"] == "me"
        assert [refresh(client, token).status_code for token in begun] == [400, 200, 200]


def test_a_login_expires_and_is_swept(client: TestClient, settings: Settings) -> None:
    token = tokens(client)["refresh_token"]
    change(settings, "UPDATE logins SET expires_at = '2020-01-01 00:00:00.000000'")
    assert log_in(client).status_code == 200
    change(settings, "DELETE FROM logins")  # one row: the new one
    assert refresh(client, token).status_code == 400
    token = log_in(client).json()["refresh_token"]
    change(settings, "UPDATE logins SET expires_at = '2020-01-01 00:00:00.000000'")
    assert refresh(client, token).status_code == 400


def test_the_table_of_accounts_has_a_limit(settings: Settings) -> None:
    with TestClient(create_app(with_security(settings, max_accounts=1))) as client:
        assert register(client).status_code == 201
        assert register(client, "eve").status_code == 507


class AddressByHeader:
    """The address of the caller, as a test wants it."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            scope["client"] = (dict(scope["headers"]).get(b"x-address", b"192.0.2.1").decode(), 1)
        await self.app(scope, receive, send)


@pytest.fixture
def throttled(settings: Settings) -> Iterator[TestClient]:
    app = create_app(with_security(settings, attempts_per_account=3, attempts_per_address=5))
    with TestClient(AddressByHeader(app)) as client:
        register(client)
        yield client


def log_in_from(client: TestClient, address: str, username: str = "ada", password: str = PASSWORD) -> int:
    client.headers["X-Address"] = address
    return log_in(client, username, password).status_code


def test_too_many_attempts_are_refused_with_the_time_to_wait(throttled: TestClient) -> None:
    for _ in range(10):  # who knows the password has no limit
        assert log_in_from(throttled, "192.0.2.2") == 200
    by_account = [log_in_from(throttled, "192.0.2.3", "eve", "wrong password") for _ in range(4)]
    assert by_account == [400, 400, 400, 429]
    by_address = [log_in_from(throttled, "192.0.2.4", f"name-{n}", "wrong password") for n in range(6)]
    assert by_address == [400, 400, 400, 400, 400, 429]
    refused = log_in(throttled)
    assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 60
    assert register(throttled, "bob").status_code == 429
    assert log_in_from(throttled, "192.0.2.5") == 200


def test_who_is_refused_because_too_many_passwords_wait_to_be_hashed_keeps_the_attempt(
    throttled: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as busy:
        busy.setattr(throttled.app_state["accounts"]._passwords, "_most", 0)
        for _ in range(6):
            assert log_in_from(throttled, "192.0.2.2") == 503
            assert register(throttled, "bob").status_code == 503
    assert log_in_from(throttled, "192.0.2.2") == 200
    assert register(throttled, "bob").status_code == 201


def test_strangers_who_fail_do_not_keep_out_who_has_logged_in_from_there_before(
    throttled: TestClient,
) -> None:
    assert log_in_from(throttled, "192.0.2.2") == 200
    for n in range(3):
        assert log_in_from(throttled, f"198.51.100.{n}", password="wrong password") == 400
    assert log_in_from(throttled, "198.51.100.9") == 429
    assert log_in_from(throttled, "192.0.2.2") == 200


def test_trap_the_form_of_the_tutorial_grants_what_it_is_asked_for() -> None:
    app = FastAPI()

    @app.post("/token")
    async def log_in(form: Annotated[OAuth2PasswordRequestForm, Depends()]) -> str:
        return jwt.encode({"sub": form.username, "scope": " ".join(form.scopes)}, KEY, "HS256")

    # Nor does this form need a grant type, by which a request says that it is one for a token.
    form = {"username": "eve", "password": "x", "scope": "admin"}
    token = TestClient(app).post("/token", data=form).json()
    assert jwt.decode(token, KEY, ["HS256"]) == {"sub": "eve", "scope": "admin"}


def test_trap_a_token_without_an_end_is_good_for_ever_unless_the_end_is_required() -> None:
    token = jwt.encode({"sub": "ada"}, KEY, "HS256")
    assert jwt.decode(token, KEY, ["HS256"]) == {"sub": "ada"}
    with pytest.raises(jwt.MissingRequiredClaimError):
        jwt.decode(token, KEY, ["HS256"], options={"require": ["exp"]})


def test_trap_a_token_that_is_only_decoded_may_be_anybodys() -> None:
    forged = jwt.encode({"sub": "admin"}, cast(str, None), "none")
    assert jwt.decode(forged, options={"verify_signature": False}) == {"sub": "admin"}


def test_trap_scopes_that_nobody_compares_keep_nobody_out() -> None:
    async def user(token: Annotated[str, Depends(OAuth2PasswordBearer("token"))]) -> str:
        return token

    app = FastAPI()

    @app.get("/accounts")
    async def accounts(user: Annotated[str, Security(user, scopes=["accounts"])]) -> str:
        return user

    answer = TestClient(app).get("/accounts", headers={"Authorization": "Bearer of nothing"})
    assert answer.json() == "of nothing"


def test_a_check_is_made_once_for_the_same_scopes_and_again_for_others() -> None:
    checked: list[str] = []

    async def check(required: SecurityScopes) -> None:
        checked.append(required.scope_str)

    same, other = Security(check, scopes=["me"]), Security(check, scopes=["accounts"])
    always = Security(check, scopes=["me"], use_cache=False)
    app = FastAPI()

    @app.get("/parameters")
    async def parameters(
        first: Annotated[None, same],
        second: Annotated[None, same],
        third: Annotated[None, other],
        fourth: Annotated[None, always],
    ) -> None: ...

    app.get("/list", dependencies=[same, same, other, always])(lambda: None)
    client = TestClient(app)
    client.get("/parameters")
    assert checked == ["me", "accounts", "me"]
    checked.clear()
    client.get("/list")
    assert checked == ["me", "accounts"]  # in a list `use_cache=False` is not looked at


def test_trap_a_token_url_with_a_slash_leads_out_of_the_prefix_of_a_proxy(client: TestClient) -> None:
    def where(scheme: dict[str, Any]) -> str:
        token_url: str = scheme["flows"]["password"]["tokenUrl"]
        return urljoin("https://example.com/api/", token_url)

    absolute = OAuth2PasswordBearer(tokenUrl="/token").model.model_dump(by_alias=True)
    assert where(absolute) == "https://example.com/token"
    ours = client.get("/openapi.json").json()["components"]["securitySchemes"]["OAuth2"]
    assert where(ours) == "https://example.com/api/security/oauth2/token"


def test_the_document_sends_for_tokens_to_paths_that_are_there(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    flow = document["components"]["securitySchemes"]["OAuth2"]["flows"]["password"]
    assert {f"/{flow[name]}" for name in ("tokenUrl", "refreshUrl")} <= set(document["paths"])


def test_what_asks_for_a_token_does_not_import_all_that_the_service_opens() -> None:
    program = "import sys, app.security.bearer; sys.exit('app.lifespan' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, timeout=60)


def test_trap_the_page_to_which_other_flows_return_is_an_inline_script(client: TestClient) -> None:
    framework = TestClient(FastAPI(swagger_ui_oauth2_redirect_url="/docs/return")).get("/docs/return")
    assert "<script>" in framework.text
    # The password flow needs no such page, and the policy of ours would not run it.
    assert client.get("/docs/oauth2-redirect").status_code == 404
    assert "'unsafe-inline'" not in client.get("/docs").headers["content-security-policy"]
