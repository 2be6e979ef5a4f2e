"""What a received file really is, whatever its name and its sender say.

The formats are walked from their first byte to their end marker, and nothing is decoded. A decoder does
more than is asked: Pillow's `open` inflates every colour profile of a PNG, and takes 18 seconds for one
of 8 MB that is made of them. Here memory is one chunk, and the number of steps has a limit.

The walk tells truncated files and other content under a borrowed signature. It cannot tell a file that is
valid in two formats at once; so `app/routers/files/downloads.py` serves all as if they were hostile.
"""

import codecs
import re
import struct
from collections.abc import Callable, Iterator
from os import SEEK_CUR, SEEK_END
from pathlib import PurePath
from tempfile import TemporaryFile
from typing import BinaryIO

from app.errors import UnsupportedMediaType

CHUNK_SIZE = 256 * 1024
MAX_BLOCKS = 100_000
"""Steps of one walk. A whole GIF of 10 MB has about 41 thousand blocks; more are made to waste time."""

NOT_TEXT = re.compile(r"[^\t\n\f\r -~\xa0-\U0010ffff]")
PDF_START = re.compile(rb"%PDF-[12]\.\d")
PDF_END = re.compile(rb"startxref\s+(\d{1,10})\s+%%EOF[\s\0]*\Z")
PDF_END_SIZE = 1024
PNG_START = b"\x89PNG\r\n\x1a\n"
GIF_STARTS = (b"GIF87a", b"GIF89a")
JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
JPEG_SCAN = 0xDA


def check_content(file: BinaryIO, filename: str, max_pixels: int) -> str:
    """The media type of `file`; raises `UnsupportedMediaType`. Reads the file: call it in a thread."""
    suffix = PurePath(filename).suffix.lower()
    file.seek(0)
    if suffix in DOCUMENTS:
        media_type, is_valid = DOCUMENTS[suffix]
        valid = is_valid(file)
    elif suffix in IMAGES:
        media_type, pixels_of = IMAGES[suffix]
        pixels = pixels_of(file)
        valid = pixels > 0
        if pixels > max_pixels:
            raise UnsupportedMediaType("The image has more pixels than are accepted.")
    else:
        raise UnsupportedMediaType(f"Accepted are {', '.join(sorted(DOCUMENTS | IMAGES))}.")
    if not valid:
        raise UnsupportedMediaType("The content is not what the extension of the name says, or not whole.")
    return media_type


class ContentCheck:
    """Is fed a file piece by piece. Both methods raise `UnsupportedMediaType`, as soon as they can tell."""

    def __init__(self, filename: str, max_pixels: int) -> None:
        self._filename = filename
        self._max_pixels = max_pixels
        self._file = TemporaryFile()

    def feed(self, piece: bytes) -> None:
        self._file.write(piece)

    def finish(self) -> str:
        """The media type."""
        with self._file:
            return check_content(self._file, self._filename, self._max_pixels)


def is_text(file: BinaryIO) -> bool:
    """UTF-8 without control characters."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        while chunk := file.read(CHUNK_SIZE):
            if NOT_TEXT.search(decoder.decode(chunk)):
                return False
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def is_pdf(file: BinaryIO) -> bool:
    """From the header to the end mark, which tells where the table of the file's objects is."""
    if not PDF_START.match(file.read(8)):
        return False
    end = file.seek(0, SEEK_END)
    file.seek(max(0, end - PDF_END_SIZE))
    match = PDF_END.search(file.read())
    return match is not None and int(match[1]) < end


def png_pixels(file: BinaryIO) -> int:
    """The pixels, or 0 for anything else. Walks the chunks: length, name, data, checksum."""
    if file.read(8) != PNG_START:
        return 0
    pixels = 0
    has_data = False
    for number in range(MAX_BLOCKS):
        head = file.read(8)
        if len(head) < 8:
            return 0
        length, name = struct.unpack(">I4s", head)
        if number == 0:
            data = file.read(13)
            if name != b"IHDR" or length != len(data):
                return 0
            pixels = _area(">II", data[:8])
            file.seek(4, SEEK_CUR)
        elif name == b"IEND":
            return pixels if has_data and length == 0 and len(file.read(5)) == 4 else 0
        else:
            has_data = has_data or name == b"IDAT"
            file.seek(length + 4, SEEK_CUR)
    return 0


def gif_pixels(file: BinaryIO) -> int:
    """Walks the images and extensions, each a chain of sub-blocks of at most 255 bytes."""
    head = file.read(13)
    if len(head) < 13 or not head.startswith(GIF_STARTS):
        return 0
    _skip_colour_table(file, head[10])
    pixels = 0
    steps = iter(range(MAX_BLOCKS))
    for _ in steps:
        match file.read(1):
            case b",":
                place = file.read(9)
                if len(place) < 9:
                    return 0
                # A frame may be larger than the canvas that the head declares.
                pixels = max(pixels, _area("<HH", head[6:10]), _area("<4xHH", place[:8]))
                _skip_colour_table(file, place[8])
                file.seek(1, SEEK_CUR)
            case b"!":
                file.seek(1, SEEK_CUR)
            case b";":
                return pixels if not file.read(1) else 0
            case _:
                return 0
        _skip_sub_blocks(file, steps)
    return 0


def jpeg_pixels(file: BinaryIO) -> int:
    """Walks the segments up to the first scan, then looks for the end marker.

    Bytes after it are accepted, because phones append theirs (a short film, depths).
    """
    if file.read(2) != JPEG_START:
        return 0
    pixels = 0
    for _ in range(MAX_BLOCKS):
        head = file.read(4)
        if len(head) < 4:
            return 0
        start, marker, length = struct.unpack(">BBH", head)
        if start != 0xFF or length < 2:
            return 0
        if marker == JPEG_SCAN:
            return pixels if _contains(file, JPEG_END) else 0
        segment = file.read(length - 2)
        if marker in JPEG_FRAMES:
            pixels = _area(">xHH", segment[:5])
    return 0


def _area(layout: str, data: bytes) -> int:
    if len(data) < struct.calcsize(layout):
        return 0
    width, height = struct.unpack(layout, data)
    return int(width * height)


def _skip_colour_table(file: BinaryIO, flags: int) -> None:
    if flags & 0x80:
        file.seek(3 << ((flags & 0x07) + 1), SEEK_CUR)


def _skip_sub_blocks(file: BinaryIO, steps: Iterator[int]) -> None:
    for _ in steps:
        length = file.read(1)
        if length in (b"", b"\0"):
            return
        file.seek(length[0], SEEK_CUR)


def _contains(file: BinaryIO, marker: bytes) -> bool:
    before = b""
    while chunk := file.read(CHUNK_SIZE):
        if marker in before + chunk:
            return True
        before = chunk[-1:]
    return False


DOCUMENTS: dict[str, tuple[str, Callable[[BinaryIO], bool]]] = {
    ".txt": ("text/plain", is_text),
    ".pdf": ("application/pdf", is_pdf),
}
IMAGES: dict[str, tuple[str, Callable[[BinaryIO], int]]] = {
    ".png": ("image/png", png_pixels),
    ".gif": ("image/gif", gif_pixels),
    ".jpg": ("image/jpeg", jpeg_pixels),
    ".jpeg": ("image/jpeg", jpeg_pixels),
}
