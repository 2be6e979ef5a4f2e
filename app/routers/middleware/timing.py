"""Timing every request

Every HTTP answer of this service carries `X-Process-Time`: the seconds from the request to the first
byte of the answer. The access log has the seconds to the last byte. Use it to see, from a browser or
with curl, which requests are slow in the service and which on the network.

The middleware is `app/middleware/timing.py`. It is *pure ASGI*: a class with
`__call__(scope, receive, send)` that wraps `send` and adds a header to the message that starts the
response. It uses `perf_counter`, a clock that is never set back.

## The trap

Tutorials write `@app.middleware("http")` with `time.time()`. That is a `BaseHTTPMiddleware`: it never
sees a socket, it hides from the endpoint that the client has left, a `ContextVar` set in the endpoint
is lost on the way out, and a stream that fails half-way is ended properly, so that the client takes
half an answer for the whole. And `time.time()` follows the wall clock, which can jump back.

## What is proven

- Every answer has a process time, errors too.
- The process time is fixed point and never negative.
- The header is sent with the first byte and does not hold back the rest.
- A context variable set in the endpoint is seen by the middleware.

## Read more

`app.add_middleware(TimingMiddleware)` or `FastAPI(middleware=[Middleware(TimingMiddleware)])`.
[Advanced middleware](https://fastapi.tiangolo.com/advanced/middleware/) in the FastAPI documentation,
[pure ASGI middleware](https://starlette.dev/middleware/#pure-asgi-middleware) in Starlette's.
"""

import asyncio
from collections.abc import AsyncIterable
from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse
from pydantic import BaseModel

router = APIRouter(prefix="/middleware/timing", tags=["middleware"])


class Slept(BaseModel):
    seconds: float


class TextStream(StreamingResponse):
    media_type = "text/plain; charset=utf-8"


Seconds = Annotated[float, Query(ge=0, le=2, description="how long to wait")]


@router.get("/sleep")
async def sleep(seconds: Seconds = 0.1) -> Slept:
    """Answers after `seconds`: the header says so."""
    await asyncio.sleep(seconds)
    return Slept(seconds=seconds)


@router.get("/stream", response_class=TextStream)
async def stream(seconds: Seconds = 0.5) -> AsyncIterable[str]:
    """Sends a line at once and one after `seconds`: the header times the first, the access log the last."""
    yield "first\n"
    await asyncio.sleep(seconds)
    yield "last\n"
