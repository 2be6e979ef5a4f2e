"""Forms in UTF-8 only, for the client would choose the codec, and a `Content-Type` that is soon parsed."""

from collections.abc import Awaitable

from python_multipart.multipart import parse_options_header
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Receive, Scope, Send

from app.errors import AppError, BadRequest, UnsupportedMediaType, refusal

FORMS = (b"multipart/form-data", b"application/x-www-form-urlencoded")
MAX_CONTENT_TYPE = 1024
"""Bytes. The longest in use are a tenth of it."""


class FormCharsetMiddleware:
    """Answers 415 to a form whose `Content-Type` names another charset than UTF-8.

    Starlette decodes `multipart/form-data` by any codec of Python that the client names, in the event loop.
    `punycode` takes time with the square of the size: 40 seconds for one megabyte. A browser names none.
    What a part says of itself, in its own headers or as `_charset_`, nobody reads.

    A `Content-Type` of any kind that is longer than `MAX_CONTENT_TYPE` is 400: 64 KB of semicolons would hold
    up the event loop for 50 milliseconds each time that a reader parses them.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            for name, value in scope["headers"]:
                if name == b"content-type" and (error := refused(value)):
                    problem = refusal(HTTPConnection(scope), error.status, error.detail)
                    return problem(scope, receive, send)
        return self.app(scope, receive, send)


def refused(content_type: bytes) -> AppError | None:
    if len(content_type) > MAX_CONTENT_TYPE:
        return BadRequest("The Content-Type is too long.")
    if is_form_in_another_charset(content_type):
        return UnsupportedMediaType("A form is read as UTF-8 only.")
    return None


def is_form_in_another_charset(content_type: bytes) -> bool:
    """By the parser that Starlette uses: another might see no charset where that one does."""
    kind, options = parse_options_header(content_type)
    return kind in FORMS and options.get(b"charset", b"utf-8").lower() != b"utf-8"
