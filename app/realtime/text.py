"""A text that many sockets are sent, encoded once, and how a server takes it without a wait."""

from collections.abc import Callable
from functools import cached_property

from starlette.types import Scope
from websockets.frames import Frame, Opcode

PUT = "app.websocket.put"
"""An extension of ASGI, for a server that has `put`: `app/websocket_protocol.py`."""


class Text:
    """Raises `UnicodeEncodeError` for what UTF-8 cannot hold: at its writer, not at its receivers."""

    def __init__(self, content: str) -> None:
        self.content = content
        self.encoded = content.encode()

    @cached_property
    def frame(self) -> bytes:
        """As it goes over the wire to all whose messages are not compressed."""
        return Frame(Opcode.TEXT, self.encoded).serialize(mask=False)


def put_of(scope: Scope) -> Callable[[Text], bool] | None:
    """Sends a text there and then. False: nothing is sent, for the peer is behind. `OSError`: it has left."""
    put: Callable[[Text], bool] | None = scope.get("extensions", {}).get(PUT, {}).get("put")
    return put
