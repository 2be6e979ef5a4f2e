"""Small whole files of every accepted kind, and the pieces to build broken ones from."""

import struct
import zlib
from io import BytesIO

from PIL import Image

PNG_START = b"\x89PNG\r\n\x1a\n"


def image(kind: str, width: int = 4, height: int = 3) -> bytes:
    """An image by Pillow: an encoder that knows nothing of our checks."""
    file = BytesIO()
    Image.effect_noise((width, height), 50).convert("RGB").save(file, kind)
    return file.getvalue()


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(*chunks: bytes, width: int = 1, height: int = 1) -> bytes:
    """A PNG with `chunks` before its data."""
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    data = png_chunk(b"IDAT", zlib.compress(b"\0\0"))
    return PNG_START + head + b"".join(chunks) + data + png_chunk(b"IEND", b"")


def pdf() -> bytes:
    """The least that a reader opens: a catalogue, no page."""
    body = (
        b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\n"
    )
    table = b"xref\n0 3\n0000000000 65535 f \n0000000009 00000 n \n0000000056 00000 n \n"
    return body + table + b"trailer<</Size 3/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % len(body)


TEXT = "Zwölf Boxkämpfer jagen Viktor\n".encode()
FILES = {
    "note.txt": (TEXT, "text/plain"),
    "paper.pdf": (pdf(), "application/pdf"),
    "figure.png": (image("PNG"), "image/png"),
    "photo.jpg": (image("JPEG"), "image/jpeg"),
    "photo.JPEG": (image("JPEG"), "image/jpeg"),
    "moving.gif": (image("GIF"), "image/gif"),
}
"""Name: content and media type."""
