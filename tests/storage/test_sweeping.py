"""What is deleted, expires, fails or is left behind, and what is swept of it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from sqlalchemy import event
from starlette.requests import ClientDisconnect

from app.errors import AppError, ContentTooLarge, NotFound
from app.settings import Settings
from app.storage import files as files_module
from app.storage import sweeping
from app.storage.content import ContentCheck
from app.storage.disk import DiskStorage
from app.storage.files import DELETED, RECEIVING, RESUMABLE, Files
from app.storage.inspection import Inspection
from app.storage.sweeping import open_files
from app.storage.threads import Threads
from tests.contract.storages import LIMIT, chunks, content_of
from tests.storage.ledger import ADA, TEXT, ago, change, names, opened, receive, rows, sessions_of

pytestmark = pytest.mark.anyio


class Stubborn(DiskStorage):
    """Cannot delete some files."""

    def __init__(self, folder: Path, holds: Callable[[str], bool]) -> None:
        super().__init__(folder, Threads(1), None)
        self.holds = holds
        self.deleted: list[str] = []

    async def delete(self, file_id: str) -> None:
        if self.holds(file_id):
            raise OSError("the disk does not delete it")
        self.deleted.append(file_id)
        await super().delete(file_id)


async def expired_files(files: Files, count: int) -> list[str]:
    ids = [(await files.begin(RESUMABLE, None, "a.txt", 1, 1, 60)).id for _ in range(count)]
    for file_id in ids[:3]:
        await files.storage.append(file_id, 0, chunks(b"x"))
    await change(files, *ids, expires_at=ago(1))
    return ids


async def test_one_file_that_cannot_be_deleted_stops_no_other_and_is_tried_again(
    settings: Settings, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files_module, "SWEPT_AT_ONCE", 4)
    async with opened(settings) as files:
        ids = await expired_files(files, 11)
        files.storage = storage = Stubborn(settings.uploads_dir, lambda file_id: file_id == ids[0])
        await asyncio.wait_for(files.sweep(), LIMIT)
        assert await rows(files) == {ids[0]: DELETED}
        assert names(settings) == {f".{ids[0]}.part"}
        assert len([each for each in caplog.records if each.levelno == logging.ERROR]) == 1
        await files.sweep()  # not yet
        assert await rows(files) == {ids[0]: DELETED}
        storage.holds = lambda _: False
        await change(files, ids[0], expires_at=ago(1))
        await files.sweep()
        assert not await rows(files)
        assert not names(settings)


async def test_what_the_storage_cannot_delete_is_gone_for_its_owner_all_the_same(settings: Settings) -> None:
    async with opened(settings) as files:
        file = await receive(files, ADA)
        files.storage = Stubborn(settings.uploads_dir, lambda _: True)
        await files.delete(file.id, ADA)
        with pytest.raises(NotFound):
            await files.find(file.id, ADA)
        assert not await files.page(ADA, None, 10)
        assert await rows(files) == {file.id: DELETED}


async def test_of_sweeps_at_once_each_file_has_one(settings: Settings) -> None:
    async with opened(settings) as files, opened(settings) as second:
        ids = await expired_files(files, 30)
        deleted = []
        for each in (files, second):
            each.storage = storage = Stubborn(settings.uploads_dir, lambda _: False)
            deleted.append(storage.deleted)
        await asyncio.gather(files.sweep(), second.sweep())
        assert sorted(deleted[0] + deleted[1]) == sorted(ids)
        assert not await rows(files)
        assert not names(settings)


async def left_behind(settings: Settings) -> list[str]:
    """As processes that were killed leave them: one was receiving, one deleting, one waits for its client."""
    async with opened(settings) as files:
        ids = [
            (await files.begin(state, None, "a.txt", 9, 9, 600)).id
            for state in (RECEIVING, DELETED, RESUMABLE)
        ]
        for file_id in ids:
            await files.storage.append(file_id, 0, chunks(b"x"))
        return ids


async def test_what_was_settled_when_it_was_to_be_marked_is_not(settings: Settings) -> None:
    """Postgres waits for a row that another changes, and then asks the conditions of the update again, but
    not those of the query in it. SQLite lets nobody in between: here the statement has to say it."""
    async with opened(settings) as files:
        asked: list[str] = []
        engine = sessions_of(files).kw["bind"].sync_engine
        event.listen(engine, "before_cursor_execute", lambda *call: asked.append(call[2]))
        await files.undo("a" * 32)
        chosen, again = asked[0].split("LIMIT ?")
        for condition in ("files.id = ?", "files.state != ?"):
            assert condition in chosen and condition in again


async def test_what_a_dead_process_left_is_swept_at_the_next_start(settings: Settings) -> None:
    *_, resumable = await left_behind(settings)
    async with opened(settings) as files:
        await files.expire_left_over()
        await files.sweep()
        assert await rows(files) == {resumable: RESUMABLE}
        assert names(settings) == {f".{resumable}.part"}


async def test_a_second_process_sweeps_nothing_that_the_first_receives(settings: Settings) -> None:
    async with opened(settings) as first:
        receiving = await first.begin(RECEIVING, None, "a.txt", 9, 9, 600)
        async with opened(settings) as second:
            await second.expire_left_over()
            await second.sweep()
        assert await rows(first) == {receiving.id: RECEIVING}


def inspection_of() -> Inspection:
    return Inspection(ContentCheck("a.txt", 1), 10**6, ContentTooLarge())


async def test_a_file_that_was_swept_before_it_was_settled_leaves_no_byte(settings: Settings) -> None:
    async with opened(settings) as files:
        file = await files.begin(RESUMABLE, None, "a.txt", 9, 9, 60)
        await change(files, file.id, expires_at=ago(1))
        await files.sweep()
        inspection = inspection_of()
        await files.storage.save(file.id, chunks(TEXT), inspection)  # its last bytes come after that
        with pytest.raises(NotFound):
            await files.settle(file, inspection)
        with pytest.raises(AppError):
            await files.append(file.id, 9, chunks(b"late"))
        await files.append(file.id, 0, chunks(b"late"))
        assert not names(settings)


async def test_of_two_who_settle_a_file_the_second_takes_nothing_away(settings: Settings) -> None:
    async with opened(settings) as files:
        file = await files.begin(RESUMABLE, None, "a.txt", len(TEXT), len(TEXT), 60)
        await files.append(file.id, 0, chunks(TEXT))
        for error in (None, NotFound):
            inspection = inspection_of()
            await files.storage.publish(file.id, inspection)
            if error is None:
                await files.settle(file, inspection)
            else:
                with pytest.raises(error):
                    await files.settle(file, inspection)
        await files.undo(file.id)
        with pytest.raises(NotFound):
            await files.prolong(file.id, None, 60)
        assert await content_of(files.storage, (await files.find(file.id, None)).id) == TEXT


async def test_what_cannot_be_undone_at_once_is_swept_later_and_the_first_error_told(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(settings) as files:
        engine = sessions_of(files).kw["bind"].sync_engine

        def fail(*_: object) -> None:
            raise RuntimeError("the database is away")

        async def cut() -> AsyncIterator[bytes]:
            yield TEXT
            event.listen(engine, "before_cursor_execute", fail)
            raise ClientDisconnect

        with pytest.raises(ClientDisconnect):
            await files.receive(None, "a.txt", None, cut())
        event.remove(engine, "before_cursor_execute", fail)
        assert "is not undone yet" in caplog.text
        [(file_id, state)] = (await rows(files)).items()
        assert state == RECEIVING
        await change(files, file_id, expires_at=ago(1))
        await files.sweep()
        assert not await rows(files)


async def test_sweeping_goes_on_after_an_error_and_a_storage_that_hangs_does_not_hold_the_stop(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "STOP_SECONDS", 0.05)
    swept, hangs = asyncio.Event(), asyncio.Event()
    looks = 0

    async def sweep(_: Files) -> None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise OSError
        swept.set()
        while not hangs.is_set():
            try:
                await hangs.wait()
            except asyncio.CancelledError:
                pass

    monkeypatch.setattr(Files, "sweep", sweep)
    files = settings.files.model_copy(update={"sweep_seconds": 0.01})
    async with opened(settings) as opened_files:
        async with asyncio.timeout(LIMIT):
            async with open_files(
                sessions_of(opened_files), opened_files.storage, settings.model_copy(update={"files": files})
            ):
                await swept.wait()
        hangs.set()
        assert looks == 2
