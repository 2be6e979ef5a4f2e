import asyncio
import hashlib
import http.client
import os
import resource
import shutil
import socket
import sqlite3
import sys
import tracemalloc
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from fastapi import FastAPI, HTTPException, Request, UploadFile
from fastapi.testclient import TestClient
from sqlalchemy import event
from starlette.types import ASGIApp, Message

from app.commands import curl_command
from app.lifespan import Lifespan, State, open_state
from app.middleware.body_deadline import BodyDeadlineMiddleware
from app.routers.files import uploads
from app.security.session_cookie import COOKIE
from app.settings import Settings
from app.storage import disk
from app.storage.names import display_name
from app.storage.storage import Inspector
from app.telemetry import Telemetry
from tests.asgi import LIMIT, Call, http_scope
from tests.owners import log_in, session_of
from tests.samples import FILES, TEXT, image
from tests.server import Server

HTML = b"<!doctype html><script>alert(1)</script>"
BOTH_WAYS = ("/upload/", "/upload/spooled")
BOUNDARY = (b"content-type", b"multipart/form-data; boundary=b")
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
END = b"\r\n--b--\r\n"


def stored(settings: Settings) -> list[Path]:
    return [path for path in settings.uploads_dir.iterdir() if path.name != ".lock"]


def rows(settings: Settings) -> set[str]:
    with closing(sqlite3.connect(settings.data_dir / "app.sqlite3")) as database:
        return {file_id for (file_id,) in database.execute("SELECT id FROM files")}


def nothing_is_left(settings: Settings) -> bool:
    return not stored(settings) and not rows(settings)


def change(settings: Settings, statement: str, *values: object) -> None:
    with closing(sqlite3.connect(settings.data_dir / "app.sqlite3")) as database, database:
        database.execute(statement, values)


@asynccontextmanager
async def state_of(app: FastAPI, settings: Settings) -> AsyncIterator[State]:
    async with open_state(settings, Telemetry(settings.telemetry))(app) as state:
        yield state


def upload(app: ASGIApp, state: State | None, *chunks: bytes, **headers: str) -> Call:
    """A request that has sent these bytes of its body so far. `more` adds to them."""
    fields = [BOUNDARY, *((name.encode(), value.encode()) for name, value in headers.items())]
    scope = http_scope("/upload/", "POST", fields)
    if state is not None:
        scope["state"] = state
    return Call(app, scope, *map(more, chunks))


def more(chunk: bytes) -> Message:
    return {"type": "http.request", "body": chunk, "more_body": not chunk.endswith(END)}


def test_an_upload_answers_201_with_the_place_the_size_and_the_sha_256_of_the_file(
    client: TestClient, settings: Settings
) -> None:
    for path in BOTH_WAYS:
        for name, (content, content_type) in FILES.items():
            answer = client.post(path, files={"file": (name, content, "application/x-lie")})
            body = answer.json()
            assert answer.status_code == 201
            assert body == {
                "id": body["id"],
                "filename": name,
                "size": len(content),
                "content_type": content_type,
                "sha256": hashlib.sha256(content).hexdigest(),
            }
            assert answer.headers["location"] == f"/files/{body['id']}"
            assert (settings.uploads_dir / body["id"]).read_bytes() == content


def test_the_path_with_and_without_a_slash_is_the_same(client: TestClient) -> None:
    for path in ("/upload/", "/upload"):
        assert client.post(path, files={"file": ("a.txt", TEXT)}).status_code == 201


class WatchedStorage:
    """Tells what it is given, while it is given it."""

    def __init__(self) -> None:
        self.given: asyncio.Queue[bytes] = asyncio.Queue()

    async def save(self, file_id: str, chunks: AsyncIterable[bytes], inspector: Inspector) -> None:
        async for chunk in chunks:
            self.given.put_nowait(chunk)

    async def delete(self, file_id: str) -> None:
        pass


@pytest.mark.anyio
async def test_the_bytes_are_stored_while_the_body_arrives(app: FastAPI, settings: Settings) -> None:
    async with state_of(app, settings) as state, asyncio.timeout(LIMIT):
        storage = WatchedStorage()
        state["files"].storage = cast(Any, storage)
        call = upload(app, state, PART + b"first ")
        request = asyncio.create_task(call.run())
        assert await storage.given.get() == b"first "
        call.incoming.put_nowait(more(b"second"))
        assert await storage.given.get() == b"second"
        call.incoming.put_nowait(more(END))
        await request


def alone(lifespan: Lifespan | None = None) -> FastAPI:
    """A service of this page only."""
    service = FastAPI(lifespan=lifespan)
    service.include_router(uploads.router)
    return service


def test_a_service_that_sends_no_files_answers_201_without_a_place(settings: Settings) -> None:
    lifespan = open_state(settings, Telemetry(settings.telemetry))
    with TestClient(alone(lifespan)) as client:
        for path in BOTH_WAYS:
            answer = client.post(path, files={"file": ("a.txt", TEXT)})
            assert answer.status_code == 201
            assert "location" not in answer.headers
            assert (settings.uploads_dir / answer.json()["id"]).read_bytes() == TEXT


@pytest.mark.anyio
async def test_a_declared_length_over_the_limit_is_413_whoever_asks(app: FastAPI, settings: Settings) -> None:
    async with state_of(app, settings) as state:
        headers = {"content-length": str(2**40), "authorization": "Bearer of nothing"}
        call = upload(app, state, PART, **headers)
        request = asyncio.create_task(call.run())
        await call.until_sent(1)
        assert call.status == 413
        call.leave()
        await request


@pytest.mark.anyio
async def test_who_is_refused_is_refused_before_a_byte_of_the_body_is_read(
    app: FastAPI, settings: Settings
) -> None:
    async with state_of(app, settings) as state:
        for headers in (
            {"authorization": "Bearer of nothing"},
            {"cookie": f"{COOKIE}=made-up", "origin": "http://localhost"},
        ):
            call = upload(app, state, PART, **headers)
            await call.run()
            assert call.status == 401
            assert call.incoming.get_nowait() == more(PART)


HEAD = (
    b"POST /upload/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"%b\r\n\r\n"
)


def test_a_client_that_waits_for_100_continue_and_is_refused_sends_nothing(live: Server) -> None:
    body = PART + TEXT + END
    expecting = b"Expect: 100-continue\r\nContent-Length: %d"
    for status, fields in (
        (401, expecting % len(body) + b"\r\nAuthorization: Bearer of nothing"),
        (413, expecting % 2**40),
        (422, expecting % len(body) + b"\r\nContent-Type: application/json"),
    ):
        head = HEAD % fields
        if status == 422:
            head = head.replace(b"Content-Type: multipart/form-data; boundary=b\r\n", b"")
        with live.connect(head) as connection:
            assert connection.recv(2**16).startswith(b"HTTP/1.1 %d " % status)
    with live.connect(HEAD % (expecting % len(body))) as connection:
        assert connection.recv(2**16) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert connection.recv(2**16).startswith(b"HTTP/1.1 201 ")


def test_a_refusal_can_be_read_by_a_client_that_still_sends(live: Server) -> None:
    """As http.client does, which looks for no answer before it has sent all."""
    for status, part, headers in (
        (401, PART, {"Authorization": "Bearer of nothing"}),
        (415, PART.replace(b"a.txt", b"a.exe"), {}),
        (413, PART, {}),
    ):
        client = http.client.HTTPConnection("127.0.0.1", live.port, timeout=20)
        kind = {"Content-Type": "multipart/form-data; boundary=b"}
        chunks = iter([part, *[b"x" * 2**20] * 30])
        client.request("POST", "/upload/", chunks, {**kind, **headers}, encode_chunked=True)
        assert client.getresponse().status == status
        client.close()


def test_the_file_belongs_to_the_account_that_sent_it(client: TestClient) -> None:
    ada, alan = log_in(client, "ada"), log_in(client, "alan")
    for path in BOTH_WAYS:
        for headers in (ada, {**session_of(client, "ada"), "Origin": "http://testserver"}):
            answer = client.post(path, files={"file": ("a.txt", TEXT)}, headers=headers)
            assert answer.status_code == 201
            place = answer.headers["location"]
            assert client.get(place, headers=ada).content == TEXT
            assert client.get(place, headers=alan).status_code == client.get(place).status_code == 404
    place = client.post("/upload/", files={"file": ("a.txt", TEXT)}).headers["location"]
    assert client.get(place).content == TEXT


@pytest.mark.anyio
async def test_a_name_that_is_not_accepted_is_refused_before_the_file_arrives(
    app: FastAPI, settings: Settings
) -> None:
    async with state_of(app, settings) as state:
        call = upload(app, state, PART.replace(b"a.txt", b"a.exe"), b"MZ")
        await call.run()
        assert call.status == 415
        assert call.incoming.get_nowait() == more(b"MZ")
    assert nothing_is_left(settings)


def fill_quota(settings: Settings, left: int) -> None:
    change(
        settings,
        "INSERT INTO files (id, state, filename, content_type, size, sha256, created_at)"
        " VALUES (?, 'ready', '', '', ?, '', '2026-01-01')",
        "0" * 32,
        settings.files.anonymous_quota - left,
    )


def test_a_file_without_room_in_the_quota_is_507(client: TestClient, settings: Settings) -> None:
    left = 1_000_000
    fill_quota(settings, left)
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    for content in (PART + b"a" * (left + 1) + END, iter([PART, b"a" * left, b"a", END])):
        assert client.post("/upload/", content=content, headers=headers).status_code == 507
    assert rows(settings) == {"0" * 32} and not stored(settings)
    mine = log_in(client, "ada")
    assert client.post("/upload/", files={"file": ("a.txt", TEXT)}, headers=mine).status_code == 201
    content = PART + b"a" * left + END
    assert client.post("/upload/", content=content, headers=headers).status_code == 201
    assert client.post("/upload/", files={"file": ("a.txt", b"a")}).status_code == 507


@pytest.mark.anyio
async def test_a_length_without_room_in_the_quota_is_507_before_the_file_arrives(
    app: FastAPI, settings: Settings
) -> None:
    async with state_of(app, settings) as state:
        fill_quota(settings, 1_000_000)
        call = upload(app, state, PART, **{"content-length": "2000000"})
        request = asyncio.create_task(call.run())
        await call.until_sent(1)
        assert call.status == 507
        call.leave()
        await request


NAMES = {
    "../../app/main.txt": "main.txt",
    "/etc/passwd.txt": "passwd.txt",
    r"..\..\boot.txt": "boot.txt",
    "a\0b\r\nSet-Cookie: x.txt": "ab Set-Cookie: x.txt",
    "\u202efdp.exe.txt": "fdp.exe.txt",
    "u\u0308ber.txt": "über.txt",
    "日本\u3000語.txt": "日本 語.txt",
    "x" * 300 + ".txt": "x" * 251 + ".txt",
    "ü" * 200 + ".txt": "ü" * 125 + ".txt",
}
"""As sent, and as shown."""


def test_the_name_is_cleaned_for_display_and_never_becomes_a_path(
    client: TestClient, settings: Settings, tmp_path: Path
) -> None:
    before = {path for path in tmp_path.rglob("*") if path.parent != settings.uploads_dir}
    # One name by both ways shows that both clean it.
    sent = [(path, "../../app/main.txt") for path in BOTH_WAYS] + [("/upload/", name) for name in NAMES]
    answers = [client.post(path, files={"file": (name, TEXT)}) for path, name in sent]
    assert [answer.json()["filename"] for answer in answers[:2]] == ["main.txt"] * 2
    assert {path.name for path in stored(settings)} == {answer.json()["id"] for answer in answers}
    assert {path for path in tmp_path.rglob("*") if path.parent != settings.uploads_dir} == before
    # The client of this test escapes what the wire may not carry; so the cleaning is asked directly.
    assert {name: display_name(name) for name in NAMES} == NAMES
    assert display_name("\ud800half.txt") == "half.txt"


@pytest.mark.anyio
async def test_two_files_of_one_name_are_two_files(app: FastAPI, settings: Settings) -> None:
    async with state_of(app, settings) as state, asyncio.timeout(LIMIT):
        calls = [upload(app, state, PART + b"of Ada "), upload(app, state, PART + b"of Alan ")]
        requests = [asyncio.create_task(call.run()) for call in calls]
        for chunk in (b"a" * 600_000, b"b" * 600_000, b"c" + END):
            for call in calls:
                call.incoming.put_nowait(more(chunk))
        await asyncio.gather(*requests)
    contents = {path.read_bytes() for path in stored(settings)}
    assert contents == {owner + b"a" * 600_000 + b"b" * 600_000 + b"c" for owner in (b"of Ada ", b"of Alan ")}


def test_the_content_decides_and_must_agree_with_the_extension(
    client: TestClient, settings: Settings
) -> None:
    for name, content in (
        ("page.png", HTML),
        ("page.pdf", HTML),
        ("figure.jpg", image("PNG")),
        ("program.txt", b"MZ\x90\0\3\0"),
        ("page.html", HTML),
        ("png", image("PNG")),
        ("empty.pdf", b""),
        ("cut.png", image("PNG")[:-1]),
    ):
        for path in BOTH_WAYS:
            answer = client.post(path, files={"file": (name, content, "image/png")})
            assert answer.status_code == 415
            assert answer.headers["content-type"] == "application/problem+json"
    assert nothing_is_left(settings)


def test_a_file_over_the_limit_leaves_nothing(client: TestClient, settings: Settings) -> None:
    content = b"a" * (settings.max_upload_size + 1)
    for path in BOTH_WAYS:
        assert client.post(path, files={"file": ("a.txt", content)}).status_code == 413
        assert nothing_is_left(settings)
    for path in BOTH_WAYS:
        assert client.post(path, files={"file": ("a.txt", content[:-1])}).status_code == 201


def test_a_body_over_the_limit_is_refused_while_it_arrives_declared_or_chunked(live: Server) -> None:
    limit = Settings().max_upload_body_size
    chunk = b"a" * 2**16
    for head, pieces in (
        (b"Content-Length: %d" % (limit + 1), [PART]),
        (
            b"Transfer-Encoding: chunked",
            [b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [PART, *[chunk] * (limit // len(chunk) + 1)]],
        ),
    ):
        with socket.create_connection(("127.0.0.1", live.port), timeout=20) as connection:
            connection.sendall(HEAD % head)
            for piece in pieces:
                connection.sendall(piece)
            answer = connection.recv(2**16)  # though the body has not ended
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in answer.lower()


def test_a_form_of_anything_but_one_file_is_refused(client: TestClient, settings: Settings) -> None:
    file: Any = ("file", ("a.txt", TEXT))
    other: Any = ("other", ("b.txt", TEXT))
    note: Any = ("note", (None, "hello"))
    for parts, statuses in (
        ([file, file], (400, 400)),
        ([file, other], (400, 400)),
        ([file, note], (400, 400)),
        ([note, file], (422, 400)),  # the first that comes is not the file
        ([other], (422, 422)),
        ([("file", (None, "not a file"))], (400, 400)),
    ):
        assert tuple(client.post(path, files=parts).status_code for path in BOTH_WAYS) == statuses
    assert client.post("/upload/", json={}).json()["errors"][0]["loc"] == ["body", "file"]
    assert nothing_is_left(settings)


@pytest.mark.anyio
async def test_a_body_that_does_not_arrive_in_time_is_408(app: FastAPI, settings: Settings) -> None:
    async with state_of(app, settings) as state:
        hurried = BodyDeadlineMiddleware(app, seconds=0.05, rate=1e9)
        call = upload(hurried, state, PART + b"half of a", **{"content-length": "500"})
        request = asyncio.create_task(call.run())
        await call.until_sent(1)
        assert call.status == 408
        call.leave()
        await request
    assert nothing_is_left(settings)


@pytest.mark.parametrize("is_whole", [False, True], ids=["while-it-arrives", "while-its-row-is-committed"])
@pytest.mark.anyio
async def test_an_upload_that_is_cancelled_leaves_a_whole_file_or_nothing(
    app: FastAPI, settings: Settings, monkeypatch: pytest.MonkeyPatch, is_whole: bool
) -> None:
    """As uvicorn cancels it when its grace period is over."""
    async with state_of(app, settings) as state, asyncio.timeout(LIMIT):
        call = upload(app, state, PART + b"a" * 600_000, *[END] * is_whole)
        request = asyncio.create_task(call.run())
        storage = state["files"].storage
        save = storage.save

        async def until_cancelled(chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
            async for chunk in chunks:
                yield chunk
                if not is_whole:
                    request.cancel()

        async def save_and_cancel(file_id: str, chunks: AsyncIterable[bytes], inspector: Inspector) -> None:
            await save(file_id, until_cancelled(chunks), inspector)
            engine = state["sessions"].kw["bind"].sync_engine
            event.listen(engine, "commit", lambda _: request.cancel())  # on its way, nobody stops it

        monkeypatch.setattr(storage, "save", save_and_cancel)
        with pytest.raises(asyncio.CancelledError):
            await request
    assert [path.read_bytes() for path in stored(settings)] == [b"a" * 600_000] * is_whole
    assert rows(settings) == {path.name for path in stored(settings)}


def test_a_row_that_the_database_refuses_leaves_no_file(client: TestClient, settings: Settings) -> None:
    change(
        settings,
        "CREATE TRIGGER refusing BEFORE UPDATE ON files WHEN new.state = 'ready'"
        " BEGIN SELECT RAISE(ABORT, 'no'); END",
    )
    for path in BOTH_WAYS:
        assert client.post(path, files={"file": ("a.txt", TEXT)}).status_code == 500
    assert nothing_is_left(settings)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Stands for a full disk: the system refuses to write on, with an error of the same kind."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("path", BOTH_WAYS)
@pytest.mark.parametrize("size", [800_000, 2_000_000])
def test_a_full_disk_is_507_and_leaves_nothing(
    client: TestClient, settings: Settings, path: str, size: int
) -> None:
    with files_of_at_most(500_000):
        answer = client.post(path, files={"file": ("a.txt", b"a" * size)})
    assert answer.status_code == 507
    assert nothing_is_left(settings)


def test_uploads_leave_room_on_the_disk_for_the_rest_of_the_service(
    client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "FREE_SPACE_FLOOR", 2**63)  # as on a disk that is nearly full
    assert client.post("/upload/", files={"file": ("a.txt", TEXT)}).status_code == 507
    assert nothing_is_left(settings)


class OpenedOnLoop:
    """Notes the files of `folder` that are opened, linked or removed in a thread with an event loop."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.paths: list[str] = []

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.folder is None or event not in ("open", "os.link", "os.remove", "os.rename"):
            return
        if str(args[0]).startswith(str(self.folder)) and asyncio._get_running_loop() is not None:
            self.paths.append(str(args[0]))


@pytest.fixture(scope="module")
def opened_on_loop_hook() -> OpenedOnLoop:
    hook = OpenedOnLoop()
    sys.addaudithook(hook)  # for the life of the process: there is no way to take it off
    return hook


@pytest.fixture
def opened_on_loop(opened_on_loop_hook: OpenedOnLoop, tmp_path: Path) -> Iterator[list[str]]:
    opened_on_loop_hook.folder = tmp_path / "uploads"
    opened_on_loop_hook.paths = []
    yield opened_on_loop_hook.paths
    opened_on_loop_hook.folder = None


def test_the_event_loop_never_touches_the_file(client: TestClient, opened_on_loop: list[str]) -> None:
    for path in BOTH_WAYS:
        answer = client.post(path, files={"file": ("a.txt", b"a" * 3_000_000)})
        assert client.get(answer.headers["location"]).content == b"a" * 3_000_000
    assert opened_on_loop == []


def test_the_file_is_readable_by_the_service_alone(client: TestClient, settings: Settings) -> None:
    for path in BOTH_WAYS:
        client.post(path, files={"file": ("a.txt", TEXT)})
    assert [path.stat().st_mode & 0o777 for path in stored(settings)] == [0o600] * 2


def test_the_document_offers_a_file_to_choose() -> None:
    document = alone().openapi()
    streamed, spooled = (
        document["paths"][path]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
        for path in BOTH_WAYS
    )
    of_fastapi = document["components"]["schemas"][spooled["$ref"].rpartition("/")[2]]
    file_of_fastapi = {name: of for name, of in of_fastapi["properties"]["file"].items() if name != "title"}
    assert streamed == {
        "type": "object",
        "required": ["file"],
        "properties": {"file": file_of_fastapi},
        "additionalProperties": False,
    }
    assert document["paths"]["/upload/"]["post"]["requestBody"]["required"]
    for path in BOTH_WAYS:
        assert "-F file=@" in curl_command("POST", path, document, "http://host")


@pytest.fixture
def tutorial(tmp_path: Path) -> Iterator[TestClient]:
    """The usual upload: the client's name, its extension, the size when all is there, a copy on the loop."""
    folder = tmp_path / "uploads"
    folder.mkdir(exist_ok=True)
    app = FastAPI()

    @app.post("/upload/")
    async def upload(file: UploadFile) -> dict[str, str]:
        assert file.filename
        assert file.size is not None
        if not file.filename.endswith((".png", ".pdf", ".txt")):
            raise HTTPException(400, "Invalid file type")
        if file.size > 1_000_000:
            raise HTTPException(400, "File too large")
        with open(f"{folder}/{file.filename}", "wb") as target:  # noqa: ASYNC230 - the trap itself
            shutil.copyfileobj(file.file, target)
        return {"filename": file.filename}

    with TestClient(app, raise_server_exceptions=False) as client:
        yield client


def test_trap_the_name_of_the_client_replaces_a_file_outside_the_folder(
    tutorial: TestClient, tmp_path: Path
) -> None:
    (tmp_path / "requirements.txt").write_text("fastapi")
    tutorial.post("/upload/", files={"file": ("../requirements.txt", b"evil")})
    assert (tmp_path / "requirements.txt").read_text() == "evil"


def test_trap_a_name_can_crash_the_endpoint(tutorial: TestClient) -> None:
    for name in ("no/such/folder.txt", "x" * 300 + ".txt"):
        assert tutorial.post("/upload/", files={"file": (name, TEXT)}).status_code == 500


def test_trap_the_second_cv_replaces_the_first(tutorial: TestClient, tmp_path: Path) -> None:
    for content in (b"of Ada", b"of Alan"):
        assert tutorial.post("/upload/", files={"file": ("cv.pdf", content)}).status_code == 200
    assert (tmp_path / "uploads" / "cv.pdf").read_bytes() == b"of Alan"


def test_trap_an_extension_lets_a_web_page_in(tutorial: TestClient) -> None:
    assert tutorial.post("/upload/", files={"file": ("evil.png", HTML, "image/png")}).status_code == 200


def test_trap_the_size_is_looked_at_when_the_whole_body_is_there(tutorial: TestClient) -> None:
    sent = 0

    def body() -> Iterator[bytes]:
        nonlocal sent
        yield PART
        for _ in range(200):
            sent += 2**16
            yield b"a" * 2**16
        yield b"\r\n--b--\r\n"

    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    assert tutorial.post("/upload/", content=body(), headers=headers).status_code == 400
    assert sent == 200 * 2**16


def test_trap_a_thousand_unwanted_fields_are_taken_in(tutorial: TestClient) -> None:
    fields: list[Any] = [(f"f{number}", (None, b"x" * 1_000)) for number in range(999)]
    answer = tutorial.post("/upload/", files=[("file", ("a.txt", TEXT)), *fields])
    assert answer.status_code == 200


def test_trap_a_full_disk_leaves_half_a_file_in_the_place_of_the_old_one(
    tutorial: TestClient, tmp_path: Path
) -> None:
    old = tmp_path / "uploads" / "report.txt"
    old.write_text("the only copy")
    with files_of_at_most(500_000):
        answer = tutorial.post("/upload/", files={"file": ("report.txt", b"a" * 800_000)})
    assert answer.status_code == 500
    assert old.stat().st_size == 500_000


def test_trap_a_copy_in_an_async_endpoint_runs_on_the_loop(
    tutorial: TestClient, opened_on_loop: list[str]
) -> None:
    tutorial.post("/upload/", files={"file": ("a.txt", TEXT)})
    assert len(opened_on_loop) == 1


@pytest.mark.anyio
async def test_trap_two_uploads_of_one_name_mix_in_one_file(tmp_path: Path) -> None:
    app = FastAPI()
    written: asyncio.Queue[int] = asyncio.Queue()

    @app.post("/upload/")
    async def save(request: Request) -> None:
        with open(tmp_path / "report.txt", "wb", buffering=0) as target:  # noqa: ASYNC230 - the trap itself
            async for chunk in request.stream():
                written.put_nowait(target.write(chunk))

    async with asyncio.timeout(LIMIT):
        ada, alan = upload(app, None, b"of Ada, "), upload(app, None, b"Alan")
        first = asyncio.create_task(ada.run())
        await written.get()
        second = asyncio.create_task(alan.run())  # in another worker, or in this one
        await written.get()
        for call in (ada, alan):
            call.incoming.put_nowait(more(b"the end" + END))
        await asyncio.gather(first, second)
    assert (ada.status, alan.status) == (200, 200)
    assert (tmp_path / "report.txt").read_bytes().startswith(b"Alanthe ")


@pytest.mark.anyio
async def test_trap_a_silent_body_is_waited_for_as_long_as_it_likes(tutorial: TestClient) -> None:
    call = upload(tutorial.app, None, PART, **{"content-length": "500"})
    request = asyncio.create_task(call.run())
    assert not (await asyncio.wait([request], timeout=0.1))[0]
    call.leave()
    await request


async def most_memory(app: ASGIApp, state: State | None, size: int) -> int:
    """While a file of this size arrives chunk by chunk."""
    call = upload(app, state, PART)
    left = size // 2**16

    async def receive() -> Message:
        nonlocal left
        if not call.incoming.empty():
            return await call.incoming.get()
        left -= 1
        return more(b"a" * 2**16 if left else END)

    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        await app(call.scope, receive, call._send)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


@pytest.mark.anyio
async def test_trap_a_file_that_is_read_whole_is_in_memory(app: FastAPI, settings: Settings) -> None:
    usual = FastAPI()

    @usual.post("/upload/")
    async def read(file: UploadFile) -> int:
        return len(await file.read())

    size = 8 * 2**20
    assert await most_memory(usual, None, size) > 0.9 * size
    async with state_of(app, settings) as state:
        await upload(app, state, PART + END).run()  # the first request loads what it needs
        assert await most_memory(app, state, size) < 0.4 * size


def test_trap_anybody_fills_the_disk_with_files_that_anybody_reads(
    tutorial: TestClient, tmp_path: Path
) -> None:
    before = os.umask(0o022)
    try:
        for number in range(20):
            tutorial.post("/upload/", files={"file": (f"{number}.txt", TEXT)})
    finally:
        os.umask(before)
    modes = [path.stat().st_mode & 0o777 for path in (tmp_path / "uploads").iterdir()]
    assert modes == [0o644] * 20
