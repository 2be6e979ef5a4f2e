"""Cookies with the prefix `__Host-`, read as a browser means them."""

import re

from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

PLAIN = re.compile(rb"[ -~]*")


class PlainCookieRoute(APIRoute):
    """For `APIRouter(route_class=PlainCookieRoute)`: its endpoints see `plain_cookies` alone."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        keep_plain_cookies(scope)
        await super().handle(scope, receive, send)


def keep_plain_cookies(scope: Scope) -> None:
    scope["headers"] = [
        (name, plain_cookies(value) if name == b"cookie" else value) for name, value in scope["headers"]
    ]


def plain_cookies(header: bytes) -> bytes:
    """The cookies of ASCII alone, as RFC 6265 wants them.

    A name that begins with the byte 0xA0 has no prefix in the eyes of a browser, so any sibling subdomain may
    set it. Starlette takes the byte for a space, strips it, and reads the name with the prefix.
    """
    return b";".join(cookie for cookie in header.split(b";") if PLAIN.fullmatch(cookie))
