import re
from typing import Any, Literal

import pytest
from fastapi import FastAPI, WebSocket
from fastapi.routing import APIWebSocketRoute, iter_route_contexts
from fastapi.testclient import TestClient
from pydantic import BaseModel, TypeAdapter

from app.asyncapi import describe, messages, sockets_of
from app.main import create_app
from app.settings import Settings


@pytest.fixture
def document(client: TestClient) -> dict[str, Any]:
    answer = client.get("/asyncapi.json")
    assert answer.status_code == 200
    document = answer.json()
    assert isinstance(document, dict)
    return document


def test_every_socket_of_the_service_is_in_the_document(app: FastAPI, document: dict[str, Any]) -> None:
    paths = [
        context.path or ""
        for context in iter_route_contexts(app.routes)
        if isinstance(context.original_route, APIWebSocketRoute)
    ]
    assert {"/ws", "/ws/{client_id}", "/chat"} <= set(paths)
    assert sorted(channel["address"] for channel in document["channels"].values()) == sorted(paths)
    for channel in document["channels"].values():
        assert set(channel["parameters"]) == set(re.findall(r"{(\w+)}", channel["address"]))
        assert channel["description"]


@pytest.mark.parametrize(
    ("path", "name", "sent"),
    [
        ("/ws", "echo", "Message text was: tea"),
        ("/chat", "chat", "User said: tea"),
        ("/ws/7", "clients", "You wrote: tea"),
        ("/ws/7", "clients", "Client #7 says: tea"),
    ],
)
def test_the_messages_that_the_sockets_send_are_those_that_the_document_names(
    client: TestClient, document: dict[str, Any], path: str, name: str, sent: str
) -> None:
    operation = document["operations"][f"{name}.send"]
    named = [reference["$ref"].rpartition("/")[2] for reference in operation["messages"]]
    messages = document["channels"][name]["messages"]
    fitting = [each for each in named if re.search(messages[each]["payload"]["pattern"], sent)]
    assert len(fitting) == 1
    with client.websocket_connect(path) as socket:
        socket.send_text("tea")
        received = [socket.receive_text() for _ in named if _ != "left"]
    assert sent in received


class Move(BaseModel):
    kind: Literal["move"]
    to: int


class Board(BaseModel):
    moves: list[Move]


def test_a_model_of_a_message_becomes_a_schema_among_the_components() -> None:
    app = FastAPI()

    @app.websocket("/game")
    @messages(receives={"move": Move}, sends={"board": Board})
    async def game(websocket: WebSocket) -> None: ...

    document = describe(app, "localhost", "", secure=False)
    board = document["channels"]["game"]["messages"]["board"]
    assert board["contentType"] == "application/json"
    assert board["payload"]["properties"]["moves"]["items"] == {"$ref": "#/components/schemas/Move"}
    assert document["components"]["schemas"]["Move"]["properties"]["kind"] == TypeAdapter(
        Literal["move"]
    ).json_schema() | {"title": "Kind"}


def test_a_socket_that_does_not_declare_its_messages_fails_the_document() -> None:
    app = FastAPI()

    @app.websocket("/silent")
    async def silent(websocket: WebSocket) -> None: ...

    with pytest.raises(AttributeError, match="socket_messages"):
        describe(app, "localhost", "", secure=False)


def test_one_name_cannot_mean_two_messages() -> None:
    with pytest.raises(ValueError, match="'move'"):
        messages(receives={"move": Move}, sends={"move": Board})


def test_the_document_names_the_server_that_was_called(app: FastAPI) -> None:
    with TestClient(app, base_url="https://localhost:8443", root_path="/api") as client:
        server = client.get("/asyncapi.json").json()["servers"]["here"]
    assert server == {"host": "localhost:8443", "pathname": "/api", "protocol": "wss"}


def test_without_documents_there_is_none_of_the_sockets_either(settings: Settings) -> None:
    with TestClient(create_app(settings.model_copy(update={"docs": False}))) as client:
        assert client.get("/asyncapi.json").status_code == 404


def test_trap_openapi_skips_sockets_and_says_nothing(app: FastAPI) -> None:
    paths = app.openapi()["paths"]
    assert [socket.path for socket in sockets_of(app) if socket.path in paths] == []
