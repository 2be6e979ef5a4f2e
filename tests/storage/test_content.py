import struct
import time
import zlib
from collections.abc import Callable
from io import BytesIO

import pytest
from PIL import Image

from app.errors import UnsupportedMediaType
from app.storage.content import CHUNK_SIZE, check_content, gif_pixels, jpeg_pixels, png_pixels
from tests.samples import FILES, PNG_START, TEXT, image, pdf, png, png_chunk

PIXELS = 50_000_000
HTML = b"<!doctype html><script>alert(1)</script>"
GIF_HEAD = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0)
GIF_FRAME = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
JPEG_FRAME = b"\xff\xc0" + struct.pack(">HBHH", 17, 8, 1, 1) + bytes(10)
JPEG_SCAN = b"\xff\xda\0\x04\0\0"


@pytest.mark.parametrize("name", FILES)
def test_whole_files_are_what_they_are(name: str) -> None:
    content, media_type = FILES[name]
    assert check_content(BytesIO(content), name, PIXELS) == media_type


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith(".txt")])
def test_no_beginning_of_a_file_passes_for_the_whole(name: str) -> None:
    content, _ = FILES[name]
    for length in range(len(content.rstrip())):
        with pytest.raises(UnsupportedMediaType):
            check_content(BytesIO(content[:length]), name, PIXELS)


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P"])
@pytest.mark.parametrize("kind", ["PNG", "GIF", "JPEG"])
def test_what_pillow_writes_is_accepted(kind: str, mode: str) -> None:
    file = BytesIO()
    picture = Image.effect_noise((60, 40), 50).convert(mode)
    if kind == "JPEG":
        picture.convert("RGB").save(file, kind, progressive=mode == "P", exif=Image.Exif(), comment=b"c")
    else:
        picture.save(file, kind, save_all=True, append_images=[picture.rotate(90)])
    file.seek(0)
    assert {"PNG": png_pixels, "GIF": gif_pixels, "JPEG": jpeg_pixels}[kind](file) == 2_400


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", b""),
        ("a.png", HTML),
        ("a.png", PNG_START + HTML),
        ("a.png", png() + b"PK\x03\x04"),
        ("a.png", PNG_START + png_chunk(b"IEND", b"")),
        ("a.png", png().replace(b"IDAT", b"teXt")),
        ("a.png", png(width=0)),
        ("a.png", png(width=100_000, height=100_000)),
        ("a.png", png(*[png_chunk(b"teXt", b"")] * 100_000)),
        ("a.gif", b"GIF89a/*" + HTML),
        ("a.gif", b"GIF89a=1;alert(1)"),
        ("a.gif", GIF_HEAD + b";"),
        ("a.gif", GIF_HEAD + GIF_FRAME + b";" + HTML),
        ("a.gif", GIF_HEAD + GIF_FRAME.replace(b"\1\0\1\0", b"\xff\xff\xff\xff") + b";"),
        ("a.gif", GIF_HEAD + b"!\xfe" + b"\1a" * 200_000 + b"\0" + GIF_FRAME + b";"),
        ("a.jpg", b"\xff\xd8\xff\xe0<?php system($_GET[0]); ?>"),
        ("a.jpg", b"\xff\xd8" + JPEG_SCAN + b"\xff\xd9"),
        ("a.jpg", b"\xff\xd8" + JPEG_FRAME + JPEG_SCAN + b"no end"),
        ("a.jpg", b"\xff\xd8" + b"\xff\xe1\0\2" * 200_000),
        ("a.jpg", b"\xff\xd8\xff\xe1\0\0"),
        ("a.pdf", b""),
        ("a.pdf", b"%PDF-1.4"),
        ("a.pdf", HTML + pdf()),
        ("a.pdf", pdf() + HTML),
        ("a.pdf", b"%PDF-1.4\nstartxref\n999999\n%%EOF\n"),
        ("a.pdf", b"%PDF-1.4\nstartxref\n" + b"9" * 900 + b"\n%%EOF\n"),
        ("a.txt", b"a\0b"),
        ("a.txt", b"\x1b[2J"),
        ("a.txt", b"\xff\xfe"),
        ("a.txt", "é".encode()[:1]),
        ("a.html", HTML),
        ("a.php.png.exe", TEXT),
        ("txt", TEXT),
        (".txt", TEXT),
        ("", TEXT),
    ],
)
def test_other_content_is_refused(name: str, content: bytes) -> None:
    with pytest.raises(UnsupportedMediaType):
        check_content(BytesIO(content), name, PIXELS)


def test_text_may_be_empty_and_of_every_language() -> None:
    for content in (b"", "日本\n🙂\t\r\n".encode() * 100_000, b"\xef\xbb\xbfBOM"):
        assert check_content(BytesIO(content), "a.txt", PIXELS) == "text/plain"


def test_what_phones_append_to_a_photo_is_accepted() -> None:
    assert check_content(BytesIO(image("JPEG") + b"a short film"), "a.jpg", PIXELS) == "image/jpeg"


def test_an_end_mark_across_two_chunks_is_found() -> None:
    head = b"\xff\xd8" + JPEG_FRAME + JPEG_SCAN[:4]
    assert jpeg_pixels(BytesIO(head + bytes(CHUNK_SIZE - 1) + b"\xff\xd9")) == 1


def test_trap_a_decoder_works_as_long_as_the_sender_likes() -> None:
    profile = png_chunk(b"iCCP", b"p\0\0" + zlib.compress(b"a" * (2**20 - 10)))
    content = png(*[profile] * 100)

    def seconds(check: Callable[[BytesIO], object]) -> float:
        started = time.perf_counter()
        check(BytesIO(content))
        return time.perf_counter() - started

    def verify(file: BytesIO) -> None:
        with Image.open(file, formats=["PNG"]) as picture:
            picture.verify()

    assert seconds(verify) > 5 * seconds(png_pixels)
