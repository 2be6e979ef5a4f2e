import asyncio
import shutil
import zipfile
from collections.abc import AsyncGenerator
from io import BytesIO
from pathlib import Path, PurePath

import pytest

from app.storage import archive
from app.storage.archive import Entry, unused_name, zip_of

pytestmark = pytest.mark.anyio


def entry(name: str, *pieces: bytes) -> Entry:
    async def content() -> AsyncGenerator[bytes]:
        for piece in pieces:
            yield piece

    return Entry(name, sum(map(len, pieces)), content())


async def zipped(*entries: Entry) -> bytes:
    return b"".join([chunk async for chunk in zip_of(entries)])


@pytest.mark.parametrize("large", [archive.LARGE, 0])
async def test_others_can_read_it(large: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LARGE", large)
    content = await zipped(
        entry("Zürich 日本 🐟.txt", b"one", b"two"), entry("empty.txt"), entry("folder/a.bin", bytes(700_000))
    )
    with zipfile.ZipFile(BytesIO(content)) as read:
        assert read.testzip() is None
        assert read.read("Zürich 日本 🐟.txt") == b"onetwo"
        assert [info.file_size for info in read.infolist()] == [6, 0, 700_000]
        assert {info.extract_version for info in read.infolist()} == {
            zipfile.ZIP64_VERSION if large == 0 else 20
        }
    if unzip := shutil.which("unzip"):
        (tmp_path / "a.zip").write_bytes(content)
        process = await asyncio.create_subprocess_exec(unzip, "-tqq", tmp_path / "a.zip")
        assert await process.wait() == 0


async def test_an_empty_archive_is_one() -> None:
    assert zipfile.ZipFile(BytesIO(await zipped())).namelist() == []


async def test_each_piece_leaves_before_the_next_is_read() -> None:
    read = 0

    async def content() -> AsyncGenerator[bytes]:
        nonlocal read
        for _ in range(3):
            read += 1
            yield bytes(100_000)

    chunks = zip_of([Entry("a.bin", 300_000, content())])
    for count in (1, 2, 3):
        assert len(await anext(chunks)) > 90_000
        assert read == count
    await chunks.aclose()


async def test_leaving_ends_the_reading() -> None:
    ended = False

    async def content() -> AsyncGenerator[bytes]:
        nonlocal ended
        try:
            yield bytes(100_000)
            yield b""
        finally:
            ended = True

    chunks = zip_of([Entry("a.bin", 100_000, content())])
    await anext(chunks)
    await chunks.aclose()
    assert ended


def test_no_two_names_are_one_on_any_system() -> None:
    used: set[str] = set()
    given = [
        "a.txt",
        "a.txt",
        "A.TXT",
        "a (2).txt",
        "a",
        "a",
        ".txt",
        ".txt",
        "b/a.txt",
        "b/a.txt",
        "a.tar.gz",
    ]
    names = [unused_name(name, used) for name in given]
    assert names[:4] == ["a.txt", "a (2).txt", "A (3).TXT", "a (2) (2).txt"]
    assert names[4:8] == ["a", "a (2)", ".txt", ".txt (2)"]
    assert names[8:] == ["b/a.txt", "b/a (2).txt", "a.tar.gz"]


@pytest.mark.parametrize(
    ("stem", "suffix"),
    [("a" * 251, ".txt"), ("ü" * 125 + "a", ".txt"), ("a", "." + "x" * 253), ("b/" + "日" * 85, "")],
)
def test_a_name_with_a_number_is_no_longer_than_a_file_system_takes(stem: str, suffix: str) -> None:
    used: set[str] = set()
    first, *numbered = [unused_name(stem + suffix, used) for _ in range(12)]
    assert first == stem + suffix
    assert len({*numbered}) == 11
    for name in map(PurePath, numbered):
        assert 250 < len(name.name.encode()) <= 255
        assert name.parent == PurePath(first).parent
        assert name.suffix[:4] == suffix[:4]
