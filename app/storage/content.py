"""What a received file really is, whatever its name and its sender say.

The formats are walked from their first byte to their end marker, while the bytes come, and nothing is
decoded. A decoder does more than is asked: Pillow's `open` inflates every colour profile of a PNG, and takes
18 seconds for one of 8 MB that is made of them. Here memory is one piece, and the number of steps has a limit
(`app/storage/incoming.py`).

The walk tells truncated files and other content under a borrowed signature. It cannot tell a file that is
valid in two formats at once; so `app/routers/files/downloads.py` serves all as if they were hostile.
"""

import codecs
import re
import struct
from collections.abc import Callable
from pathlib import PurePath

from app.errors import UnsupportedMediaType
from app.storage.incoming import Incoming, Walk, wrong

DIGIT = b"0123456789"
PDF_START = b"%", b"P", b"D", b"F", b"-", b"12", b".", DIGIT
PDF_END = re.compile(rb"startxref\s+(\d{1,10})\s+%%EOF[\s\0]*\Z")
PDF_END_SIZE = 1024
PNG_START = *struct.unpack("8c", b"\x89PNG\r\n\x1a\n"), *struct.unpack("8c", b"\0\0\0\rIHDR")
GIF_START = b"G", b"I", b"F", b"8", b"79", b"a"
JPEG_START, JPEG_END = (b"\xff", b"\xd8"), b"\xff\xd9"
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_SCAN = 0xDA

NO_CONTROLS = b"\t\n\f\r" + bytes(range(0x20, 0x7F)) + bytes(range(0x80, 0x100))
CONTROL_OF_TWO = re.compile(rb"\xc2[\x80-\x9f]")
TEXT_SLICE = 64 * 1024
"""What is decoded at a time: then four bytes for each stay in the cache of the processor."""


class ContentCheck:
    """Is fed a file, in pieces of any size. All methods raise `UnsupportedMediaType`: the constructor for an
    extension that is not accepted, `feed` at the first byte that shows that the content is another,
    `finish` where the file is not whole. Feed it in a thread.
    """

    def __init__(self, filename: str, max_pixels: int) -> None:
        suffix = PurePath(filename).suffix.lower()
        if suffix not in ACCEPTED:
            raise UnsupportedMediaType(f"Accepted are {', '.join(sorted(ACCEPTED))}.")
        self._walk = ACCEPTED[suffix](Incoming(max_pixels))
        next(self._walk)

    def feed(self, piece: bytes) -> None:
        if piece:
            self._walk.send(piece)

    def finish(self) -> str:
        """The media type."""
        try:
            self._walk.send(b"")
        except StopIteration as end:
            # None at the second end of a walk, whose first was a refusal.
            if end.value is not None:
                return str(end.value)
        raise wrong()


def walk_text(file: Incoming) -> Walk[str]:
    """UTF-8 without control characters, those of one byte and those of two."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    last = b""
    try:
        while piece := (yield from file.rest()):
            for start in range(0, len(piece), TEXT_SLICE):
                text = piece[start : start + TEXT_SLICE]
                decoder.decode(text)
                # Over the decoded characters a regular expression takes twenty times as long.
                if text.translate(None, NO_CONTROLS):
                    raise wrong()
                # Most languages do without this byte, and to look for it takes a sixth of the search.
                if (last == b"\xc2" or b"\xc2" in text) and CONTROL_OF_TWO.search(last + text):
                    raise wrong()
                last = text[-1:]
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise wrong() from None
    return "text/plain"


def walk_pdf(file: Incoming) -> Walk[str]:
    """From the header to the end mark, which tells where the table of the file's objects is."""
    yield from file.expect(*PDF_START)
    size, tail = len(PDF_START), b""
    while piece := (yield from file.rest()):
        size += len(piece)
        tail = (tail + piece[-PDF_END_SIZE:])[-PDF_END_SIZE:]
    match = PDF_END.search(tail)
    if match is None or int(match[1]) >= size:
        raise wrong()
    return "application/pdf"


def walk_png(file: Incoming) -> Walk[str]:
    """The chunks: length, name, data, checksum."""
    yield from file.expect(*PNG_START)
    if not file.check_area(*struct.unpack(">II", (yield from file.take(8)))):
        raise wrong()
    yield from file.skip(5 + 4)
    has_data = False
    while True:
        length, name = struct.unpack(">I4s", (yield from file.take(8)))
        if name == b"IEND":
            break
        has_data = has_data or name == b"IDAT"
        yield from file.skip(length + 4)
    if length or not has_data:
        raise wrong()
    yield from file.skip(4)
    yield from file.end()
    return "image/png"


def walk_gif(file: Incoming) -> Walk[str]:
    """The images and extensions, each a chain of sub-blocks of at most 255 bytes."""
    yield from file.expect(*GIF_START)
    width, height, flags = struct.unpack("<HHB2x", (yield from file.take(7)))
    canvas = file.check_area(width, height)
    pixels = 0
    yield from _skip_colour_table(file, flags)
    while (kind := (yield from file.take(1))) != b";":
        if kind == b",":
            # A frame may be larger than the canvas that the head declares.
            width, height, flags = struct.unpack("<4xHHB", (yield from file.take(9)))
            pixels = max(pixels, canvas, file.check_area(width, height))
            yield from _skip_colour_table(file, flags)
        elif kind != b"!":
            raise wrong()
        yield from file.skip(1)
        while length := (yield from file.take(1))[0]:
            yield from file.skip(length)
    if not pixels:
        raise wrong()
    yield from file.end()
    return "image/gif"


def _skip_colour_table(file: Incoming, flags: int) -> Walk[None]:
    if flags & 0x80:
        yield from file.skip(3 << ((flags & 0x07) + 1))


def walk_jpeg(file: Incoming) -> Walk[str]:
    """The segments up to the first scan, then the end marker.

    Bytes after it are accepted, because phones append theirs (a short film, depths).
    """
    yield from file.expect(*JPEG_START)
    has_frame = False
    while True:
        yield from file.expect(b"\xff")
        marker, length = struct.unpack(">BH", (yield from file.take(3)))
        is_frame = marker in JPEG_FRAMES
        if length < (7 if is_frame else 2):
            raise wrong()
        if marker == JPEG_SCAN:
            break
        if is_frame:
            height, width = struct.unpack(">xHH", (yield from file.take(5)))
            if not file.check_area(width, height):
                raise wrong()
            has_frame = True
            length -= 5
        yield from file.skip(length - 2)
    if not has_frame:
        raise wrong()
    seen = b""
    while JPEG_END not in seen:
        seen = seen[-1:] + (yield from file.rest())
    while (yield from file.rest()):
        pass
    return "image/jpeg"


ACCEPTED: dict[str, Callable[[Incoming], Walk[str]]] = {
    ".txt": walk_text,
    ".pdf": walk_pdf,
    ".png": walk_png,
    ".gif": walk_gif,
    ".jpg": walk_jpeg,
    ".jpeg": walk_jpeg,
}
