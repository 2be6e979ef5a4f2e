"""Limits to the head of a request: `uvicorn --http app.http_protocol:HttpProtocol`.

Written for uvicorn 0.54 with httptools. uvicorn limits how long a connection idles after an answer, and not
how long a head takes: who connects and says nothing, or half a head, stays for ever, and a thousand of these
are all that `--limit-concurrency 1000` lets in. A head of any size is collected in memory. Here a head has
`HEAD_SECONDS`, and 64 KiB beyond what one read brings. uvicorn also collects the trailers of a body, among
the headers and without end. Here they are dropped, and have 64 KiB.

A body in chunks of one byte also costs uvicorn a call in Python for each, 40,000 times a read, while every
other request waits. Here the chunks of one read are handed over at once. What remains is the work of the
parser, a quarter of it. Nor is a body copied twice on its way to the application.

`tests/live/test_http_protocol.py` shows all of it. When uvicorn does so itself, delete this file.
"""

from asyncio import TimerHandle
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_SECONDS = 20.0
MAX_HEAD = 64 * 1024
TOO_LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class HttpProtocol(HttpToolsProtocol):
    _reading_head = True
    _head_size = 0
    """Bytes of a head that is not complete, or since the last of a body."""
    _deadline: TimerHandle | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._chunks: list[bytes] = []
        super().__init__(*args, **kwargs)

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._limit_time()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._have_time()

    def data_received(self, data: bytes) -> None:
        self._head_size += len(data)
        super().data_received(data)
        self._hand_over()
        if self._head_size > MAX_HEAD and not self.transport.is_closing():
            if self._may_refuse():
                self.transport.write(TOO_LARGE)
            self.transport.close()
        elif self._reading_head and self._head_size and self._deadline is None:
            self._limit_time()

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_size = self._head_size or 1

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._reading_head:  # else it is a trailer
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._reading_head = False
        self._head_size = 0
        self._have_time()
        super().on_headers_complete()

    @property
    def on_body(self) -> Any:
        """What the parser calls: no method, so that it calls no Python."""
        return self._chunks.append

    def on_message_complete(self) -> None:
        self._hand_over()
        super().on_message_complete()
        self._reading_head = True
        self._head_size = 0

    def _hand_over(self) -> None:
        if self._chunks:
            if not self.cycle.body:
                # Added to empty bytes it is not copied, nor when the application takes it. uvicorn only adds
                # to it and takes it, which bytes can as well.
                self.cycle.body = cast(bytearray, b"")
            super().on_body(b"".join(self._chunks))
            self._chunks.clear()
            self._head_size = 0

    def _may_refuse(self) -> bool:
        """While another answer is due or under way, the client would take ours for it, or a part of it."""
        if self.cycle is None or self.cycle.response_complete:
            return True
        return not self._reading_head and not self.cycle.response_started

    def _limit_time(self) -> None:
        self._deadline = self.loop.call_later(HEAD_SECONDS, self._too_slow)

    def _have_time(self) -> None:
        if self._deadline:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
        else:  # it is the head of the next request; the answer to this one goes on
            self._limit_time()
