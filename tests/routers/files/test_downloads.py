import asyncio
import hashlib
import os
import threading
import tracemalloc
import zipfile
from collections.abc import AsyncGenerator, Callable, Iterator
from io import BytesIO
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse, StreamingResponse
from fastapi.testclient import TestClient

from app.errors import NotFound, add_exception_handlers
from app.lifespan import open_state
from app.main import create_app
from app.routers.files import downloads, uploads
from app.settings import Settings
from app.storage.archive import zip_of
from app.storage.disk import open_disk
from app.storage.file_response import StoredFileResponse, attachment
from app.storage.pieces import PIECE_SIZE
from app.storage.prompt_stream import PromptStream
from app.telemetry import Telemetry
from tests.asgi import EMPTY_BODY, LIMIT, Call, http_scope
from tests.live.one_connection import connected
from tests.owners import log_in
from tests.samples import FILES
from tests.server import HTTP_PROTOCOL as OURS
from tests.stored_files import GET, open_in, put_file

TEXT = b"0123456789" * 500
ETAG = f'"{hashlib.sha256(TEXT).hexdigest()}"'


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("downloads")
    return Settings(data_dir=folder / "data", uploads_dir=folder / "uploads")


@pytest.fixture(scope="module")
def client(settings: Settings) -> Iterator[TestClient]:
    """One service for all: its files have ids of their own."""
    with TestClient(create_app(settings)) as client:
        yield client


@pytest.fixture
def place(client: TestClient) -> str:
    """Where a text file of 5,000 bytes can be fetched."""
    return client.post("/upload/", files={"file": ("digits.txt", TEXT)}).headers["location"]


@pytest.mark.parametrize("name", FILES)
def test_the_bytes_that_come_back_are_those_that_were_sent(client: TestClient, name: str) -> None:
    content, content_type = FILES[name]
    place = client.post("/upload/", files={"file": (name, content)}).headers["location"]
    answer = client.get(place)
    assert answer.content == content
    assert answer.headers["content-type"].partition(";")[0] == content_type
    assert answer.headers["content-length"] == str(len(content))
    assert answer.headers["etag"] == f'"{hashlib.sha256(content).hexdigest()}"'
    assert answer.headers["accept-ranges"] == "bytes"
    assert "last-modified" in answer.headers


def test_a_range_a_suffix_several_ranges_and_one_that_cannot_be_met_get_206_and_416(
    client: TestClient, place: str
) -> None:
    for wanted, body, told in (
        ("bytes=2-5", b"2345", "bytes 2-5/5000"),
        ("bytes=4998-", b"89", "bytes 4998-4999/5000"),
        ("bytes=-3", b"789", "bytes 4997-4999/5000"),
    ):
        answer = client.get(place, headers={"Range": wanted})
        assert (answer.status_code, answer.content) == (206, body)
        assert answer.headers["content-range"] == told
        assert answer.headers["content-length"] == str(len(body))
    several = client.get(place, headers={"Range": "bytes=0-1,10-12"})
    assert several.status_code == 206
    assert several.headers["content-type"].startswith("multipart/byteranges; boundary=")
    assert several.headers["content-length"] == str(len(several.content))
    assert b"bytes 0-1/5000\r\n\r\n01\r\n" in several.content
    assert b"bytes 10-12/5000\r\n\r\n012\r\n" in several.content
    beyond = client.get(place, headers={"Range": "bytes=5000-"})
    assert beyond.status_code == 416
    assert beyond.headers["content-range"] == "bytes */5000"
    assert beyond.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("wanted", ["", "bytes", "bytes=5-4", "lines=0-9", "bytes=" + "0-0," * 10_000])
def test_a_range_header_that_is_not_understood_or_asks_too_much_gets_the_whole(
    client: TestClient, place: str, wanted: str
) -> None:
    answer = client.get(place, headers={"Range": wanted})
    assert (answer.status_code, answer.content) == (200, TEXT)
    assert "content-range" not in answer.headers


@pytest.mark.parametrize(
    "wanted",
    ["bytes=" + ",".join(ranges) for ranges in (["0-"] * 10, ["-5000"] * 11, [f"{n}-" for n in range(10)])]
    + ["bytes=" + ",".join(f"{n}-{n + 498}" for n in range(0, 5000, 500))],
)
def test_no_request_gets_more_than_the_whole_and_the_heads_of_ten_parts(
    client: TestClient, place: str, wanted: str
) -> None:
    answer = client.get(place, headers={"Range": wanted})
    assert answer.headers["content-length"] == str(len(answer.content))
    assert len(answer.content) < len(TEXT) + 10 * 200


@pytest.mark.parametrize("given", [ETAG, f"W/{ETAG}", f'"other", {ETAG}', "*"])
def test_a_client_that_has_the_file_gets_304_without_a_body(
    client: TestClient, place: str, given: str
) -> None:
    answer = client.get(place, headers={"If-None-Match": given})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == ETAG
    assert answer.headers["cache-control"] == "private, no-cache"
    assert client.get(place, headers={"If-None-Match": '"other"'}).status_code == 200


@pytest.mark.parametrize("name", ["If-Match", "If-Unmodified-Since"])
def test_a_request_that_expects_something_else_gets_412(client: TestClient, place: str, name: str) -> None:
    other = {"If-Match": '"other"', "If-Unmodified-Since": "Fri, 02 Jan 1998 03:04:05 GMT"}[name]
    answer = client.get(place, headers={name: other})
    assert answer.status_code == 412
    assert answer.headers["content-type"] == "application/problem+json"
    headers = client.get(place).headers
    same = {"If-Match": headers["etag"], "If-Unmodified-Since": headers["last-modified"]}[name]
    assert client.get(place, headers={name: same}).status_code == 200


def test_a_range_is_honoured_only_if_the_tag_or_the_date_still_matches(
    client: TestClient, place: str
) -> None:
    for same in (ETAG, client.get(place).headers["last-modified"]):
        answer = client.get(place, headers={"Range": "bytes=0-3", "If-Range": same})
        assert (answer.status_code, answer.content) == (206, b"0123")
    for other in ('"other"', "Fri, 02 Jan 1998 03:04:05 GMT"):
        answer = client.get(place, headers={"Range": "bytes=5000-", "If-Range": other})
        assert (answer.status_code, answer.content) == (200, TEXT)


def test_head_has_the_headers_of_get_and_no_body(client: TestClient, settings: Settings, place: str) -> None:
    of_request = ("x-request-id", "x-process-time")
    head = client.head(place)
    assert (head.status_code, head.content) == (200, b"")
    expected = client.get(place).headers
    assert [h for h in head.headers.items() if h[0] not in of_request] == [
        h for h in expected.items() if h[0] not in of_request
    ]
    assert client.head(place, headers={"If-None-Match": ETAG}).status_code == 304
    assert client.head(place, headers={"Range": "bytes=0-2"}).status_code == 200
    assert open_in(settings.uploads_dir) == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("plain.txt", 'attachment; filename="plain.txt"'),
        ("two words.txt", 'attachment; filename="two words.txt"'),
        ("a;b,'c'.txt", "attachment; filename=\"a;b,'c'.txt\""),
        (
            "Zürich 日本.txt",
            "attachment; filename=\"Z_rich __.txt\"; filename*=UTF-8''Z%C3%BCrich%20%E6%97%A5%E6%9C%AC.txt",
        ),
        ("🐟.txt", "attachment; filename=\"_.txt\"; filename*=UTF-8''%F0%9F%90%9F.txt"),
    ],
)
def test_the_name_is_encoded_for_every_language(client: TestClient, name: str, told: str) -> None:
    place = client.post("/upload/", files={"file": (name, TEXT)}).headers["location"]
    assert client.get(place).headers["content-disposition"] == told


def test_what_would_end_the_quotes_or_is_read_in_two_ways_is_not_in_the_plain_name() -> None:
    encoded = "filename*=UTF-8''a%22b%5C%2541%0D%0A.txt"
    assert attachment('a"b\\%41\r\n.txt') == f'attachment; filename="a_b__41__.txt"; {encoded}'


def test_an_upload_is_never_shown_in_the_origin_of_the_service(client: TestClient, place: str) -> None:
    for headers in ({}, {"Range": "bytes=0-3"}):
        answer = client.get(place, headers=headers)
        assert answer.headers["content-disposition"].startswith("attachment; ")
        assert answer.headers.get_list("x-content-type-options") == ["nosniff"]
        assert answer.headers.get_list("content-security-policy") == ["default-src 'none'; sandbox"]


def test_nor_in_an_app_without_our_middleware_where_head_is_405(new_settings: Settings) -> None:
    app = FastAPI(lifespan=open_state(new_settings, Telemetry(new_settings.telemetry)))
    app.include_router(uploads.router)
    app.include_router(downloads.router)
    with TestClient(app) as client:
        place = client.post("/upload/", files={"file": ("digits.txt", TEXT)}).headers["location"]
        assert client.get(place).headers["x-content-type-options"] == "nosniff"
        assert client.head(place).status_code == 405


def test_an_unknown_ill_formed_or_lost_file_is_404_without_a_path(
    client: TestClient, settings: Settings, place: str
) -> None:
    lost = settings.uploads_dir / place.removeprefix("/files/")
    lost.unlink()
    for path in (
        place,
        f"/files/{'0' * 32}",
        f"/files/{'A' * 32}",
        f"/files/{'0' * 31}%0A",
        "/files/.lock",
        "/files/..%2Fdata%2Fapp.sqlite3",
        "/files/x%00",
        f"/files/{'x' * 5_000}",
    ):
        answer = client.get(path)
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert str(settings.uploads_dir) not in answer.text


def test_the_file_of_an_account_is_404_for_everybody_else(client: TestClient) -> None:
    ada, bob = log_in(client, "ada"), log_in(client, "bob")
    place = client.post("/upload/", files={"file": ("a.txt", TEXT)}, headers=ada).headers["location"]
    archive = f"/download?file_id={place.removeprefix('/files/')}"
    for path in (place, archive):
        assert client.get(path, headers=ada).status_code == 200
        assert [client.get(path, headers=headers).status_code for headers in (bob, {})] == [404, 404]


def test_a_download_is_not_compressed_so_that_it_can_be_resumed(client: TestClient, place: str) -> None:
    headers = {"Accept-Encoding": "gzip"}
    whole = client.get(place, headers=headers)
    rest = client.get(place, headers={**headers, "Range": "bytes=100-", "If-Range": whole.headers["etag"]})
    assert whole.headers["content-length"] == "5000"
    assert whole.content[:100] + rest.content == TEXT


def test_the_archive_opens_and_is_the_same_every_time(client: TestClient) -> None:
    answer = client.get("/download")
    assert answer.headers["content-type"] == "application/zip"
    assert answer.headers["content-disposition"] == 'attachment; filename="downloaded.zip"'
    with zipfile.ZipFile(BytesIO(answer.content)) as archive:
        assert archive.testzip() is None
        page = archive.read("files/downloads.py")
    assert page == Path(downloads.__file__).read_bytes()
    assert client.get("/download").content == answer.content


def test_the_archive_has_the_files_that_were_asked_for_each_under_a_name_of_its_own(
    client: TestClient,
) -> None:
    contents = [b"one", b"two", b""]
    ids = [client.post("/upload/", files={"file": ("a.txt", each)}).json()["id"] for each in contents]
    answer = client.get("/download", params={"file_id": [*ids, ids[0]]})
    with zipfile.ZipFile(BytesIO(answer.content)) as archive:
        read = {name: archive.read(name) for name in archive.namelist()}
    assert read == {"a.txt": b"one", "a (2).txt": b"two", "a (3).txt": b""}
    assert client.get("/download", params={"file_id": [*ids, ids[0]]}).content == answer.content
    assert client.get("/download", params={"file_id": [*ids, "0" * 32]}).status_code == 404
    assert client.get("/download", params={"file_id": ids[:1] * 101}).status_code == 422


@pytest.mark.anyio
async def test_a_file_that_turns_out_shorter_never_looks_whole(tmp_path: Path) -> None:
    file = put_file(tmp_path, 2 * PIECE_SIZE)
    os.truncate(tmp_path / file.id, PIECE_SIZE)
    async with open_disk(tmp_path) as storage:
        async with connected(http=OURS, head=GET, app=StoredFileResponse(file, storage)) as wire:
            head, _, body = (await wire.read_until(b"")).partition(b"\r\n\r\n")
        assert f"content-length: {2 * PIECE_SIZE}\r\n".encode() in head
        assert len(body) == PIECE_SIZE


@pytest.mark.anyio
async def test_a_file_that_is_deleted_while_it_is_sent_never_looks_whole(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = put_file(tmp_path, 80 * PIECE_SIZE)  # more than the buffers of a connection take
    async with open_disk(tmp_path) as storage:
        async with connected(http=OURS, head=GET, app=StoredFileResponse(file, storage)) as wire:
            await wire.loop.sock_recv(wire.peer, 1)
            await storage.delete(file.id)
            assert len(await wire.read_until(b"")) < file.size
    # Anybody may do this as often as he likes: it is worth a line, and no traceback.
    assert [record.exc_info for record in caplog.records if record.name.startswith("app.")] == [None]
    assert "Traceback" not in caplog.text and "Error" not in caplog.text


@pytest.mark.anyio
async def test_a_client_that_leaves_ends_the_reading(tmp_path: Path) -> None:
    file = put_file(tmp_path, 80 * PIECE_SIZE)
    async with open_disk(tmp_path) as storage:
        response = StoredFileResponse(file, storage)
        async with connected(http=OURS, head=GET, app=response) as wire:
            await wire.loop.sock_recv(wire.peer, 1)
        with pytest.raises(StopAsyncIteration):
            await anext(response.pieces)


@pytest.mark.anyio
async def test_a_client_that_takes_its_bytes_slowly_holds_no_file_open(tmp_path: Path) -> None:
    stuck = asyncio.Event()

    class Stuck(Call):
        async def _send(self, message: object) -> None:
            stuck.set()
            await asyncio.Event().wait()

    file = put_file(tmp_path, 3 * PIECE_SIZE)
    async with open_disk(tmp_path) as storage, asyncio.timeout(LIMIT):
        call = Stuck(StoredFileResponse(file, storage), http_scope(), EMPTY_BODY)
        running = asyncio.create_task(call.run())
        await stuck.wait()
        assert open_in(tmp_path) == []
        call.leave()
        await running


@pytest.mark.anyio
async def test_a_slow_disk_stalls_nobody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = put_file(tmp_path, 3 * PIECE_SIZE)
    reading, goes_on, read = threading.Event(), threading.Event(), os.pread

    def slow_read(*args: int) -> bytes:
        reading.set()
        goes_on.wait(LIMIT)
        return read(*args)

    monkeypatch.setattr(os, "pread", slow_read)
    async with open_disk(tmp_path) as storage:
        call = Call(StoredFileResponse(file, storage), http_scope())
        running = asyncio.create_task(call.run())
        await asyncio.to_thread(reading.wait, LIMIT)
        assert call.sent == []
        goes_on.set()
        await running
    assert len(call.body) == file.size


@pytest.mark.anyio
async def test_the_archive_needs_no_more_memory_the_longer_it_gets(tmp_path: Path) -> None:
    files = [put_file(tmp_path, 100 * PIECE_SIZE) for _ in range(2)]
    async with open_disk(tmp_path) as storage:
        sent = 0
        tracemalloc.start()
        async for chunk in zip_of(downloads.entry(file, storage) for file in files):
            sent += len(chunk)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert sent > 200 * PIECE_SIZE
    assert most < 16 * PIECE_SIZE


@pytest.mark.anyio
@pytest.mark.parametrize("happens", [Path.unlink, lambda path: os.truncate(path, 1)])
async def test_an_archive_whose_files_go_meanwhile_never_looks_whole(
    tmp_path: Path, happens: Callable[[Path], None]
) -> None:
    files = [put_file(tmp_path, size) for size in (8 * PIECE_SIZE, 2)]
    async with open_disk(tmp_path) as storage:
        archive = downloads.Archive(zip_of(downloads.entry(file, storage) for file in files), headers={})
        async with connected(http=OURS, head=GET, app=archive) as wire:
            await wire.loop.sock_recv(wire.peer, 1)
            happens(tmp_path / files[1].id)
            answer = await wire.read_until(b"")
    assert len(answer) > 8 * PIECE_SIZE
    assert not answer.endswith(b"0\r\n\r\n")
    assert not zipfile.is_zipfile(BytesIO(answer))


@pytest.fixture
def tutorial(tmp_path: Path) -> Iterator[TestClient]:
    """The usual download: the client's name is the path, and `FileResponse` does what it does."""
    (tmp_path / "digits.txt").write_bytes(TEXT)
    (tmp_path / "page.html").write_bytes(b"<script>alert(document.cookie)</script>")
    app = FastAPI()
    app.add_middleware(GZipMiddleware)

    @app.get("/download/{name}")
    async def download(name: str) -> FileResponse:
        return FileResponse(tmp_path / name)

    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_trap_a_file_response_sends_all_again_to_who_has_it(tutorial: TestClient) -> None:
    etag = tutorial.get("/download/digits.txt").headers["etag"]
    answer = tutorial.get("/download/digits.txt", headers={"If-None-Match": etag})
    assert (answer.status_code, answer.content) == (200, TEXT)


def test_trap_a_missing_file_is_500(tutorial: TestClient) -> None:
    assert tutorial.get("/download/nothing.txt").status_code == 500


def test_trap_an_uploaded_page_is_shown_in_the_origin_of_the_service(tutorial: TestClient) -> None:
    headers = tutorial.get("/download/page.html").headers
    assert headers["content-type"].startswith("text/html")
    assert "content-disposition" not in headers
    assert "content-security-policy" not in headers


def test_trap_a_resumed_download_glues_the_compressed_to_the_plain(tutorial: TestClient) -> None:
    headers = {"Accept-Encoding": "gzip"}
    with tutorial.stream("GET", "/download/digits.txt", headers=headers) as whole:
        begun = b"".join(whole.iter_raw())[:20]
    headers |= {"Range": "bytes=20-", "If-Range": whole.headers["etag"]}
    rest = tutorial.get("/download/digits.txt", headers=headers)
    assert rest.status_code == 206
    assert begun + rest.content != TEXT
    assert begun.startswith(b"\x1f\x8b")  # gzip, followed by plain text


def test_trap_a_stream_whose_file_is_lost_begins_with_200() -> None:
    app = FastAPI()
    add_exception_handlers(app)

    async def lost() -> AsyncGenerator[bytes]:
        raise NotFound
        yield b""

    app.add_api_route("/stream", lambda: StreamingResponse(lost()))
    app.add_api_route("/prompt", lambda: PromptStream(lost(), headers={}))
    with TestClient(app, raise_server_exceptions=False) as client:
        assert client.get("/stream").status_code == 200
        assert client.get("/prompt").status_code == 404


def test_trap_a_zip_in_memory_is_as_large_as_its_files() -> None:
    tracemalloc.start()
    with BytesIO() as file, zipfile.ZipFile(file, "w") as archive:
        for number in range(40):
            archive.writestr(f"{number}.bin", bytes(PIECE_SIZE))
        _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most > 40 * PIECE_SIZE
