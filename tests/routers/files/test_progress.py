import asyncio
import os
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AsyncExitStack
from hashlib import sha256
from typing import Any

import pytest
from anyio.lowlevel import checkpoint
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from app.database.models import Account
from app.errors import InsufficientStorage, ServiceUnavailable
from app.main import create_app
from app.routers.files import progress as page
from app.settings import Settings
from app.storage.content import ContentCheck
from app.storage.files import RESUMABLE
from app.storage.inspection import Inspection
from tests.asgi import LIMIT
from tests.routers.websockets.test_guarded import House, bearer, running
from tests.routers.websockets.test_rooms_http import Stream, checked_out

pytestmark = pytest.mark.anyio

TEXT = b"one fish two fish"


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "LOOK_SECONDS", 0.005)
    monkeypatch.setattr(page, "LONGEST_LOOK_SECONDS", 0.005)


@pytest.fixture
async def house(app: FastAPI) -> AsyncIterator[House]:
    async with running(app) as house:
        yield house


class Upload:
    """One that comes in pieces, as the storage keeps it."""

    def __init__(self, house: House, length: int = len(TEXT), owner: str | None = None) -> None:
        self.files = house.state["files"]
        self.length = length
        self.owner = owner

    async def begin(self) -> "Upload":
        size = self.length
        self.file = await self.files.begin(RESUMABLE, self.owner, "fish.txt", size, size, 60)
        self.path = f"/files/uploads/{self.file.id}/events"
        return self

    async def add(self, offset: int, *pieces: bytes | Exception) -> None:
        await self.files.storage.append(self.file.id, offset, arriving(*pieces))

    async def end(self) -> None:
        if not self.length:
            await self.add(0)
        inspection = Inspection(ContentCheck("fish.txt", 1), self.length, InsufficientStorage())
        await self.files.storage.publish(self.file.id, inspection)
        await self.files.settle(self.file, inspection)


async def arriving(*pieces: bytes | Exception) -> AsyncIterable[bytes]:
    for piece in pieces:
        if isinstance(piece, Exception):
            raise piece
        yield piece


def following(house: House, upload: Upload, **headers: str) -> Stream:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    return Stream(house, given, path=upload.path)


def at(offset: int, length: int = len(TEXT)) -> dict[str, Any]:
    data = {"offset": offset, "length": length, "percent": 100 * offset // length}
    return {"event": "progress", "data": data}


def whole(upload: Upload, text: bytes = TEXT) -> dict[str, Any]:
    location = f"/files/{upload.file.id}"
    data = {"location": location, "size": len(text), "sha256": sha256(text).hexdigest()}
    return {"event": "complete", "id": "complete", "data": data}


GONE = {"event": "gone", "data": {"reason": "The upload was ended or refused, or has expired."}}
GOODBYE = {"event": "goodbye", "data": {"reason": "Connect again."}}


async def rest_of(stream: Stream) -> list[dict[str, Any]]:
    """What comes up to the end, which the service makes."""
    async with asyncio.timeout(LIMIT):
        await asyncio.shield(stream.task)
    before = len(stream.received)
    for _ in stream.call.body.split(b"\n\n")[before:-1]:
        await stream.next()
    return stream.received[before:]


async def test_the_events_tell_what_is_kept_and_end_with_the_digest_and_the_place(house: House) -> None:
    upload = await Upload(house).begin()
    async with following(house, upload) as stream:
        assert stream.call.headers[b"content-type"].startswith(b"text/event-stream")
        assert stream.call.headers[b"cache-control"] == b"no-cache"
        assert stream.call.headers[b"x-accel-buffering"] == b"no"
        assert await stream.next() == at(0)
        await upload.add(0, TEXT[:5])
        assert await stream.next() == at(5)
        await upload.add(5, TEXT[5:])
        assert await stream.next() == at(len(TEXT))
        await upload.end()
        assert await rest_of(stream) == [whole(upload)]
    async with house.client(house.app) as client:
        found = await client.get(whole(upload)["data"]["location"])
    assert found.content == TEXT


async def test_another_process_sees_the_same_progress(house: House, settings: Settings) -> None:
    """Another app shares nothing with the first but the folder and the database."""
    async with running(create_app(settings)) as other:
        upload = await Upload(house).begin()
        async with following(other, upload) as stream:
            assert await stream.next() == at(0)
            await upload.add(0, TEXT[:5])
            assert await stream.next() == at(5)
            await upload.add(5, TEXT[5:])
            await upload.end()
            assert (await rest_of(stream))[-1] == whole(upload)


async def test_bytes_of_a_request_that_breaks_off_are_counted_as_far_as_they_are_kept(house: House) -> None:
    upload = await Upload(house).begin()
    async with following(house, upload) as stream:
        with pytest.raises(ConnectionError):
            await upload.add(0, TEXT[:3], ConnectionError())
        while (event := await stream.next()) == at(0):
            pass
        assert event == at(3)


async def test_who_connects_again_is_told_the_present_state_first(house: House) -> None:
    upload = await Upload(house).begin()
    for offset in (0, 5):
        async with following(house, upload) as stream:
            assert await stream.next() == at(offset)
            await upload.add(offset, TEXT[offset : offset + 5])
            assert await stream.next() == at(offset + 5)
    await upload.add(10, TEXT[10:])
    await upload.end()
    async with following(house, upload) as stream:
        assert await rest_of(stream) == [whole(upload)]


async def test_nothing_is_said_while_nothing_changes(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    upload = await Upload(house).begin()
    looks = Looks(upload, monkeypatch)
    async with following(house, upload) as stream:
        await looks.until(20)
        await upload.add(0, TEXT)
        assert [await stream.next(), await stream.next()] == [at(0), at(len(TEXT))]


async def test_looks_become_rarer_while_nothing_changes(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "LOOK_SECONDS", 0.5)
    monkeypatch.setattr(page, "LONGEST_LOOK_SECONDS", 4.0)
    upload = await Upload(house).begin()
    waits: list[float] = []

    async def stays(_: page.Follower, seconds: float) -> bool:
        waits.append(seconds)
        if len(waits) == 6:
            await upload.add(0, TEXT)
        return len(waits) < 8

    monkeypatch.setattr(page.Follower, "stays", stays)
    async with following(house, upload) as stream:
        assert await rest_of(stream) == [at(0), at(len(TEXT)), GOODBYE]
    assert waits == [0.5, 1, 2, 4, 4, 4, 0.5, 1]


class Looks:
    """Counts the looks at the storage, the first of which may fail."""

    def __init__(self, upload: Upload, monkeypatch: pytest.MonkeyPatch, failing: int = 0) -> None:
        self.count = 0
        self.changed = asyncio.Condition()
        look = upload.files.storage.offset

        async def offset(file_id: str) -> int:
            async with self.changed:
                self.count += 1
                self.changed.notify_all()
            if self.count <= failing:
                raise ServiceUnavailable
            return await look(file_id)

        monkeypatch.setattr(upload.files.storage, "offset", offset)

    async def until(self, count: int) -> None:
        async with asyncio.timeout(LIMIT), self.changed:
            await self.changed.wait_for(lambda: self.count >= count)


async def test_an_upload_that_is_ended_or_has_expired_is_gone(house: House) -> None:
    ended, expiring = await Upload(house).begin(), await Upload(house).begin()
    async with following(house, ended) as first, following(house, expiring) as second:
        assert [await first.next(), await second.next()] == [at(0), at(0)]
        await ended.files.delete(ended.file.id, None, RESUMABLE)
        await expiring.files.prolong(expiring.file.id, None, -1)
        assert [await rest_of(first), await rest_of(second)] == [[GONE], [GONE]]
    async with following(house, expiring) as again:
        assert again.call.status == 404


async def test_an_empty_file_is_complete(house: House) -> None:
    upload = await Upload(house, 0).begin()
    async with following(house, upload) as stream:
        assert (await stream.next())["data"] == {"offset": 0, "length": 0, "percent": 100}
        await upload.end()
        assert await rest_of(stream) == [whole(upload, b"")]


async def test_a_client_that_has_seen_the_end_is_told_by_204_to_stay_away(house: House) -> None:
    upload = await Upload(house).begin()
    async with following(house, upload, last_event_id="complete") as stream:
        assert await stream.next() == at(0)  # it has not
    await upload.add(0, TEXT)
    await upload.end()
    async with following(house, upload) as stream:
        (complete,) = await rest_of(stream)
    async with following(house, upload, last_event_id="7") as stream:
        assert await rest_of(stream) == [complete]  # of another stream
    async with following(house, upload, last_event_id=complete["id"]) as stream:
        assert (stream.call.status, stream.call.body) == (204, b"")
    async with following(house, upload, last_event_id="x" * 21) as stream:
        assert stream.call.status == 422


async def test_an_unknown_upload_or_that_of_somebody_else_is_a_404_before_the_stream_begins(
    house: House,
) -> None:
    accounts = [Account(id=f"id-of-{name}", username=name) for name in ("ada", "eve")]
    for account in accounts:
        async with house.state["sessions"].begin() as session:
            session.add(Account(id=account.id, username=account.username, password_hash="", scopes="me"))
    ada, eve = (bearer(house.token(account)) for account in accounts)
    upload = await Upload(house, owner="id-of-ada").begin()
    async with following(house, upload, **ada) as stream:
        assert await stream.next() == at(0)
    unknown = upload.path.replace(upload.file.id, "0" * 32)
    for headers, path in (
        (eve, upload.path),
        ({}, upload.path),
        (ada, unknown),
        (ada, "/files/uploads/x/events"),
    ):
        async with Stream(house, headers, path=path) as stream:
            assert stream.call.status == 404
            assert stream.call.headers[b"content-type"] == b"application/problem+json"
    async with following(house, upload, authorization="Bearer of nothing") as stream:
        assert stream.call.status == 401


async def test_a_stream_ends_with_a_goodbye_when_the_service_stops(house: House) -> None:
    upload = await Upload(house).begin()
    async with following(house, upload) as stream:
        assert await stream.next() == at(0)
        house.state["stopping"].set()
        assert await rest_of(stream) == [GOODBYE]


async def test_a_stream_ends_with_a_goodbye_after_a_while(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "STREAM_SECONDS", 0.1)
    upload = await Upload(house).begin()
    async with following(house, upload) as stream:
        assert await rest_of(stream) == [at(0), GOODBYE]


async def test_a_stream_that_ended_before_leaves_nothing_to_the_clock(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would keep the stream, and all that it holds, for ten minutes."""
    loop = asyncio.get_running_loop()
    call_later = loop.call_later
    due: list[asyncio.TimerHandle] = []

    def watched(delay: float, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        handle = call_later(delay, *args, **kwargs)
        if delay == page.STREAM_SECONDS:
            due.append(handle)
        return handle

    monkeypatch.setattr(loop, "call_later", watched)
    upload = await Upload(house).begin()
    async with following(house, upload) as stream:
        assert await stream.next() == at(0)
        assert [handle.cancelled() for handle in due] == [False]
        await upload.add(0, TEXT)
        await upload.end()
        await rest_of(stream)
    assert [handle.cancelled() for handle in due] == [True]


async def test_a_storage_that_does_not_answer_for_a_while_does_not_end_the_stream(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload = await Upload(house).begin()
    looks = Looks(upload, monkeypatch, failing=3)
    await upload.add(0, TEXT[:5])
    async with following(house, upload) as stream:
        assert await stream.next() == at(5)
    assert looks.count >= 4


async def test_streams_take_the_places_of_sockets_and_give_them_back(settings: Settings) -> None:
    few = settings.model_copy(update={"ws_max_connections": 2, "ws_max_connections_per_client": 2})
    async with running(create_app(few)) as house:
        upload = await Upload(house).begin()
        async with AsyncExitStack() as stack:
            for _ in range(2):
                stream = await stack.enter_async_context(following(house, upload))
                assert await stream.next() == at(0)
            async with following(house, upload) as refused:
                assert refused.call.status == 503
                assert refused.call.headers[b"content-type"] == b"application/problem+json"
        async with following(house, upload) as stream:
            assert await stream.next() == at(0)
        assert house.state["connections"].stream_count == 0


async def test_a_stream_that_waits_holds_no_database_connection(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page, "LOOK_SECONDS", LIMIT)
    upload = await Upload(house).begin()
    async with following(house, upload) as stream:
        assert await stream.next() == at(0)
        assert house.state["connections"].stream_count == 1
        async with asyncio.timeout(LIMIT / 2):
            while checked_out(house):  # by the sweep, which is due at the start
                await checkpoint()


async def test_a_silent_stream_is_kept_alive_by_comments(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastapi.routing._PING_INTERVAL", 0.01)
    upload = await Upload(house).begin()
    async with following(house, upload) as stream:
        while await stream.next() != at(0):
            pass
        assert await stream.next() == {"comment": "ping"}


async def test_the_page_says_nothing_in_line(house: House) -> None:
    """What its policy forbids; that it works is shown in a browser, by tests/browser/test_uploads.py."""
    async with house.client(house.app) as client:
        shown = await client.get("/files/uploads")
    assert shown.headers["content-type"].startswith("text/html")
    assert "default-src 'self'" in shown.headers["content-security-policy"]
    assert "<style" not in shown.text and "style=" not in shown.text and " onclick=" not in shown.text
    assert all(" src=" in tag for tag in shown.text.split("<script")[1:])


def tutorial(storage: dict[str, bytes], room: int) -> FastAPI:
    """As the tutorials count: in a dictionary, what a request has received."""
    app = FastAPI()
    received: dict[str, list[int]] = {}

    @app.put("/{name}")
    async def put(name: str, request: Request) -> None:
        length = int(request.headers["content-length"])
        seen, pieces = received.setdefault(name, []), b""
        async for piece in request.stream():
            pieces += piece
            seen.append(100 * len(pieces) // length)
        if len(pieces) > room:
            raise OSError(28, os.strerror(28))
        storage[name] = pieces

    @app.get("/{name}")
    async def progress(name: str) -> list[int]:
        return received.get(name, [])

    return app


async def test_trap_progress_in_a_dictionary_is_unknown_to_another_process_and_after_a_restart() -> None:
    storage: dict[str, bytes] = {}
    one, another = (TestClient(tutorial(storage, room=100)) for _ in range(2))
    one.put("/fish.txt", content=TEXT)
    assert storage["fish.txt"] == TEXT
    assert one.get("/fish.txt").json()[-1] == 100
    assert another.get("/fish.txt").json() == []


async def test_trap_bytes_that_are_received_are_not_bytes_that_are_kept() -> None:
    storage: dict[str, bytes] = {}
    client = TestClient(tutorial(storage, room=5), raise_server_exceptions=False)
    assert client.put("/fish.txt", content=TEXT).status_code == 500
    assert client.get("/fish.txt").json()[-1] == 100
    assert storage == {}
