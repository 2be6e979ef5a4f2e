"""What the tests of `files/downloads` and `background/tasks` say, where the bytes lie in a bucket."""

import hashlib
import zipfile
from collections.abc import Iterator
from io import BytesIO

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from app.storage.pieces import PIECE_SIZE
from tests.s3 import Bucket, S3Server

TEXT = b"0123456789" * 60_000
LINES = b"the cat and the hat\n" * (PIECE_SIZE // 16)


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> Bucket:
    return s3.bucket()


@pytest.fixture(scope="module")
def client(
    usual_settings: Settings, tmp_path_factory: pytest.TempPathFactory, bucket: Bucket
) -> Iterator[TestClient]:
    settings = bucket.applied(usual_settings).model_copy(update={"data_dir": tmp_path_factory.mktemp("s3")})
    # A download that breaks off is an error of the server, which tells the client by the missing end.
    with TestClient(create_app(settings), raise_server_exceptions=False) as client:
        yield client


def test_ranges_conditions_and_losses(client: TestClient, bucket: Bucket) -> None:
    stored = client.post("/upload/", files={"file": ("digits.txt", TEXT)})
    place, file_id = stored.headers["location"], stored.json()["id"]
    whole = client.get(place)
    assert whole.content == TEXT
    assert client.head(place).headers["content-length"] == str(len(TEXT))
    several = client.get(place, headers={"Range": f"bytes=0-{PIECE_SIZE + 1},-1"})
    assert several.headers["content-length"] == str(len(several.content))
    assert TEXT[: PIECE_SIZE + 2] + b"\r\n--" in several.content
    assert b"\r\n\r\n9\r\n--" in several.content
    assert client.get(place, headers={"Range": "bytes=600000-"}).status_code == 416
    bucket.put(file_id, TEXT[: PIECE_SIZE + 1])
    assert len(client.get(place).content) <= PIECE_SIZE + 1
    assert client.get(place, headers={"Range": f"bytes={PIECE_SIZE + 1}-"}).status_code in (500, 503)
    bucket.delete(file_id)
    assert client.get(place).status_code == 404
    assert client.get("/download", params={"file_id": file_id}).status_code == 404
    # Not a byte is wanted, so none is looked for.
    assert client.get(place, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    assert client.get(place, headers={"If-Match": '"other"'}).status_code == 412


def test_the_archive(client: TestClient) -> None:
    ids = [
        client.post("/upload/", files={"file": ("a.txt", each)}).json()["id"] for each in (TEXT, b"", b"x")
    ]
    answer = client.get("/download", params={"file_id": ids})
    with zipfile.ZipFile(BytesIO(answer.content)) as archive:
        assert [archive.read(name) for name in archive.namelist()] == [TEXT, b"", b"x"]


def test_a_report_on_a_file_of_several_pieces(client: TestClient) -> None:
    stored = client.post("/upload/", files={"file": ("cats.txt", LINES)})
    started = client.post("/tasks", json={"file_id": stored.json()["id"]})
    assert client.portal
    client.portal.start_task_soon(client.app_state["tasks"].drained).result(10)
    result = client.get(started.headers["location"]).json()["result"]
    assert result["sha256"] == hashlib.sha256(LINES).hexdigest()
    assert result["text"]["lines"] == LINES.count(b"\n")
