import json
from collections.abc import AsyncIterable, AsyncIterator
from typing import Annotated, Any, cast

import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.database.models import Item
from app.database.seed import ITEMS
from app.dependencies import SessionDep
from app.lifespan import State
from app.routers.streaming import lines
from app.settings import Settings

URL = "/streaming/rows"


def test_each_line_is_one_row_of_the_database_in_the_order_of_its_key(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "PAGE_ROWS", 3)  # so that there are several pages, the last one not full
    answer = client.get(URL)
    assert answer.headers["content-type"] == "application/jsonl"
    ids = [json.loads(line)["id"] for line in answer.text.splitlines()]
    assert ids == sorted(item[0] for item in ITEMS)


def test_what_the_row_model_does_not_name_is_left_out(client: TestClient) -> None:
    first = json.loads(client.get(URL).text.splitlines()[0])
    assert set(first) == {"id", "name", "price_cents"}


class TestBounded:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        return settings.model_copy(update={"stream_max_events": 2})

    def test_the_number_of_rows_is_bounded(self, client: TestClient) -> None:
        assert len(client.get(URL).text.splitlines()) == 2
        assert len(client.get(URL, params={"limit": 1}).text.splitlines()) == 1
        assert client.get(URL, params={"limit": 0}).status_code == 422


def connections_in_use(state: State) -> int:
    engine: AsyncEngine = state["sessions"].kw["bind"]
    pool: Any = engine.pool
    in_use = pool.checkedout()
    assert isinstance(in_use, int)
    return in_use


class Watched:
    """Notes how many connections are in use whenever a chunk of the response is sent."""

    def __init__(self, app: FastAPI) -> None:
        self.app = app
        self.seen: list[int] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def watch(message: Any) -> None:
            if message.get("body"):
                self.seen.append(connections_in_use(scope["state"]))
            await send(message)

        await self.app(scope, receive, watch if scope["type"] == "http" else send)


def test_no_database_connection_is_held_while_the_client_reads(app: FastAPI) -> None:
    watched = Watched(app)
    with TestClient(watched) as client:
        client.get(URL)
    assert watched.seen
    assert max(watched.seen) == 0


def test_trap_a_session_from_a_dependency_is_held_to_the_last_row(app: FastAPI) -> None:
    async def session(request: Request) -> AsyncIterator[Any]:
        async with request.state.sessions() as session:
            await session.connection()
            yield session

    @app.get("/trap")
    async def rows(session: Annotated[Any, Depends(session)]) -> AsyncIterable[int]:
        for n in range(3):
            yield n

    watched = Watched(app)
    with TestClient(watched) as client:
        client.get("/trap")
    assert min(watched.seen) == 1


def test_a_session_that_is_used_after_its_scope_fails_and_holds_no_connection(
    app: FastAPI, caplog: pytest.LogCaptureFixture
) -> None:
    @app.get("/late")
    async def rows(session: SessionDep) -> AsyncIterable[str]:
        for id in await session.scalars(select(Item.id)):
            yield id

    with TestClient(app) as client:
        assert client.get("/late").status_code == 500
        assert "This Session has been permanently closed" in caplog.text
        assert connections_in_use(cast(State, client.app_state)) == 0


def test_trap_a_session_that_is_used_after_its_scope_keeps_a_connection_after_the_answer(
    app: FastAPI,
) -> None:
    sessions: list[AsyncSession] = []

    async def session(request: Request) -> AsyncIterator[AsyncSession]:
        plain = async_sessionmaker(request.state.sessions.kw["bind"])
        async with plain.begin() as session:
            sessions.append(session)
            yield session

    @app.get("/trap")
    async def rows(
        session: Annotated[AsyncSession, Depends(session, scope="function")],
    ) -> AsyncIterable[str]:
        for id in await session.scalars(select(Item.id)):
            yield id

    with TestClient(app) as client:
        assert len(client.get("/trap").text.splitlines()) == len(ITEMS)
        assert connections_in_use(cast(State, client.app_state)) == 1
        assert client.portal
        client.portal.call(sessions[0].close)  # or the garbage collector complains
