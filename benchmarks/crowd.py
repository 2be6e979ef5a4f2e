"""Many sockets of one server in one process, which do no more than count what they are sent."""

import select
import socket
from collections.abc import Sequence
from time import perf_counter

from tests.live.one_connection import COMPRESSED, TEXT, handshake

LIMIT = 20.0
SMALL_BUFFER = 4_096
TALKERS = 8


class Broken(Exception):
    """The server said something else than messages, or nothing any more."""


def connect(port: int, path: str, headers: str = "", receive_buffer: int | None = None) -> socket.socket:
    """A socket whose handshake is done."""
    connection = socket.socket()
    connection.settimeout(LIMIT)
    if receive_buffer:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect(("127.0.0.1", port))
    connection.sendall(handshake(headers, path).encode())
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += connection.recv(1)
    if not answer.startswith(b"HTTP/1.1 101 "):
        raise Broken(answer.decode())
    return connection


class Listener:
    def __init__(self, connection: socket.socket, is_talker: bool, least_size: int) -> None:
        self.socket = connection
        self.is_talker = is_talker
        self.received = 0
        self._least_size = least_size
        self._rest = b""

    def read(self) -> int:
        """How many messages came. In one function, for this must be cheaper than to send them."""
        data = self.socket.recv(262_144)
        if not data:
            raise Broken("the server closed a socket")
        data = self._rest + data
        start = count = 0
        while len(data) >= start + 4:
            if data[start] & ~COMPRESSED != TEXT:
                raise Broken(f"a frame of the kind {data[start]}")
            size = data[start + 1]
            end = start + 2 + size if size < 126 else start + 4 + (data[start + 2] << 8 | data[start + 3])
            if end > len(data):
                break
            count += end - start > self._least_size
            start = end
        self._rest = data[start:]
        self.received += count
        return count


class Crowd:
    """`size` sockets that listen, and a few more that talk, and of which nobody counts what they receive.

    Nor are frames counted that are not larger than `least_size`: who joins and leaves.
    """

    def __init__(self, port: int, path: str, headers: str, size: int, least_size: int = 0) -> None:
        self._poll = select.epoll()
        self._sockets: dict[int, Listener] = {}
        for number in range(size + TALKERS):
            listener = Listener(connect(port, path, headers), number >= size, least_size)
            self._sockets[listener.socket.fileno()] = listener
            self._poll.register(listener.socket, select.EPOLLIN)
        self._listeners = [listener for listener in self._sockets.values() if not listener.is_talker]
        self._talkers = [listener for listener in self._sockets.values() if listener.is_talker]
        while self._ready(0.3):  # what comes of itself: who joins
            pass

    def close(self) -> None:
        for listener in self._sockets.values():
            listener.socket.close()
        self._poll.close()

    def hear(self, frames: Sequence[bytes], at_once: int, limit: float = LIMIT) -> list[float]:
        """Sends the frames, from the talkers in turn, while at most so many are on their way.

        The seconds from each sending to each receiving, of all listeners.
        """
        first = self._listeners[0]
        for listener in self._listeners:
            listener.received = 0
        sent = list[float]()
        delays = list[float]()
        while len(delays) < len(frames) * len(self._listeners):
            while len(sent) < len(frames) and len(sent) - first.received < at_once:
                talker = self._talkers[len(sent) % len(self._talkers)]
                sent.append(perf_counter())
                talker.socket.sendall(frames[len(sent) - 1])
            ready = self._ready(limit)
            if not ready:
                raise Broken("nothing is heard any more")
            now = perf_counter()
            for listener, count in ready:
                if not listener.is_talker:
                    for at in sent[listener.received - count : listener.received]:
                        delays.append(now - at)
        return delays

    def _ready(self, seconds: float) -> list[tuple[Listener, int]]:
        listeners = [self._sockets[number] for number, _ in self._poll.poll(seconds)]
        return [(listener, listener.read()) for listener in listeners]
