import hashlib
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse
from fastapi.testclient import TestClient

from app.lifespan import open_state
from app.main import create_app
from app.routers.files import downloads, uploads
from app.settings import Settings
from app.telemetry import Telemetry
from tests.samples import FILES

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


@pytest.mark.parametrize("given", [ETAG, f"W/{ETAG}", f'"other", {ETAG}', "*"])
def test_a_client_that_has_the_file_gets_304_without_a_body(
    client: TestClient, place: str, given: str
) -> None:
    answer = client.get(place, headers={"If-None-Match": given})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["etag"] == ETAG
    assert answer.headers["cache-control"] == "private, no-cache"
    assert client.get(place, headers={"If-None-Match": '"other"'}).status_code == 200


def test_a_range_is_honoured_only_if_the_tag_still_matches(client: TestClient, place: str) -> None:
    same = client.get(place, headers={"Range": "bytes=0-3", "If-Range": ETAG})
    assert (same.status_code, same.content) == (206, b"0123")
    changed = client.get(place, headers={"Range": "bytes=0-3", "If-Range": '"other"'})
    assert (changed.status_code, changed.content) == (200, TEXT)


def test_head_has_the_headers_of_get_and_no_body(client: TestClient, place: str) -> None:
    of_request = ("x-request-id", "x-process-time")
    head = client.head(place)
    assert (head.status_code, head.content) == (200, b"")
    expected = client.get(place).headers
    assert [h for h in head.headers.items() if h[0] not in of_request] == [
        h for h in expected.items() if h[0] not in of_request
    ]
    assert client.head(place, headers={"If-None-Match": ETAG}).status_code == 304
    assert client.head(place, headers={"Range": "bytes=0-2"}).status_code == 200


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
        ('a"b%41.txt', "attachment; filename=\"a_b_41.txt\"; filename*=UTF-8''a%22b%2541.txt"),
    ],
)
def test_the_name_is_encoded_for_every_language(client: TestClient, name: str, told: str) -> None:
    place = client.post("/upload/", files={"file": (name, TEXT)}).headers["location"]
    assert client.get(place).headers["content-disposition"] == told


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
