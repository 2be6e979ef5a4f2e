"""Which pages of other origins may read our answers (CORS)."""

from collections.abc import Sequence

from fastapi.middleware.cors import CORSMiddleware
from starlette.middleware import Middleware

TUS_REQUEST = (
    "Tus-Resumable",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Offset",
    "Upload-Checksum",
    "X-HTTP-Method-Override",
)
TUS_ANSWER = (
    "Tus-Resumable",
    "Tus-Version",
    "Tus-Extension",
    "Tus-Max-Size",
    "Tus-Checksum-Algorithm",
    "Upload-Expires",
    "Upload-Length",
    "Upload-Metadata",
    "Upload-Offset",
)


def cross_origin(origins: Sequence[str]) -> Middleware:
    """For these origins, each listed by name, with what our own front end uses and no more.

    `["*"]` with credentials would not send `*`: it sends back the origin of whoever asks.
    """
    return Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_credentials=True,
        # HEAD needs no leave by itself, but a preflight asks for it where the request has a header of tus.
        allow_methods=["GET", "HEAD", "POST", "PATCH", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Last-Event-ID", "X-Request-ID", *TUS_REQUEST],
        expose_headers=["Location", "X-Process-Time", "X-Request-ID", *TUS_ANSWER],
    )
