"""Headers that tell a browser what it must not do with our answers."""

from collections.abc import Awaitable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)

HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    # For caches: an answer to one origin, or in one encoding, must not be handed to another.
    (b"vary", b"Origin, Accept-Encoding"),
]

POLICY = (b"content-security-policy", CONTENT_SECURITY_POLICY.encode())

DOCUMENT_HEADERS = [
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]

STRICT_TRANSPORT_SECURITY = (b"strict-transport-security", b"max-age=31536000")


class SecurityHeadersMiddleware:
    """Adds the headers; a `Content-Security-Policy` that the endpoint set itself is kept.

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
                headers = [*message.get("headers", ()), *HEADERS]
                names = dict(headers)
                if not names.get(b"content-type", b"").endswith(b"json"):
                    headers += DOCUMENT_HEADERS
                    if POLICY[0] not in names:
                        headers.append(POLICY)
                if scope["scheme"] in ("https", "wss"):
                    headers.append(STRICT_TRANSPORT_SECURITY)
                message["headers"] = headers
            return send(message)

        return self.app(scope, receive, send_with_headers)
