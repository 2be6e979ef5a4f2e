import struct
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterable, Iterator
from io import BytesIO

import pytest
from PIL import Image

from app.errors import UnsupportedMediaType
from app.storage.content import TEXT_SLICE, ContentCheck
from app.storage.incoming import MAX_STEPS, STEPS_AT_ONCE
from tests.samples import FILES, PNG_START, TEXT, image, pdf, png, png_chunk

PIXELS = 50_000_000
HTML = b"<!doctype html><script>alert(1)</script>"
GIF_HEAD = b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0)
GIF_FRAME = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\0"
JPEG_FRAME = b"\xff\xc0" + struct.pack(">HBHH", 17, 8, 1, 1) + bytes(10)
JPEG_SCAN = b"\xff\xda\0\x04\0\0"


GIF_IN_SMALL_BLOCKS = GIF_HEAD + GIF_FRAME[:-4] + b"\1a" * 90_000 + b"\0;"
PIECE = 512 * 1024


def media_type_of(name: str, pieces: Iterable[bytes]) -> str:
    check = ContentCheck(name, PIXELS)
    for piece in pieces:
        check.feed(piece)
    return check.finish()


def byte_by_byte(content: bytes) -> Iterator[bytes]:
    return (content[at : at + 1] for at in range(len(content)))


def refused_after(name: str, content: bytes) -> int:
    """How many bytes it takes."""
    check = ContentCheck(name, PIXELS)
    for count, byte in enumerate(byte_by_byte(content), 1):
        try:
            check.feed(byte)
        except UnsupportedMediaType:
            return count
    raise AssertionError("only the end is refused, or nothing")


@pytest.mark.parametrize("name", FILES)
def test_whole_files_are_what_they_are_however_they_are_cut(name: str) -> None:
    content, media_type = FILES[name]
    assert media_type_of(name, [content]) == media_type
    assert media_type_of(name, [b"", *byte_by_byte(content), b""]) == media_type
    for cut in range(len(content)):
        assert media_type_of(name, [content[:cut], content[cut:]]) == media_type


@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith(".txt")])
def test_no_beginning_of_a_file_passes_for_the_whole(name: str) -> None:
    content, _ = FILES[name]
    for length in range(len(content.rstrip())):
        check = ContentCheck(name, PIXELS)
        check.feed(content[:length])
        with pytest.raises(UnsupportedMediaType):
            check.finish()


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P"])
@pytest.mark.parametrize("kind", ["PNG", "GIF", "JPEG"])
def test_what_pillow_writes_is_accepted(kind: str, mode: str) -> None:
    file = BytesIO()
    picture = Image.effect_noise((60, 40), 50).convert(mode)
    if kind == "JPEG":
        picture.convert("RGB").save(file, kind, progressive=mode == "P", exif=Image.Exif(), comment=b"c")
    else:
        picture.save(file, kind, save_all=True, append_images=[picture.rotate(90)])
    pixels = 60 * 40
    for most in (pixels, pixels - 1):
        check = ContentCheck(f"a.{kind}", most)
        if most < pixels:
            with pytest.raises(UnsupportedMediaType, match="pixels"):
                check.feed(file.getvalue())
        else:
            check.feed(file.getvalue())
            assert check.finish() == f"image/{kind.lower()}"


HOSTILE = [
    ("a.png", b""),
    ("a.png", HTML),
    ("a.png", PNG_START + HTML),
    ("a.png", png() + b"PK\x03\x04"),
    ("a.png", PNG_START + png_chunk(b"IEND", b"")),
    ("a.png", png().replace(b"IDAT", b"teXt")),
    ("a.png", png()[:-12] + b"\0\0\0\1IEND" + bytes(4)),
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
    (
        "a.jpg",
        b"\xff\xd8" + JPEG_FRAME.replace(b"\0\1\0\1", b"\xff" * 4) + JPEG_FRAME + JPEG_SCAN + b"\xff\xd9",
    ),
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
]


@pytest.mark.parametrize(("name", "content"), HOSTILE)
def test_other_content_is_refused_however_it_is_cut(name: str, content: bytes) -> None:
    with pytest.raises(UnsupportedMediaType):
        media_type_of(name, [content])
    with pytest.raises(UnsupportedMediaType):
        media_type_of(name, byte_by_byte(content))


@pytest.mark.parametrize("name", ["a.html", "a.php.png.exe", "txt", ".txt", "", "a.txt ", "a.txt/.."])
def test_a_name_is_refused_before_the_first_byte(name: str) -> None:
    with pytest.raises(
        UnsupportedMediaType, match=r"Accepted are \.gif, \.jpeg, \.jpg, \.pdf, \.png, \.txt\."
    ):
        ContentCheck(name, PIXELS)


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("a.png", b"", b"<"),
        ("a.png", PNG_START, b"<"),
        ("a.png", PNG_START + b"\0\0\0\rIHDR" + bytes(4 + 3), b"\0"),
        ("a.png", PNG_START + b"\0\0\0\rIHDR\0\0\xff\xff\0\0\xff", b"\xff"),
        ("a.png", png()[:33] + b"\0\0\0\0IEN", b"D"),
        ("a.png", png(), b"P"),
        ("a.gif", b"GIF8", b"8"),
        ("a.gif", b"GIF89a\xff\xff\xff\xff\0\0", b"\0"),
        ("a.gif", GIF_HEAD, b"<"),
        ("a.gif", GIF_HEAD, b";"),
        ("a.gif", GIF_HEAD + b",\0\0\0\0\xff\xff\xff\xff", b"\0"),
        ("a.gif", GIF_HEAD + GIF_FRAME, b"<"),
        ("a.gif", GIF_HEAD + GIF_FRAME + b";", b"<"),
        ("a.jpg", b"\xff", b"<"),
        ("a.jpg", b"\xff\xd8", b"<"),
        ("a.jpg", b"\xff\xd8\xff\xe0\0", b"\1"),
        ("a.jpg", b"\xff\xd8\xff\xe0\0\2", b"<"),
        ("a.jpg", b"\xff\xd8\xff\xc0\0", b"\6"),
        ("a.jpg", b"\xff\xd8\xff\xc0\0\x11\x08\xff\xff\xff", b"\xff"),
        ("a.jpg", b"\xff\xd8" + JPEG_SCAN[:3], b"\x04"),
        ("a.pdf", b"%PDF-", b"3"),
        ("a.pdf", b"%PDF-1.", b"\n"),
        ("a.txt", TEXT, b"\0"),
        ("a.txt", TEXT, b"\x7f"),
        ("a.txt", "é".encode()[:1], b"a"),
        ("a.txt", b"\xc2", b"\x80"),
        ("a.txt", b"\xc2", b"\x9f"),
        ("a.txt", TEXT, b"\xff"),
        # A surrogate: the decoder of Python waits for its last byte.
        ("a.txt", b"\xed\xa0", b"\x80"),
    ],
)
def test_the_first_wrong_byte_is_refused(name: str, good: bytes, bad: bytes) -> None:
    assert refused_after(name, good + bad) == len(good) + 1
    with pytest.raises(UnsupportedMediaType):
        media_type_of(name, [good + bad + bytes(1_000)])


def test_each_control_character_is_refused_and_no_other_one() -> None:
    for code in [*range(0x200), 0x2028, 0xD7FF, 0xE000, 0xFEFF, 0xFFFF, 0x10000, 0x10FFFF]:
        character = chr(code)
        refused = code < 0xA0 and character not in "\t\n\f\r" and not " " <= character <= "~"
        text = f"a{character}b".encode()
        for pieces in ([text], byte_by_byte(text)):
            if refused:
                with pytest.raises(UnsupportedMediaType):
                    media_type_of("a.txt", pieces)
            else:
                assert media_type_of("a.txt", pieces) == "text/plain"


@pytest.mark.parametrize("character", ["é", "日", "🙂"])
def test_a_character_may_be_cut_anywhere(character: str) -> None:
    for start in range(TEXT_SLICE - 4, TEXT_SLICE + 1):
        assert media_type_of("a.txt", [b"a" * start + character.encode()]) == "text/plain"
    with pytest.raises(UnsupportedMediaType):
        media_type_of("a.txt", [b"a" * (TEXT_SLICE - 1) + b"\xc2\x85"])


def test_text_may_be_empty_and_of_every_language() -> None:
    for content in (b"", "日本\n🙂\t\r\n".encode() * 100_000, b"\xef\xbb\xbfBOM"):
        assert media_type_of("a.txt", [content]) == "text/plain"


@pytest.mark.parametrize(("canvas", "frame"), [(b"\1\0\1\0", bytes(4)), (bytes(4), b"\1\0\1\0")])
def test_a_gif_is_as_large_as_its_canvas_or_a_frame(canvas: bytes, frame: bytes) -> None:
    head, image = GIF_HEAD.replace(b"\1\0\1\0", canvas), GIF_FRAME.replace(b"\1\0\1\0", frame)
    assert media_type_of("a.gif", [head + image + b";"]) == "image/gif"


def test_what_phones_append_to_a_photo_is_accepted() -> None:
    assert media_type_of("a.jpg", [image("JPEG"), b"a short ", b"film"]) == "image/jpeg"


def test_what_was_refused_stays_refused() -> None:
    check = ContentCheck("a.png", PIXELS)
    with pytest.raises(UnsupportedMediaType):
        check.feed(HTML)
    with pytest.raises(UnsupportedMediaType):
        check.finish()


def test_a_long_file_may_take_more_steps_as_long_as_they_are_large() -> None:
    blocks = b"\xff" + b"a" * 255
    check = ContentCheck("a.gif", PIXELS)
    check.feed(GIF_HEAD + GIF_FRAME[:-4])
    for _ in range(110):
        check.feed(blocks * 1_000)
    check.feed(b"\0;")
    assert check.finish() == "image/gif"
    check = ContentCheck("a.gif", PIXELS)
    check.feed(GIF_HEAD + GIF_FRAME[:-4])
    for _ in range(10):
        check.feed(blocks * 1_000)
    with pytest.raises(UnsupportedMediaType):
        check.feed(b"\1a" * MAX_STEPS)


def test_trap_a_decoder_works_as_long_as_the_sender_likes() -> None:
    profile = png_chunk(b"iCCP", b"p\0\0" + zlib.compress(b"a" * (2**20 - 10)))
    content = png(*[profile] * 100)

    def seconds(check: Callable[[], object]) -> float:
        started = time.perf_counter()
        check()
        return time.perf_counter() - started

    def verify() -> None:
        with Image.open(BytesIO(content), formats=["PNG"]) as picture:
            picture.verify()

    assert seconds(verify) > 5 * seconds(lambda: media_type_of("a.png", [content]))


@pytest.mark.parametrize(
    ("name", "start", "piece"),
    [
        ("a.txt", b"", "🙂".encode() * (PIECE // 4)),
        ("a.pdf", b"%PDF-1.4", bytes(PIECE)),
        ("a.png", png()[:33] + b"\x7f\xff\xff\xffIDAT", bytes(PIECE)),
        ("a.jpg", b"\xff\xd8" + JPEG_FRAME + JPEG_SCAN, bytes(PIECE)),
        ("a.gif", GIF_HEAD + GIF_FRAME[:-4], (b"\xff" + b"a" * 255) * (PIECE // 256)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_memory_stays_flat(name: str, start: bytes, piece: bytes) -> None:
    check = ContentCheck(name, PIXELS)
    check.feed(start)
    tracemalloc.start()
    try:
        for _ in range(4):
            check.feed(piece)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept <= 2 * len(piece)


def test_many_small_steps_give_way_to_other_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    media_type_of("a.gif", [GIF_IN_SMALL_BLOCKS])
    assert len(pauses) == 90_000 // STEPS_AT_ONCE
