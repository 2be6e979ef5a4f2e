"""Drives an ASGI app by hand, for what a client cannot see: each message, and the moment it is sent."""

import asyncio
from collections.abc import Iterable
from typing import Any

from starlette.types import ASGIApp, Message, Scope

LIMIT = 10.0
"""Seconds after which a test that waits gives up."""


class Log:
    """In the place of the `LogWriter`: keeps what it is given."""

    def __init__(self) -> None:
        self.lines: list[dict[str, Any]] = []

    def write(self, level: str, logger: str, message: str, **fields: object) -> None:
        self.lines.append(fields)


def http_scope(
    path: str = "/", method: str = "GET", headers: Iterable[tuple[bytes, bytes]] = (), scheme: str = "http"
) -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": scheme,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), *headers],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
        "state": {"log": Log(), "stopping": asyncio.Event()},
        "extensions": {},
    }


def socket_scope(path: str = "/", headers: Iterable[tuple[bytes, bytes]] = ()) -> Scope:
    scope = {
        **http_scope(path, headers=headers, scheme="ws"),
        "type": "websocket",
        "subprotocols": [],
        "extensions": {"websocket.http.response": {}},
    }
    del scope["method"]
    return scope


class Call:
    """One request or socket: what the server side puts in, and what came out so far."""

    def __init__(self, app: ASGIApp, scope: Scope, *incoming: Message) -> None:
        self.app = app
        self.scope = scope
        self.sent: list[Message] = []
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        self._changed = asyncio.Condition()
        for message in incoming:
            self.incoming.put_nowait(message)

    async def run(self) -> list[Message]:
        async with asyncio.timeout(LIMIT):
            await self.app(self.scope, self.incoming.get, self._send)
        return self.sent

    async def until_sent(self, count: int) -> None:
        async with asyncio.timeout(LIMIT), self._changed:
            await self._changed.wait_for(lambda: len(self.sent) >= count)

    async def _send(self, message: Message) -> None:
        async with self._changed:
            self.sent.append(message)
            self._changed.notify_all()
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.incoming.put_nowait({"type": "http.disconnect"})  # as a server does

    @property
    def status(self) -> int:
        status = self.sent[0]["status"]
        assert isinstance(status, int)
        return status

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)

    @property
    def chunks(self) -> list[bytes]:
        return [message["body"] for message in self.sent if message.get("body")]

    def leave(self) -> None:
        self.incoming.put_nowait({"type": "http.disconnect"})


class SlowCall(Call):
    """One whose client takes what is sent only while `reads` is set."""

    def __init__(self, app: ASGIApp, scope: Scope, *incoming: Message) -> None:
        super().__init__(app, scope, *incoming)
        self.reads = asyncio.Event()

    async def _send(self, message: Message) -> None:
        await self.reads.wait()
        await super()._send(message)


EMPTY_BODY: Message = {"type": "http.request", "body": b"", "more_body": False}
CONNECT: Message = {"type": "websocket.connect"}
