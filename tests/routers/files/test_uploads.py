import asyncio
import hashlib
import os
import resource
import shutil
import socket
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import pytest
from fastapi import FastAPI, HTTPException, UploadFile
from fastapi.testclient import TestClient
from sqlalchemy import event

from app.lifespan import open_state
from app.settings import Settings
from app.storage import disk
from app.storage.disk import DiskStorage, Saved
from app.storage.names import display_name
from app.telemetry import Telemetry
from tests.asgi import LIMIT, Call, http_scope
from tests.samples import FILES, TEXT, image
from tests.server import Server

HTML = b"<!doctype html><script>alert(1)</script>"


def stored(settings: Settings) -> list[Path]:
    return [path for path in settings.uploads_dir.iterdir() if path.name != ".lock"]


def test_an_upload_answers_201_with_the_place_the_size_and_the_sha_256_of_the_file(
    client: TestClient, settings: Settings
) -> None:
    for name, (content, content_type) in FILES.items():
        answer = client.post("/upload/", files={"file": (name, content, "application/x-lie")})
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
    answers = [client.post("/upload/", files={"file": (name, TEXT)}).json() for name in NAMES]
    assert {path.name for path in stored(settings)} == {answer["id"] for answer in answers}
    assert {path for path in tmp_path.rglob("*") if path.parent != settings.uploads_dir} == before
    # The client of this test escapes what the wire may not carry; so the cleaning is asked directly.
    assert {name: display_name(name) for name in NAMES} == NAMES
    assert display_name("\ud800half.txt") == "half.txt"


def test_two_files_of_one_name_are_two_files(client: TestClient, settings: Settings) -> None:
    first = client.post("/upload/", files={"file": ("cv.txt", b"of Ada")}).json()["id"]
    second = client.post("/upload/", files={"file": ("cv.txt", b"of Alan")}).json()["id"]
    assert (settings.uploads_dir / first).read_bytes() == b"of Ada"
    assert (settings.uploads_dir / second).read_bytes() == b"of Alan"


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
        answer = client.post("/upload/", files={"file": (name, content, "image/png")})
        assert answer.status_code == 415
        assert answer.headers["content-type"] == "application/problem+json"
    assert not stored(settings)


def test_a_file_over_the_limit_is_refused_before_anything_is_stored(
    client: TestClient, settings: Settings
) -> None:
    content = b"a" * (settings.max_upload_size + 1)
    assert client.post("/upload/", files={"file": ("a.txt", content)}).status_code == 413
    assert not stored(settings)
    assert client.post("/upload/", files={"file": ("a.txt", content[:-1])}).status_code == 201


MULTIPART = (
    b"POST /upload/ HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
    b"%b\r\n\r\n"
)
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'


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
            connection.sendall(MULTIPART % head)
            for piece in pieces:
                connection.sendall(piece)
            answer = connection.recv(2**16)  # though the body has not ended
        assert answer.startswith(b"HTTP/1.1 413")
        assert b"connection: close" in answer.lower()


def test_more_than_one_file_or_a_text_field_is_refused(client: TestClient, settings: Settings) -> None:
    file: Any = ("file", ("a.txt", TEXT))
    for parts in (
        [file, file],
        [file, ("other", ("b.txt", TEXT))],
        [file, ("note", (None, "hello"))],
        [("file", (None, "not a file"))],
    ):
        assert client.post("/upload/", files=parts).status_code == 400
    assert not stored(settings)


def rows(settings: Settings) -> set[str]:
    with closing(sqlite3.connect(settings.data_dir / "app.sqlite3")) as database:
        return {file_id for (file_id,) in database.execute("SELECT id FROM files")}


def files(settings: Settings) -> set[str]:
    return {path.name for path in stored(settings) if not path.name.startswith(".")}


class SlowStorage(DiskStorage):
    """Its thread has saved the file but not said so when the request is cancelled."""

    def __init__(self, folder: Path, cancel: Callable[[], object]) -> None:
        super().__init__(folder)
        self.cancel = partial(asyncio.get_running_loop().call_soon_threadsafe, cancel)
        self.cancelled = threading.Event()

    def _save(self, source: BinaryIO) -> Saved:
        saved = super()._save(source)
        self.cancel()
        assert self.cancelled.wait(LIMIT)
        return saved


async def cancel_an_upload(app: FastAPI, settings: Settings, moment: str) -> None:
    """As uvicorn does when its grace period is over, while the file is saved or its row committed."""
    headers = [(b"content-type", b"multipart/form-data; boundary=b")]
    body = {"type": "http.request", "body": PART + TEXT + b"\r\n--b--\r\n", "more_body": False}
    async with open_state(settings, Telemetry(settings.telemetry))(app) as state:
        scope = {**http_scope("/upload/", "POST", headers), "state": state}
        request = asyncio.create_task(Call(app, scope, body).run())
        storage = SlowStorage(settings.uploads_dir, request.cancel)
        if moment == "save":
            state["storage"] = storage
        else:
            event.listen(state["sessions"].kw["bind"].sync_engine, "commit", lambda _: request.cancel())
        with pytest.raises(asyncio.CancelledError):
            await request
        storage.cancelled.set()


@pytest.mark.parametrize(("moment", "has_row"), [("save", False), ("commit", True)])
@pytest.mark.anyio
async def test_an_upload_that_is_cancelled_leaves_no_row_without_its_file(
    app: FastAPI, settings: Settings, moment: str, has_row: bool
) -> None:
    await cancel_an_upload(app, settings, moment)
    assert len(files(settings)) == 1
    assert rows(settings) == (files(settings) if has_row else set())


@pytest.mark.anyio
async def test_a_file_that_a_dead_process_left_in_doubt_stays_if_it_has_a_row_and_goes_if_not(
    app: FastAPI, settings: Settings
) -> None:
    for moment in ("save", "commit"):
        await cancel_an_upload(app, settings, moment)
    assert len(files(settings)) == 2
    for path in stored(settings):
        os.utime(path, (0, 0))
    with TestClient(app) as client:
        assert client.post("/upload/", files={"file": ("a.txt", TEXT)}).status_code == 201
    assert len(files(settings)) == 2
    assert files(settings) == rows(settings) == {path.name for path in stored(settings)}


def test_a_row_that_the_database_refuses_leaves_no_file(client: TestClient, settings: Settings) -> None:
    with sqlite3.connect(settings.data_dir / "app.sqlite3") as database:
        database.execute("DROP TABLE files")
    database.close()
    assert client.post("/upload/", files={"file": ("a.txt", TEXT)}).status_code == 500
    assert not stored(settings)


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Stands for a full disk: the system refuses to write on, with an error of the same kind."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize("size", [800_000, 2_000_000], ids=["in-the-store", "in-the-temporary-file"])
def test_a_full_disk_is_507_and_leaves_nothing(client: TestClient, settings: Settings, size: int) -> None:
    with files_of_at_most(500_000):
        answer = client.post("/upload/", files={"file": ("a.txt", b"a" * size)})
    assert answer.status_code == 507
    assert not stored(settings)


def test_uploads_leave_room_on_the_disk_for_the_rest_of_the_service(
    client: TestClient, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk, "FREE_SPACE_FLOOR", 2**63)  # as on a disk that is nearly full
    assert client.post("/upload/", files={"file": ("a.txt", TEXT)}).status_code == 507
    assert not stored(settings)


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
    answer = client.post("/upload/", files={"file": ("a.txt", b"a" * 3_000_000)})
    assert client.get(answer.headers["location"]).content == b"a" * 3_000_000
    assert opened_on_loop == []


def test_the_file_is_readable_by_the_service_alone(client: TestClient, settings: Settings) -> None:
    client.post("/upload/", files={"file": ("a.txt", TEXT)})
    assert [path.stat().st_mode & 0o777 for path in stored(settings)] == [0o600]


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
