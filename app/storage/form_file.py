"""The one file of a form, while the form arrives: memory is one chunk, and nothing is written twice.

A `multipart/form-data` body (RFC 7578) with one part is its boundary, the headers of the part, the file, and
the boundary again. So there is little to parse, and all else is refused at the first byte that shows it.

`python_multipart`, which is made for any form, reads its part headers well, but not this body. It passes over
what stands before the first boundary and after the last, it does not mind when the last is missing, and where
a file is made of lines that begin like the boundary it steps through them byte by byte, in the event loop.
"""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from fastapi.exceptions import RequestValidationError
from python_multipart.multipart import parse_options_header

from app.errors import BadRequest, UnsupportedMediaType

FIELD = b"file"
MAX_HEAD = 8 * 1024
"""Bytes of part headers, all of them together, and of the form's `Content-Type`: they are parsed in the event
loop, at once. The name of the file is in one of them."""

BOUNDARY = re.compile(rb"[\w'()+,./:=? -]{0,69}[\w'()+,./:=?-]")
HEADER = re.compile(rb"([\w!#$%&'*+.^`|~-]+):([^\r]*)")
END = b"--\r\n"
AS_IT_IS = (b"binary", b"8bit", b"7bit")

NO_START = "The form does not begin with its boundary."
NO_HEAD = "The head of the part is broken."
LONG_HEAD = "The head of the part is too long."
NO_END = "The form ends before its last boundary."
MORE = "The form has one file, and nothing after it."
MISSING = {"type": "missing", "loc": ("body", "file"), "msg": "Field required"}


@dataclass
class FormFile:
    filename: str
    """What the client says, which is never a path."""
    chunks: AsyncIterator[bytes]
    """Raises `BadRequest` where the form does not end with the file: what came may be half of one."""


async def open_form_file(content_type: str, body: AsyncIterator[bytes]) -> FormFile:
    """Reads up to the first byte of the file.

    Raises what FastAPI raises for a missing `UploadFile`, and `BadRequest` for a form that is broken.
    """
    boundary = _boundary(content_type)
    head, first = await _read_head(b"--" + boundary + b"\r\n", body)
    return FormFile(_filename(head), _content(b"\r\n--" + boundary, first, body))


def _boundary(content_type: str) -> bytes:
    if len(content_type) > MAX_HEAD:
        raise BadRequest("The Content-Type is too long.")
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise RequestValidationError([MISSING])
    boundary = options.get(b"boundary", b"")
    if not BOUNDARY.fullmatch(boundary):
        raise BadRequest("The form has no boundary, or one that RFC 2046 does not allow.")
    return boundary


async def _read_head(start: bytes, body: AsyncIterator[bytes]) -> tuple[bytes, bytes]:
    """The part headers, and what came with them of the file."""
    data = b""
    async for chunk in body:
        data += chunk
        if data[: len(start)] != start[: len(data)]:
            raise BadRequest(NO_START)
        # The end of the boundary's own line counts, where there is no header at all.
        end = data.find(b"\r\n\r\n", len(start) - 2, len(start) + MAX_HEAD)
        if end >= 0:
            return data[len(start) : end], data[end + 4 :]
        if len(data) >= len(start) + MAX_HEAD:
            raise BadRequest(LONG_HEAD)
    if not data:
        raise RequestValidationError([MISSING])
    raise BadRequest(NO_END)


def _filename(head: bytes) -> str:
    headers: dict[bytes, bytes] = {}
    for line in head.split(b"\r\n"):
        header = HEADER.fullmatch(line)
        if header is None or header[1].lower() in headers:
            raise BadRequest(NO_HEAD)
        headers[header[1].lower()] = header[2].strip(b" \t")
    # Without `filename*`, which RFC 7578 forbids: it would be a second name for one file.
    kind, options = parse_options_header(headers.get(b"content-disposition"))
    if kind != b"form-data" or b"name" not in options:
        raise BadRequest("The part does not say which field of the form it is.")
    if options[b"name"] != FIELD:
        raise RequestValidationError([MISSING])
    if b"filename" not in options:
        raise BadRequest("The field is a text and not a file.")
    # This is how a browser sends the field of which nobody chose the file.
    if not options[b"filename"]:
        raise RequestValidationError([MISSING])
    if headers.get(b"content-transfer-encoding", b"binary").lower() not in AS_IT_IS:
        raise UnsupportedMediaType("The file is taken as it is, without an encoding.")
    return options[b"filename"].decode(errors="replace")


async def _content(delimiter: bytes, data: bytes, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    while (end := data.find(delimiter)) < 0:
        # The delimiter has one CR, at its beginning: only the last one of the data can begin it.
        kept = data.rfind(b"\r", 1 - len(delimiter))
        if kept < 0 or not delimiter.startswith(data[kept:]):
            kept = len(data)
        if kept:
            yield data[:kept]
        chunk = await anext(body, None)
        if chunk is None:
            raise BadRequest(NO_END)
        data = data[kept:] + chunk
    if end:
        yield data[:end]
    rest = data[end + len(delimiter) :]
    _check_end(rest)
    async for chunk in body:
        rest += chunk
        _check_end(rest)
    # The line of the last boundary need not be ended.
    if rest not in (END, END[:2]):
        raise BadRequest(NO_END)


def _check_end(rest: bytes) -> None:
    if not END.startswith(rest):
        raise BadRequest(MORE)
