import asyncio
import csv
import json
import math
import threading
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Annotated, Any, cast

import httpx2
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.testclient import TestClient
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker
from starlette.types import Message

from app.database.models import Item
from app.database.seed import ITEMS
from app.dependencies import SessionDep
from app.errors import MAX_REPORTED_ERRORS
from app.lifespan import State
from app.routers.streaming import lines
from app.settings import Settings
from tests.asgi import LIMIT, Call, http_scope
from tests.server import Server

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

    def test_the_csv_of_an_owner_is_bounded_too(self, client: TestClient) -> None:
        assert len(client.get("/streaming/owners/1/rows.csv").text.splitlines()) == 3


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


def test_the_csv_of_an_owner_is_streamed_under_its_media_type_and_a_file_name(client: TestClient) -> None:
    with client.stream("GET", "/streaming/owners/3/rows.csv") as answer:
        assert answer.headers["content-type"] == "text/csv; charset=utf-8"
        assert answer.headers["content-disposition"] == 'attachment; filename="items-of-3.csv"'
        assert "content-length" not in answer.headers
        rows = list(csv.DictReader(answer.iter_lines()))
    assert [row["id"] for row in rows] == ["42", "<i>", "baz"]
    assert rows[1] == {"id": "<i>", "name": "Tom & <Jerry>", "price_cents": "100"}


def test_an_unknown_owner_is_a_404_before_the_stream_begins(client: TestClient) -> None:
    answer = client.get("/streaming/owners/99/rows.csv")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"
    assert "content-disposition" not in answer.headers
    assert client.get("/streaming/owners/0/rows.csv").status_code == 422


def test_a_stream_that_fails_is_seen_to_fail_by_the_client(live: Server) -> None:
    received: list[str] = []
    with (
        httpx2.stream("GET", f"{live.url}/errors/stream", timeout=LIMIT) as answer,
        pytest.raises(httpx2.RemoteProtocolError, match="incomplete chunked read"),
    ):
        received.extend(answer.iter_lines())
    assert (answer.status_code, received) == (200, ["first"])


def change(client: TestClient, body: Any, kind: str = "application/jsonl") -> httpx2.Response:
    return client.patch(URL, content=body, headers={"Content-Type": kind})


def prices(client: TestClient) -> dict[str, int]:
    rows = [json.loads(line) for line in client.get(URL).text.splitlines()]
    return {row["id"]: row["price_cents"] for row in rows}


LINES = (
    b'{"id": "foo", "price_cents": 1}\r\n\n {"id": "bar", "price_cents": 2}\n{"price_cents": 3, "id": "foo"}'
)


def test_prices_are_taken_line_by_line_however_the_body_is_cut_into_chunks(client: TestClient) -> None:
    before = prices(client)
    for size in (1, 7, 1_000):
        change(client, '{"id": "foo", "price_cents": 0}\n{"id": "bar", "price_cents": 0}')
        chunks = (LINES[start : start + size] for start in range(0, len(LINES), size))
        answer = change(client, chunks)
        assert (answer.status_code, answer.json()) == (200, {"rows": 2})
        assert prices(client) == before | {"foo": 3, "bar": 2}
    assert change(client, b"").json() == {"rows": 0}
    assert change(client, LINES, "application/json").status_code == 415


GOOD = '{"id": "foo", "price_cents": 1}\n'


BAD_LINES: list[tuple[str, list[str], str]] = [
    ("swordfish", [], "json_invalid"),
    ('{"id": "bar", "price_cents": "swordfish"}', ["price_cents"], "int_type"),
    ('{"id": "bar", "price_cents": -1}', ["price_cents"], "greater_than_equal"),
    ('{"id": "bar"}', ["price_cents"], "missing"),
    ('{"id": "bar", "price_cents": 1, "x": 1}', ["x"], "extra_forbidden"),
    ('["swordfish"]', [], "model_type"),
    ('{"id": "swordfish", "price_cents": 1}', [], "item_unknown"),
    ('{"id": "\\ud800", "price_cents": 1}', [], "json_invalid"),
    ('{"id": "a\\u0000", "price_cents": 1}', ["id"], "string_pattern_mismatch"),
    ("x" * 1_001, [], "line_too_long"),
    ("[" * 1_000, [], "json_invalid"),
]


def test_one_bad_line_refuses_all_and_is_named_by_its_number(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "PAGE_ROWS", 1)  # so that a good line has been written when the bad one is met
    before = prices(client)
    for line, place, kind in BAD_LINES:
        answer = change(client, f"{GOOD}{line}\n{GOOD}")
        assert answer.status_code == 422
        assert answer.headers["content-type"] == "application/problem+json"
        [error] = answer.json()["errors"]
        assert (error["loc"], error["type"]) == (["body", 2, *place], kind)
        assert "swordfish" not in answer.text
        assert prices(client) == before


def test_bytes_that_are_no_text_are_a_bad_line(client: TestClient) -> None:
    [error] = change(client, b'{"id": "\xff"}').json()["errors"]
    assert error["loc"] == ["body", 1]


PATCH_HEADERS = [(b"content-type", b"application/jsonl"), (b"transfer-encoding", b"chunked")]


def piece(body: bytes, more: bool = True) -> Message:
    return {"type": "http.request", "body": body, "more_body": more}


@asynccontextmanager
async def patching(app: FastAPI, *incoming: Message) -> AsyncIterator[Call]:
    """A body that is on its way."""
    async with app.router.lifespan_context(app) as state:
        scope = http_scope(URL, "PATCH", PATCH_HEADERS)
        scope["state"] = state
        yield Call(app, scope, *incoming)


async def price_of(call: Call, item_id: str) -> int | None:
    async with call.scope["state"]["sessions"]() as session:
        price: int | None = await session.scalar(select(Item.price_cents).where(Item.id == item_id))
    return price


class TestShort:
    @pytest.fixture
    def settings(self, settings: Settings) -> Settings:
        short = {"stream_max_events": 30, "max_body_size": 2_000, "linger_timeout": 0.01}
        return settings.model_copy(update=short)

    @pytest.mark.anyio
    @pytest.mark.parametrize(
        ("pieces", "status"),
        [
            ([b"x" * 600] * 2, 422),
            ([b"{}\n"] * 20, 422),
            ([b"\n" * 31], 413),
            ([b" " * 700 + b"\n"] * 3, 413),
        ],
        ids=["a line", "bad lines", "lines", "bytes"],
    )
    async def test_a_line_or_a_body_that_is_too_long_is_refused_while_it_arrives(
        self, app: FastAPI, pieces: list[bytes], status: int
    ) -> None:
        # The body never ends, and yet there is an answer.
        async with patching(app, *map(piece, pieces)) as call:
            await call.run()
        assert call.status == status
        assert len(json.loads(call.body).get("errors", [])) <= MAX_REPORTED_ERRORS

    def test_a_body_of_as_many_lines_as_are_allowed_is_taken(self, client: TestClient) -> None:
        assert change(client, GOOD * 30).json() == {"rows": 1}


@pytest.mark.anyio
async def test_a_body_that_is_cut_changes_nothing(app: FastAPI) -> None:
    async with patching(app, piece(GOOD.encode()), {"type": "http.disconnect"}) as call:
        await call.run()
        assert call.sent == []
        assert await price_of(call, "foo") == 5_020


@pytest.mark.anyio
async def test_no_transaction_is_open_while_the_body_arrives(app: FastAPI) -> None:
    async with patching(app, piece(GOOD.encode())) as call:
        running = asyncio.create_task(call.run())
        for _ in range(100):
            await asyncio.sleep(0)
        assert call.incoming.empty()  # the piece has been taken
        assert connections_in_use(call.scope["state"]) == 0
        call.incoming.put_nowait(piece(b"", more=False))
        await running
        assert call.status == 200
        assert await price_of(call, "foo") == 1


def answer_of(app: FastAPI) -> httpx2.Response:
    return TestClient(app, raise_server_exceptions=False).get("/")


def test_trap_in_the_generator_it_is_too_late_for_the_head() -> None:
    app = FastAPI()

    @app.get("/")
    async def rows(response: Response, known: bool = False) -> AsyncIterable[int]:
        response.headers["Content-Disposition"] = "attachment"
        if not known:
            raise HTTPException(404)
        yield 1

    answer = answer_of(app)
    assert (answer.status_code, answer.content) == (200, b"")
    assert "content-disposition" not in answer.headers


def test_trap_a_plain_stream_has_no_content_type_and_a_json_response_cannot_stream() -> None:
    async def rows() -> AsyncIterable[bytes]:
        yield b"id,name\r\n"

    plain, json_class = FastAPI(), FastAPI()
    plain.add_api_route("/", rows, response_class=StreamingResponse)
    json_class.add_api_route("/", rows, response_class=JSONResponse)
    assert "content-type" not in answer_of(plain).headers
    assert answer_of(json_class).status_code == 500


def test_trap_a_list_that_is_returned_is_one_array_whatever_was_annotated() -> None:
    async def returned() -> Iterable[int]:
        return [1, 2]

    async def streamed() -> AsyncIterable[int]:
        for n in (1, 2):
            yield n

    array, stream = FastAPI(), FastAPI()
    array.add_api_route("/", returned)
    stream.add_api_route("/", streamed)
    assert (answer_of(array).headers["content-type"], answer_of(array).text) == ("application/json", "[1,2]")
    assert (answer_of(stream).headers["content-type"], answer_of(stream).text) == (
        "application/jsonl",
        "1\n2\n",
    )


def test_a_plain_generator_runs_in_worker_threads_and_its_background_task_after_its_end() -> None:
    app = FastAPI()
    seen: list[str] = []

    @app.get("/")
    def rows(tasks: BackgroundTasks) -> Iterable[float]:
        tasks.add_task(seen.append, "task")
        seen.append(threading.current_thread().name)
        yield math.nan

    assert answer_of(app).text == "null\n"
    thread, task = seen
    assert "worker thread" in thread and task == "task"


def test_trap_who_stores_line_by_line_has_stored_half_of_a_bad_body() -> None:
    app = FastAPI()
    stored: list[int] = []

    @app.patch("/")
    async def take(request: Request) -> None:
        for line in (await request.body()).splitlines():
            try:
                stored.append(int(line))
            except ValueError:
                raise HTTPException(422) from None

    assert TestClient(app).patch("/", content=b"1\n2\nthree\n").status_code == 422
    assert stored == [1, 2]
