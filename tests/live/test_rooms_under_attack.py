"""What strangers do to a room on the wire: each is refused as documented, and its members talk on."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import count
from typing import Any

import httpx2
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.live.test_sockets import assert_quiet, wait_until_open
from tests.server import Server, serve
from tests.sockets import LIMIT

PASSWORD = "correct horse battery staple"


class Talk:
    """Two members of a room, and how to see that nothing of what they say is lost."""

    def __init__(self, server: Server, stack: ExitStack) -> None:
        self.server = server
        ada, self.token = token(server, "ada"), token(server, "eve")
        self.members = [stack.enter_context(self.join(ada)) for _ in range(2)]
        self._numbers = count()

    def join(self, token: str) -> ClientConnection:
        return connect(f"{self.server.ws_url}/rooms/hall", additional_headers=bearer(token))

    def stranger(self) -> ClientConnection:
        return self.join(self.token)

    def goes_on(self) -> None:
        for speaker in self.members:
            text = f"still here {next(self._numbers)}"
            speaker.send(json.dumps({"type": "say", "ref": text.replace(" ", "-"), "text": text}))
            for member in self.members:
                while next_of(member, "message")["text"] != text:  # a stranger may have said something
                    pass


def token(server: Server, name: str) -> str:
    form = {"grant_type": "password", "username": name, "password": PASSWORD}
    account = {"username": name, "password": PASSWORD}
    httpx2.post(f"{server.url}/security/oauth2/accounts", json=account).raise_for_status()
    return str(httpx2.post(f"{server.url}/security/oauth2/token", data=form).json()["access_token"])


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def next_of(member: ClientConnection, kind: str) -> dict[str, Any]:
    while (content := json.loads(member.recv(LIMIT)))["type"] != kind:
        pass
    assert isinstance(content, dict)
    return content


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("attack"), args=["--ws-max-size", "1048576"]) as server:
        yield server


@pytest.fixture(scope="module")
def talk(server: Server) -> Iterator[Talk]:
    with ExitStack() as stack:
        yield Talk(server, stack)


@pytest.fixture(autouse=True)
def nobody_else_is_disturbed(server: Server, talk: Talk) -> Iterator[None]:
    talk.goes_on()
    yield
    talk.goes_on()
    wait_until_open(server, len(talk.members))
    assert_quiet(server)


def close_code(member: ClientConnection) -> int:
    with pytest.raises(ConnectionClosed) as closed:
        while True:
            member.recv(LIMIT)
    assert closed.value.rcvd
    return closed.value.rcvd.code


def refusal(server: Server, query: str = "", **headers: str) -> tuple[int, str]:
    with pytest.raises(InvalidStatus) as refused:
        connect(f"{server.ws_url}/rooms/hall{query}", additional_headers=headers).__enter__()
    answer = refused.value.response
    return answer.status_code, answer.headers["content-type"]


def test_a_cross_site_page_and_one_without_a_ticket_are_refused_with_problem_details(talk: Talk) -> None:
    foreign = {"Origin": "https://evil.example", **bearer(talk.token)}
    assert refusal(talk.server, **foreign) == (403, "application/problem+json")
    assert refusal(talk.server) == (401, "application/problem+json")
    assert refusal(talk.server, "?ticket=guess") == (401, "application/problem+json")


def test_a_ticket_that_was_used_is_refused(talk: Talk) -> None:
    answer = httpx2.post(f"{talk.server.url}/rooms/tickets", headers=bearer(talk.token))
    query = f"?ticket={answer.json()['ticket']}"
    with connect(f"{talk.server.ws_url}/rooms/hall{query}") as member:
        assert next_of(member, "welcome")["you"]["name"] == "eve"
    assert refusal(talk.server, query) == (401, "application/problem+json")


def test_a_flood_is_closed_with_1008(talk: Talk) -> None:
    with talk.stranger() as member:
        for number in range(300):
            member.send(json.dumps({"type": "say", "ref": f"flood-{number}", "text": "buy"}))
        assert close_code(member) == 1008


def test_a_message_of_a_mebibyte_is_closed_with_1009_by_the_service_and_a_larger_one_by_the_server(
    talk: Talk,
) -> None:
    for size in (2**20, 2**20 + 1):
        with talk.stranger() as member:
            member.send("x" * size)
            assert close_code(member) == 1009


def test_text_that_is_not_utf_8_is_closed_with_1007(talk: Talk) -> None:
    with talk.stranger() as member:
        member.send(b"\xff", text=True)
        assert close_code(member) == 1007


def test_800_sockets_of_one_address_are_refused_with_429_beyond_its_places(talk: Talk) -> None:
    handshake = (
        b"GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )
    places = 100 - len(talk.members)
    with ExitStack() as stack:
        heads = []
        for _ in range(800):
            socket = stack.enter_context(talk.server.connect(handshake))
            heads.append(socket.recv(12))
        assert heads == [b"HTTP/1.1 101"] * places + [b"HTTP/1.1 429"] * (800 - places)
