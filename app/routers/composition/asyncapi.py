"""A document of the sockets

OpenAPI knows requests and answers. Sockets are not in it. AsyncAPI describes channels and the messages on
them: generators make clients, servers, mocks and reading pages from it. `/asyncapi.json` is that document,
of this service. Use it as soon as somebody else writes the other end of a socket.

`app/asyncapi.py` makes it from the routes: the path and its parameters, the docstring of the endpoint, and
the types that `@messages(receives={...}, sends={...})` names. A type is anything pydantic knows: a model
becomes a JSON Schema among the components, a constrained `str` a text with its pattern. *Receive* and *send*
are meant as the service does them; a client generator turns them round.

Where a document is served it names its server, from the address that was called. `APP_DOCS=false` takes it
away like all documents.

## The trap

`app.openapi()` skips sockets and says nothing. A document that lists 52 operations looks complete, and the
clients generated from it have no socket.

Messages that are written by hand into a YAML file drift from the code with the first change. Here a
declaration that is missing fails the document, and a test compares what the sockets say with what the
document says.

## What is proven

- Every socket of the service is in the document.
- The messages that the sockets send are those that the document names.
- A model of a message becomes a schema among the components.
- A socket that does not declare its messages fails the document.
- The document names the server that was called.
- Without documents there is none of the sockets either.

## Read more

`fastapi.routing.iter_route_contexts`, `APIWebSocketRoute`, `pydantic.TypeAdapter.json_schema`.
[AsyncAPI 3.1](https://www.asyncapi.com/docs/reference/specification/v3.1.0); FastAPI's own documentation
has no page about it. `make interop` validates the document by AsyncAPI's own parser.
"""

from typing import Any

from fastapi import APIRouter, Request

from app.asyncapi import describe
from app.dependencies import SettingsDep
from app.errors import NotFound

router = APIRouter(tags=["composition"])


@router.get("/asyncapi.json")
async def asyncapi(request: Request, settings: SettingsDep) -> dict[str, Any]:
    """The AsyncAPI document of this service."""
    if not settings.docs:
        raise NotFound
    return describe(
        request.app, request.url.netloc, request.scope.get("root_path", ""), request.url.scheme == "https"
    )
