"""A stored file as an answer: whole, in ranges, or the news that the client has it already."""

import logging
import re
import secrets
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import NamedTuple
from urllib.parse import quote

from fastapi.responses import Response
from starlette.datastructures import Headers
from starlette.types import Receive, Scope, Send

from app.database.models import StoredFile
from app.errors import NotFound
from app.storage.byte_ranges import byte_ranges
from app.storage.preconditions import http_date, is_unchanged, ranges_apply
from app.storage.prompt_stream import PromptStream
from app.storage.storage import Storage

NOT_PLAIN = re.compile(r'[^ -~]|["\\%]')
"""What is read in several ways, or not at all, in the plain form of a name."""

INERT = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    # The browser may keep the file but asks each time, so that a file that is gone is gone.
    "Cache-Control": "private, no-cache",
}

logger = logging.getLogger(__name__)


class StoredFileResponse(PromptStream):
    """Nothing is read for a 304, 412 or 416. The call raises `NotFound` where the bytes are lost."""

    media_type = "*/*"  # for the document: each answer has that of its file

    def __init__(self, file: StoredFile, storage: Storage) -> None:
        self.file = file
        self.storage = storage
        self.etag = f'"{file.sha256}"'
        headers = {
            **INERT,
            "ETag": self.etag,
            "Last-Modified": http_date(file.created_at),
            "Accept-Ranges": "bytes",
            "Content-Disposition": attachment(file.filename),
            "Content-Length": str(file.size),
            # Keeps compression off: a download that is resumed must go on in the same bytes.
            "Content-Encoding": "identity",
        }
        pieces = read_exactly(storage, file, range(file.size))
        super().__init__(pieces, headers=headers, media_type=file.content_type)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if is_unchanged(headers, self.etag, self.file.created_at):
            known = {name: self.headers[name] for name in ("ETag", "Last-Modified", "Cache-Control")}
            return await Response(status_code=304, headers=known)(scope, receive, send)
        asked = ", ".join(headers.getlist("range"))
        if asked and ranges_apply(headers, self.etag, self.file.created_at):
            self._send_only(byte_ranges(asked, self.file.size))
        await super().__call__(scope, receive, send)

    def _send_only(self, ranges: list[range] | None) -> None:
        if ranges is None:
            return
        self.status_code = 206
        if len(ranges) == 1:
            self.pieces = read_exactly(self.storage, self.file, ranges[0])
            self.headers["Content-Range"] = content_range(ranges[0], self.file.size)
            self.headers["Content-Length"] = str(len(ranges[0]))
            return
        boundary = secrets.token_hex(16)
        start, end = f"--{boundary}\r\n", f"\r\n--{boundary}--\r\n".encode()
        parts = []
        for wanted in ranges:
            kind, place = self.headers["content-type"], content_range(wanted, self.file.size)
            head = f"{start}Content-Type: {kind}\r\nContent-Range: {place}\r\n\r\n"
            parts.append(Part(head.encode(), wanted))
            start = f"\r\n--{boundary}\r\n"
        self.pieces = self._several(parts, end)
        self.headers["Content-Type"] = f"multipart/byteranges; boundary={boundary}"
        self.headers["Content-Length"] = str(sum(len(p.head) + len(p.bytes) for p in parts) + len(end))

    async def _several(self, parts: Sequence["Part"], end: bytes) -> AsyncGenerator[bytes]:
        for before, wanted in parts:
            async with aclosing(read_exactly(self.storage, self.file, wanted)) as pieces:
                async for piece in pieces:
                    # With the bytes and not ahead of them: they may be lost.
                    yield before + piece
                    before = b""
        yield end


class Part(NamedTuple):
    head: bytes
    bytes: range


async def read_exactly(storage: Storage, file: StoredFile, wanted: range) -> AsyncGenerator[bytes]:
    """Ends with an error where the storage has less of the file than its row says."""
    missing = len(wanted)
    try:
        async with aclosing(storage.read(file.id, wanted.start, wanted.stop)) as pieces:
            async for piece in pieces:
                missing -= len(piece)
                yield piece
    except NotFound:
        logger.warning("The bytes of the file %s are gone, or it was deleted at this moment.", file.id)
        raise
    except OSError as error:
        # Which is how a server says that the client has left.
        raise RuntimeError(f"The file {file.id} cannot be read.") from error
    if missing:
        raise RuntimeError(f"The file {file.id} lacks {missing} bytes.")


def content_range(sent: range, size: int) -> str:
    return f"bytes {sent.start}-{sent.stop - 1}/{size}"


def attachment(filename: str) -> str:
    """The name in plain ASCII, and where that is another in UTF-8 too (RFC 6266, section 4.3)."""
    plain = NOT_PLAIN.sub("_", filename)
    encoded = f"; filename*=UTF-8''{quote(filename, safe='')}" if plain != filename else ""
    return f'attachment; filename="{plain}"{encoded}'
