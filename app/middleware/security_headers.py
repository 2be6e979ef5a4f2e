"""Headers that tell a browser what it must not do with our answers."""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)

# For caches: an answer to one origin, or in one encoding, must not be handed to another.
VARY = (b"vary", b"Accept-Encoding, Origin")

HEADERS = [(b"x-content-type-options", b"nosniff")]

DOCUMENT_HEADERS = [
    (b"content-security-policy", CONTENT_SECURITY_POLICY.encode()),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]

STRICT_TRANSPORT_SECURITY = (b"strict-transport-security", b"max-age=31536000")


class SecurityHeadersMiddleware:
    """Adds the headers; one that the endpoint set itself is kept.

    JSON goes without those that are about documents: with `nosniff` no browser renders it.
    `Strict-Transport-Security` is sent over https only (RFC 6797, section 7.2).
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] not in ("http", "websocket"):
            return self.app(scope, receive, send)

        def send_with_headers(message: Message) -> Awaitable[None]:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                own = dict(message.get("headers", ()))
                added = [*HEADERS]
                if not own.get(b"content-type", b"").endswith(b"json"):
                    added += DOCUMENT_HEADERS
                if scope["scheme"] in ("https", "wss"):
                    added.append(STRICT_TRANSPORT_SECURITY)
                new = [header for header in added if header[0] not in own]
                message["headers"] = [*message.get("headers", ()), VARY, *new]
            return send(message)

        return self.app(scope, receive, send_with_headers)
