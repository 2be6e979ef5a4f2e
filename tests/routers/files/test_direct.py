from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any

import httpx2
import pytest
from anyio import to_thread
from fastapi.testclient import TestClient
from sqlalchemy import delete, func, select, update

from app.database.models import StoredFile
from app.errors import ServiceUnavailable
from app.main import create_app
from app.settings import Settings
from app.storage.bucket import open_bucket
from app.storage.files import DIRECT
from app.storage.s3 import S3Storage
from app.storage.storage import Inspector
from tests.owners import log_in
from tests.s3 import NOWHERE, Bucket, S3Server
from tests.samples import TEXT, image

HTML = b"<script>alert(1)</script>"


@pytest.fixture(scope="module")
def bucket(s3: S3Server) -> Bucket:
    return s3.bucket()


@pytest.fixture(scope="module")
def service(
    usual_settings: Settings, tmp_path_factory: pytest.TempPathFactory, bucket: Bucket
) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("direct")
    settings = bucket.applied(usual_settings).model_copy(update={"data_dir": folder})
    with TestClient(create_app(settings)) as client:
        yield client


@pytest.fixture
def client(service: TestClient, bucket: Bucket) -> TestClient:
    """With no file, as after a start of its own, which would take most of the time of these tests."""
    scalar(service, delete(StoredFile).returning(StoredFile.id))
    for path in bucket.paths:
        bucket.delete(path)
    return service


def begin(client: TestClient, size: int, filename: str = "a.txt", **options: Any) -> dict[str, Any]:
    answer = client.post("/files/direct", json={"filename": filename, "size": size}, **options)
    assert answer.status_code == 201, answer.text
    begun: dict[str, Any] = answer.json()
    return begun


def put(bucket: Bucket, begun: dict[str, Any], body: bytes) -> None:
    """As the client does, past the service."""
    assert bucket.client.request(begun["method"], begun["url"], content=body).status_code == 200


def confirm(client: TestClient, begun: dict[str, Any], **options: Any) -> httpx2.Response:
    return client.post(f"/files/direct/{begun['id']}/confirm", **options)


def scalar(client: TestClient, statement: Any) -> Any:
    async def run() -> Any:
        async with client.app_state["sessions"].begin() as session:
            return await session.scalar(statement)

    assert client.portal
    return client.portal.call(run)


def rows(client: TestClient) -> int:
    return int(scalar(client, select(func.count()).select_from(StoredFile)))


def sweep_when_all_has_expired(client: TestClient, bucket: Bucket) -> None:
    """To a storage whose URLs are good for less than no time, all was put long ago."""
    expired = datetime.now(UTC) - timedelta(seconds=1)
    unconfirmed = update(StoredFile).where(StoredFile.state == DIRECT)
    scalar(client, unconfirmed.values(expires_at=expired).returning(StoredFile.id))
    assert client.portal
    client.portal.call(client.app_state["files"].sweep)
    late = S3Storage(open_bucket(bucket.url, bucket.settings), direct_seconds=-10)
    client.portal.call(late.sweep)


def test_a_file_is_put_past_the_service_and_is_readable_when_it_is_confirmed(
    client: TestClient, bucket: Bucket
) -> None:
    body = image("PNG", 200, 100)
    begun = begin(client, len(body), "../cat.png")
    assert 500 < (datetime.fromisoformat(begun["expires_at"]) - datetime.now(UTC)).total_seconds() <= 600
    put(bucket, begun, body)
    answer = confirm(client, begun)
    assert answer.status_code == 201, answer.text
    assert answer.json() == {
        "id": begun["id"],
        "filename": "cat.png",
        "size": len(body),
        "content_type": "image/png",
        "sha256": sha256(body).hexdigest(),
    }
    assert client.get(answer.headers["location"]).content == body
    assert bucket.paths == [begun["id"]]


def test_nothing_is_read_before_it_is_confirmed(client: TestClient, bucket: Bucket) -> None:
    begun = begin(client, len(TEXT))
    put(bucket, begun, TEXT)
    assert client.get(f"/files/{begun['id']}").status_code == 404


def test_what_is_put_again_after_that_changes_nothing_and_is_swept(
    client: TestClient, bucket: Bucket
) -> None:
    begun = begin(client, len(TEXT))
    put(bucket, begun, TEXT)
    assert confirm(client, begun).status_code == 201
    put(bucket, begun, HTML)
    assert confirm(client, begun).json()["sha256"] == sha256(TEXT).hexdigest()
    assert client.get(f"/files/{begun['id']}").content == TEXT
    assert f"direct/{begun['id']}" in bucket.paths
    sweep_when_all_has_expired(client, bucket)
    assert bucket.paths == [begun["id"]]
    assert client.get(f"/files/{begun['id']}").content == TEXT


def test_of_two_confirmations_at_once_neither_takes_what_was_put_in_between(
    client: TestClient, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = begin(client, len(TEXT))
    put(bucket, begun, TEXT)
    publish = S3Storage.publish_direct
    answers: list[httpx2.Response] = []

    async def publish_and_let_another_in(self: S3Storage, file_id: str, inspector: Inspector) -> None:
        monkeypatch.setattr(S3Storage, "publish_direct", publish)
        await publish(self, file_id, inspector)
        put(bucket, begun, TEXT.upper())
        answers.append(await to_thread.run_sync(confirm, client, begun))

    monkeypatch.setattr(S3Storage, "publish_direct", publish_and_let_another_in)
    answers.append(confirm(client, begun))
    assert [answer.json()["sha256"] for answer in answers] == [sha256(TEXT).hexdigest()] * 2
    assert bucket.get(begun["id"]) == TEXT


def test_a_confirmation_that_is_sent_again_has_the_same_answer(client: TestClient, bucket: Bucket) -> None:
    begun = begin(client, len(TEXT))
    put(bucket, begun, TEXT)
    first, second = confirm(client, begun), confirm(client, begun)
    assert (first.status_code, first.json()) == (second.status_code, second.json())


@pytest.mark.parametrize(
    ("filename", "size", "body", "status"),
    [
        ("a.png", len(HTML), HTML, 415),
        ("a.png", 1_000, image("PNG", 50, 50)[:1_000], 415),
        ("a.txt", 9, b"ten bytes!", 413),
        ("a.txt", 11, b"ten bytes!", 409),
        ("a.txt", 11, b"", 409),
    ],
)
def test_a_file_of_another_kind_or_length_is_refused_and_nothing_is_left(
    client: TestClient, bucket: Bucket, filename: str, size: int, body: bytes, status: int
) -> None:
    begun = begin(client, size, filename)
    put(bucket, begun, body)
    refused = confirm(client, begun)
    assert refused.status_code == status, refused.text
    assert refused.headers["content-type"] == "application/problem+json"
    assert (bucket.paths, rows(client)) == ([], 0)
    assert confirm(client, begun).status_code == 404
    put(bucket, begun, body)
    sweep_when_all_has_expired(client, bucket)
    assert bucket.paths == []


def test_two_refusals_at_once_leave_nothing(
    client: TestClient, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = begin(client, len(HTML), "a.png")
    put(bucket, begun, HTML)
    publish = S3Storage.publish_direct

    async def let_another_in_and_publish(self: S3Storage, file_id: str, inspector: Inspector) -> None:
        monkeypatch.setattr(S3Storage, "publish_direct", publish)
        assert (await to_thread.run_sync(confirm, client, begun)).status_code == 415
        put(bucket, begun, HTML)
        await publish(self, file_id, inspector)

    monkeypatch.setattr(S3Storage, "publish_direct", let_another_in_and_publish)
    assert confirm(client, begun).status_code == 415
    assert (bucket.paths, rows(client)) == ([], 0)


def test_too_early_is_409_and_may_be_tried_again(client: TestClient, bucket: Bucket) -> None:
    begun = begin(client, len(TEXT))
    early = confirm(client, begun)
    assert (early.status_code, early.json()["detail"]) == (409, "Nothing has arrived at the URL yet.")
    put(bucket, begun, TEXT)
    assert confirm(client, begun).status_code == 201


def test_a_file_that_is_never_confirmed_goes_with_its_room(client: TestClient, bucket: Bucket) -> None:
    begun = begin(client, len(TEXT))
    put(bucket, begun, TEXT)
    sweep_when_all_has_expired(client, bucket)
    assert (bucket.paths, rows(client)) == ([], 0)
    assert confirm(client, begun).status_code == 404


def test_the_quota_and_the_limits_hold_before_there_is_a_url(
    client: TestClient, usual_settings: Settings
) -> None:
    def status(owner: dict[str, str] | None = None, **new: Any) -> int:
        json = {"filename": "a.txt", "size": 1, **new}
        return client.post("/files/direct", json=json, headers=owner).status_code

    most = usual_settings.files.anonymous_max_size
    assert [status(size=most), status(size=most + 1)] == [201, 413]
    ada = log_in(client, "ada")
    half = usual_settings.files.max_resumable_size
    for size, expected in ((half + 1, 413), (half, 201), (half, 201), (1, 507)):
        assert status(ada, size=size) == expected
    assert status(filename="a.exe") == 415
    assert status(filename="..") == 415
    for wrong in ({"size": 0}, {"size": "1"}, {"size": 2**70}, {"filename": ""}, {"type": "image/png"}):
        assert status(**wrong) == 422
    assert client.post("/files/direct", json={"filename": "a.txt"}).status_code == 422
    assert rows(client) == 3


def test_there_is_time_to_confirm_what_was_put_at_the_last_moment(
    client: TestClient, usual_settings: Settings
) -> None:
    url_expires_at = datetime.fromisoformat(begin(client, 1)["expires_at"])
    row_expires_at = scalar(client, select(StoredFile.expires_at)).replace(tzinfo=UTC)
    assert row_expires_at - url_expires_at >= timedelta(seconds=usual_settings.files.direct_seconds)


def test_no_url_is_no_row(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(self: S3Storage, file_id: str) -> str:
        raise ServiceUnavailable

    monkeypatch.setattr(S3Storage, "sign_direct", fail)
    assert client.post("/files/direct", json={"filename": "a.txt", "size": 1}).status_code == 503
    assert rows(client) == 0


def test_the_upload_of_somebody_else_is_404(client: TestClient, bucket: Bucket) -> None:
    alice, bob = log_in(client, "alice"), log_in(client, "bob")
    begun = begin(client, len(TEXT), headers=alice)
    put(bucket, begun, TEXT)
    assert confirm(client, begun, headers=bob).status_code == 404
    assert confirm(client, begun).status_code == 404
    assert confirm(client, begun, headers=alice).status_code == 201
    assert confirm(client, begun, headers=bob).status_code == 404


def test_a_bucket_that_is_away_is_503_and_the_confirmation_may_be_tried_again(
    client: TestClient, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = begin(client, len(TEXT))
    put(bucket, begun, TEXT)
    away = open_bucket(bucket.url, bucket.settings.model_copy(update={"endpoint": NOWHERE}))
    with monkeypatch.context() as patch:
        patch.setattr(client.app_state["storage"], "_bucket", away)
        refused = confirm(client, begun)
    assert (refused.status_code, refused.json()["detail"]) == (503, "The storage does not answer.")
    assert confirm(client, begun).status_code == 201


def test_on_a_disk_it_is_409(usual_settings: Settings) -> None:
    with TestClient(create_app(usual_settings)) as client:
        new = client.post("/files/direct", json={"filename": "a.txt", "size": 1})
        assert (new.status_code, new.json()["detail"]) == (
            409,
            "This storage takes no direct uploads. Use POST /upload/.",
        )
        assert client.post(f"/files/direct/{'a' * 32}/confirm").status_code == 409


@pytest.mark.anyio
async def test_trap_a_url_for_the_place_of_the_file_replaces_it_after_it_was_checked(bucket: Bucket) -> None:
    store = open_bucket(bucket.url, bucket.settings)
    url = await store.sign_put("cat.png", timedelta(minutes=10))
    assert bucket.client.put(url, content=image("PNG")).status_code == 200
    checked = b"".join([piece async for piece in store.get("cat.png")])
    assert checked.startswith(b"\x89PNG")
    assert bucket.client.put(url, content=HTML).status_code == 200
    assert bucket.get("cat.png") == HTML


def test_trap_s3_does_not_look_whether_the_body_is_what_the_client_said(
    client: TestClient, bucket: Bucket
) -> None:
    begun = begin(client, 10, "ten_bytes.png")
    put(bucket, begun, HTML * 1_000)
    assert bucket.get(f"direct/{begun['id']}") == HTML * 1_000
