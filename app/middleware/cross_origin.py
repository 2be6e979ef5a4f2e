"""Which pages of other origins may read our answers (CORS)."""

from collections.abc import Sequence

from fastapi.middleware.cors import CORSMiddleware
from starlette.middleware import Middleware


def cross_origin(origins: Sequence[str]) -> Middleware:
    """For these origins, each listed by name, with what our own front end uses and no more.

    `["*"]` with credentials would not send `*`: it sends back the origin of whoever asks.
    """
    return Middleware(
        CORSMiddleware,
        allow_origins=origins,
        allow_credentials=True,
        allow_methods=["GET", "POST", "DELETE"],
        allow_headers=["Authorization", "Content-Type", "Last-Event-ID", "X-Request-ID"],
        expose_headers=["Location", "X-Process-Time", "X-Request-ID"],
    )
