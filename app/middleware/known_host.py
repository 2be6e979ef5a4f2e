"""Only requests that name one of our hosts are answered."""

from collections.abc import Awaitable, Sequence

from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Receive, Scope, Send


class KnownHostMiddleware:
    """Passes a request whose `Host` is, to the letter, an allowed one with or without a port.

    Everything else (wildcards, capitals, IPv6, no host or two) is left to Starlette's class, which takes
    five times as long. It answers 400.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Sequence[str]) -> None:
        self.app = app
        self.known = frozenset(host.encode() for host in allowed_hosts)
        self.judge = TrustedHostMiddleware(app, allowed_hosts, www_redirect=False)

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] in ("http", "websocket"):
            hosts = [value for name, value in scope["headers"] if name == b"host"]
            if len(hosts) == 1:
                host, colon, port = hosts[0].partition(b":")
                if host in self.known and (port.isdigit() or not colon):
                    return self.app(scope, receive, send)
        return self.judge(scope, receive, send)
