"""The table and the storage in step: whose files there are, how many, and how long."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import delete, event, update
from sqlalchemy.exc import IntegrityError
from starlette.requests import ClientDisconnect

from app.database.models import Account, StoredFile
from app.errors import ContentTooLarge, InsufficientStorage, NotFound, UnsupportedMediaType
from app.settings import Settings
from app.storage.files import READY, RESUMABLE
from tests.contract.storages import LIMIT, chunks, content_of, cut_off
from tests.storage.ledger import ADA, BOB, TEXT, ago, change, names, opened, receive, rows, sessions_of

pytestmark = pytest.mark.anyio


async def test_a_file_is_kept_for_its_account_and_a_while_for_who_has_none(settings: Settings) -> None:
    async with opened(settings) as files:
        for owner in (ADA, None):
            file = await receive(files, owner)
            assert (file.owner_id, file.size, file.content_type) == (owner, len(TEXT), "text/plain")
            assert await content_of(files.storage, file.id) == TEXT
            found = await files.find(file.id, owner)
            if owner:
                assert found.expires_at is None
            else:
                assert found.expires_at
                left = found.expires_at.replace(tzinfo=UTC) - datetime.now(UTC)
                assert abs(left.total_seconds() - settings.files.anonymous_seconds) < 60


async def test_what_is_refused_or_broken_off_leaves_neither_a_row_nor_a_byte(settings: Settings) -> None:
    settings = settings.model_copy(update={"max_upload_size": 200_000})
    async with opened(settings) as files:
        for error, name, content in (
            (UnsupportedMediaType, "a.exe", chunks(TEXT)),
            (UnsupportedMediaType, "a.png", chunks(TEXT)),
            (ContentTooLarge, "a.txt", chunks(TEXT * 2)),
            (ClientDisconnect, "a.txt", cut_off(TEXT)),
            (asyncio.CancelledError, "a.txt", cut_off(TEXT, asyncio.CancelledError())),
        ):
            with pytest.raises(error):
                await files.receive(None, name, None, content)
            assert not await rows(files)
            assert not names(settings)


async def test_who_is_cancelled_while_the_row_is_committed_gives_the_room_back(settings: Settings) -> None:
    async with opened(settings) as files:
        begun = asyncio.create_task(files.begin(RESUMABLE, ADA, "a.txt", 9, 9, 600))
        engine = sessions_of(files).kw["bind"].sync_engine
        event.listen(engine, "commit", lambda _: begun.cancel(), once=True)
        await asyncio.wait([begun], timeout=LIMIT)
        assert begun.cancelled()
        assert not await rows(files)


async def test_an_upload_that_is_cancelled_at_any_moment_is_whole_or_swept(settings: Settings) -> None:
    async with opened(settings) as files:
        for moment in range(0, 40, 3):
            task = asyncio.create_task(receive(files))
            for _ in range(moment):
                await asyncio.sleep(0.0005)
            task.cancel()
            await asyncio.wait([task], timeout=LIMIT)
            async with sessions_of(files).begin() as session:
                await session.execute(
                    update(StoredFile).where(StoredFile.state != READY).values(expires_at=ago(1))
                )
            await files.sweep()
        left = await rows(files)
        assert set(left.values()) <= {READY}
        assert set(left) == names(settings)
        for file_id in left:
            assert await content_of(files.storage, file_id) == TEXT


@pytest.mark.parametrize(("uploads", "declared"), [(20, True), (8, False)])
async def test_uploads_at_once_never_take_more_than_the_quota(
    settings: Settings, uploads: int, declared: bool
) -> None:
    most = 5 * len(TEXT)
    async with opened(settings, quota=most, anonymous_quota=most) as files:
        length = len(TEXT) if declared else None
        outcomes = await asyncio.gather(
            *(
                files.receive(owner, "a.txt", length, chunks(TEXT))
                for owner in (ADA, None)
                for _ in range(uploads // 2)
            ),
            return_exceptions=True,
        )
        kept = [outcome for outcome in outcomes if isinstance(outcome, StoredFile)]
        refused = [outcome for outcome in outcomes if isinstance(outcome, InsufficientStorage)]
        assert len(kept) + len(refused) == uploads
        for owner in (ADA, None):
            own = [file for file in kept if file.owner_id == owner]
            assert sum(file.size for file in own) <= most
            # Without a length all of the room is kept for the first, until it is over.
            assert len(own) == 5 if declared else own
        assert names(settings) == set(await rows(files)) == {file.id for file in kept}


async def test_the_quota_is_full_to_the_last_byte_and_free_again_after_a_deletion(settings: Settings) -> None:
    async with opened(settings, quota=2 * len(TEXT)) as files:
        first = await receive(files, ADA)
        with pytest.raises(InsufficientStorage):
            await files.receive(ADA, "a.txt", None, chunks(TEXT + b"!"))
        await files.receive(ADA, "a.txt", None, chunks(TEXT))
        with pytest.raises(InsufficientStorage):
            await files.receive(ADA, "a.txt", None, chunks(b"!"))
        await receive(files, BOB)
        await files.delete(first.id, ADA)
        await receive(files, ADA)


async def test_the_number_of_files_has_a_limit_for_each_and_for_all(settings: Settings) -> None:
    async with opened(settings, max_files_per_user=2, max_files=5) as files:
        for owner, taken in ((ADA, 2), (BOB, 2), (None, 1)):
            for _ in range(taken):
                await receive(files, owner)
            with pytest.raises(InsufficientStorage):
                await receive(files, owner)
        assert len(names(settings)) == len(await rows(files)) == 5


async def test_a_file_of_somebody_else_is_not_there(settings: Settings) -> None:
    async with opened(settings) as files:
        owned = {owner: (await receive(files, owner)).id for owner in (ADA, BOB)}
        for owner, file_id in owned.items():
            for stranger in {ADA, BOB, None} - {owner}:
                with pytest.raises(NotFound):
                    await files.find(file_id, stranger)
                with pytest.raises(NotFound):
                    await files.delete(file_id, stranger)
            await files.find(file_id, owner)
            await files.delete(file_id, owner)
            with pytest.raises(NotFound):
                await files.delete(file_id, owner)


async def test_a_file_that_belongs_to_nobody_is_for_all_who_know_it(settings: Settings) -> None:
    async with opened(settings) as files:
        file_id = (await receive(files, None)).id
        for owner in (None, ADA, BOB):
            assert (await files.find(file_id, owner)).owner_id is None
        await files.delete(file_id, ADA)


async def test_pages_go_on_among_files_of_the_same_moment(settings: Settings) -> None:
    async with opened(settings) as files:
        ids = [(await receive(files, ADA)).id for _ in range(7)]
        await receive(files, BOB)
        for count, file_id in enumerate(ids):
            await change(files, file_id, created_at=datetime(2026, 1, 1 + count // 5, tzinfo=UTC))
        seen: list[str] = []
        before = None
        while page := await files.page(ADA, before, 2):
            assert len(page) <= 2
            seen += [file.id for file in page]
            before = page[-1].created_at, page[-1].id
        assert seen == sorted(ids[5:], reverse=True) + sorted(ids[:5], reverse=True)


async def test_each_page_is_found_by_an_index_that_has_the_files_in_their_order(settings: Settings) -> None:
    async with opened(settings) as files:
        asked: list[tuple[str, tuple[object, ...]]] = []

        def note(_connection: object, _cursor: object, sql: str, values: Any, *_: object) -> None:
            asked.append((sql, values))

        engine = sessions_of(files).kw["bind"].sync_engine
        event.listen(engine, "before_cursor_execute", note)
        await files.page(ADA, None, 10)
        await files.page(ADA, (ago(0), "a" * 32), 10)
        event.remove(engine, "before_cursor_execute", note)
        async with sessions_of(files)() as session:
            connection = await session.connection()
            plans = [
                await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {sql}", values) for sql, values in asked
            ]
        # One step each: neither a walk over all rows nor a sorting.
        [[first], [later]] = [[step.detail for step in plan] for plan in plans]
        index = "SEARCH files USING INDEX ix_files_owner_id_created_at_id"
        assert first == f"{index} (owner_id=?)"
        assert later.startswith(f"{index} (owner_id=? AND ") and "created_at" in later.removeprefix(index)


async def test_an_account_is_not_deleted_before_its_files(settings: Settings) -> None:
    async with opened(settings) as files:
        file = await receive(files, ADA)
        with pytest.raises(IntegrityError):
            async with sessions_of(files).begin() as session:
                await session.execute(delete(Account).where(Account.id == ADA))
        await files.delete(file.id, ADA)
        async with sessions_of(files).begin() as session:
            await session.execute(delete(Account).where(Account.id == ADA))


@pytest.fixture(params=["UTC", "Pacific/Kiritimati", "Pacific/Pago_Pago"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    with monkeypatch.context() as patch:
        patch.setenv("TZ", request.param)
        time.tzset()
        yield request.param
    time.tzset()


async def test_a_file_expires_at_its_moment_wherever_the_service_stands(
    settings: Settings, zone: str
) -> None:
    async with opened(settings) as files:
        expired, lasting, owned = [(await receive(files, owner)).id for owner in (None, None, ADA)]
        await change(files, expired, expires_at=ago(5))
        await change(files, lasting, expires_at=ago(-5))
        with pytest.raises(NotFound):
            await files.find(expired, None)
        await files.find(lasting, None)
        assert expired in names(settings)
        await files.sweep()
        assert set(await rows(files)) == names(settings) == {lasting, owned}
