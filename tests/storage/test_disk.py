import asyncio
import os
import signal
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import pytest

from app.errors import NotFound
from app.storage.disk import DiskStorage, open_storage


class Broken(BytesIO):
    """Fails after the first chunk."""

    def read(self, size: int | None = -1) -> bytes:
        if self.tell():
            raise OSError("the source is gone")
        return super().read(4)


@pytest.mark.parametrize(
    "file_id", ["", "..", "a" * 31, "a" * 33, "A" * 32, "g" * 32, f"{'a' * 32}\n", "/etc"]
)
@pytest.mark.anyio
async def test_an_id_of_another_form_is_no_path(tmp_path: Path, file_id: str) -> None:
    with pytest.raises(NotFound):
        DiskStorage(tmp_path).path(file_id)


@pytest.mark.anyio
async def test_a_copy_that_fails_leaves_nothing(tmp_path: Path) -> None:
    async with open_storage(tmp_path) as storage:
        with pytest.raises(OSError, match="the source is gone"):
            await storage.save(Broken(b"half of it"))
    assert os.listdir(tmp_path) == [".lock"]


@pytest.mark.anyio
async def test_a_file_is_saved_from_its_beginning_and_can_be_deleted(tmp_path: Path) -> None:
    source = BytesIO(b"whole")
    source.read()
    async with open_storage(tmp_path) as storage:
        saved = await storage.save(source)
        assert storage.path(saved.id).read_bytes() == b"whole"
        assert saved.size == 5
        await storage.delete(saved.id)
        await storage.delete(saved.id)
    assert os.listdir(tmp_path) == [".lock"]


@pytest.mark.anyio
async def test_opening_sweeps_leftovers_and_nothing_else(tmp_path: Path) -> None:
    for name in (f".{'a' * 32}.part", ".gitkeep", "b" * 32):
        (tmp_path / name).touch()
    async with open_storage(tmp_path):
        assert sorted(os.listdir(tmp_path)) == [".gitkeep", ".lock", "b" * 32]


@pytest.mark.anyio
async def test_a_second_process_does_not_sweep_what_the_first_is_writing(tmp_path: Path) -> None:
    async with open_storage(tmp_path):
        writing = tmp_path / f".{'a' * 32}.part"
        writing.touch()
        async with open_storage(tmp_path):
            assert writing.exists()
    async with open_storage(tmp_path):
        assert not writing.exists()


SAVE_WITHOUT_END = """
import asyncio, sys, threading
from io import BytesIO
from pathlib import Path
from app.storage.disk import open_storage

class Endless(BytesIO):
    first = True
    def read(self, size=-1):
        if self.first:
            self.first = False
            return b"x" * 1_000_000
        print("half", flush=True)
        threading.Event().wait(30)

async def main():
    async with open_storage(Path(sys.argv[1])) as storage:
        await storage.save(Endless())

asyncio.run(main())
"""


def test_a_killed_process_leaves_no_visible_file_and_the_next_start_sweeps(tmp_path: Path) -> None:
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, "-c", SAVE_WITHOUT_END, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout
        assert process.stdout.readline() == b"half\n"
        process.send_signal(signal.SIGKILL)
    lock, leftover = sorted(os.listdir(tmp_path), reverse=True, key=lambda name: name == ".lock")
    assert lock == ".lock"
    assert leftover.startswith(".")
    assert (tmp_path / leftover).stat().st_size > 0
    asyncio.run(open_and_close(tmp_path))
    assert os.listdir(tmp_path) == [".lock"]


async def open_and_close(folder: Path) -> None:
    async with open_storage(folder):
        pass
