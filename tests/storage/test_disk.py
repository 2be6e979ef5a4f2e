import asyncio
import os
import signal
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path

import pytest

from app.errors import NotFound
from app.storage.disk import DOUBT_SECONDS, DiskStorage, open_storage


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
        await storage.confirm(saved.id)
        assert sorted(os.listdir(tmp_path)) == [".lock", saved.id]
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


@pytest.mark.parametrize("is_wanted", [True, False])
@pytest.mark.anyio
async def test_a_file_that_was_not_confirmed_is_in_doubt_after_an_hour_until_somebody_decides(
    tmp_path: Path, is_wanted: bool
) -> None:
    async with open_storage(tmp_path) as storage:
        confirmed, unconfirmed = [await storage.save(BytesIO(b"whole")) for _ in range(2)]
        await storage.confirm(confirmed.id)
    assert await in_doubt(tmp_path) == []
    for name in os.listdir(tmp_path):
        os.utime(tmp_path / name, (0, time.time() - DOUBT_SECONDS - 1))
    async with open_storage(tmp_path) as storage:
        assert storage.in_doubt == [unconfirmed.id]
        assert await in_doubt(tmp_path) == []  # of a second process
    async with open_storage(tmp_path) as storage:
        assert storage.in_doubt == [unconfirmed.id]
        await (storage.confirm if is_wanted else storage.delete)(unconfirmed.id)
    assert await in_doubt(tmp_path) == []
    wanted = [confirmed.id, *[unconfirmed.id] * is_wanted]
    assert sorted(os.listdir(tmp_path)) == [".lock", *sorted(wanted)]


async def in_doubt(folder: Path) -> list[str]:
    async with open_storage(folder) as storage:
        return storage.in_doubt


SAVE_UNTIL = """
import asyncio, sys, threading
from io import BytesIO
from pathlib import Path
from app.storage.disk import open_storage

def hang_at(moment):
    if moment == sys.argv[2]:
        print(moment, flush=True)
        threading.Event().wait(30)

class Source(BytesIO):
    def read(self, size=-1):
        if self.tell():
            hang_at("half")
        return super().read(1_000_000)

async def main():
    async with open_storage(Path(sys.argv[1])) as storage:
        await storage.save(Source(b"x" * 1_000_001))
        hang_at("saved")

asyncio.run(main())
"""


def kill_a_process_that_saves(folder: Path, moment: str) -> None:
    root = Path(__file__).parent.parent.parent
    command = [sys.executable, "-c", SAVE_UNTIL, str(folder), moment]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=root) as process:
        assert process.stdout
        assert process.stdout.readline() == f"{moment}\n".encode()
        process.send_signal(signal.SIGKILL)


def test_a_killed_process_leaves_no_visible_file_and_the_next_start_sweeps(tmp_path: Path) -> None:
    kill_a_process_that_saves(tmp_path, "half")
    lock, leftover = sorted(os.listdir(tmp_path), reverse=True, key=lambda name: name == ".lock")
    assert lock == ".lock"
    assert leftover.startswith(".")
    assert (tmp_path / leftover).stat().st_size > 0
    assert asyncio.run(in_doubt(tmp_path)) == []
    assert os.listdir(tmp_path) == [".lock"]


def test_a_process_killed_before_it_confirms_leaves_a_whole_file_in_doubt(tmp_path: Path) -> None:
    kill_a_process_that_saves(tmp_path, "saved")
    (file,) = [path for path in tmp_path.iterdir() if not path.name.startswith(".")]
    assert file.stat().st_size == 1_000_001
    assert asyncio.run(in_doubt(tmp_path)) == []
    os.utime(file, (0, 0))  # and so its mark, which is the same file
    assert asyncio.run(in_doubt(tmp_path)) == [file.name]
