"""The AsyncAPI document: what OpenAPI is for routes, for sockets.

It is made from the routes, the docstrings and path parameters of their endpoints, and from what
`@messages(...)` says that they receive and send. Written for
[AsyncAPI 3.1](https://www.asyncapi.com/docs/reference/specification/v3.1.0).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

from fastapi import FastAPI
from fastapi.routing import APIWebSocketRoute, iter_route_contexts
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

ATTRIBUTE = "socket_messages"
SCHEMAS = "#/components/schemas/{model}"

JSON = dict[str, Any]
Endpoint = TypeVar("Endpoint", bound=Callable[..., Any])


@dataclass(frozen=True)
class Messages:
    """The types of what a socket receives and sends, by the names of the messages. `str` is a text frame,
    any other type is JSON in a text frame."""

    receives: Mapping[str, Any]
    sends: Mapping[str, Any]


@dataclass(frozen=True)
class Socket:
    path: str
    route: APIWebSocketRoute

    @property
    def messages(self) -> Messages:
        """AttributeError where the endpoint does not say."""
        declared = getattr(self.route.endpoint, ATTRIBUTE)
        assert isinstance(declared, Messages)
        return declared


def messages(*, receives: Mapping[str, Any], sends: Mapping[str, Any]) -> Callable[[Endpoint], Endpoint]:
    """Declares the messages of a socket's endpoint; stands below `@router.websocket(...)`.

    ValueError if one name means two types.
    """
    for name in receives.keys() & sends.keys():
        if receives[name] != sends[name]:
            raise ValueError(f"{name!r} is received as another type than it is sent")

    def declare(endpoint: Endpoint) -> Endpoint:
        setattr(endpoint, ATTRIBUTE, Messages(receives, sends))
        return endpoint

    return declare


def sockets_of(app: FastAPI) -> Iterator[Socket]:
    """All sockets of the app, those of included routers too; not those of mounted apps."""
    for context in iter_route_contexts(app.routes):
        if isinstance(context.original_route, APIWebSocketRoute):
            yield Socket(context.path or "", context.original_route)


def describe(app: FastAPI, host: str, root_path: str, secure: bool) -> JSON:
    """The document of `app` as it is served at `host`, which may have a port, under `root_path`."""
    schemas: JSON = {}
    sockets = list(sockets_of(app))
    return {
        "asyncapi": "3.1.0",
        "info": {"title": app.title, "version": app.version, "description": app.summary},
        "defaultContentType": "application/json",
        "servers": {
            "here": {"host": host, "pathname": root_path or "/", "protocol": "wss" if secure else "ws"}
        },
        "channels": {socket.route.name: _channel(socket, schemas) for socket in sockets},
        "operations": {name: operation for socket in sockets for name, operation in _operations(socket)},
        "components": {"schemas": schemas},
    }


def _channel(socket: Socket, schemas: JSON) -> JSON:
    said = socket.messages
    return {
        "address": socket.path,
        "description": " ".join((socket.route.endpoint.__doc__ or "").split()),
        "parameters": {
            field.alias: _parameter(field.field_info) for field in socket.route.dependant.path_params
        },
        "messages": {
            name: _message(name, kind, schemas) for name, kind in {**said.receives, **said.sends}.items()
        },
        "bindings": {"ws": {"method": "GET", "bindingVersion": "0.1.0"}},
    }


def _parameter(field: FieldInfo) -> JSON:
    """Parameters of channels are strings: their type and bounds have their place in the description."""
    kind: Any = Annotated[field.annotation, field]
    schema = TypeAdapter(kind).json_schema()
    values = {"enum": schema.pop("enum")} if "enum" in schema else {}
    return values | {"description": ", ".join(f"{key}: {value}" for key, value in schema.items())}


def _message(name: str, kind: Any, schemas: JSON) -> JSON:
    payload = TypeAdapter(kind).json_schema(ref_template=SCHEMAS)
    schemas.update(payload.pop("$defs", {}))
    text = payload.get("type") == "string"
    return {
        "name": name,
        "contentType": "text/plain" if text else "application/json",
        "payload": payload,
    }


def _operations(socket: Socket) -> Iterator[tuple[str, JSON]]:
    name, said = socket.route.name, socket.messages
    for action, kinds in (("receive", said.receives), ("send", said.sends)):
        if kinds:
            yield (
                f"{name}.{action}",
                {
                    "action": action,
                    "channel": {"$ref": f"#/channels/{name}"},
                    "messages": [{"$ref": f"#/channels/{name}/messages/{message}"} for message in kinds],
                },
            )
