"""What is the disk's alone: names in the folder, its errors, other processes, and threads."""

import asyncio
import fcntl
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path

import pytest
from pydantic import ValidationError

from app.errors import Conflict, InsufficientStorage, Locked, NotFound
from app.settings import ORPHAN_SECONDS, FileSettings, Settings
from app.storage import disk, disk_files
from app.storage.disk import open_disk
from tests.contract.storages import BYTES, ID, LIMIT, OTHER_ID, Seen, chunks, content_of
from tests.stored_files import open_in

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parent.parent.parent
UNFINISHED = f".{ID}.part"


def blocks_in(folder: Path) -> int:
    """Of the disk, that the open files of the folder take, also those without a name."""
    descriptors = [each for each in Path("/proc/self/fd").iterdir() if each.is_symlink()]
    return sum(each.stat().st_blocks for each in descriptors if os.readlink(each) in open_in(folder))


def names(folder: Path) -> set[str]:
    return set(os.listdir(folder)) - {".lock"}


async def test_a_file_is_hidden_until_it_is_whole_and_the_services_alone(tmp_path: Path) -> None:
    during: list[set[str]] = []

    async def watched() -> AsyncIterator[bytes]:
        async for chunk in chunks(BYTES):
            during.append(names(tmp_path))
            yield chunk

    async with open_disk(tmp_path / "made" / "folder") as storage:
        assert (tmp_path / "made" / "folder").stat().st_mode & 0o777 == 0o700
    async with open_disk(tmp_path) as storage:
        await storage.save(ID, watched(), Seen())
        await storage.append(OTHER_ID, 0, watched())
    assert ID not in set.union(*during[:30])
    assert names(tmp_path) - {"made"} == {ID, f".{OTHER_ID}.part"}
    assert {(tmp_path / name).stat().st_mode & 0o777 for name in names(tmp_path) - {"made"}} == {0o600}


async def test_no_file_takes_the_place_of_another(tmp_path: Path) -> None:
    async with open_disk(tmp_path) as storage:
        await storage.save(ID, chunks(b"first"), Seen())
        await storage.append(OTHER_ID, 0, chunks(b"unfinished"))
        for file_id in (ID, OTHER_ID):
            with pytest.raises((Conflict, FileExistsError)):
                await storage.save(file_id, chunks(b"second"), Seen())
        with pytest.raises(Conflict):
            await storage.append(ID, 0, chunks(b"second"))
        assert await content_of(storage) == b"first"
        assert await storage.offset(OTHER_ID) == 10
    assert names(tmp_path) == {ID, f".{OTHER_ID}.part"}


async def test_a_published_file_is_not_replaced_by_what_is_begun_beside_it(tmp_path: Path) -> None:
    async with open_disk(tmp_path) as storage:
        await storage.append(ID, 0, chunks(BYTES))
        await storage.publish(ID, Seen())
        (tmp_path / UNFINISHED).touch()  # by a request that comes too late
        assert await storage.offset(ID) == len(BYTES)
        await storage.publish(ID, Seen())
        assert await content_of(storage) == BYTES
        with pytest.raises(Conflict):
            await storage.append(ID, 0, chunks(b"late"))
        assert names(tmp_path) == {ID}


async def test_a_file_that_was_deleted_does_not_come_back_by_its_next_bytes(tmp_path: Path) -> None:
    async with open_disk(tmp_path) as storage:
        await storage.append(ID, 0, chunks(b"begun"))
        await storage.delete(ID)
        with pytest.raises(Conflict):
            await storage.append(ID, 5, chunks(b"late"))
        assert not names(tmp_path)


async def test_a_file_that_is_deleted_before_it_is_locked_takes_no_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lock_too_late(file: FileIO) -> None:
        disk_files.remove(tmp_path / UNFINISHED, tmp_path / ID)
        lock_alone(file)

    lock_alone = disk_files.lock_alone
    async with open_disk(tmp_path) as storage:
        await storage.append(ID, 0, chunks(b"begun"))
        monkeypatch.setattr(disk_files, "lock_alone", lock_too_late)
        for offset in (5, 0):
            with pytest.raises(NotFound):
                await storage.append(ID, offset, chunks(b"late"))
        assert not names(tmp_path)


async def test_the_room_that_is_left_for_the_rest_of_the_service_is_asked_for_with_each_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def filling() -> AsyncIterator[bytes]:
        yield b"there is room"
        monkeypatch.setattr(disk, "FREE_SPACE_FLOOR", 2**63)
        yield b"there is none"

    async with open_disk(tmp_path) as storage:
        with pytest.raises(InsufficientStorage):
            await storage.save(ID, filling(), Seen())
        assert not names(tmp_path)
        monkeypatch.undo()
        with pytest.raises(InsufficientStorage):
            await storage.append(ID, 0, filling())
        assert await storage.offset(ID) == 13
        await storage.publish(ID, Seen())  # needs none
        assert await content_of(storage) == b"there is room"


async def test_a_check_writes_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_disk(tmp_path) as storage:
        await asyncio.gather(*(storage.check() for _ in range(20)))
        assert not names(tmp_path)
        os.rename(tmp_path, tmp_path.with_name("gone"))
        with pytest.raises(OSError, match="No such file"):
            await storage.check()


@pytest.mark.parametrize("seconds", [0.0, 0.0005, 0.001, 0.002, 0.004])
async def test_a_file_that_is_deleted_while_it_comes_is_gone(tmp_path: Path, seconds: float) -> None:
    async with open_disk(tmp_path) as storage:
        await storage.append(OTHER_ID, 0, chunks(b"begun"))
        coming = asyncio.gather(
            storage.save(ID, chunks(BYTES), Seen()),
            storage.append(OTHER_ID, 5, chunks(BYTES)),
            return_exceptions=True,
        )
        await asyncio.sleep(seconds)
        await asyncio.gather(storage.delete(ID), storage.delete(OTHER_ID))
        saved, appended = await coming
        assert saved is None or isinstance(saved, NotFound)
        assert appended == len(BYTES) + 5 or isinstance(appended, (NotFound, Conflict))
        with pytest.raises(NotFound):
            await storage.publish(OTHER_ID, Seen())
        await storage.delete(ID)
        assert not names(tmp_path)


async def test_a_file_that_is_deleted_while_it_is_published_is_gone(tmp_path: Path) -> None:
    class Deleting(Seen):
        def finish(self) -> None:
            disk_files.remove(tmp_path / UNFINISHED, tmp_path / ID)

    async with open_disk(tmp_path) as storage:
        await storage.append(ID, 0, chunks(BYTES))
        with pytest.raises(NotFound):
            await storage.publish(ID, Deleting())
        with pytest.raises(NotFound):
            await storage.save(ID, chunks(BYTES), Deleting())
        assert not names(tmp_path)


async def test_a_request_that_goes_on_with_a_deleted_file_holds_no_room_and_is_told(tmp_path: Path) -> None:
    async with open_disk(tmp_path) as storage:

        async def outlived(file_id: str) -> AsyncIterator[bytes]:
            yield BYTES
            [unfinished] = open_in(tmp_path)
            await storage.delete(file_id)
            assert open_in(tmp_path) == [f"{unfinished} (deleted)"]
            assert blocks_in(tmp_path) == 0
            yield b"late"

        await storage.append(OTHER_ID, 0, chunks(b"begun"))
        for call in (
            storage.save(ID, outlived(ID), Seen()),
            storage.append(ID, 0, outlived(ID)),
            storage.append(OTHER_ID, 5, outlived(OTHER_ID)),
        ):
            with pytest.raises(NotFound):
                await call
            assert open_in(tmp_path) == []
        assert not names(tmp_path)


async def test_a_slow_reader_holds_no_file_and_is_told_that_it_is_deleted(tmp_path: Path) -> None:
    async with open_disk(tmp_path) as storage:
        await storage.save(ID, chunks(BYTES), Seen())
        async with aclosing(storage.read(ID, 0, len(BYTES))) as pieces:
            await anext(pieces)
            assert open_in(tmp_path) == []
            await storage.delete(ID)
            with pytest.raises(NotFound):
                await anext(pieces)


HOLD = """
import asyncio, sys
from pathlib import Path
from app.storage.disk import open_disk
from tests.contract.storages import ID

async def chunks():
    yield b"held"
    print("holding", flush=True)
    await asyncio.sleep(30)

async def main():
    async with open_disk(Path(sys.argv[1])) as storage:
        await storage.append(ID, 0, chunks())

asyncio.run(main())
"""


async def test_a_lock_holds_against_other_processes_and_ends_with_its_own(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", HOLD, tmp_path), stdout=asyncio.subprocess.PIPE, cwd=ROOT
    )
    try:
        assert process.stdout
        assert await asyncio.wait_for(process.stdout.readline(), LIMIT * 4) == b"holding\n"
        async with open_disk(tmp_path) as storage:
            assert storage.left_before is None
            for call in (storage.append(ID, 4, chunks(b"!")), storage.publish(ID, Seen())):
                with pytest.raises(Locked):
                    await call
    finally:
        process.kill()
        await process.wait()
    before = datetime.now(UTC)
    async with open_disk(tmp_path) as storage:
        assert storage.left_before
        assert storage.left_before >= before
        assert await storage.append(ID, 4, chunks(b"!")) == 5


async def test_only_who_is_alone_knows_what_is_left_over(tmp_path: Path) -> None:
    orphan, younger = tmp_path / UNFINISHED, tmp_path / f".{OTHER_ID}.part"
    for path in (orphan, younger, tmp_path / ".gitkeep", tmp_path / ID):
        path.touch()
        os.utime(path, (0, time.time() - ORPHAN_SECONDS - 60))
    os.utime(younger, (0, time.time() - ORPHAN_SECONDS + 60))
    other = os.open(tmp_path / ".lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(other, fcntl.LOCK_SH)
    async with open_disk(tmp_path) as storage:
        assert storage.left_before is None
        assert orphan.exists()
    os.close(other)
    async with open_disk(tmp_path) as storage, open_disk(tmp_path) as second:
        assert (storage.left_before, second.left_before) == (storage.left_before, None)
        assert storage.left_before
        assert names(tmp_path) == {younger.name, ".gitkeep", ID}


def test_no_upload_waits_so_long_that_it_counts_as_an_orphan() -> None:
    with pytest.raises(ValidationError):
        FileSettings(resumable_seconds=ORPHAN_SECONDS)
    large = FileSettings(max_resumable_size=50 * 2**30)
    with pytest.raises(ValidationError, match=r"files\.max_resumable_size"):  # its last request is that long
        Settings(files=large)
    Settings(files=large, body_min_rate=64 * 1024)


async def test_an_upload_whose_requests_bring_nothing_is_no_orphan(tmp_path: Path) -> None:
    """Each of them may move the moment at which its row expires."""
    async with open_disk(tmp_path) as storage:
        await storage.append(ID, 0, chunks(b"text"))
        os.utime(tmp_path / UNFINISHED, (0, 0))
        await storage.append(ID, 4, chunks(b""))
        assert (tmp_path / UNFINISHED).stat().st_mtime > time.time() - ORPHAN_SECONDS
