"""When bytes and names go to the disk itself, so that a power cut takes nothing that was answered."""

import os
from io import FileIO
from pathlib import Path
from stat import S_ISDIR

import pytest

from app.storage import disk, disk_files
from app.storage.disk import open_disk
from tests.contract.storages import BYTES, ID, OTHER_ID, Seen, chunks

pytestmark = pytest.mark.anyio


async def test_bytes_are_on_the_disk_before_their_name_and_their_name_before_the_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def note_fsync(descriptor: int) -> None:
        done.append("folder" if S_ISDIR(os.fstat(descriptor).st_mode) else "bytes")
        fsync(descriptor)

    def note_rename(source: Path, target: Path) -> None:
        done.append("name")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "rename", note_rename)
    async with open_disk(tmp_path) as storage:
        for call, steps in (
            (storage.save(ID, chunks(BYTES), Seen()), ["bytes", "name", "folder"]),
            (storage.append(OTHER_ID, 0, chunks(b"new")), ["bytes", "folder"]),
            (storage.append(OTHER_ID, 3, chunks(b"more")), ["bytes"]),
            (storage.publish(OTHER_ID, Seen()), ["bytes", "name", "folder"]),
            (storage.delete(ID), ["folder"]),
        ):
            await call
            assert done == steps
            done.clear()


async def test_the_disk_works_while_the_rest_arrives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []

    def note(file: FileIO, size: int) -> None:
        flushed.append(size)
        start_flushing(file, size)

    start_flushing = disk_files.start_flushing
    monkeypatch.setattr(disk, "start_flushing", note)
    async with open_disk(tmp_path) as storage:
        await storage.save(ID, chunks(BYTES), Seen())
    assert len(flushed) > 1
    assert sum(flushed) == len(BYTES)
