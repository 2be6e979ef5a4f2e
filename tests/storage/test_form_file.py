"""The one file of a form: however the form is cut into chunks, and whatever stands around the file."""

import random
import tracemalloc
from collections.abc import AsyncIterator, Iterable
from time import thread_time

import pytest
from fastapi.exceptions import RequestValidationError

from app.errors import AppError, BadRequest
from app.storage import form_file
from app.storage.form_file import MAX_HEAD, open_form_file

pytestmark = pytest.mark.anyio

BOUNDARY = "--boundary"
TYPE = f"multipart/form-data; boundary={BOUNDARY}"
START = f"--{BOUNDARY}\r\n".encode()
DISPOSITION = b'Content-Disposition: form-data; name="file"; filename="a.txt"\r\n'
PART = START + DISPOSITION + b"Content-Type: text/plain\r\n\r\n"
END = f"\r\n--{BOUNDARY}--\r\n".encode()
LOOK_ALIKES = [
    b"",
    b"\r",
    b"\r\n",
    b"\r\n\r\n",
    b"\r\r\r\n--",
    b"--" + BOUNDARY.encode(),
    b"\n--" + BOUNDARY.encode() + b"--\r\n",
    b"\r--" + BOUNDARY.encode() + b"--\r\n",
    END[:-5],
    END[:-5] + b"\r\n",
    END[:-5] + b"\r",
    END[:4] * 50,
    END[:-5] + END[:-6] + b"X",
    b"a" * 5_000 + b"\r\n" + b"b" * 5_000,
    bytes(range(256)) * 4,
]
"""Files that begin like the end of the form, or end like its beginning."""


async def stream(chunks: Iterable[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


async def read(chunks: Iterable[bytes], content_type: str = TYPE) -> tuple[str, bytes]:
    file = await open_form_file(content_type, stream(chunks))
    return file.filename, b"".join([chunk async for chunk in file.chunks])


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


@pytest.mark.parametrize("content", LOOK_ALIKES)
async def test_a_file_is_the_same_in_chunks_of_any_size(content: bytes) -> None:
    form = PART + content + END
    for size in (1, 2, 3, 5, 7, len(END), 1_000, len(form)):
        assert await read(pieces(form, size)) == ("a.txt", content)


async def test_random_chunks_make_the_same_file() -> None:
    chosen = random.Random(5)  # noqa: S311 - the same chunks in each run
    for _ in range(300):
        content = b"".join(chosen.choices([b"\r", b"\n", b"-", END[:-5], END[2:-5], b"a"], k=20))
        content = content.replace(END[:-4], b"")
        form = PART + content + END
        cuts = sorted(chosen.choices(range(len(form)), k=chosen.randrange(12)))
        chunks = [form[a:b] for a, b in zip([0, *cuts], [*cuts, len(form)], strict=True)]
        assert await read(chunks) == ("a.txt", content)


async def test_the_line_of_the_last_boundary_need_not_end() -> None:
    for size in (1, 100):
        assert await read(pieces(PART + b"x" + END[:-2], size)) == ("a.txt", b"x")


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        (b'form-data; name="file"; filename="a.txt"', "a.txt"),
        (b"FORM-DATA;filename=a.txt;name=file", "a.txt"),
        (b'form-data; name="file"; filename="a;b=\\"c\\".txt"', 'a;b="c".txt'),
        ('form-data; name="file"; filename="ü.txt"'.encode(), "ü.txt"),
        (b'form-data; name="file"; filename="\xff.txt"', "\ufffd.txt"),
        (b'form-data; name="file"; filename="a.txt"; filename*=UTF-8\'\'b.exe', "a.txt"),
    ],
)
async def test_the_name_is_that_of_the_disposition(disposition: bytes, name: str) -> None:
    form = START + b"X-Other: 1\r\ncontent-disposition:" + disposition + b"\r\n\r\n" + END
    assert await read([form]) == (name, b"")


@pytest.mark.parametrize(
    "boundary",
    ["----WebKitFormBoundaryABC", '"a b"', "x" * 70, '"' + "'()+_,-./:=?" + '"', "0"],
)
async def test_a_boundary_is_what_rfc_2046_allows(boundary: str) -> None:
    form = (PART + b"x" + END).replace(BOUNDARY.encode(), boundary.strip('"').encode())
    assert await read(pieces(form, 3), f"Multipart/Form-Data; boundary={boundary}") == ("a.txt", b"x")


async def test_a_content_type_that_is_too_long_is_never_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    def parse(_: object) -> None:
        raise AssertionError

    monkeypatch.setattr(form_file, "parse_options_header", parse)
    with pytest.raises(BadRequest):
        await read([PART + END], TYPE + ";" * MAX_HEAD)


WHOLE = PART + b"x" + END
BROKEN = {
    "preamble": b"hello\r\n" + WHOLE,
    "empty line first": b"\r\n" + WHOLE,
    "boundary with a tail": WHOLE.replace(START, START[:-2] + b" \r\n"),
    "boundary without CR": WHOLE.replace(START, START[:-2] + b"\n"),
    "no part": END[2:],
    "no header": START + b"\r\nx" + END,
    "no disposition": START + b"X: x\r\n\r\nx" + END,
    "attachment": WHOLE.replace(b"form-data", b"attachment"),
    "no field": WHOLE.replace(b' name="file";', b""),
    "field with a star": WHOLE.replace(b' name="file";', b" name*=UTF-8''file;"),
    "text": WHOLE.replace(b' filename="a.txt"', b""),
    "name with a star": WHOLE.replace(b' filename="a.txt"', b" filename*=UTF-8''a.txt"),
    "two dispositions": START + DISPOSITION * 2 + b"\r\nx" + END,
    "folded header": START + DISPOSITION + b" and more\r\n\r\nx" + END,
    "header without colon": START + DISPOSITION + b"X\r\n\r\nx" + END,
    "header without name": START + DISPOSITION + b": x\r\n\r\nx" + END,
    "header with a space": START + DISPOSITION + b"X : x\r\n\r\nx" + END,
    "CR in a header": START + DISPOSITION + b"X: a\rb\r\n\r\nx" + END,
    "long header": START + DISPOSITION + b"X: " + b"x" * MAX_HEAD + b"\r\n\r\nx" + END,
    "many headers": START + DISPOSITION + b"X: x\r\n" * MAX_HEAD + b"\r\nx" + END,
    "headers without end": START + DISPOSITION,
    "second file": PART + b"x\r\n" + WHOLE,
    "text after it": PART + b"x\r\n" + START + b'Content-Disposition: form-data; name="note"\r\n\r\nx' + END,
    "epilogue": WHOLE + b"x",
    "empty line after it": WHOLE + b"\r\n",
    "line that begins like the boundary": PART + b"x" + END[:-4] + b"X" + END,
    "no last boundary": PART + b"x",
    "last boundary without end": PART + b"x" + END[:-4],
    "last boundary with one dash": PART + b"x" + END[:-3],
    "last boundary with CR": PART + b"x" + END[:-1],
}


@pytest.mark.parametrize("form", BROKEN.values(), ids=BROKEN)
async def test_a_broken_form_is_400(form: bytes) -> None:
    details = set()
    for size in (1, 3, len(form)):
        with pytest.raises(AppError) as raised:
            await read(pieces(form, size))
        details.add((raised.value.status, raised.value.detail))
    assert len(details) == 1
    assert details.pop()[0] == 400


@pytest.mark.parametrize(
    "content_type",
    [
        *("multipart/form-data", "multipart/form-data; boundary=", 'multipart/form-data; boundary="a "'),
        *("multipart/form-data; boundary=" + "b" * 71, "multipart/form-data; boundary=ü"),
        *('multipart/form-data; boundary="a\r"', "multipart/form-data; boundary*=UTF-8''b"),
    ],
)
async def test_no_boundary_is_400_before_anything_is_read(content_type: str) -> None:
    body = stream([WHOLE])
    with pytest.raises(AppError) as raised:
        await open_form_file(content_type, body)
    assert await anext(body) == WHOLE
    assert raised.value.status == 400


@pytest.mark.parametrize(
    ("form", "content_type"),
    [
        (b"", TYPE),
        (WHOLE, ""),
        (WHOLE, "application/json"),
        (WHOLE, f"multipart/mixed; boundary={BOUNDARY}"),
        (b"file=a.txt", "application/x-www-form-urlencoded"),
        (WHOLE.replace(b'name="file"', b'name="other"'), TYPE),
        (WHOLE.replace(b"a.txt", b""), TYPE),
    ],
)
async def test_no_file_is_the_422_of_a_missing_field(form: bytes, content_type: str) -> None:
    with pytest.raises(RequestValidationError) as raised:
        await read([form], content_type)
    assert [error["loc"] for error in raised.value.errors()] == [("body", "file")]


async def test_a_file_in_an_encoding_is_415() -> None:
    for coding, status in ((b"base64", 415), (b"BINARY", None)):
        form = START + DISPOSITION + b"Content-Transfer-Encoding: " + coding + b"\r\n\r\neA==" + END
        if status is None:
            assert await read([form]) == ("a.txt", b"eA==")
        else:
            with pytest.raises(AppError) as raised:
                await read([form])
            assert raised.value.status == status


async def test_nothing_is_asked_for_after_the_byte_that_breaks_a_rule() -> None:
    for form, last in (
        (b"\r", b"\r"),
        (START + b"\r\n", b"\n"),
        (PART + b"x" + END[:-4] + b"\r", b"\r"),
        (WHOLE + b"x", b"x"),
        (START + b"X" * MAX_HEAD, b"X"),
    ):
        asked: list[bytes] = []

        async def body(form: bytes = form, asked: list[bytes] = asked) -> AsyncIterator[bytes]:
            for byte in pieces(form, 1):
                asked.append(byte)
                yield byte
            raise AssertionError("it asked for more")

        with pytest.raises(AppError):
            file = await open_form_file(TYPE, body())
            async for _ in file.chunks:
                pass
        assert asked[-1] == last


async def test_a_chunk_without_a_beginning_of_the_boundary_is_not_copied() -> None:
    for chunk in (b"x" * 1_000, b"x" * 1_000 + b"\rx"):
        file = await open_form_file(TYPE, stream([PART, chunk, END]))
        assert await anext(file.chunks) is chunk


async def longest_step(chunk: bytes, count: int) -> float:
    file = await open_form_file(TYPE, stream([PART, *[chunk] * count, END]))
    longest, before = 0.0, thread_time()
    async for _ in file.chunks:
        longest, before = max(longest, thread_time() - before), thread_time()
    return longest


async def test_no_content_makes_a_step_long_and_memory_is_a_chunk() -> None:
    lines = END[:-5] + b"X"  # each as near to the delimiter as it may be
    tracemalloc.start()
    try:
        for line in (b"\r", b"\r\n--", lines, b"x"):
            chunk = (line * (2**18 // len(line) + 1))[: 2**18]
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            assert await longest_step(chunk, 40) < 0.02
            assert tracemalloc.get_traced_memory()[1] - before < 4 * 2**18
    finally:
        tracemalloc.stop()
