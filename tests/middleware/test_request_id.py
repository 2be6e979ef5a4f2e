import pytest
from starlette.types import Receive, Scope, Send

from app.middleware.request_id import RequestIdMiddleware, request_id
from tests.asgi import CONNECT, EMPTY_BODY, Call, http_scope, socket_scope

pytestmark = pytest.mark.anyio


class Endpoint:
    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.seen.append(request_id.get())
        start = "http.response.start" if scope["type"] == "http" else "websocket.accept"
        await send({"type": start, "status": 200, "headers": [(b"x-own", b"1")]})


@pytest.mark.parametrize("given", [b"a1b2c3d4", b"x" * 64, b"A.b_c-9876"])
async def test_a_well_formed_id_is_kept(given: bytes) -> None:
    endpoint = Endpoint()
    scope = http_scope(headers=[(b"x-request-id", given)])
    call = Call(RequestIdMiddleware(endpoint), scope, EMPTY_BODY)
    await call.run()
    assert call.headers == {b"x-own": b"1", b"x-request-id": given}
    assert endpoint.seen == [given.decode()]


@pytest.mark.parametrize(
    "given", [b"", b"short", b"x" * 65, b"a b c d e f", b"12345678\r\nx: y", b"\xff" * 10, b"a" * 8 + b"\n"]
)
async def test_any_other_id_is_replaced(given: bytes) -> None:
    ids = set()
    for _ in range(3):
        call = Call(RequestIdMiddleware(Endpoint()), http_scope(headers=[(b"x-request-id", given)]))
        await call.run()
        ids.add(call.headers[b"x-request-id"])
    assert len(ids) == 3
    assert all(len(each) == 32 and each.isalnum() for each in ids)


async def test_a_socket_has_one_too() -> None:
    call = Call(
        RequestIdMiddleware(Endpoint()), socket_scope(headers=[(b"x-request-id", b"socket-1")]), CONNECT
    )
    await call.run()
    assert call.headers[b"x-request-id"] == b"socket-1"


async def test_the_lifespan_passes_untouched() -> None:
    passed: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(scope["type"])

    await Call(RequestIdMiddleware(app), {"type": "lifespan"}).run()
    assert passed == ["lifespan"]
