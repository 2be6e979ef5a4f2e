"""What a server sends on a WebSocket, taken apart fast enough for hundreds of sockets in one process."""

from collections.abc import Iterator


class Frames:
    """The frames in what was read from one socket."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The first byte and the content of each frame that is whole by now. To be read to the end."""
        data = self._rest + data
        start = 0
        while len(data) >= start + 2:
            size, content = data[start + 1], start + 2
            if size == 126:
                content += 2
            elif size == 127:
                content += 8
            if size >= 126:
                size = int.from_bytes(data[start + 2 : content])
            if len(data) < content or len(data) < content + size:
                break
            yield data[start], data[content : content + size]
            start = content + size
        self._rest = data[start:]
