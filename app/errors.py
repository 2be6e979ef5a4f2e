"""One shape for every error: problem details, `application/problem+json` (RFC 9457).

Raise an `AppError` anywhere; `add_exception_handlers` also restates the framework's own errors.
On a socket the same error is an HTTP answer before `accept`, and a close code after it.
`PROBLEM_RESPONSES` documents the shape; `DocumentedApp` of `app/openapi.py` adds the schema it refers to.
"""

from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from errno import EDQUOT, EFBIG, ENOSPC
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError, WebSocketRequestValidationError
from fastapi.requests import HTTPConnection
from fastapi.responses import JSONResponse, Response
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Host, Match, Mount
from starlette.types import Scope

from app.middleware.request_id import request_id
from app.realtime.refusals import answer_for

MAX_REPORTED_ERRORS = 20
MAX_TEXT_LENGTH = 200
"""Characters of a path, a field name or a message that an answer repeats."""

REPEATING = ("union_tag_invalid", "byte_size_unit", "import_error", "uuid_parsing", "bytes_invalid_encoding")
"""Types of Pydantic's errors whose message repeats what was sent."""

UNREADABLE_BODY = "There was an error parsing the body"
"""FastAPI's own words, by which alone its 400 can be told from one of an endpoint."""

NO_FILE = "Value error, Expected UploadFile"
"""How FastAPI's words for a text in the place of a file begin; a class of Python ends them."""

DISK_FULL = (ENOSPC, EDQUOT, EFBIG)

RENAMED = {
    413: "Content Too Large",
    414: "URI Too Long",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
}
"""Titles of RFC 9110 that Python has from 3.13 on: the same, whatever Python runs."""

CLOSED_AFTER = (408, 413)
"""Statuses sent while the body is still arriving: the connection cannot be used again."""


class FieldError(BaseModel):
    loc: list[str | int]
    msg: str
    type: str


class Problem(BaseModel):
    type: str
    title: str
    status: int
    detail: str
    instance: str
    request_id: str
    errors: list[FieldError] | None = None


PROBLEM_CONTENT = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}

PROBLEM_RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"description": "An error of the request, as problem details", "content": PROBLEM_CONTENT},
    "5XX": {"description": "An error of the service, as problem details", "content": PROBLEM_CONTENT},
}
"""What `DocumentedApp(responses=)` takes to document the error shape on every operation."""


class AppError(Exception):
    """An error the client is meant to see. Subclasses set the status; the detail is shown as it is."""

    status = 500
    detail = "The service could not answer."
    members: Mapping[str, str] | None = None
    """What a protocol demands beside the members of every problem (RFC 9457, section 3.2)."""

    def __init__(self, detail: str | None = None, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail or self.detail)
        self.detail = detail or self.detail
        self.headers = headers


class BadRequest(AppError):
    status = 400
    detail = "The request could not be understood."


class Unauthorized(AppError):
    status = 401
    detail = "Say who you are."


class Forbidden(AppError):
    status = 403
    detail = "This is not allowed."


class NotFound(AppError):
    status = 404
    detail = "There is nothing here."


class Conflict(AppError):
    status = 409
    detail = "This conflicts with the present state."


class Locked(AppError):
    status = 423
    detail = "Another request is at work on this. Try again later."


class PreconditionFailed(AppError):
    status = 412
    detail = "It is not what the request expects it to be."


class ContentTooLarge(AppError):
    status = 413
    detail = "The request body is too large."


class UnsupportedMediaType(AppError):
    status = 415
    detail = "This kind of content is not accepted."


class RangeNotSatisfiable(AppError):
    status = 416
    detail = "There are no bytes in this range."


class TooManyRequests(AppError):
    status = 429
    detail = "Too many at once. Try again later."


class ServiceUnavailable(AppError):
    status = 503
    detail = "The service is at its limit. Try again later."


class InsufficientStorage(AppError):
    status = 507
    detail = "There is no room left to store this."


def refusal(
    connection: HTTPConnection,
    status: int,
    detail: str | None = None,
    *,
    headers: Mapping[str, str] | None = None,
    errors: list[FieldError] | None = None,
    members: Mapping[str, str] | None = None,
) -> Response:
    """The problem+json answer for `status`. `instance` is the path, percent-encoded, without its query."""
    title = _phrase(status)
    # Starlette says it in two ways, as the body is declared or grows: neither adds to the title.
    if status == ContentTooLarge.status and detail in (None, title):
        detail = ContentTooLarge.detail
    problem = Problem(
        type="about:blank",
        title=title,
        status=status,
        detail=detail or title,
        instance=quote(connection.scope["path"][:MAX_TEXT_LENGTH], errors="replace"),
        request_id=request_id.get(),
        errors=errors,
    )
    closing = {"connection": "close"} if status in CLOSED_AFTER else {}
    return JSONResponse(
        {**problem.model_dump(exclude_none=True), **(members or {})},
        status,
        headers={**(headers or {}), **closing},
        media_type="application/problem+json",
    )


def add_exception_handlers(app: FastAPI) -> None:
    for error, handler in EXCEPTION_HANDLERS.items():
        app.add_exception_handler(error, handler)


async def _app_error(connection: HTTPConnection, exc: Exception) -> Response:
    assert isinstance(exc, AppError)
    answer = refusal(connection, exc.status, exc.detail, headers=exc.headers, members=exc.members)
    return answer_for(connection, answer, exc.detail)


async def _http_exception(connection: HTTPConnection, exc: Exception) -> Response:
    assert isinstance(exc, HTTPException)
    # FastAPI makes a 400 of all that fails while it reads a form, also when its temporary file does.
    if exc.detail == UNREADABLE_BODY and isinstance(exc.__cause__, OSError):
        if exc.__cause__.errno in DISK_FULL:
            return await _app_error(connection, InsufficientStorage())
        raise exc.__cause__
    if exc.status_code < 400:
        answer = Response(status_code=exc.status_code, headers=exc.headers)
        return answer_for(connection, answer, None)
    headers = dict(exc.headers or {})
    if exc.status_code == 405:
        headers["Allow"] = ", ".join(_allowed_methods(connection))
    # A detail of 500 and above was written for us, not for the client; one that is no text has no place here.
    detail = exc.detail if exc.status_code < 500 and isinstance(exc.detail, str) else None
    return answer_for(connection, refusal(connection, exc.status_code, detail, headers=headers), detail)


async def _validation_error(connection: HTTPConnection, exc: Exception) -> Response:
    assert isinstance(exc, RequestValidationError | WebSocketRequestValidationError)
    errors = field_errors(exc.errors())
    detail = "The request is not valid; `errors` says where."
    return answer_for(connection, refusal(connection, 422, detail, errors=errors), detail)


async def _exception_group(connection: HTTPConnection, exc: Exception) -> Response:
    """The answer to the error inside, when all of a group are errors meant for the client."""
    assert isinstance(exc, ExceptionGroup)
    leaves = list(_leaves(exc))
    first = leaves[0]
    if all(isinstance(leaf, AppError) for leaf in leaves):
        return await _app_error(connection, first)
    if all(isinstance(leaf, HTTPException) for leaf in leaves):
        return await _http_exception(connection, first)
    raise exc


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for exc in group.exceptions:
        if isinstance(exc, ExceptionGroup):
            yield from _leaves(exc)
        else:
            yield exc


def field_errors(errors: Sequence[Any]) -> list[FieldError]:
    """What a client may be told of the errors of Pydantic: the first of them, and nothing that it sent."""
    return [_field_error(error) for error in errors[:MAX_REPORTED_ERRORS]]


def _field_error(error: dict[str, Any]) -> FieldError:
    """Without `input` and `ctx`, which repeat what the client sent: passwords, bytes that are no text."""
    message = "Input should be valid" if error["type"] in REPEATING else error["msg"]
    if message.startswith(NO_FILE):
        message = "Input should be a file"
    # A place may be a name the client chose, of any length and with halves of surrogate pairs.
    loc = [part if isinstance(part, int) else _printable(part) for part in error["loc"]]
    return FieldError(loc=loc, msg=_printable(message), type=error["type"])


def _printable(text: str) -> str:
    return text[:MAX_TEXT_LENGTH].encode(errors="replace").decode()


def _allowed_methods(connection: HTTPConnection) -> list[str]:
    """Every method some route answers at this path: the router itself names those of its first match only."""
    # From the outermost router on, for a mount has put its own prefix and its own app here by now.
    scope = connection.scope
    root_path = scope.get("app_root_path", scope.get("root_path", ""))
    allowed = _methods_at({**scope, "root_path": root_path}, scope["router"].routes)
    if "GET" in allowed:
        allowed.add("HEAD")
    return sorted(allowed)


def _methods_at(scope: Scope, routes: Sequence[BaseRoute]) -> set[str]:
    allowed: set[str] = set()
    for route in iter_route_contexts(routes):
        match, child_scope = route.matches(scope)
        if match is Match.FULL and isinstance(route.original_route, Mount | Host):
            return allowed | _methods_at({**scope, **child_scope}, route.original_route.routes)
        if match is not Match.NONE:
            allowed |= route.methods or {"GET"}
    return allowed or {"GET"}  # of files, which are no routes


def _phrase(status: int) -> str:
    try:
        return RENAMED.get(status) or HTTPStatus(status).phrase
    except ValueError:
        return "Error"


EXCEPTION_HANDLERS: dict[int | type[Exception], Callable[[Any, Any], Coroutine[Any, Any, Response]]] = {
    AppError: _app_error,
    # Starlette's class, not FastAPI's: the router's own 404 and 405 are of this one.
    HTTPException: _http_exception,
    RequestValidationError: _validation_error,
    WebSocketRequestValidationError: _validation_error,
    ExceptionGroup: _exception_group,
}
"""What `FastAPI(exception_handlers=)` takes; an app that is mounted has none of its parent's."""
