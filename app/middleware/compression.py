"""Compression that is true about the tag."""

from collections.abc import Awaitable

from fastapi.middleware.gzip import GZipMiddleware
from starlette.datastructures import MutableHeaders
from starlette.types import Message, Receive, Scope, Send


class CompressionMiddleware(GZipMiddleware):
    """Starlette's, but what was compressed has a weak `ETag`.

    A strong one promises the same bytes. A client that has the first half of them would ask for the rest
    by `Range` and `If-Range`, get it uncompressed, and glue the two together.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        def send_with_true_tag(message: Message) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message["headers"])
                tag = headers.get("etag", "")
                if headers.get("content-encoding") == "gzip" and tag.startswith('"'):
                    headers["etag"] = f"W/{tag}"
            return send(message)

        await super().__call__(scope, receive, send_with_true_tag)
