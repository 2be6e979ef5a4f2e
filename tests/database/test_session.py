import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from anyio import CancelScope
from sqlalchemy import event, text, update

from app.database.models import StoredFile
from app.database.room import ensure_room
from app.database.session import SessionMaker, open_database

pytestmark = pytest.mark.anyio


async def add_a_file(sessions: SessionMaker) -> None:
    async with sessions.begin() as session:
        await ensure_room(session, StoredFile, 10)
        session.add(StoredFile(id="a", state="", filename="", size=1))
        await session.flush()


@pytest.mark.parametrize("statement", ["BEGIN", "SELECT", "INSERT"])
@pytest.mark.parametrize("way", ["asyncio", "anyio"])
async def test_a_transaction_that_is_cancelled_leaves_nothing_locked(
    tmp_path: Path, statement: str, way: str
) -> None:
    scope = CancelScope()

    async def scoped() -> None:
        with scope:
            await add_a_file(sessions)

    async with open_database(f"sqlite+aiosqlite:///{tmp_path}/app.sqlite3") as sessions:
        task = asyncio.create_task(scoped())
        cancel: Callable[[], object] = task.cancel if way == "asyncio" else scope.cancel

        def cancelling(_connection: object, _cursor: object, sql: str, *_: object) -> None:
            if sql.startswith(statement):
                cancel()

        engine = sessions.kw["bind"].sync_engine
        event.listen(engine, "before_cursor_execute", cancelling)
        await asyncio.wait([task])
        event.remove(engine, "before_cursor_execute", cancelling)
        assert task.cancelled() or scope.cancelled_caught
        # The task is still there, and with it the trace of its error, which holds the cursor.
        async with asyncio.timeout(2), sessions.begin() as session:
            await session.execute(text("PRAGMA busy_timeout = 100"))
            await session.execute(update(StoredFile).values(size=2))


async def test_a_commit_is_on_the_disk_before_it_is_answered(tmp_path: Path) -> None:
    async with (
        open_database(f"sqlite+aiosqlite:///{tmp_path}/app.sqlite3") as sessions,
        sessions() as session,
    ):
        assert await session.scalar(text("PRAGMA synchronous")) == 2


async def test_a_database_of_another_version_is_refused_and_not_changed(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/app.sqlite3"
    async with open_database(url) as sessions, sessions.begin() as session:
        for change in (
            "DROP INDEX ix_files_expires_at",
            "ALTER TABLE files DROP COLUMN expires_at",
            "ALTER TABLE files DROP COLUMN sha256",
            "ALTER TABLE items DROP COLUMN price_cents",
            "DROP TABLE tickets",
            "CREATE TABLE of_somebody_else (id INTEGER)",
        ):
            await session.execute(text(change))
    with pytest.raises(RuntimeError) as refused:
        async with open_database(url):
            pass
    assert str(refused.value) == (
        "The database is of another version and was not changed. "
        "Missing columns: files.sha256, files.expires_at, items.price_cents."
    )
    with closing(sqlite3.connect(tmp_path / "app.sqlite3")) as connection:
        assert not connection.execute("SELECT * FROM sqlite_master WHERE name = 'tickets'").fetchall()


async def test_who_switches_a_new_database_while_another_writes_to_it_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "app.sqlite3"
    with closing(sqlite3.connect(place, isolation_level=None, check_same_thread=False)) as other:
        other.execute("BEGIN IMMEDIATE")
        connect = sqlite3.connect

        def end_the_other(sql: str) -> None:
            if sql == "BEGIN IMMEDIATE":
                other.rollback()

        def connect_traced(*args: Any, **kwargs: Any) -> sqlite3.Connection:
            connection: sqlite3.Connection = connect(*args, **kwargs)
            connection.set_trace_callback(end_the_other)
            return connection

        monkeypatch.setattr(sqlite3, "connect", connect_traced)
        async with open_database(f"sqlite+aiosqlite:///{place}") as sessions, sessions() as session:
            assert await session.scalar(text("PRAGMA journal_mode")) == "wal"
