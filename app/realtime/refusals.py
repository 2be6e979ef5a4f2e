"""What the answer to an error becomes on a socket."""

from contextlib import suppress

from fastapi import WebSocket
from fastapi.requests import HTTPConnection
from fastapi.responses import Response
from starlette.status import WS_1008_POLICY_VIOLATION, WS_1011_INTERNAL_ERROR
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocketClose, WebSocketState

MAX_CLOSE_REASON = 123
"""Bytes (RFC 6455, section 5.5). A longer reason is an error in the server, and tears the connection."""


def answer_for(connection: HTTPConnection, answer: Response, reason: str | None) -> Response:
    """What an exception handler returns so that a socket gets it too.

    HTTP gets the answer itself; so does a socket before `accept`, which is denied with it. After `accept`
    an HTTP answer would tear the connection: it becomes a close, 1011 for 500 and above, else 1008.
    """
    if not isinstance(connection, WebSocket):
        return answer
    if WebSocketState.DISCONNECTED in (connection.application_state, connection.client_state):
        return NoAnswer()
    if connection.application_state is WebSocketState.CONNECTED:
        code = WS_1011_INTERNAL_ERROR if answer.status_code >= 500 else WS_1008_POLICY_VIOLATION
        return SocketClose(code, reason or "")
    return answer


class SocketClose(Response):
    """Closes the socket in the place of an HTTP answer."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__()
        self.close = WebSocketClose(code, reason.encode()[:MAX_CLOSE_REASON].decode(errors="ignore"))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with suppress(OSError):  # the client has left meanwhile
            await self.close(scope, receive, send)


class NoAnswer(Response):
    """For a socket that is closed already."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pass
