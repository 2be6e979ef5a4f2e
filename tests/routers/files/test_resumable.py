import asyncio
import base64
import errno
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import httpx2
import pytest
from anyio import AsyncFile
from fastapi import FastAPI, Header, Request
from fastapi.testclient import TestClient
from sqlalchemy import update

from app.database.models import StoredFile
from app.errors import Conflict, InsufficientStorage
from app.main import create_app
from app.settings import FileSettings, Settings
from app.storage.files import RESUMABLE, Files
from app.storage.pieces import PIECE_SIZE
from app.storage.resumable import ResumableUploads
from app.tus import DIGESTS, read_checksum
from app.tus_body import MOST_CHECKED, ChecksumPlaces
from tests.asgi import EMPTY_BODY, LIMIT, Call, http_scope
from tests.owners import log_in
from tests.samples import TEXT, image, pdf
from tests.stored_files import open_in
from tests.tus import (
    OCTETS,
    TUS,
    Body,
    checksum,
    create,
    created,
    file_of,
    metadata,
    offset_of,
    patch,
    working,
)

ORIGIN = "http://localhost:3000"
MOST = 2_000_000


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"files": FileSettings(max_resumable_size=MOST, checksums_at_once=1)})


def stored(settings: Settings) -> list[Path]:
    return [path for path in settings.uploads_dir.iterdir() if path.name != ".lock"]


def on_loop(client: TestClient, call: Callable[[], Awaitable[Any]]) -> Any:
    assert client.portal is not None
    return client.portal.call(call)


def set_expiry(client: TestClient, seconds: float) -> None:
    async def run() -> None:
        async with client.app_state["sessions"].begin() as session:
            expires_at = datetime.now(UTC) + timedelta(seconds=seconds)
            await session.execute(update(StoredFile).values(expires_at=expires_at))

    on_loop(client, run)


async def chunks_of(*chunks: bytes) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk


CONTENT = (TEXT * 40_000)[:1_000_000]


def test_an_upload_in_three_requests_is_the_file_that_was_sent(
    client: TestClient, settings: Settings
) -> None:
    answer = create(client, len(CONTENT), "../../Größe.txt")
    url = answer.headers["location"]
    assert answer.json() == {
        "id": url.rpartition("/")[2],
        "filename": "Größe.txt",
        "offset": 0,
        "length": len(CONTENT),
        "complete": False,
        "expires_at": answer.json()["expires_at"],
    }
    cuts = [0, 1, PIECE_SIZE + 7, len(CONTENT)]
    for start, stop in pairwise(cuts):
        assert offset_of(client, url) == start
        assert file_of(client, url).status_code == 404
        answer = patch(client, url, start, CONTENT[start:stop])
        assert (answer.status_code, answer.headers["upload-offset"]) == (204, str(stop))
        assert not answer.content
    told = client.get(url, headers=TUS)
    assert told.json()["complete"] and told.headers["upload-metadata"] == metadata("Größe.txt")
    assert (told.headers["upload-offset"], told.headers["upload-length"]) == (str(len(CONTENT)),) * 2
    assert file_of(client, url).content == CONTENT
    assert [path.name for path in stored(settings)] == [url.rpartition("/")[2]]


def test_bytes_that_come_twice_are_a_409_and_are_kept_once(client: TestClient) -> None:
    url = created(client, 6)
    assert patch(client, url, 0, b"one").status_code == 204
    for offset in (0, 2, 4, 6, 10**30):
        assert patch(client, url, offset, b"one").status_code == 409
    assert patch(client, url, 3, b"two").status_code == 204
    assert patch(client, url, 6, b"").status_code == 409  # by who does not know that it is complete
    assert file_of(client, url).content == b"onetwo"


@pytest.mark.anyio
async def test_whoever_appends_at_the_same_time_gets_423(app: FastAPI) -> None:
    async with working(app) as one, working(app) as other:
        url = await one.create(10)
        body = Body()
        first = asyncio.create_task((call := one.patch(url, 0, body)).run())
        await body.send(b"01234")
        for worker in (one, other):
            second = worker.patch(url, 0, Body())
            second.leave()  # once it is answered, for it sends nothing
            await second.run()
            assert second.status == 423
            assert second.headers[b"tus-resumable"] == b"1.0.0"
        await body.send(b"56789", more=False)
        await first
        assert call.status == 204
        assert await other.offset(url) == 10


@pytest.mark.anyio
async def test_a_request_that_breaks_off_keeps_what_arrived(app: FastAPI) -> None:
    sent = 0
    async with working(app) as worker, working(app) as other:
        url = await worker.create(len(CONTENT))
        for size in (1, 70_000, PIECE_SIZE + 1):
            body = Body()
            request = asyncio.create_task((call := worker.patch(url, sent, body)).run())
            await body.send(CONTENT[sent : sent + size])
            call.leave()
            await request
            sent += size
            assert await other.offset(url) == sent
        # Cancelled, as uvicorn does when its grace is over.
        body = Body()
        request = asyncio.create_task(worker.patch(url, sent, body).run())
        await body.send(CONTENT[sent : sent + 1_000])
        request.cancel()
        await asyncio.wait([request])
        assert await other.offset(url) == sent + 1_000


@pytest.mark.anyio
async def test_a_client_that_falls_silent_gets_408_and_its_lock_is_free(settings: Settings) -> None:
    impatient = settings.model_copy(update={"files": FileSettings(silence_seconds=0.1)})
    async with working(create_app(impatient)) as worker:
        url = await worker.create(10)
        body = Body()
        silent = asyncio.create_task((call := worker.patch(url, 0, body)).run())
        await body.send(b"01234")
        await call.until_sent(1)
        call.leave()
        await silent
        assert call.status == 408
        assert (call.headers[b"connection"], call.headers[b"tus-resumable"]) == (b"close", b"1.0.0")
        assert await worker.offset(url) == 5
        body = Body()
        again = asyncio.create_task((call := worker.patch(url, 5, body)).run())
        await body.send(b"56789", more=False)
        await again
        assert call.status == 204


@pytest.mark.anyio
async def test_a_service_that_stops_keeps_what_arrived(app: FastAPI) -> None:
    async with working(app) as worker:
        url = await worker.create(10)
        body = Body()
        request = asyncio.create_task((call := worker.patch(url, 0, body)).run())
        await body.send(b"01234")
        worker.state["stopping"].set()
        body.put_nowait({"type": "http.request", "body": b"5", "more_body": True})
        call.leave()
        await request
        assert call.status == 503
        assert await worker.offset(url) == 6


@pytest.mark.parametrize("published", [False, True])
def test_an_upload_whose_last_request_died_before_its_end_is_completed_by_head(
    client: TestClient, published: bool
) -> None:
    url = created(client, len(TEXT))
    file_id = url.rpartition("/")[2]

    class Nothing:
        def feed(self, piece: bytes) -> None: ...

        def finish(self) -> None: ...

    async def die() -> None:
        storage = client.app_state["storage"]
        await storage.append(file_id, 0, chunks_of(TEXT))
        if published:
            await storage.publish(file_id, Nothing())

    on_loop(client, die)
    assert file_of(client, url).status_code == 404
    assert offset_of(client, url) == len(TEXT)
    assert file_of(client, url).content == TEXT


@pytest.mark.anyio
async def test_nobody_is_told_of_the_last_byte_before_it_is_known_how_that_ends(app: FastAPI) -> None:
    async with working(app) as worker:
        url = await worker.create(5)
        body = Body()
        last = asyncio.create_task((call := worker.patch(url, 0, body)).run())
        await body.send(b"01234")  # all of them, but not yet the end of the request
        early = worker.call("GET", url, Body(), **TUS)
        await early.run()
        assert (early.status, call.sent) == (423, [])
        body.put_nowait(EMPTY_BODY)
        await last
        assert (call.status, await worker.offset(url)) == (204, 5)


def test_bytes_count_only_when_they_match_their_checksum(client: TestClient) -> None:
    url = created(client, len(CONTENT))
    wrong = {"Upload-Checksum": checksum("sha256", b"other")}
    offset = 0
    for algorithm in DIGESTS:
        chunk = CONTENT[offset : offset + 300_000]
        answer = patch(client, url, offset, chunk, **wrong)
        assert answer.status_code == 460
        assert offset_of(client, url) == offset
        answer = patch(client, url, offset, chunk, **{"Upload-Checksum": checksum(algorithm, chunk)})
        offset += len(chunk)
        assert (answer.status_code, offset_of(client, url)) == (204, offset)
    for unreadable in ("md4 AAAA", "SHA1 AAAA", "sha256", "sha256 =", "sha256 AAA", "sha256 AAAA,", ""):
        assert patch(client, url, offset, b"x", **{"Upload-Checksum": unreadable}).status_code in (400, 460)
    assert offset_of(client, url) == offset


def test_more_than_16_mib_with_a_checksum_are_refused(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MOST_CHECKED == 16 * 2**20
    monkeypatch.setattr("app.tus_body.MOST_CHECKED", 1_000)
    url = created(client, len(CONTENT))
    for size, status in ((1_001, 413), (1_000, 204)):
        sum_of = {"Upload-Checksum": checksum("sha1", CONTENT[:size])}
        assert patch(client, url, 0, CONTENT[:size], **sum_of).status_code == status
    assert offset_of(client, url) == 1_000
    assert patch(client, url, 1_000, CONTENT[1_000:]).status_code == 204  # without one


@pytest.mark.anyio
async def test_only_so_many_requests_at_once_wait_for_their_checksum(app: FastAPI) -> None:
    sum_of = {"Upload-Checksum": checksum("sha1", b"01234")}
    async with working(app) as worker:
        urls = [await worker.create(10) for _ in range(2)]

        def patching(url: str, body: Body, **headers: str) -> Call:
            headers = {**OCTETS, "Upload-Offset": "0", "Transfer-Encoding": "chunked", **headers}
            return worker.call("PATCH", url, body, **headers)

        for _ in range(2):  # a place is free again, however its request ends
            first = patching(urls[0], body := Body(), **sum_of)
            waiting = asyncio.create_task(first.run())
            await body.send(b"012")
            second = patching(urls[1], Body(), **sum_of)
            second.leave()  # once it is answered, for it sends nothing
            await second.run()
            assert second.status == 503
            first.leave()
            await waiting
        body = Body()
        body.put_nowait({"type": "http.request", "body": b"01234", "more_body": False})
        last = patching(urls[1], body, **sum_of)
        await last.run()
        assert last.status == 204
        assert [await worker.offset(url) for url in urls] == [0, 5]


def test_a_place_is_free_again_also_while_an_error_still_holds_the_chunks(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = []

    async def fail(*given: Any) -> None:
        held.append(chunks := given[-1])
        await anext(chunks)
        raise Conflict

    url = created(client, 3)
    sum_of = {"Upload-Checksum": checksum("sha1", b"one")}
    with monkeypatch.context() as failing:
        failing.setattr(ResumableUploads, "append", fail)
        assert patch(client, url, 0, b"one", **sum_of).status_code == 409
    assert held
    assert patch(client, url, 0, b"one", **sum_of).status_code == 204


@pytest.mark.anyio
@pytest.mark.parametrize("step", ["write", "seek"])
async def test_a_disk_without_room_for_what_waits_for_its_checksum_is_507(
    monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Past the storage: that on a disk would say the same of its own errors, one on S3 would not."""

    async def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    places, expected = ChecksumPlaces(1), read_checksum(checksum("sha1", b"one"))
    with monkeypatch.context() as full:
        full.setattr(AsyncFile, step, fail)
        with pytest.raises(InsufficientStorage):
            await anext(places.verified(chunks_of(b"one"), expected))
    assert InsufficientStorage.status == 507
    assert [piece async for piece in places.verified(chunks_of(b"one"), expected)] == [b"one"]


def test_never_more_is_kept_than_was_announced(client: TestClient, settings: Settings) -> None:
    url = created(client, 5)
    assert patch(client, url, 0, b"012").status_code == 204
    for content in (b"345", b"3" * 100_000):
        assert patch(client, url, 3, content).status_code == 413
        sum_of = {"Upload-Checksum": checksum("sha1", content)}
        assert patch(client, url, 3, content, **sum_of).status_code == 413
    assert patch(client, url, 0, b"0" * (MOST + 1)).status_code == 413
    assert offset_of(client, url) == 3
    assert [path.stat().st_size for path in stored(settings)] == [3]


def test_what_is_not_what_its_name_says_is_415_and_gone(client: TestClient, settings: Settings) -> None:
    cut = image("PNG")[:-1]
    for name, pieces in (
        ("page.png", [b"<script>"]),  # at the first byte
        ("cut.png", [cut[:20], cut[20:]]),  # at the last one
        ("note.txt", [b"text", b"\0"]),
    ):
        url = created(client, sum(map(len, pieces)), name)
        *good, bad = pieces
        offset = 0
        for piece in good:
            assert patch(client, url, offset, piece).status_code == 204
            offset += len(piece)
        assert patch(client, url, offset, bad).status_code == 415
        assert client.head(url, headers=TUS).status_code == 404
    long = created(client, MOST, "long.pdf")
    assert patch(client, long, 0, b"<script>").status_code == 415  # before the rest is sent
    assert not stored(settings)


def test_the_bytes_of_a_request_have_their_media_type(client: TestClient) -> None:
    url = created(client, 4)
    for kind in ("application/octet-stream", "text/plain", ""):
        assert patch(client, url, 0, b"text", **{"Content-Type": kind}).status_code == 415
    answer = client.post(
        "/files/uploads",
        content=b"text",
        headers={**TUS, "Upload-Length": "4", "Upload-Metadata": metadata("a.txt")},
    )
    assert answer.status_code == 415
    assert offset_of(client, url) == 0


def test_too_large_or_over_the_quota_is_refused_before_the_first_byte(
    settings: Settings,
) -> None:
    files = settings.files.model_copy(update={"anonymous_quota": 1_500_000})
    with TestClient(create_app(settings.model_copy(update={"files": files}))) as client:
        assert create(client, MOST + 1).status_code == 413
        assert create(client, 10**30).status_code == 413
        assert create(client, 1_500_001).status_code == 507
        url = created(client, 1_000_000)
        assert create(client, 1_000_000).status_code == 507  # the room is kept, though no byte has come
        assert client.delete(url, headers=TUS).status_code == 204
        assert create(client, 1_000_000).status_code == 201
        for name in ("page.html", "pdf", "a.txt.exe"):
            assert create(client, 10, name).status_code == 415


def test_who_does_not_say_who_they_are_has_less_than_an_account(settings: Settings) -> None:
    assert settings.files.anonymous_max_size == 100 * 2**20
    files = settings.files.model_copy(update={"anonymous_max_size": 1_000})
    with TestClient(create_app(settings.model_copy(update={"files": files}))) as client:
        assert [create(client, length).status_code for length in (1_000, 1_001)] == [201, 413]
        ada = log_in(client, "ada")
        assert [create(client, length, **ada).status_code for length in (MOST, MOST + 1)] == [201, 413]
        assert client.options("/files/uploads").headers["tus-max-size"] == str(MOST)


def test_a_length_or_an_offset_is_digits_and_comes_once(client: TestClient) -> None:
    url = created(client, 6)
    for number in ("-1", "+5", "1_0", "5.0", "1e3", "0x10", "", "many", "5, 5", "five"):
        for answer in (
            create(client, 0, **{"Upload-Length": number}),
            patch(client, url, 0, b"one", **{"Upload-Offset": number}),
        ):
            assert answer.status_code == 422, number
            assert not number or f'"{number}"' not in answer.text
    for name in ("Upload-Length", "Upload-Offset", "Upload-Metadata", "Upload-Checksum"):
        twice = [*OCTETS.items(), ("Upload-Length", "6"), ("Upload-Metadata", metadata("a.txt"))]
        twice += [("Upload-Offset", "0"), ("Upload-Checksum", checksum("sha1", b"one"))]
        twice += [(name.lower(), dict(twice)[name])]
        for method, path in (("POST", "/files/uploads"), ("PATCH", url)):
            answer = client.request(method, path, content=b"one", headers=twice)
            assert (answer.status_code, answer.headers["tus-resumable"]) == (400, "1.0.0")
    assert offset_of(client, url) == 0


def test_metadata_that_are_not_well_formed_are_refused(client: TestClient) -> None:
    good = metadata("a.txt")
    for header, status in {
        good: 201,
        f"is_draft,{good},filetype dGV4dC9wbGFpbg==": 201,
        f"{good} , other ": 201,
        "": 400,
        "filename": 415,
        "filename !": 400,
        "filename YS50eHQ": 400,
        "filename  YS50eHQ=": 400,
        f"{good},{good}": 400,
        f"{good},": 400,
        "filetype dGV4dA==": 400,
        f"filename {base64.b64encode(bytes([255])).decode()}": 400,
        "a" * 4_001: 422,
    }.items():
        assert create(client, 10, **{"Upload-Metadata": header}).status_code == status, header
    assert client.post("/files/uploads", headers={**TUS, "Upload-Length": "1"}).status_code == 422


def test_an_upload_of_an_account_is_404_for_everybody_else(client: TestClient) -> None:
    ada, bob = log_in(client, "ada"), log_in(client, "bob")
    url = created(client, 8, **ada)
    for stranger in (bob, {}):
        assert client.head(url, headers={**TUS, **stranger}).status_code == 404
        assert patch(client, url, 0, b"of Bob", **stranger).status_code == 404
        assert client.delete(url, headers={**TUS, **stranger}).status_code == 404
    assert patch(client, url, 0, b"text", **ada).status_code == 204
    assert offset_of(client, url, **ada) == 4
    answer = patch(client, url, 4, b"text", **ada)
    assert answer.status_code == 204 and "upload-expires" not in answer.headers
    assert (file_of(client, url).status_code, file_of(client, url, **ada).status_code) == (404, 200)
    assert create(client, 8, Authorization="Bearer nonsense").status_code == 401


def expires_in(client: TestClient, url: str) -> timedelta:
    told = client.head(url, headers=TUS).headers["upload-expires"]
    return parsedate_to_datetime(told) - datetime.now(UTC)


def test_an_upload_expires_and_each_request_that_brings_bytes_moves_that_moment_on(
    client: TestClient, settings: Settings
) -> None:
    url = created(client, 6)
    day = timedelta(seconds=settings.files.resumable_seconds)
    for content, status, moved in (
        (b"", 204, False),
        (b"one and more", 413, False),
        (b"one", 204, True),
        (b"", 204, False),
        (b"two and more", 413, False),
    ):
        set_expiry(client, 100)
        answer = patch(client, url, offset_of(client, url), content)
        assert answer.status_code == status
        assert status == 413 or "upload-expires" in answer.headers
        expected = day if moved else timedelta(seconds=100)
        assert abs(expires_in(client, url) - expected) < timedelta(seconds=LIMIT)

    set_expiry(client, -1)
    assert client.head(url, headers=TUS).status_code == 404
    assert patch(client, url, 3, b"two").status_code == 404
    on_loop(client, client.app_state["files"].sweep)
    assert not stored(settings)


def test_until_its_first_byte_an_upload_waits_ten_minutes(client: TestClient, settings: Settings) -> None:
    assert settings.files.first_byte_seconds == 600
    answer = create(client, 6)
    assert abs(expires_in(client, answer.headers["location"]).total_seconds() - 600) < LIMIT
    assert parsedate_to_datetime(answer.headers["upload-expires"]) < datetime.now(UTC) + timedelta(
        seconds=600 + LIMIT
    )
    # With a first byte it waits as long as any other.
    headers = {**OCTETS, "Upload-Length": "6", "Upload-Metadata": metadata("a.txt")}
    url = client.post("/files/uploads", content=b"o", headers=headers).headers["location"]
    left = expires_in(client, url).total_seconds()
    assert abs(left - settings.files.resumable_seconds) < LIMIT


@pytest.mark.anyio
async def test_a_request_that_breaks_off_after_a_byte_moves_that_moment_on(
    app: FastAPI, settings: Settings
) -> None:
    async with working(app) as worker:
        url = await worker.create(10)
        call = worker.patch(url, 0, body := Body())
        request = asyncio.create_task(call.run())
        await body.send(b"0")
        call.leave()
        await request
        file: StoredFile = await worker.state["files"].find(url.rpartition("/")[2], None, RESUMABLE)
        assert file.expires_at
        left = file.expires_at.replace(tzinfo=UTC) - datetime.now(UTC)
        assert abs(left.total_seconds() - settings.files.resumable_seconds) < LIMIT


def test_a_request_whose_upload_another_one_completes_is_told_so(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = created(client, 6)
    append = Files.append

    async def append_and_be_overtaken(files: Files, file_id: str, *given: Any) -> int:
        monkeypatch.setattr(Files, "append", append)
        end = await append(files, file_id, *given)
        uploads = ResumableUploads(files, client.app_state["settings"])
        await uploads.append(file_id, None, end, chunks_of(b"two"))
        return end

    monkeypatch.setattr(Files, "append", append_and_be_overtaken)
    answer = patch(client, url, 0, b"one")
    assert (answer.status_code, answer.headers["upload-offset"]) == (204, "6")
    assert file_of(client, url).content == b"onetwo"


@pytest.mark.anyio
async def test_a_request_that_is_refused_with_409_or_423_does_not_move_that_moment(app: FastAPI) -> None:
    async with working(app) as worker:
        url = await worker.create(10)

        async def expires_at() -> datetime:
            file: StoredFile = await worker.state["files"].find(url.rpartition("/")[2], None, RESUMABLE)
            assert file.expires_at
            return file.expires_at

        async def refused(offset: int) -> int | None:
            call = worker.patch(url, offset, Body())
            call.leave()
            await call.run()
            return call.status

        before = await expires_at()
        assert await refused(3) == 409
        assert await expires_at() == before
        body = Body()
        first = asyncio.create_task((call := worker.patch(url, 0, body)).run())
        await body.send(b"01234")
        meanwhile = await expires_at()
        assert meanwhile > before  # by as long as that request may take
        assert await refused(0) == 423
        assert await expires_at() == meanwhile
        call.leave()
        await first


def test_an_upload_that_is_ended_is_gone(client: TestClient, settings: Settings) -> None:
    url = created(client, 6)
    patch(client, url, 0, b"one")
    assert client.delete(url, headers=TUS).status_code == 204
    for method in ("HEAD", "DELETE"):
        assert client.request(method, url, headers=TUS).status_code == 404
    assert patch(client, url, 3, b"two").status_code == 404
    assert not stored(settings)


@pytest.mark.anyio
async def test_a_request_whose_upload_is_ended_is_over_too(
    app: FastAPI, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that brings bytes so slowly that nobody writes them."""
    monkeypatch.setattr("app.storage.resumable.LOOK_SECONDS", 0.0)
    async with working(app) as worker:
        url = await worker.create(MOST)
        body = Body()
        request = asyncio.create_task((call := worker.patch(url, 0, body)).run())
        await body.send(b"0")
        await (ending := worker.call("DELETE", url, Body(), **TUS)).run()
        assert ending.status == 204
        body.put_nowait({"type": "http.request", "body": b"1", "more_body": True})
        await call.until_sent(1)
        call.leave()
        await request
        assert call.status == 404
        assert open_in(settings.uploads_dir) == []


def test_another_version_is_412_and_every_answer_says_ours(client: TestClient) -> None:
    url = created(client, 6)
    for method, path in (
        ("POST", "/files/uploads"),
        ("HEAD", url),
        ("GET", url),
        ("PATCH", url),
        ("DELETE", url),
    ):
        for version in ({}, {"Tus-Resumable": "0.2.2"}, {"Tus-Resumable": "1.0.0, 1.0.0"}):
            answer = client.request(method, path, headers=version)
            assert answer.status_code == 412
            assert answer.headers["tus-version"] == "1.0.0"
            assert answer.headers["tus-resumable"] == "1.0.0"
    described = client.options("/files/uploads")
    assert described.status_code == 204
    assert described.headers["tus-max-size"] == str(MOST)
    assert described.headers["tus-checksum-algorithm"] == "sha1,sha256,sha512"
    for extension in ("creation", "creation-with-upload", "checksum", "expiration", "termination"):
        assert extension in described.headers["tus-extension"].split(",")
    for answer in (
        described,
        create(client, 6),
        create(client, MOST + 1),
        create(client, 6, "a.exe"),
        create(client, 6, **{"Upload-Length": "x"}),
        patch(client, url, 3, b"two"),
        patch(client, url, 0, b"0" * (MOST + 1)),
        client.head("/files/uploads/unknown", headers=TUS),
        client.delete(url, headers=TUS),
    ):
        assert answer.headers.get_list("tus-resumable") == ["1.0.0"]


def test_a_post_may_say_that_it_is_a_patch_or_a_delete(client: TestClient) -> None:
    url = created(client, 6)
    as_patch = {**OCTETS, "Upload-Offset": "0", "X-HTTP-Method-Override": "PATCH"}
    assert client.post(url, content=b"one", headers=as_patch).status_code == 204
    assert offset_of(client, url) == 3
    for other in ("GET", "HEAD", "OPTIONS", "patch", "", "TRACE"):
        answer = client.post(url, headers={**OCTETS, "X-HTTP-Method-Override": other})
        assert answer.status_code == 405
    # Of the methods that change anything, only POST may be another.
    assert client.get(url, headers={**TUS, "X-HTTP-Method-Override": "DELETE"}).status_code == 200
    assert client.post(url, headers={**TUS, "X-HTTP-Method-Override": "DELETE"}).status_code == 204
    assert client.head(url, headers=TUS).status_code == 404


def test_a_page_of_an_allowed_origin_can_speak_all_of_tus(client: TestClient) -> None:
    url = created(client, 6)
    asked = (
        "authorization, content-type, tus-resumable, upload-checksum, upload-length, upload-metadata, "
        "upload-offset, x-http-method-override"
    )
    for method in ("HEAD", "GET", "POST", "PATCH", "DELETE"):
        preflight = {"Access-Control-Request-Method": method, "Access-Control-Request-Headers": asked}
        allowed = client.options(url, headers={"Origin": ORIGIN, **preflight})
        assert allowed.status_code == 200, allowed.text
        assert allowed.headers["access-control-allow-origin"] == ORIGIN
        refused = client.options(url, headers={"Origin": "https://evil.example", **preflight})
        assert "access-control-allow-origin" not in refused.headers
    answer = client.head(url, headers={**TUS, "Origin": ORIGIN})
    exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
    told = {name for name in answer.headers if name.startswith(("upload-", "tus-"))}
    assert {"location", *told} <= set(exposed) and len(told) == 5


def test_the_bytes_may_come_with_the_creation(client: TestClient, settings: Settings) -> None:
    def with_bytes(content: bytes, length: int, name: str = "a.txt", **headers: str) -> httpx2.Response:
        headers = {**OCTETS, "Upload-Length": str(length), "Upload-Metadata": metadata(name), **headers}
        return client.post("/files/uploads", content=content, headers=headers)

    whole = with_bytes(pdf(), len(pdf()), "a.pdf")
    assert whole.json()["complete"] and whole.headers["upload-offset"] == str(len(pdf()))
    assert file_of(client, whole.headers["location"]).content == pdf()
    part = with_bytes(b"one", 6)
    assert (part.status_code, part.headers["upload-offset"]) == (201, "3")
    assert patch(client, part.headers["location"], 3, b"two").status_code == 204
    empty = create(client, 0)
    assert empty.json()["complete"] and file_of(client, empty.headers["location"]).content == b""

    kept = len(stored(settings))
    assert with_bytes(b"too many", 6).status_code == 413
    assert with_bytes(b"<script>", 8, "a.png").status_code == 415
    assert with_bytes(b"", 0, "a.png").status_code == 415
    assert with_bytes(b"one", 6, **{"Upload-Checksum": checksum("sha1", b"two")}).status_code == 460
    assert len(stored(settings)) == kept  # of what has no URL nothing is left


def tutorial(folder: Path) -> FastAPI:
    """A worker of the usual resumable upload: it appends, or seeks, and its locks are a dictionary."""
    app = FastAPI()
    locks: dict[str, asyncio.Lock] = {}

    @app.patch("/appended/{name}")
    async def append(name: str, request: Request) -> None:
        async with locks.setdefault(name, asyncio.Lock()):
            async for chunk in request.stream():
                with open(folder / name, "ab") as file:  # noqa: ASYNC230 - the trap itself
                    file.write(chunk)

    @app.patch("/sought/{name}")
    async def seek(name: str, request: Request, upload_offset: Annotated[int, Header()]) -> None:
        with open(folder / name, "r+b") as file:  # noqa: ASYNC230 - the trap itself
            file.seek(upload_offset)
            file.write(await request.body())

    return app


def test_trap_bytes_that_are_sent_again_are_there_twice(tmp_path: Path) -> None:
    client = TestClient(tutorial(tmp_path))
    for chunk in (b"one", b"two", b"two"):  # the answer to the second was lost
        assert client.patch("/appended/a.txt", content=chunk).status_code == 200
    assert (tmp_path / "a.txt").read_bytes() == b"onetwotwo"


def test_trap_the_offset_of_the_client_leaves_a_hole(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"on")  # of three bytes one was lost
    client = TestClient(tutorial(tmp_path))
    assert client.patch("/sought/a.txt", content=b"two", headers={"Upload-Offset": "3"}).status_code == 200
    assert (tmp_path / "a.txt").read_bytes() == b"on\0two"


@pytest.mark.anyio
async def test_trap_a_lock_in_a_dict_is_not_seen_by_another_worker(tmp_path: Path) -> None:
    workers = [tutorial(tmp_path), tutorial(tmp_path)]
    bodies = [Body(), Body()]
    requests = []
    for app, body in zip(workers, bodies, strict=True):
        call = Call(app, http_scope("/appended/a.txt", "PATCH"))
        call.incoming = body
        requests.append(asyncio.create_task(call.run()))
        await body.send(b"on")
    for body in bodies:
        await body.send(b"e", more=False)
    await asyncio.gather(*requests)
    assert (tmp_path / "a.txt").read_bytes() == b"ononee"
