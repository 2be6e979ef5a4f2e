"""Every error in one shape

Whatever goes wrong, the client gets the same JSON: problem details, `application/problem+json` (RFC
9457), with `type`, `title`, `status`, `detail`, `instance` and the `request_id` that finds it in our
log. A validation error adds `errors`: where, and what is wrong there. One shape means one piece of code
in the client. The document has it by `responses=PROBLEM_RESPONSES`, and only in a `DocumentedApp`
(`app/openapi.py`): a plain `FastAPI` would refer to a schema that is not there.

Raise an `AppError` of `app/errors.py` from an endpoint, a dependency or a middleware; a feature adds
its own by subclassing, as `Unicorn` below does. `add_exception_handlers(app)` restates the framework's
errors. Three more come from outside the handlers: what libraries refuse in plain text
(`middleware/problems.py`), what nobody caught (`middleware/unhandled.py`), and a socket. A socket that
was not accepted yet is refused with the same JSON as an HTTP answer; one that was accepted is closed,
with 1011 for our faults and 1008 for the client's.

An answer never repeats a value of the query, the headers or the body, nor what an exception says: the one
may be a password, the other an address with one in it. It does repeat the path, in `instance`, and the
names of fields, in `loc`; so no secret belongs there. The log has the traceback, once, with the request
id. When the answer has begun, there is no status to change: the connection is closed before the last
chunk, so that the client knows that it has not got everything.

## The trap

`except Exception as e: return JSONResponse({"error": str(e)}, 500)` in a middleware hands out whatever
the exception says, and the log stays empty. A handler for FastAPI's `HTTPException` misses the router's
own 404 and 405, which are of Starlette's class. `JSONResponse(exc.errors())` in a handler for
validation errors fails on a `ValueError` of a validator and on a binary body, and echoes the password
that was too short. A handler that returns a `JSONResponse` for an accepted socket tears it. The code and
the reason of a `WebSocketException` before `accept` show in `TestClient`; the wire has a bare 403.
`debug=True` shows the source.

## What is proven

- The unicorn is refused with 418 and its name.
- A crash is a 500 without a word of the exception.
- A crash is logged once with its request id.
- Errors of every kind have the one shape.
- A 405 lists every allowed method, of other routers and of mounts too.
- A body over the limit is a 413, declared or chunked.
- A 422 never repeats a value of the query or the body, not even one that is no text.
- Errors in a group are answered like the error alone.
- A refused socket gets the problem as an HTTP answer.
- An accepted socket is closed with a code and not torn.
- A stream that fails half-way is seen to be cut.

## Read more

`app.add_exception_handler(AppError, handler)`, `starlette.exceptions.HTTPException`,
`RequestValidationError`, `WebSocketRequestValidationError`. [Handling
errors](https://fastapi.tiangolo.com/tutorial/handling-errors/) in the FastAPI documentation, [RFC
9457](https://www.rfc-editor.org/rfc/rfc9457).
"""

from collections.abc import AsyncIterable
from typing import Annotated, Literal

from fastapi import APIRouter, Path, WebSocket
from fastapi.responses import StreamingResponse

from app.asyncapi import messages
from app.errors import AppError

router = APIRouter(tags=["application"])


class Unicorn(AppError):
    status = 418

    def __init__(self, name: str) -> None:
        super().__init__(f"Oops! {name} did something wrong")


class TextStream(StreamingResponse):
    media_type = "text/plain; charset=utf-8"


# It is repeated in the answer: no control characters, nor those that are unseen or turn a text's direction.
# Spelled out: `\P{C}` is a pattern to pydantic and JavaScript, not to the Python tools that read our schema.
Name = Annotated[
    str,
    Path(max_length=50, pattern=r"^[^\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]+$"),
]


@router.get("/unicorns/{name}")
async def unicorn(name: Name) -> None:
    """Refuses every unicorn with 418, by an error of its own."""
    raise Unicorn(name)


@router.get("/errors/crash")
async def crash() -> None:
    """Fails with an exception that nobody catches; its text stays in the log."""
    raise RuntimeError("postgres://admin:hunter2@db.internal/app is down")


@router.get("/errors/stream", response_class=TextStream)
async def stream() -> AsyncIterable[str]:
    """Fails after the first line: the connection is closed without the last chunk."""
    yield "first\n"
    raise RuntimeError("the second line is lost")


@router.websocket("/errors/socket/{moment}", name="failing_socket")
@messages(receives={}, sends={})
async def socket(websocket: WebSocket, moment: Literal["before", "after", "crash"]) -> None:
    """Fails before it is accepted, after it, or after it with an exception that nobody catches."""
    if moment == "before":
        raise Unicorn("The socket")
    await websocket.accept()
    if moment == "after":
        raise Unicorn("The socket")
    raise RuntimeError("postgres://admin:hunter2@db.internal/app is down")
