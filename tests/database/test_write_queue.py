import asyncio
import gc
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from sqlalchemy import Engine, event, func, select, text, update
from sqlalchemy.exc import SAWarning
from sqlalchemy.ext.asyncio import AsyncSession

from app.database import write_queue
from app.database.models import StoredFile, User
from app.database.session import SessionMaker, open_database
from app.dependencies import SessionDep
from app.errors import ServiceUnavailable
from app.settings import Settings

pytestmark = pytest.mark.anyio

ADA = {"name": "Ada King", "email": "king@example.com"}
TUS = {"Tus-Resumable": "1.0.0", "Upload-Length": "1", "Upload-Metadata": "filename YS50eHQ="}
WRITERS = 8


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.database.write_queue.BUSY_SECONDS", 0)


@pytest.fixture
def other_process(settings: Settings) -> Iterator[sqlite3.Connection]:
    place = settings.data_dir / "app.sqlite3"
    with closing(sqlite3.connect(place, isolation_level=None, check_same_thread=False)) as connection:
        yield connection


@pytest.fixture
def busy(
    impatient: None, client: TestClient, other_process: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> TestClient:
    """A service whose database another process writes to."""
    other_process.execute("BEGIN IMMEDIATE")
    caplog.clear()
    return client


async def write(session: AsyncSession) -> None:
    await session.execute(update(StoredFile).values(size=1))


@pytest.fixture
def app(app: FastAPI) -> FastAPI:
    @app.post("/written-at-commit")
    async def write_at_commit(session: SessionDep) -> None:
        session.add(User(name=ADA["name"], email=ADA["email"]))

    return app


@pytest.mark.parametrize(
    ("path", "sent"),
    [
        ("/users", {"json": ADA}),
        ("/files/uploads", {"headers": TUS}),
        ("/written-at-commit", {}),
    ],
)
def test_a_database_that_stays_busy_is_503_with_one_warning(
    busy: TestClient, caplog: pytest.LogCaptureFixture, path: str, sent: dict[str, Any]
) -> None:
    answer = busy.post(path, **sent)
    assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
    assert answer.headers["retry-after"] == "1"
    assert answer.json()["detail"] == ServiceUnavailable.detail
    (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert (warning.name, warning.exc_info) == ("app.database.write_queue", None)


def test_who_reads_does_not_wait_for_who_writes(busy: TestClient) -> None:
    assert busy.get("/ready").status_code == 200
    assert busy.get("/users/1").status_code == 200


async def test_transactions_that_write_get_their_turn_in_the_order_they_came(settings: Settings) -> None:
    came: list[object] = []
    served: list[object] = []
    all_wait = asyncio.Event()

    def note(*_: object) -> None:
        came.append(asyncio.current_task())
        if len(came) == WRITERS:
            all_wait.set()

    async def take_a_turn(sessions: SessionMaker) -> None:
        async with sessions.begin() as session:
            await session.execute(text("BEGIN IMMEDIATE"))
            served.append(asyncio.current_task())

    async with open_database(settings.sqlalchemy_url) as sessions, asyncio.timeout(20):
        async with sessions.begin() as first:
            await write(first)
            # Of the class: those are called before the queue's own, which is of the engine.
            event.listen(Engine, "before_cursor_execute", note)
            tasks = [asyncio.create_task(take_a_turn(sessions)) for _ in range(WRITERS)]
            await all_wait.wait()
            async with sessions() as reader:
                assert await reader.scalar(select(func.count()).select_from(User)) == 3
            event.remove(Engine, "before_cursor_execute", note)
        await asyncio.gather(*tasks)
    came.remove(asyncio.current_task())  # who read
    assert served == came


async def test_who_waits_for_a_turn_too_long_is_refused_and_leaves_the_queue(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.database.write_queue.BUSY_SECONDS", 0)
    async with open_database(settings.sqlalchemy_url) as sessions, asyncio.timeout(20):
        async with sessions.begin() as first:
            await write(first)
            for _ in range(2):
                with pytest.raises(ServiceUnavailable):
                    async with sessions.begin() as second:
                        await write(second)
        async with sessions.begin() as third:
            await write(third)


@pytest.mark.parametrize(
    ("statement", "values"),
    [("BEGIN IMMEDIATE", None), ("UPDATE users SET age = :age", [{"age": 1}, {"age": 2}])],
)
async def test_who_waits_for_another_process_begins_its_looks_anew(
    settings: Settings,
    other_process: sqlite3.Connection,
    monkeypatch: pytest.MonkeyPatch,
    statement: str,
    values: list[dict[str, int]] | None,
) -> None:
    monkeypatch.setattr("app.database.session.LOOK_AGAIN", "PRAGMA busy_timeout = 0")
    looks: list[str] = []

    def count(sql: str) -> None:
        looks.append(sql)
        if len(looks) == 3:
            other_process.rollback()

    async with open_database(settings.sqlalchemy_url) as sessions, asyncio.timeout(20):
        async with sessions.begin() as session:
            driver_connection = (await (await session.connection()).get_raw_connection()).driver_connection
            assert driver_connection is not None
            other_process.execute("BEGIN IMMEDIATE")
            await driver_connection.set_trace_callback(count)
            await session.execute(text(statement), values)
            await driver_connection.set_trace_callback(None)
    assert len(looks) >= 3


async def test_a_turn_ends_with_a_session_that_nobody_closed(new_settings: Settings, impatient: None) -> None:
    async with open_database(new_settings.sqlalchemy_url) as sessions:

        async def forget() -> None:
            await write(sessions())

        with pytest.warns(SAWarning, match="garbage collector"):
            await forget()
            gc.collect()
        async with sessions.begin() as session:
            await write(session)


async def test_what_can_no_longer_be_written_is_refused_at_once(
    new_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_busy = write_queue._is_busy
    async with open_database(new_settings.sqlalchemy_url) as sessions, sessions() as session:
        await session.execute(text("BEGIN"))
        await session.execute(select(func.count()).select_from(User))
        with closing(sqlite3.connect(new_settings.data_dir / "app.sqlite3")) as other, other:
            other.execute("UPDATE users SET id = id")
        errors: list[BaseException] = []

        def noted(error: BaseException) -> bool:
            errors.append(error)
            return is_busy(error)

        monkeypatch.setattr(write_queue, "_is_busy", noted)
        with pytest.raises(ServiceUnavailable):
            await write(session)
        assert len(errors) <= 2  # by who tries again, and by who refuses


async def test_who_waits_too_long_for_a_connection_is_told_to_come_again(
    new_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.database.session.BUSY_SECONDS", 0)
    async with open_database(new_settings.sqlalchemy_url) as sessions, AsyncExitStack() as held:
        with pytest.raises(ServiceUnavailable):
            for _ in range(100):
                session = await held.enter_async_context(sessions())
                await session.execute(select(User.id).limit(1))
