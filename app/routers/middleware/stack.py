"""The middleware stack and its order

Middleware is an onion: a request passes from the outermost layer to the innermost, its answer the other
way. Who stands outside sees the work of all who stand inside, and not the reverse, so the order is part
of what the service does. Ours is one list in `app/main.py`, read from the top; `GET /middleware/stack`
prints it from the running app.

1. **Stalled sockets, lingering close** work on the connection itself, so they are nearest to the
   server.
2. **Request id, access log, timing, security headers** come before all that may refuse, for they must
   see every answer. Documents get a content policy, all answers `nosniff`, and HSTS over https.
3. **Problems** restates what libraries refuse in plain text, so it stands above those libraries.
4. **CORS** stands above all that can fail. An error without its headers reaches a browser page as "CORS
   error".
5. **Known hosts** refuses a `Host` that is not ours before anything builds a link from it.
6. **Unhandled errors** turns what nobody caught into a 500 that passes through all the layers above.
7. **HEAD** runs the `GET` route through the compression below and drops the body, so that both have the
   same headers.
8. **Compression** flushes every chunk: a stream is not held back. `text/event-stream` and images are
   left alone.
9. **Form charset** refuses a form in another charset than UTF-8, which would be decoded by any codec that
   the client names. It stands above every route and mounted app that may read one.
10. **The body deadline** stands next to the reader, for only reading is timed.

The body limit is none of these: `include_router(max_body_size=)` sets it for each router, below the
stack.

Each class of ours has the same form: options in `__init__`, a guard on `scope["type"]`, then `receive`
or `send` wrapped in a closure. Nothing of a request is kept on `self`, which all requests share.

## The trap

Four functions under `@app.middleware("http")` and a CORS line with `allow_origins=["*"]` are in most
tutorials. Each function is a `BaseHTTPMiddleware`: it is blind to sockets, and it ends a stream that
failed half-way with a proper last chunk, so that the client takes half for the whole. `"*"` with
credentials does not send `*`: it reflects the origin of whoever asks, so any site reads answers made
for the visitor's cookies. And a 500 made by an exception handler leaves outside all of them, without
CORS headers.

## What is proven

- The layers stand in the order in which this page lists them.
- Only a listed origin is allowed to read an answer, and never the origin null.
- A star among the origins stops the start.
- The preflight passes for each method and header of our front end and for no other.
- Every error answer has CORS headers and the request id.
- A host that is not ours gets a 400, on a socket too.
- Compression does not hold a stream back.
- HEAD has the headers of GET, compressed or not.
- Every answer has nosniff, and every document a content policy.
- A socket has a request id and an access record.

## Read more

`FastAPI(middleware=[Middleware(Outermost), Middleware(Innermost)])`; with `app.add_middleware` the last
one added is the outermost. `CORSMiddleware`, `KnownHostMiddleware`, `GZipMiddleware`. [Advanced
middleware](https://fastapi.tiangolo.com/advanced/middleware/) and
[CORS](https://fastapi.tiangolo.com/tutorial/cors/) in the FastAPI documentation.
"""

from fastapi import APIRouter, Request
from pydantic import BaseModel

router = APIRouter(prefix="/middleware/stack", tags=["middleware"])


class Layer(BaseModel):
    name: str
    summary: str


class Stack(BaseModel):
    outermost_first: list[Layer]


@router.get("")
async def stack(request: Request) -> Stack:
    """The layers a request passes before it reaches a route, as the running app has them."""
    layers = [layer.kwargs.get("inner", layer) for layer in request.app.user_middleware]
    return Stack(
        outermost_first=[
            Layer(name=cls.__name__, summary=(cls.__doc__ or "").strip().partition("\n")[0])
            for cls, _, _ in layers
        ]
    )
