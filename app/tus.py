"""What tus 1.0.0 adds to HTTP: its version on every request and answer, its headers and its statuses."""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Annotated

from fastapi.requests import HTTPConnection
from fastapi.routing import APIRoute
from pydantic import BeforeValidator, Field
from starlette.datastructures import Headers
from starlette.routing import Match
from starlette.types import Message, Receive, Scope, Send

from app.errors import AppError, BadRequest, refusal

VERSION = "1.0.0"
EXTENSIONS = "creation,creation-with-upload,checksum,expiration,termination"
DIGESTS = ("sha1", "sha256", "sha512")
OFFSET_OCTETS = "application/offset+octet-stream"

METADATA_KEY = re.compile(r"[!-+\--~]+")
"""ASCII that can be seen, but no comma."""


DIGITS = re.compile(r"[0-9]+")


def _digits(text: str) -> str:
    if not DIGITS.fullmatch(text):
        raise ValueError("a number of bytes is digits and nothing else")
    return text


Bytes = Annotated[int, Field(ge=0), BeforeValidator(_digits)]
"""A number of them, in a header. pydantic alone takes `+5`, `1_000` and `5.0`, too."""


class RequestTimeout(AppError):
    status = 408
    detail = "No byte came for too long."


class ChecksumMismatch(AppError):
    status = 460
    detail = "The bytes are not those of the checksum. None of them is kept."


class TusRoute(APIRoute):
    """For `APIRouter(route_class=TusRoute)`: `Tus-Resumable` on all answers, also those of errors, and 412 to
    a request of another version before anything else. A header of the upload that comes twice is 400: of two
    offsets nobody knows which one a proxy has looked at.

    A `POST` may say by `X-HTTP-Method-Override` that it is a `PATCH` or a `DELETE`, for clients that cannot
    send these. That opens nothing to pages of other origins: the header takes a preflight, as the methods do.
    """

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, child_scope = super().matches(scope)
        if match is Match.PARTIAL and scope["method"] == "POST":
            method = Headers(scope=scope).get("x-http-method-override")
            if method in ("PATCH", "DELETE") and method in (self.methods or ()):
                return Match.FULL, {**child_scope, "method": method}
        return match, child_scope

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_version(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"tus-resumable", VERSION.encode())]
                message = {**message, "headers": headers}
            await send(message)

        headers = Headers(scope=scope)
        of_the_upload = [name for name in headers.keys() if name.startswith("upload-")]
        if scope["method"] != "OPTIONS" and headers.getlist("tus-resumable") != [VERSION]:
            detail = f"Say Tus-Resumable: {VERSION}."
            answer = refusal(HTTPConnection(scope), 412, detail, headers={"Tus-Version": VERSION})
            await answer(scope, receive, send_with_version)
        elif len(of_the_upload) > len(set(of_the_upload)):
            answer = refusal(HTTPConnection(scope), 400, "Each Upload header comes once.")
            await answer(scope, receive, send_with_version)
        else:
            await super().handle(scope, receive, send_with_version)


@dataclass
class Checksum:
    algorithm: str
    digest: bytes


def read_checksum(header: str) -> Checksum:
    """`sha256 3q2+7w==`. Raises `BadRequest`."""
    algorithm, _, digest = header.partition(" ")
    if algorithm not in DIGESTS:
        raise BadRequest(f"The checksums of Upload-Checksum are {', '.join(DIGESTS)}.")
    return Checksum(algorithm, _from_base64(digest, "Upload-Checksum"))


def read_metadata(header: str) -> dict[str, bytes]:
    """`filename bm90ZS50eHQ=,draft`: keys that come once, each with a value or none. Raises `BadRequest`."""
    metadata: dict[str, bytes] = {}
    for pair in header.split(","):
        key, _, value = pair.strip(" ").partition(" ")
        if not METADATA_KEY.fullmatch(key) or key in metadata:
            raise BadRequest("Upload-Metadata is pairs of a key and a value in Base64; each key comes once.")
        metadata[key] = _from_base64(value, "Upload-Metadata")
    return metadata


def filename_of(header: str) -> str:
    """As the client wrote it. Raises `BadRequest`."""
    try:
        return read_metadata(header)["filename"].decode()
    except (KeyError, UnicodeDecodeError):
        raise BadRequest("Upload-Metadata needs a `filename`, in UTF-8.") from None


def metadata_of(filename: str) -> str:
    return f"filename {base64.b64encode(filename.encode()).decode()}"


def _from_base64(text: str, header: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):  # ValueError: of characters beyond ASCII
        raise BadRequest(f"{header} is not Base64.") from None
