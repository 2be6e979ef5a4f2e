"""A body that is compressed

A client may compress what it sends and say so in `Content-Encoding`. FastAPI does not look at that header. A
`route_class` is the place to do it: `get_route_handler` returns the function that turns a request into an
answer, and here it gets a request that inflates while it is read. Parsed models, forms, `request.body()` and
`request.stream()` work as ever, and the endpoint knows nothing of it. `APIRouter(route_class=GzipRoute)` is
for the routes of one router, where a middleware would see every request.

The `max_body_size` of the route then holds twice: for what is sent, and for what that becomes. It is inflated
in slices, and never more of it than the limit and one slice.

## The trap

`gzip.decompress(body)` makes 10 GB of 10 MB, and the limit on the body has nothing to say about it. In the
usual recipe, which sets `request._body`, the whole is there before anybody can refuse it. An exception of
one's own that is raised while a body is read becomes a 400, whatever it meant: raise `HTTPException`.

A list that is too long is one error, but one that may be long has an error for each wrong item, and a few
hundred bytes of gzip make a hundred thousand. `fail_fast=True` stops at the first.

## What is proven

- A gzip body is inflated while it is read.
- A bomb is refused after the first slices.
- A gzip body that is cut, damaged or followed by more is refused.
- An encoding that nobody knows is refused.
- A route without a limit inflates nothing.
- Of a list that has many errors one is made.

## Read more

`APIRoute.get_route_handler`, `APIRouter(route_class=)`, `zlib.decompressobj().decompress(data, max_length)`,
`Field(fail_fast=)`.
[Custom request and route](https://fastapi.tiangolo.com/how-to/custom-request-and-route/) in the FastAPI
documentation, [content codings](https://www.rfc-editor.org/rfc/rfc9110#section-8.4) in RFC 9110.
"""

import zlib
from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Body, HTTPException, Request, Response
from fastapi.routing import APIRoute
from pydantic import BaseModel, Field
from starlette.middleware.body_limit import MAX_BODY_SIZE_SCOPE_KEY
from starlette.types import Message, Receive

from app.errors import ContentTooLarge, UnsupportedMediaType

SLICE = 65_536
GZIP_ONLY = 16 + zlib.MAX_WBITS


class Inflated:
    """The body of a request with `Content-Encoding: gzip`, inflated a slice at a time."""

    def __init__(self, receive: Receive, most: int) -> None:
        self._receive = receive
        self._room = most
        self._inflator = zlib.decompressobj(GZIP_ONLY)
        self._waiting = b""
        self._more_to_come = True
        self._ended = False

    async def receive(self) -> Message:
        """An `HTTPException`, because FastAPI turns every other exception of a body reader into a 400."""
        while not self._ended:
            if not self._waiting:
                message = await self._receive()
                if message["type"] != "http.request":
                    return message
                self._waiting = message.get("body", b"")
                self._more_to_come = message.get("more_body", False)
            inflated = self._next_slice()
            self._room -= len(inflated)
            if self._room < 0:
                raise HTTPException(413, ContentTooLarge.detail)
            self._ended = not (self._waiting or self._more_to_come)
            if self._ended and not self._inflator.eof:
                raise HTTPException(400, "The gzip body ends too early.")
            if inflated or self._ended:
                return {"type": "http.request", "body": inflated, "more_body": not self._ended}
        return await self._receive()

    def _next_slice(self) -> bytes:
        try:
            inflated = self._inflator.decompress(self._waiting, SLICE)
        except zlib.error:
            raise HTTPException(400, "The body is not gzip.") from None
        if self._inflator.unused_data:
            # Another gzip stream, which is allowed, but each of a million empty ones costs time.
            raise HTTPException(400, "The gzip body has something after its end.")
        self._waiting = self._inflator.unconsumed_tail
        return inflated


class GzipRoute(APIRoute):
    """Its endpoints need not know that a body came compressed."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def handle_inflated(request: Request) -> Response:
            encoding = ", ".join(request.headers.getlist("content-encoding")).lower()
            if encoding in ("", "identity"):
                return await handle(request)
            if encoding not in ("gzip", "x-gzip"):
                raise UnsupportedMediaType("Only gzip is inflated.", {"Accept-Encoding": "gzip"})
            # No limit, no such key: rather a 500 than a body without an end.
            inflated = Inflated(request.receive, most=request.scope[MAX_BODY_SIZE_SCOPE_KEY])
            of_wire = (b"content-encoding", b"content-length")
            headers = [header for header in request.scope["headers"] if header[0] not in of_wire]
            return await handle(Request({**request.scope, "headers": headers}, inflated.receive))

        return handle_inflated


router = APIRouter(tags=["validation"], route_class=GzipRoute)

# Strict, for Python takes False for 0.
Measurement = Annotated[float, Field(strict=True, ge=-1e9, le=1e9)]


class Summary(BaseModel):
    count: int
    mean: float


@router.post("/validation/measurements")
async def summarise(
    values: Annotated[
        list[Measurement],
        Field(min_length=1, max_length=200_000, fail_fast=True),
        Body(examples=[[1.5, 2.5]]),
    ],
) -> Summary:
    """Takes a list of numbers, compressed if the client likes: `curl -H 'Content-Encoding: gzip'`."""
    return Summary(count=len(values), mean=sum(values) / len(values))
