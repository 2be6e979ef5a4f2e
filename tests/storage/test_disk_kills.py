"""A process that is killed before any line, of every fifth, that its threads run for a storage."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from app.errors import NotFound
from app.storage.disk import open_disk
from app.storage.pieces import PIECE_SIZE
from tests.contract.storages import ID, Seen, chunks, content_of

ROOT = Path(__file__).parent.parent.parent
CONTENT = bytes(range(256)) * (PIECE_SIZE // 256) + b"a second piece"
HALF = len(CONTENT) // 2
STEP = 5

KILL_BEFORE_EACH_LINE = """
import asyncio, itertools, os, signal, sys, threading
from pathlib import Path
from app.storage.disk import open_disk
from tests.contract.storages import ID, Seen, chunks
from tests.storage.test_disk_kills import CONTENT, HALF, STEP

async def save(storage):
    await storage.save(ID, chunks(CONTENT), Seen())

async def append_and_publish(storage):
    await storage.append(ID, 0, chunks(CONTENT[:HALF]))
    await storage.append(ID, HALF, chunks(CONTENT[HALF:]))
    await storage.publish(ID, Seen())

async def run(folder):
    async with open_disk(folder) as storage:
        await globals()[sys.argv[2]](storage)

def killer(line):
    lines = itertools.count(1)
    def trace(frame, event, arg):
        if "/app/storage/disk" not in frame.f_code.co_filename:
            return None
        if event == "line" and next(lines) == line:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace
    return trace

for line in itertools.count(1, STEP):
    child = os.fork()
    if not child:
        threading.settrace(killer(line))
        asyncio.run(run(Path(sys.argv[1]) / str(line)))
        os._exit(0)
    if os.waitpid(child, 0)[1] == 0:
        print(line)
        break
"""


def killed_before_each_line(folder: Path, call: str) -> list[Path]:
    """The folders that these processes left."""
    command = [sys.executable, "-c", KILL_BEFORE_EACH_LINE, str(folder), call]
    lines = int(subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60).stdout)
    assert lines > 30
    return [folder / str(line) for line in range(1, lines, STEP)]


def names(folder: Path) -> set[str]:
    return set(os.listdir(folder)) - {".lock"}


async def check_that_it_is_whole_or_hidden(folder: Path) -> None:
    async with open_disk(folder) as storage:
        assert storage.left_before
        assert names(folder) <= {ID, f".{ID}.part"}
        if ID in names(folder):
            assert await content_of(storage) == CONTENT
        else:
            with pytest.raises(NotFound):
                await content_of(storage)
        await storage.delete(ID)
        assert not names(folder)


async def check_that_it_goes_on(folder: Path) -> None:
    async with open_disk(folder) as storage:
        offset = await storage.offset(ID)
        if offset < len(CONTENT):
            assert await storage.append(ID, offset, chunks(CONTENT[offset:])) == len(CONTENT)
        await storage.publish(ID, Seen())
        assert await content_of(storage) == CONTENT
        assert names(folder) == {ID}


def test_an_upload_that_is_killed_at_any_line_is_whole_or_hidden(tmp_path: Path) -> None:
    for folder in killed_before_each_line(tmp_path, "save"):
        if folder.exists():
            asyncio.run(check_that_it_is_whole_or_hidden(folder))


def test_what_is_appended_and_killed_at_any_line_goes_on(tmp_path: Path) -> None:
    for folder in killed_before_each_line(tmp_path, "append_and_publish"):
        asyncio.run(check_that_it_goes_on(folder))
