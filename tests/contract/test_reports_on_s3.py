"""What `tests/routers/background/test_tasks.py` says of a report, where the bytes lie in a bucket."""

import hashlib
from collections.abc import Iterator

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from app.storage.pieces import PIECE_SIZE
from tests.s3 import Bucket

TEXT = b"the cat and the hat\n" * (PIECE_SIZE // 16)


@pytest.fixture
def client(settings: Settings, bucket: Bucket) -> Iterator[TestClient]:
    with TestClient(create_app(bucket.applied(settings))) as client:
        yield client


def test_a_report_on_a_file_of_several_pieces(client: TestClient) -> None:
    stored = client.post("/upload/", files={"file": ("cats.txt", TEXT)})
    started = client.post("/tasks", json={"file_id": stored.json()["id"]})
    assert client.portal
    client.portal.start_task_soon(client.app_state["tasks"].drained).result(10)
    result = client.get(started.headers["location"]).json()["result"]
    assert result["sha256"] == hashlib.sha256(TEXT).hexdigest()
    assert result["text"]["lines"] == TEXT.count(b"\n")
