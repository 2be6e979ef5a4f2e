import asyncio
import json
import logging
import re
import secrets
import threading
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from datetime import UTC, datetime
from time import monotonic, time
from typing import Annotated, Any, cast

import httpx2
import jwt
import pytest
import uvicorn
from fastapi import Depends, FastAPI, WebSocket, WebSocketException
from itsdangerous import TimestampSigner
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy import delete, func, select, update
from starlette.types import ASGIApp, Receive, Scope, Send
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from app.database.models import Account, Ticket, WebSession
from app.dependencies import SocketUserDep
from app.errors import add_exception_handlers
from app.lifespan import State
from app.main import create_app
from app.security import tickets
from app.security.handshake import user_of_cookie
from app.security.session_cookie import COOKIE
from app.security.socket_user import SocketUser
from app.settings import Settings
from tests.server import Server
from tests.sockets import LIMIT, Peer

pytestmark = pytest.mark.anyio

OWN = "https://testserver"
EVIL = "https://evil.example"
LISTED = "http://localhost:3000"
PASSWORD = "correct horse battery staple"
SOON = 0.2
"""Seconds after which a credential of a test ends."""


@pytest.fixture
def settings(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    cheap = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1),))
    monkeypatch.setattr(PasswordHash, "recommended", lambda: cheap)
    return settings


def with_rooms(settings: Settings, **changed: float) -> Settings:
    return settings.model_copy(update={"rooms": settings.rooms.model_copy(update=changed)})


class House:
    """An app in this process, over https: its state, a client of it, and the sockets a test opened."""

    def __init__(self, app: FastAPI, state: State, stack: AsyncExitStack) -> None:
        self.app = app
        self.state = state
        self._stack = stack

    def client(self, app: FastAPI) -> httpx2.AsyncClient:
        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "state": dict(self.state)}, receive, send)

        return httpx2.AsyncClient(transport=httpx2.ASGITransport(with_state), base_url=OWN)

    async def join(
        self,
        path: str,
        query: str = "",
        subprotocols: Iterable[str] = (),
        *,
        app: ASGIApp | None = None,
        origin: str = OWN,
        headers: Mapping[str, str] | None = None,
    ) -> Peer:
        given = [*(headers or {}).items(), *([("origin", origin)] if origin else [])]
        peer = Peer(
            app or self.app,
            path,
            self.state,
            given,
            scheme="wss",
            query=query,
            subprotocols=subprotocols,
        )
        return await self._stack.enter_async_context(peer)

    async def register(self, name: str = "ada") -> Account:
        return await self.state["accounts"].register(name, PASSWORD, "me", "192.0.2.1")

    def token(self, account: Account, seconds: float = 60) -> str:
        """One that ends after these seconds, a fraction of one too."""
        issued = self.state["access_tokens"].issue(account, "me")
        claims = jwt.decode(issued, options={"verify_signature": False})
        key = self.state["keys"].for_purpose("tokens")[0]
        headers = {"kid": jwt.get_unverified_header(issued)["kid"]}
        return jwt.encode({**claims, "exp": time() + seconds}, key, "HS256", headers)

    async def issue(self, token: str) -> httpx2.Response:
        async with self.client(self.app) as client:
            return await client.post("/rooms/tickets", headers=bearer(token))

    async def ticket(self, token: str) -> str:
        return str((await self.issue(token)).json()["ticket"])

    async def cookie(self, account: Account) -> str:
        """The `Cookie` of a browser in which the account has logged in by the form."""
        form = "/security/session"
        async with self.client(self.app) as client:
            found = re.search(r'name="csrf_token" value="([\w-]+)"', (await client.get(form)).text)
            assert found
            data = {"username": account.username, "password": PASSWORD, "csrf_token": found[1]}
            assert (await client.post(f"{form}/login", data=data)).status_code == 303
            return f"{COOKIE}={client.cookies[COOKIE]}"


@asynccontextmanager
async def running(app: FastAPI) -> AsyncIterator[House]:
    async with app.router.lifespan_context(app) as state, AsyncExitStack() as stack:
        yield House(app, cast(State, state), stack)


@pytest.fixture
async def ours(app: FastAPI) -> AsyncIterator[House]:
    async with running(app) as house:
        yield house


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


def says(text: str) -> str:
    return json.dumps({"type": "say", "text": text})


def authenticates(token: str) -> str:
    return json.dumps({"type": "authenticate", "token": token})


async def opened(ours: House, account: Account, way: str, seconds: float = 60) -> Peer:
    """A socket that was opened this way, with a credential that ends after these seconds."""
    token = ours.token(account, seconds)
    path = f"/guarded/{way}"
    match way:
        case "cookie":
            cookie = await ours.cookie(account)
            async with ours.state["sessions"].begin() as session:
                ends = datetime.fromtimestamp(time() + seconds, UTC)
                await session.execute(update(WebSession).values(expires_at=ends))
            return await ours.join(path, headers={"cookie": cookie})
        case "ticket":
            return await ours.join(path, f"ticket={await ours.ticket(token)}")
        case "subprotocol":
            return await ours.join(path, subprotocols=["app.bearer", token])
        case "header":
            return await ours.join(path, origin="", headers=bearer(token))
    peer = await ours.join(path)
    peer.send(authenticates(token))
    return peer


WAYS = ("cookie", "ticket", "header", "subprotocol", "first-message")


async def heard(peer: Peer) -> dict[str, Any]:
    return dict(json.loads(await peer.text()))


def status(peer: Peer) -> int:
    return 101 if peer.answer["type"] == "websocket.accept" else int(peer.answer["status"])


async def test_each_way_says_who_it_is_and_then_answers(ours: House) -> None:
    account = await ours.register()
    for way in WAYS:
        peer = await opened(ours, account, way)
        you = await heard(peer)
        assert (you["type"], you["id"], you["name"]) == ("you", account.id, "ada")
        assert 50 < datetime.fromisoformat(you["until"]).timestamp() - time() <= 60
        peer.send(says("hello"))
        assert await heard(peer) == {"type": "said", "name": "ada", "text": "hello"}


async def test_without_a_credential_the_handshake_is_answered_with_401_and_for_a_foreign_origin_with_403(
    ours: House,
) -> None:
    account = await ours.register()
    token = ours.token(account)
    ticket = await ours.ticket(token)
    everything = {"cookie": await ours.cookie(account), **bearer(token)}
    offers = ["app.bearer", token]
    for path in (f"/guarded/{way}" for way in WAYS):
        for origin in (EVIL, "null", "https://evil.testserver", "http://testserver"):
            foreign = await ours.join(path, f"ticket={ticket}", offers, origin=origin, headers=everything)
            assert status(foreign) == 403
        for origin in (OWN, LISTED) if path != "/guarded/first-message" else ():
            nobody = await ours.join(path, origin=origin)
            assert status(nobody) == 401
            headers = dict(nobody.answer["headers"])
            assert headers[b"content-type"] == b"application/problem+json"
            assert b"www-authenticate" in headers
            assert json.loads((await nobody.receive())["body"])["status"] == 401
        # Nothing but the origin was wrong, and the refusals have not used the ticket.
        assert status(await ours.join(path, f"ticket={ticket}", offers, headers=everything)) == 101


def test_a_client_library_reads_the_problem_in_the_refusal(live: Server) -> None:
    for headers, expected in ({}, 401), ({"Origin": EVIL}, 403):
        with pytest.raises(InvalidStatus) as refused:
            connect(f"{live.ws_url}/guarded/ticket?ticket=unknown", additional_headers=headers)
        answer = refused.value.response
        assert answer.status_code == expected
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.body and json.loads(answer.body)["status"] == expected


async def test_a_cookie_without_an_origin_opens_no_socket(ours: House) -> None:
    cookie = await ours.cookie(await ours.register())
    assert status(await ours.join("/guarded/cookie", headers={"cookie": cookie})) == 101
    assert status(await ours.join("/guarded/cookie", headers={"cookie": cookie}, origin="")) == 403


def own_routes() -> FastAPI:
    app = FastAPI()
    add_exception_handlers(app)

    @app.get("/events")
    @app.post("/messages")
    async def who(user: SocketUserDep) -> str:
        return user.name

    @app.websocket("/socket")
    async def socket(websocket: WebSocket, user: SocketUserDep) -> None:
        await websocket.accept()
        await websocket.send_text(user.name)

    @app.websocket("/cookie")
    async def by_cookie(websocket: WebSocket, user: Annotated[SocketUser, Depends(user_of_cookie)]) -> None:
        await websocket.accept()

    return app


async def test_a_request_may_bring_what_a_socket_may_and_with_the_cookie_only_from_our_own_pages(
    ours: House,
) -> None:
    app = own_routes()
    account = await ours.register()
    token = ours.token(account)
    cookie = {"cookie": await ours.cookie(account)}
    async with ours.client(app) as client:

        async def ask(method: str, expected: int, query: str = "", **headers: str) -> None:
            path = {"GET": "/events", "POST": "/messages"}[method]
            answer = await client.request(method, path + query, headers=headers)
            assert answer.status_code == expected, (method, query, headers)
            assert expected != 200 or answer.json() == "ada"

        for method in ("GET", "POST"):
            await ask(method, 401)
            await ask(method, 200, **bearer(token))
            await ask(method, 403, **bearer(token), origin=EVIL)
            ticket = await ours.ticket(token)
            await ask(method, 200, f"?ticket={ticket}")
            await ask(method, 401, f"?ticket={ticket}", **cookie, origin=OWN)
            await ask(method, 401, **bearer("stale"), **cookie, origin=OWN)
            await ask(method, 401, cookie=f"{COOKIE}=forged", origin=OWN)
            for origin, expected in (OWN, 200), (LISTED, 200), (EVIL, 403), ("null", 403):
                await ask(method, expected, **cookie, origin=origin)
        await ask("POST", 403, **cookie)
        await ask("GET", 200, **cookie)
        for site, expected in ("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403):
            await ask("GET", expected, **cookie, **{"sec-fetch-site": site})
        # In the eyes of a browser this name has no prefix, so any subdomain may have set it.
        tossed = [(b"Cookie", b"\xa0" + cookie["cookie"].encode())]
        assert (await client.get("/events", headers=tossed)).status_code == 401

    ticket = await ours.ticket(token)
    for query, headers in ("", bearer(token)), (f"ticket={ticket}", {}), ("", cookie):
        peer = await ours.join("/socket", query, app=app, headers=headers)
        assert await peer.text() == "ada"
    assert status(await ours.join("/socket", app=app)) == 401
    for path in ("/socket", "/cookie"):
        assert status(await ours.join(path, app=app, origin=EVIL, headers=cookie)) == 403


async def test_a_ticket_opens_one_socket(ours: House) -> None:
    answer = await ours.issue(ours.token(await ours.register()))
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    query = f"ticket={answer.json()['ticket']}"
    assert [status(await ours.join("/guarded/ticket", query)) for _ in range(3)] == [101, 401, 401]
    assert (await ours.issue("no-token")).status_code == 401


async def test_of_many_sockets_at_once_with_one_ticket_one_is_opened(ours: House) -> None:
    query = f"ticket={await ours.ticket(ours.token(await ours.register()))}"
    peers = await asyncio.gather(*(ours.join("/guarded/ticket", query) for _ in range(20)))
    assert sorted(status(peer) for peer in peers) == [101, *[401] * 19]


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    monkeypatch.setattr(tickets, "time", lambda: time() + seconds)


async def test_an_expired_ticket_is_refused(ours: House, monkeypatch: pytest.MonkeyPatch) -> None:
    token = ours.token(await ours.register())
    first, second = await ours.ticket(token), await ours.ticket(token)
    later(monkeypatch, 29)
    assert status(await ours.join("/guarded/ticket", f"ticket={first}")) == 101
    later(monkeypatch, 30)
    assert status(await ours.join("/guarded/ticket", f"ticket={second}")) == 401


async def test_a_ticket_is_taken_by_another_process_and_by_one_alone(
    app: FastAPI, settings: Settings
) -> None:
    async with running(app) as ours, running(create_app(settings)) as other:
        query = f"ticket={await ours.ticket(ours.token(await ours.register()))}"
        assert (await heard(await other.join("/guarded/ticket", query)))["name"] == "ada"
        assert [status(await each.join("/guarded/ticket", query)) for each in (ours, other)] == [401, 401]


async def test_a_ticket_ends_with_its_account_and_with_the_token_it_was_got_with(ours: House) -> None:
    account = await ours.register()
    token = ours.token(account, 10)
    assert (await ours.issue(token)).json()["expires_in"] == 10
    you = await heard(await ours.join("/guarded/ticket", f"ticket={await ours.ticket(token)}"))
    assert datetime.fromisoformat(you["until"]).timestamp() - time() <= 10
    # `read` of a token is lenient for five seconds; a ticket that ended before it began is of no use.
    assert (await ours.issue(ours.token(account, -1))).status_code == 401
    ticket = await ours.ticket(token)
    async with ours.state["sessions"].begin() as session:
        await session.execute(delete(Account).where(Account.id == account.id))
    assert status(await ours.join("/guarded/ticket", f"ticket={ticket}")) == 401
    assert (await ours.issue(token)).status_code == 401


async def test_unused_tickets_are_swept_and_limited_in_all_and_for_each_account(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(create_app(with_rooms(settings, max_tickets=3, max_connections_per_user=2))) as ours:
        ada, bob = ours.token(await ours.register()), ours.token(await ours.register("bob"))
        of_ada = [await ours.ticket(ada) for _ in range(3)]
        of_bob = await ours.ticket(bob)
        full = await ours.issue(bob)
        assert (full.status_code, full.json()["detail"]) == (507, "There is no room for another ticket.")
        used = [status(await ours.join("/guarded/ticket", f"ticket={each}")) for each in (*of_ada, of_bob)]
        assert used == [401, 101, 101, 101]
        for _ in range(2):
            await ours.ticket(ada)
        later(monkeypatch, 31)
        await ours.ticket(bob)
        async with ours.state["sessions"]() as session:
            assert await session.scalar(select(func.count()).select_from(Ticket)) == 1


async def test_of_the_tickets_of_a_token_that_ends_soon_the_oldest_go(settings: Settings) -> None:
    """They all end with the token, at the same moment."""
    async with running(create_app(with_rooms(settings, max_connections_per_user=2))) as ours:
        ending = ours.token(await ours.register(), 10)
        tickets_in_order = [await ours.ticket(ending) for _ in range(12)]
        used = [status(await ours.join("/guarded/ticket", f"ticket={each}")) for each in tickets_in_order]
        assert used == [401] * 10 + [101] * 2


def test_no_ticket_and_no_token_stands_in_the_log_of_the_server(live: Server) -> None:
    secret = secrets.token_urlsafe(32)
    guarded = f"{live.ws_url}/guarded"
    for name in ("ticket", "token"):
        with connect(f"{guarded}/first-message?{name}={secret}") as accepted:
            accepted.send(authenticates(secret))
            with pytest.raises(ConnectionClosed):
                accepted.recv(LIMIT)
        with pytest.raises(InvalidStatus):
            connect(f"{guarded}/ticket?{name}={secret}")
    with pytest.raises(InvalidStatus):
        connect(f"{guarded}/header", additional_headers=bearer(secret))
    with pytest.raises(InvalidStatus):
        connect(f"{guarded}/subprotocol", subprotocols=[Subprotocol("app.bearer"), Subprotocol(secret)])
    live.wait_for('"/guarded/subprotocol"')
    for way in ("first-message", "ticket", "header"):
        assert f'"/guarded/{way}"' in live.log
    assert secret not in live.log


async def test_a_socket_that_does_not_say_who_it_is_in_time_is_closed_with_4408(settings: Settings) -> None:
    async with running(create_app(with_rooms(settings, first_message_seconds=0.05))) as ours:
        silent = await ours.join("/guarded/first-message")
        assert await silent.close_code() == 4408
        in_time = await opened(ours, await ours.register(), "first-message")
        assert (await heard(in_time))["name"] == "ada"
        assert await (await ours.join("/guarded/first-message")).close_code() == 4408
        in_time.send(says("still here"))
        assert (await heard(in_time))["text"] == "still here"


async def test_a_message_before_the_first_or_one_that_is_not_understood_closes_with_1008(
    ours: House,
) -> None:
    early = await ours.join("/guarded/first-message")
    early.send(says("let me in"))
    assert await early.close_code() == 1008
    account = await ours.register()
    for text in ("", "{}", "[" * 10_000, '{"type": "say"}', says("x" * 1_001), says("\ud800")):
        peer = await opened(ours, account, "header")
        await heard(peer)
        peer.send(text)
        peer.send(says("and more"))
        assert await peer.close_code() == 1008
        assert await peer.ended() is None


async def test_the_subprotocol_that_is_answered_is_never_the_token(ours: House) -> None:
    token = ours.token(await ours.register())
    peer = await ours.join("/guarded/subprotocol", subprotocols=["app.bearer", token])
    assert peer.answer["subprotocol"] == "app.bearer"
    assert token not in str(peer.answer) and token not in await peer.text()
    for offers in ([], [token], ["app.bearer"], [token, "app.bearer"], ["app.bearer", token, "x"]):
        refused = await ours.join("/guarded/subprotocol", subprotocols=offers)
        assert status(refused) == 401 and token not in str(await refused.receive())


async def test_a_credential_that_ends_closes_its_socket_with_4401_at_that_moment(ours: House) -> None:
    account = await ours.register()

    async def live_through(way: str) -> None:
        peer = await opened(ours, account, way, 2 * SOON)
        ends = datetime.fromisoformat((await heard(peer))["until"]).timestamp()
        peer.send(says("before"))
        assert (await heard(peer))["text"] == "before"
        assert await peer.close_code() == 4401
        assert 0 <= time() - ends < 1
        peer.send(says("after"))
        assert await peer.ended() is None
        assert peer.received.empty()

    await asyncio.gather(*(live_through(way) for way in WAYS))


async def test_a_newer_token_keeps_the_socket_open_and_one_of_another_account_closes_it(ours: House) -> None:
    ada, bob = await ours.register(), await ours.register("bob")
    renewed, not_renewed = [await opened(ours, ada, "header", SOON) for _ in range(2)]
    await heard(renewed)
    renewed.send(authenticates(ours.token(ada)))
    assert datetime.fromisoformat((await heard(renewed))["until"]).timestamp() > time() + 50
    assert await not_renewed.close_code() == 4401
    renewed.send(says("still here"))
    assert (await heard(renewed))["text"] == "still here"
    renewed.send(authenticates(ours.token(bob)))
    assert await renewed.close_code() == 1008
    other = await opened(ours, ada, "header")
    other.send(authenticates("no token"))
    assert await other.close_code() == 4401


def naive_app(ours: House) -> FastAPI:
    """What is found in answers to "how do I authenticate a WebSocket?"."""
    app = FastAPI()
    members = {"session=of-ada": "ada"}
    signer = TimestampSigner("k" * 32)

    @app.websocket("/cookie")
    async def cookie(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text(f"the letters of {members[websocket.headers['cookie']]}")

    @app.websocket("/signed-ticket")
    async def signed_ticket(websocket: WebSocket, ticket: str) -> None:
        name = signer.unsign(ticket, max_age=30).decode()
        await websocket.accept()
        await websocket.send_text(f"the letters of {name}")

    @app.websocket("/offered")
    async def offered(websocket: WebSocket) -> None:
        _, token = websocket.scope["subprotocols"]
        ours.state["access_tokens"].read(token)
        await websocket.accept(subprotocol=token)

    @app.websocket("/once")
    async def once(websocket: WebSocket, token: str) -> None:
        user = ours.state["access_tokens"].read(token)
        await websocket.accept()
        async for text in websocket.iter_text():
            await websocket.send_text(f"{user.username}: {text}")

    return app


async def test_trap_without_a_look_at_the_origin_a_foreign_page_reads_what_is_meant_for_the_visitor(
    ours: House,
) -> None:
    app = naive_app(ours)
    peer = await ours.join("/cookie", app=app, origin=EVIL, headers={"cookie": "session=of-ada"})
    assert await peer.text() == "the letters of ada"


async def test_trap_a_ticket_that_is_only_signed_opens_a_socket_again_and_again(ours: House) -> None:
    ticket = TimestampSigner("k" * 32).sign("ada").decode()
    for _ in range(2):
        peer = await ours.join("/signed-ticket", f"ticket={ticket}", app=naive_app(ours))
        assert await peer.text() == "the letters of ada"


async def test_trap_to_accept_what_was_offered_last_sends_the_token_back(ours: House) -> None:
    token = ours.token(await ours.register())
    peer = await ours.join("/offered", subprotocols=["bearer", token], app=naive_app(ours))
    assert peer.answer["subprotocol"] == token


async def test_trap_a_token_that_is_looked_at_once_is_good_as_long_as_the_socket_lives(ours: House) -> None:
    account = await ours.register()
    ended = await opened(ours, account, "header", SOON)
    peer = await ours.join("/once", f"token={ours.token(account, SOON)}", app=naive_app(ours))
    assert await ended.close_code() == 4401
    peer.send("still here")
    assert await peer.text() == "ada: still here"


@contextmanager
def served(app: FastAPI) -> Iterator[str]:
    """The app on a real uvicorn, in a thread of this process."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None, log_level=None, lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    end = monotonic() + LIMIT
    while not server.started:
        assert monotonic() < end and thread.is_alive()
        threading.Event().wait(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    yield f"ws://127.0.0.1:{port}"
    server.should_exit = True
    thread.join(LIMIT)
    assert not thread.is_alive()


def test_trap_the_token_of_a_query_is_in_the_log_and_a_code_before_accept_never_arrives(
    caplog: pytest.LogCaptureFixture,
) -> None:
    app = FastAPI()

    @app.websocket("/ws")
    async def socket(websocket: WebSocket, token: str) -> None:
        if token != "secret":
            raise WebSocketException(code=4401, reason="get a new token")
        await websocket.accept()

    caplog.set_level(logging.INFO, "uvicorn.error")
    with served(app) as url:
        with connect(f"{url}/ws?token=secret"):
            pass
        with pytest.raises(InvalidStatus) as refused:
            connect(f"{url}/ws?token=stale")
    assert '"WebSocket /ws?token=secret" [accepted]' in caplog.text
    assert (refused.value.response.status_code, refused.value.response.body) == (403, b"")
