"""The engine and its sessions: SQLite in WAL mode by default, any async SQLAlchemy URL by a setting."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from sqlite3 import OperationalError
from typing import Any

from sqlalchemy import (
    AsyncAdaptedQueuePool,
    Connection,
    PoolProxiedConnection,
    event,
    func,
    inspect,
    make_url,
    select,
)
from sqlalchemy.exc import TimeoutError
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine

from app.database.models import Base, User
from app.database.seed import seed
from app.database.write_queue import BUSY_SECONDS, LOOK_AGAIN, WriteQueue, busy

SessionMaker = async_sessionmaker[AsyncSession]

WAL = "PRAGMA journal_mode = WAL"
"""Readers do not wait for the writer. The file keeps this, once it is switched."""

# FULL: what was committed outlives a power cut; NORMAL saves one flush to the disk for each commit, but then
# an upload that was answered could be gone. busy_timeout: who opens the database waits this many milliseconds
# for one who writes; after that `LOOK_AGAIN` is in force. SQLite checks foreign keys only when told to.
SQLITE_PRAGMAS = (
    "PRAGMA synchronous = FULL",
    f"PRAGMA busy_timeout = {1000 * BUSY_SECONDS}",
    "PRAGMA foreign_keys = ON",
)


class Pool(AsyncAdaptedQueuePool):
    """The usual one. Who waits too long for a connection is told to come again."""

    # By this name it logs where SQLAlchemy does, and not each connection in the log of the service.
    __module__ = AsyncAdaptedQueuePool.__module__

    def connect(self) -> PoolProxiedConnection:
        try:
            return super().connect()
        except TimeoutError:
            raise busy() from None


@asynccontextmanager
async def open_database(url: str) -> AsyncIterator[SessionMaker]:
    """Connects, makes the tables that are missing, seeds an empty database; disposes of the pool on leaving.

    Raises SQLAlchemy's `OperationalError` when the database cannot be reached, and `RuntimeError` when it is
    that of another version of the service; here and in its sessions `ServiceUnavailable`, when it is SQLite
    and others write to it for too long.
    """
    parsed = make_url(url)
    # hide_parameters: an error in the log names the statement, not the values of a user.
    engine = create_async_engine(
        parsed, poolclass=Pool, pool_timeout=BUSY_SECONDS, pool_pre_ping=True, hide_parameters=True
    )
    is_sqlite = parsed.get_backend_name() == "sqlite"
    if is_sqlite:
        if parsed.database and parsed.database != ":memory:":
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        event.listen(engine.sync_engine, "connect", _set_pragmas)
        event.listen(engine.sync_engine, "invalidate", _roll_back)
        # After the other: what is rolled back has had its turn.
        WriteQueue(engine.sync_engine)
    try:
        # By default a closed session opens again when it is used, and nobody closes it then. Ours raises.
        sessions = async_sessionmaker(engine, expire_on_commit=False, close_resets_only=False)
        async with engine.begin() as connection:
            if is_sqlite:
                # Of several workers that start at once, one makes all of it; the others find it made.
                await connection.exec_driver_sql("BEGIN IMMEDIATE")
            await connection.run_sync(_make_missing_tables)
            async with sessions(bind=connection) as session:
                if not await session.scalar(select(func.count()).select_from(User)):
                    seed(session)
                    await session.flush()
        yield sessions
    finally:
        await engine.dispose()


def _make_missing_tables(connection: Connection) -> None:
    """`create_all` alone does not look into a table that is there: a request would find what it lacks."""
    tables = Base.metadata.tables
    found = inspect(connection).get_multi_columns(filter_names=list(tables))
    columns = {table: {column["name"] for column in found[None, table]} for _, table in found}
    missing = [
        f"{table}.{column.name}"
        for table in sorted(columns)
        for column in tables[table].columns
        if column.name not in columns[table]
    ]
    if missing:
        raise RuntimeError(
            f"The database is of another version and was not changed. Missing columns: {', '.join(missing)}."
        )
    new = [table for name, table in tables.items() if name not in columns]
    Base.metadata.create_all(connection, new, checkfirst=False)


def _set_pragmas(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in SQLITE_PRAGMAS:
        cursor.execute(pragma)
    try:
        cursor.execute(WAL)
    except OperationalError:
        # While another worker switches a new database SQLite refuses this without waiting; to begin waits.
        cursor.execute("BEGIN IMMEDIATE")
        connection.rollback()
        cursor.execute(WAL)
    cursor.execute(LOOK_AGAIN)
    cursor.close()


def _roll_back(connection: Any, _record: object, _error: object) -> None:
    """What a cancelled task has begun. SQLite closes a connection only when the garbage collector has found
    its last cursor, and until then nobody else could write."""
    with suppress(Exception, asyncio.CancelledError):
        connection.rollback()
