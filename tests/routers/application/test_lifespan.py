import asyncio
import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic
from typing import TypedDict, cast

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient
from sqlalchemy import text

from app.database.session import SessionMaker
from app.logs import QueueingHandler
from app.main import create_app
from app.settings import Settings
from tests.redis import redis_server
from tests.s3 import NOWHERE

ROOT = Path(__file__).parent.parent.parent.parent


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"ready_timeout": 0.2})


def sessions_of(client: TestClient) -> SessionMaker:
    return cast(SessionMaker, client.app_state["sessions"])


async def drop_the_users(sessions: SessionMaker) -> None:
    async with sessions.begin() as session:
        await session.execute(text("PRAGMA foreign_keys = OFF"))
        await session.execute(text("DROP TABLE users"))


def test_the_health_check_answers_while_the_database_is_away(client: TestClient) -> None:
    assert client.portal
    client.portal.call(drop_the_users, sessions_of(client))
    answer = client.get("/health")
    assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_the_service_is_ready_when_its_engines_answer(client: TestClient, settings: Settings) -> None:
    before = list(settings.uploads_dir.iterdir())
    answer = client.get("/ready")
    assert (answer.status_code, answer.json()) == (
        200,
        {"status": "ready", "engines": ["database", "uploads"]},
    )
    assert list(settings.uploads_dir.iterdir()) == before


def test_a_database_that_fails_makes_it_not_ready_without_a_word_of_why(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    assert client.portal
    client.portal.call(drop_the_users, sessions_of(client))
    answer = client.get("/ready")
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == "Not ready: database."
    assert "users" not in answer.text
    assert "no such table: users" in caplog.text


def test_a_database_that_hangs_makes_it_not_ready_in_time(client: TestClient) -> None:
    sessions = sessions_of(client)

    @asynccontextmanager
    async def all_connections_taken() -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            for _ in range(15):  # what the pool holds by default; the next one would wait for 30 seconds
                session = await stack.enter_async_context(sessions())
                await session.execute(text("SELECT 1"))
            yield

    assert client.portal
    with client.portal.wrap_async_context_manager(all_connections_taken()):
        started = monotonic()
        answer = client.get("/ready")
        assert monotonic() - started < 15
        assert (answer.status_code, answer.json()["detail"]) == (503, "Not ready: database.")
    assert client.get("/ready").status_code == 200


def test_a_folder_that_cannot_be_written_makes_it_not_ready(client: TestClient, settings: Settings) -> None:
    settings.uploads_dir.rename(settings.uploads_dir.with_name("moved"))
    answer = client.get("/ready")
    assert (answer.status_code, answer.json()["detail"]) == (503, "Not ready: uploads.")


def test_a_bucket_that_cannot_be_written_makes_it_not_ready(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    s3 = {"endpoint": NOWHERE, "access_key_id": "a", "secret_access_key": "b"}
    settings = Settings.model_validate(
        {**settings.model_dump(), "storage_url": "s3://bucket", "s3": s3, "ready_timeout": 2.0}
    )
    with TestClient(create_app(settings)) as client:
        answer = client.get("/ready")
    assert (answer.status_code, answer.json()["detail"]) == (503, "Not ready: uploads.")
    assert NOWHERE in caplog.text


def test_redis_is_one_of_the_engines_where_it_is_used(settings: Settings, tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        settings = settings.model_copy(update={"redis_url": server.url})
        with TestClient(create_app(settings)) as client:
            assert client.get("/ready").json()["engines"] == ["database", "uploads", "redis"]
            server.stop()
            answer = client.get("/ready")
            assert (answer.status_code, answer.json()["detail"]) == (503, "Not ready: redis.")
            assert client.get("/health").status_code == 200


@pytest.mark.anyio
async def test_when_a_resource_fails_to_open_those_before_it_are_closed_in_reverse_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    handlers = list(logging.getLogger().handlers)
    threads = set(threading.enumerate())
    # The log and the database are opened, then the storage fails: its folder is a file.
    settings = Settings(data_dir=tmp_path, uploads_dir=tmp_path / "file", log_level="DEBUG")
    with pytest.raises(OSError, match="file"):
        async with create_app(settings).router.lifespan_context(FastAPI()):
            pytest.fail("it has started")
    assert logging.getLogger().handlers == handlers
    for thread in set(threading.enumerate()) - threads:
        if thread.name != "AnyIO worker thread":  # those of SQLite and of the log end
            thread.join(10)
            assert not thread.is_alive(), thread.name
    messages = [json.loads(line)["message"] for line in capsys.readouterr().out.splitlines()]
    assert "close" in messages[-1]  # the database was closed while the log was still open


def test_a_start_that_fails_ends_the_process_with_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = subprocess.run(
        [sys.executable, "-m", "uvicorn", "app.main:app", "--port", "0"],
        env={**os.environ, "APP_DATA_DIR": str(tmp_path / "file"), "APP_UPLOADS_DIR": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "Application startup failed" in done.stdout + done.stderr
    assert "running on" not in done.stdout + done.stderr


def test_two_apps_of_one_process_share_nothing_but_the_log(tmp_path: Path) -> None:
    with ExitStack() as stack:
        clients = [
            stack.enter_context(
                TestClient(create_app(Settings(data_dir=tmp_path / name, uploads_dir=tmp_path / name / "up")))
            )
            for name in ("one", "two")
        ]
        one, two = [client.app_state for client in clients]
        assert set(one) == set(two)
        assert [key for key in one if one[key] is two[key]] == ["log"]
        portal = clients[0].portal
        assert portal
        portal.call(drop_the_users, sessions_of(clients[0]))
        assert [client.get("/ready").status_code for client in clients] == [503, 200]
    log_handlers = [each for each in logging.getLogger().handlers if isinstance(each, QueueingHandler)]
    assert log_handlers == []


def test_of_several_processes_the_second_says_once_what_they_do_not_share(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as stack:
        # In one process, but a lock belongs to the file that was opened.
        for _ in range(3):
            stack.enter_context(TestClient(create_app(settings)))
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    [said] = [line for line in lines if line["logger"] == "app.single_process"]
    assert said["level"] == "WARNING"
    for what in ("rooms", "APP_REDIS_URL", "live feed", "tasks", "mail", "webhook", "limit"):
        assert what in said["message"]


class Counters(TypedDict):
    number: int
    box: list[int]


@asynccontextmanager
async def counters(app: FastAPI) -> AsyncIterator[Counters]:
    yield Counters(number=0, box=[0])


@pytest.fixture
def counting() -> Iterator[TestClient]:
    app = FastAPI(lifespan=counters)

    @app.get("/number")
    async def number(request: Request) -> int:
        request.state.number += 1
        return int(request.state.number)

    @app.get("/box")
    async def box(request: Request) -> int:
        request.state.box[0] += 1
        return int(request.state.box[0])

    with TestClient(app) as client:
        yield client


def test_a_change_inside_an_object_of_the_state_is_kept(counting: TestClient) -> None:
    assert [counting.get("/box").json() for _ in range(3)] == [1, 2, 3]


def test_trap_a_name_bound_anew_in_the_state_is_lost(counting: TestClient) -> None:
    assert [counting.get("/number").json() for _ in range(3)] == [1, 1, 1]


def test_trap_on_event_is_ignored_beside_a_lifespan() -> None:
    ran: list[str] = []
    app = FastAPI(lifespan=counters)
    with pytest.warns(DeprecationWarning, match="on_event is deprecated"):
        app.on_event("startup")(lambda: ran.append("startup"))
        app.on_event("shutdown")(lambda: ran.append("shutdown"))
    with TestClient(app):
        pass
    assert ran == []


def test_trap_a_failing_start_up_handler_leaves_open_what_the_one_before_has_opened() -> None:
    opened: list[str] = []

    async def open_first() -> None:
        opened.append("first")

    async def close_first() -> None:
        opened.remove("first")

    async def fail() -> None:
        raise OSError

    app = FastAPI()
    with pytest.warns(DeprecationWarning, match="on_event is deprecated"):
        app.on_event("startup")(open_first)
        app.on_event("startup")(fail)
        app.on_event("shutdown")(close_first)
    with pytest.raises(OSError), TestClient(app):
        pytest.fail("it has started")
    assert opened == ["first"]


@pytest.mark.anyio
async def test_trap_clean_up_after_a_bare_yield_is_not_reached_when_the_second_resource_fails() -> None:
    opened: list[str] = []

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        opened.append("first")
        await asyncio.to_thread(os.stat, "/nowhere/to/be/found")
        yield
        opened.remove("first")

    app = FastAPI(lifespan=lifespan)
    with pytest.raises(FileNotFoundError):
        async with app.router.lifespan_context(app):
            pytest.fail("it has started")
    assert opened == ["first"]
