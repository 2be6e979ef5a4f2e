"""Answers that the client can read though it is still sending its body, and an end to that body."""

import asyncio
from collections.abc import Awaitable
from contextlib import suppress
from time import perf_counter

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.middleware.body_deadline import has_body, receive_within


class LingeringCloseMiddleware:
    """After an answer that is sent before the body has arrived, takes in the rest for a while, then closes.

    A server that closes at once makes the system reset the connection, and most clients (browsers, urllib,
    requests) then report a broken pipe instead of the 413. A server that keeps the connection has to take in
    whatever the client sends, for as long as it likes. Here both `size` and `seconds` are limited. No other
    limit reaches a body that the endpoint does not read, for they all count what it reads. It needs the
    `stopping` of `app/shutdown.py` in `scope["state"]`, where the lifespan puts it.
    """

    def __init__(self, app: ASGIApp, size: int, seconds: float) -> None:
        self.app = app
        self.size = size
        self.seconds = seconds

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http" or not has_body(scope):
            return self.app(scope, receive, send)
        return self._answer_readably(scope, receive, send)

    async def _answer_readably(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = AnsweredEarly(receive, send)
        await self.app(scope, exchange.receive, exchange.send)
        # Only here, when all that the request held is free again.
        if exchange.end_is_due:
            with suppress(TimeoutError):
                await exchange.take_in_the_rest(self.size, self.seconds, scope["state"]["stopping"])
            await send({"type": "http.response.body", "body": b""})


class AnsweredEarly:
    """One request with a body, and its answer, of which the end is kept back."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._body_arrived = False
        self._lingers = False
        self.end_is_due = False

    async def receive(self) -> Message:
        message = await self._receive()
        # Also when the client has left: then nothing comes any more.
        self._body_arrived = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._lingers = not self._body_arrived
            if self._lingers:
                headers = [(n, v) for n, v in message.get("headers", ()) if n != b"connection"]
                message = {**message, "headers": [*headers, (b"connection", b"close")]}
        elif self._lingers and not self._body_arrived and not message.get("more_body"):
            # Nothing of the answer waits, only the mark at which the server closes the connection.
            self.end_is_due = True
            message = {**message, "more_body": True}
        await self._send(message)

    async def take_in_the_rest(self, size: int, seconds: float, stopping: asyncio.Event) -> None:
        end = perf_counter() + seconds
        while not self._body_arrived and size > 0:
            message = await receive_within(end - perf_counter(), self.receive, stopping)
            size -= len(message.get("body", b""))
