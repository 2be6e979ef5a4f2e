"""uvicorn's WebSocket protocol, mended: `uvicorn --ws app.websocket_protocol:WebSocketProtocol`.

Written for uvicorn 0.54 (`websockets-sansio`, what `--ws auto` means) and websockets 17. Any of these lets
one peer, without a password, hold up or fill a server that runs on uvicorn's own:

- A read of up to 256 KiB is parsed at once: some forty thousand tiny frames, for seconds in which nobody else
  is served. Here a turn of the event loop parses 4 KiB.
- Empty fragments are kept in a list that no size limit counts, and tiny ones cost a hundred times their size.
  Here a message in fragments is one buffer.
- Each ping is answered though the peer reads no answers. Here only the latest is, once it reads again, as
  RFC 6455, section 5.5.3, allows.
- A handshake with a body, or with too long a head, is never answered, and at the shutdown it raises, so that
  the sockets after it are not closed. Here it gets its 400, 414 or 431.
- Text that is not UTF-8 puts a traceback in the log; with a close frame behind it, it is another in the event
  loop. Here it is 1007 at the first wrong byte, and a line for nobody.
- A message in front of a frame that breaks the protocol is lost; an app that sends to such a socket gets a
  `RuntimeError`, as if that were its mistake. Here the app gets the message, and then the `OSError` of ASGI.
- A close frame between two fragments is called a protocol error (Autobahn 7.1.5). Here it is a close.
- A handshake that the app denies is logged as a failure of the app. Here it is not.

`tests/live/test_websocket_protocol.py` shows each with uvicorn's class beside this one. When a newer uvicorn
makes a `test_trap_` there fail, delete what mends it here; with the last, this file and `--ws`.
"""

import asyncio
from codecs import getincrementaldecoder
from http import HTTPStatus
from typing import Any

from uvicorn._types import ASGISendEvent
from uvicorn.config import Config
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.server import ServerProtocol

from app.realtime.text import PUT, Text

READ_SIZE = 4 * 1024
"""Bytes of one read, which end at most 683 frames."""
MANY = 32
"""Frames of one read, after which others get a turn."""

Utf8Decoder = getincrementaldecoder("utf-8")


class WebSocketProtocol(asyncio.BufferedProtocol):
    """What the event loop talks to. Such a protocol, and no other, says how much is read at once."""

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        self.socket = MendedSansIOProtocol(config, server_state, app_state)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.socket.connection_made(transport)

    def data_received(self, handshake: bytes) -> None:
        """Called once, by uvicorn."""
        self.socket.data_received(handshake)

    def connection_lost(self, exc: Exception | None) -> None:
        self.socket.connection_lost(exc)

    def pause_writing(self) -> None:
        self.socket.pause_writing()

    def resume_writing(self) -> None:
        self.socket.resume_writing()

    def get_buffer(self, sizehint: int) -> memoryview:
        self.buffer = memoryview(bytearray(READ_SIZE))  # of which TLS in asyncio fills slices
        return self.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.socket.data_received(bytes(self.buffer[:nbytes]))
        del self.buffer
        # uvloop reads up to 32 times in a turn, while reads are full.
        if self.socket.many_frames and not (self.socket.read_paused or self.socket.transport.is_closing()):
            self.socket.transport.pause_reading()
            self.socket.loop.call_soon(self.read_on)

    def read_on(self) -> None:
        if not (self.socket.read_paused or self.socket.transport.is_closing()):
            self.socket.transport.resume_reading()


class MendedSansIOProtocol(WebSocketsSansIOProtocol):
    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        super().__init__(config, server_state, app_state)
        self.conn: MendedServerProtocol = MendedServerProtocol(
            self.writable,
            extensions=self.conn.available_extensions,
            max_size=self.conn.max_message_size,
            logger=self.conn.logger,
        )
        self.fragments = bytearray()

    def data_received(self, data: bytes) -> None:
        self.conn.receive_data(data)
        self.many_frames = len(self.conn.events) > MANY
        self.handle_events()
        if self.conn.parser_exc:
            self.handle_parser_exception()
        elif self.conn.handshake_exc and not self.handshake_initiated:
            refusal = self.conn.reject(HTTPStatus.BAD_REQUEST, "Failed to open a WebSocket connection.\n")
            self.transport.write(b"".join(self.conn.data_to_send()) or refusal.serialize())
            self.handshake_complete = self.close_sent = True
            self.transport.close()

    def handle_connect(self, event: Request) -> None:
        super().handle_connect(event)
        if self.response.status_code == HTTPStatus.SWITCHING_PROTOCOLS:
            self.scope["extensions"][PUT] = {"put": self.put}

    def put(self, text: Text) -> bool:
        """As `websocket.send`, where that need not wait. See `app/realtime/text.py`."""
        if self.close_sent or self.transport.is_closing():
            raise ClientDisconnected
        if not self.writable.is_set():
            return False
        if self.conn.extensions:
            self.conn.send_text(text.encoded)
            self.transport.write(b"".join(self.conn.data_to_send()))
        else:
            self.transport.write(text.frame)
        return True

    def handle_cont(self, event: Frame) -> None:
        if self.frames:
            self.fragments = bytearray(self.frames.pop())
        self.fragments += event.data
        if event.fin:
            self.frames = [bytes(self.fragments)]
            self.fragments.clear()
            self.send_receive_event_to_app()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.conn.send_latest_pong()
        self.transport.write(b"".join(self.conn.data_to_send()))

    async def send(self, message: ASGISendEvent) -> None:
        if self.handshake_complete and self.transport.is_closing():
            raise ClientDisconnected
        await super().send(message)
        if message["type"] == "websocket.http.response.body":
            self.handshake_complete = self.close_sent


class MendedServerProtocol(ServerProtocol):
    def __init__(self, writable: asyncio.Event, **options: Any) -> None:
        super().__init__(**options)
        self.writable = writable
        self.latest_pong: Frame | None = None
        self.utf8 = Utf8Decoder()
        self.is_text = False

    def recv_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.CLOSE:
            self.current_size = None
        elif frame.opcode is Opcode.TEXT or frame.opcode is Opcode.BINARY:
            self.is_text = frame.opcode is Opcode.TEXT
        if self.is_text and frame.opcode in (Opcode.TEXT, Opcode.CONT):
            self.utf8.decode(frame.data, frame.fin)
        super().recv_frame(frame)

    def send_frame(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PONG and not self.writable.is_set():
            self.latest_pong = frame
        else:
            super().send_frame(frame)

    def send_latest_pong(self) -> None:
        if self.latest_pong:
            super().send_frame(self.latest_pong)
            self.latest_pong = None
