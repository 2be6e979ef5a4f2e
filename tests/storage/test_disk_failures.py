"""The disk when things go wrong: a task that is cancelled in any step, and a disk that fails in any step."""

import asyncio
import errno
import itertools
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from io import FileIO
from pathlib import Path
from typing import Any

import pytest

from app.errors import InsufficientStorage, ServiceUnavailable
from app.storage import disk, disk_files
from app.storage.disk import DiskStorage, open_disk
from tests.contract.storages import BYTES, ID, LIMIT, OTHER_ID, Seen, chunks, content_of

pytestmark = pytest.mark.anyio


def names(folder: Path) -> set[str]:
    return set(os.listdir(folder)) - {".lock"}


class Steps:
    """Counts what threads do for a storage, and cancels a task in one of these steps: three times before that
    is over, as uvicorn does when its time to stop has passed, and asyncio after it."""

    def __init__(self, storage: DiskStorage, step: int, call: Awaitable[Any]) -> None:
        self.count = 0
        self.task = asyncio.ensure_future(call)
        pool = storage._threads._pool
        submit, loop = pool.submit, asyncio.get_running_loop()

        def slowly(function: Callable[..., Any], *args: Any) -> Any:
            try:
                return function(*args)
            finally:
                time.sleep(0.01)

        def counted(function: Callable[..., Any], *args: Any) -> Any:
            self.count += 1
            if self.count != step:
                return submit(function, *args)
            for turn in range(3):
                loop.call_later(turn * 0.002, self.task.cancel)
            return submit(slowly, function, *args)

        pool.submit = counted  # type: ignore[method-assign,assignment]


def open_files() -> set[str]:
    links = set()
    for descriptor in os.listdir("/proc/self/fd"):
        try:
            links.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        except FileNotFoundError:
            pass
    return links


async def cancelled_in_each_step(
    folder: Path,
    call: Callable[[DiskStorage], Awaitable[Any]],
    prepare: Callable[[DiskStorage], Awaitable[Any]],
) -> AsyncIterator[DiskStorage]:
    """Storages in which `call` was cancelled in its first step, its second, and so on to its last."""
    for step in itertools.count(1):
        place = folder / str(step)
        async with open_disk(place) as storage:
            await prepare(storage)
            steps = Steps(storage, step, call(storage))
            assert (await asyncio.wait([steps.task], timeout=LIMIT))[0]
            if steps.count < step:
                await steps.task
                return
            assert steps.task.cancelled()
            assert not any(str(place) in link and not link.endswith(".lock") for link in open_files())
            yield storage


async def nothing(storage: DiskStorage) -> None:
    pass


async def test_an_upload_that_is_cancelled_in_any_step_leaves_nothing(tmp_path: Path) -> None:
    async for storage in cancelled_in_each_step(
        tmp_path, lambda storage: storage.save(ID, chunks(BYTES), Seen()), nothing
    ):
        assert not names(storage._folder)


async def test_what_is_appended_and_cancelled_in_any_step_is_a_beginning_and_not_locked(
    tmp_path: Path,
) -> None:
    async for storage in cancelled_in_each_step(
        tmp_path, lambda storage: storage.append(ID, 0, chunks(BYTES)), nothing
    ):
        offset = await storage.offset(ID)
        await storage.append(ID, offset, chunks(BYTES[offset:]))
        await storage.publish(ID, Seen())
        assert await content_of(storage) == BYTES


async def test_what_is_published_and_cancelled_in_any_step_can_be_published_again(tmp_path: Path) -> None:
    async for storage in cancelled_in_each_step(
        tmp_path,
        lambda storage: storage.publish(ID, Seen()),
        lambda storage: storage.append(ID, 0, chunks(BYTES)),
    ):
        await storage.publish(ID, Seen())
        assert await content_of(storage) == BYTES
        assert names(storage._folder) == {ID}


async def test_a_reader_that_is_cancelled_in_any_step_holds_no_file(tmp_path: Path) -> None:
    async def read(storage: DiskStorage) -> None:
        async with aclosing(storage.read(ID, 0, len(BYTES))) as pieces:
            async for _ in pieces:
                pass

    async for _ in cancelled_in_each_step(
        tmp_path, read, lambda storage: storage.save(ID, chunks(BYTES), Seen())
    ):
        pass


class Failing(FileIO):
    """A file on a disk that fails at some of its calls."""

    fails: str = ""
    number = errno.ENOSPC

    def write(self, piece: Any) -> int:
        if self.fails == "write" and self.tell() > 1_000_000:
            raise OSError(self.number, "no")
        return super().write(bytes(piece[:100_001]))  # less than all of it, as the system may

    def close(self) -> None:
        closed = self.closed
        super().close()
        if self.fails == "close" and not closed:
            raise OSError(self.number, "no")


STEPS = ["write", "fsync", "rename", "close", "fsync of the folder"]


def let_fail(monkeypatch: pytest.MonkeyPatch, step: str, number: int) -> None:
    def fail(*_: object) -> None:
        raise OSError(number, "no")

    if step in ("write", "close"):
        Failing.fails, Failing.number = step, number

        def open_failing(path: Path, mode: str) -> FileIO:
            return Failing(path, mode)

        monkeypatch.setattr(disk_files, "open_file", open_failing)
        monkeypatch.setattr(disk, "open_file", open_failing)
    elif step == "fsync of the folder":
        monkeypatch.setattr(disk_files, "sync_folder", fail)
    else:
        monkeypatch.setattr(os, step, fail)


ERRORS = {errno.ENOSPC: InsufficientStorage, errno.EDQUOT: InsufficientStorage, errno.EIO: OSError}


@pytest.mark.parametrize("failing", STEPS)
@pytest.mark.parametrize("number", ERRORS)
async def test_a_disk_that_fails_in_any_step_leaves_nothing_of_an_upload(
    tmp_path: Path, failing: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_disk(tmp_path) as storage:
        await storage.save(OTHER_ID, chunks(BYTES), Seen())
        let_fail(monkeypatch, failing, number)
        with pytest.raises(ERRORS[number]):
            await storage.save(ID, chunks(BYTES), Seen())
        monkeypatch.undo()
        assert names(tmp_path) == {OTHER_ID}
        assert not any(ID in link for link in open_files())
        assert await content_of(storage, OTHER_ID) == BYTES
        await storage.save(ID, chunks(b"small"), Seen())
        assert await content_of(storage) == b"small"


@pytest.mark.parametrize("failing", STEPS)
@pytest.mark.parametrize("number", ERRORS)
async def test_a_disk_that_fails_in_any_step_takes_nothing_of_what_was_kept(
    tmp_path: Path, failing: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_disk(tmp_path) as storage:
        await storage.append(ID, 0, chunks(BYTES[:1_000]))
        let_fail(monkeypatch, failing, number)
        if failing in ("write", "fsync", "close"):
            with pytest.raises(ERRORS[number]):
                await storage.append(ID, 1_000, chunks(BYTES[1_000:]))
        if failing in ("fsync", "rename", "fsync of the folder"):
            with pytest.raises(ERRORS[number]):
                await storage.publish(ID, Seen())
        monkeypatch.undo()
        offset = await storage.offset(ID)
        assert offset >= 1_000
        if offset < len(BYTES) and failing not in ("rename", "fsync of the folder"):
            await storage.append(ID, offset, chunks(BYTES[offset:]))
        await storage.publish(ID, Seen())
        assert BYTES.startswith(await content_of(storage))


async def test_what_the_disk_could_not_flush_is_not_said_to_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_disk(tmp_path) as storage:
        await storage.append(ID, 0, chunks(b"kept"))
        let_fail(monkeypatch, "fsync", errno.EIO)
        with pytest.raises(OSError, match="no"):
            await storage.append(ID, 4, chunks(b"lost"))
        assert await storage.offset(ID) == 4


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
async def test_a_service_that_can_open_no_more_files_says_when_to_come_again(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> FileIO:
        raise OSError(number, "Too many open files")

    async with open_disk(tmp_path) as storage:
        await storage.save(OTHER_ID, chunks(BYTES), Seen())
        monkeypatch.setattr(disk_files, "open_file", fail)
        monkeypatch.setattr(disk, "open_file", fail)
        for call in (
            storage.save(ID, chunks(BYTES), Seen()),
            storage.append(ID, 0, chunks(BYTES)),
            content_of(storage, OTHER_ID),
        ):
            with pytest.raises(ServiceUnavailable) as refused:
                await call
            assert refused.value.headers == {"Retry-After": "1"}
