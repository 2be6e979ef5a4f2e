import pytest
from starlette.types import Receive, Scope, Send

from app.middleware.security_headers import SecurityHeadersMiddleware
from tests.asgi import Call, http_scope, socket_scope

pytestmark = pytest.mark.anyio


class Answers:
    def __init__(self, kind: str, *headers: tuple[bytes, bytes]) -> None:
        self.kind = kind
        self.headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": self.kind, "status": 200, "headers": list(self.headers)})


async def headers_of(app: Answers, scope: Scope) -> dict[bytes, bytes]:
    call = Call(SecurityHeadersMiddleware(app), scope)
    await call.run()
    return call.headers


async def test_a_document_has_a_policy_without_a_hole() -> None:
    app = Answers("http.response.start", (b"content-type", b"text/html; charset=utf-8"))
    policy = (await headers_of(app, http_scope()))[b"content-security-policy"]
    assert b"default-src 'self'" in policy
    assert b"unsafe" not in policy and b"*" not in policy


@pytest.mark.parametrize(
    "own",
    [
        (b"content-security-policy", b"sandbox"),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
    ],
)
async def test_what_the_endpoint_set_itself_is_kept_and_not_repeated(own: tuple[bytes, bytes]) -> None:
    call = Call(SecurityHeadersMiddleware(Answers("http.response.start", own)), http_scope())
    [start] = await call.run()
    assert [header for header in start["headers"] if header[0] == own[0]] == [own]


async def test_strict_transport_security_is_sent_over_https_only() -> None:
    app = Answers("http.response.start")
    assert b"strict-transport-security" in await headers_of(app, http_scope(scheme="https"))
    assert b"strict-transport-security" not in await headers_of(app, http_scope())


async def test_a_refused_socket_has_them_and_an_accepted_one_has_not() -> None:
    refused = await headers_of(Answers("websocket.http.response.start"), socket_scope())
    assert refused[b"x-content-type-options"] == b"nosniff"
    assert await headers_of(Answers("websocket.accept"), socket_scope()) == {}
