import hmac
import json
from concurrent.futures import ThreadPoolExecutor
from time import time

import httpx2
import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from app.keys import open_keys
from app.main import create_app
from app.routers.validation.signed import MAX_WEBHOOK_SIZE
from app.settings import Settings
from app.webhooks import sign

# As no `json.dumps` of Python would write it.
MESSAGE = '{"type":"user.created", "data":{"name":"é","price":1.50}}'.encode()


@pytest.fixture
def key(settings: Settings) -> bytes:
    return open_keys(settings).for_purpose("webhooks")[0]


def deliver(
    client: TestClient,
    key: bytes,
    body: bytes = MESSAGE,
    id: str = "msg_1",
    age: float = 0,
    **changed: str | bytes,
) -> httpx2.Response:
    """Sends a message that was signed so many seconds ago, with some of its headers changed."""
    timestamp = int(time() - age)
    headers: dict[str, str | bytes] = {
        "Content-Type": "application/json",
        "webhook-id": id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(MESSAGE, id, timestamp, key),
        **{name.replace("_", "-"): value for name, value in changed.items()},
    }
    encoded = [(n.encode(), v if isinstance(v, bytes) else v.encode()) for n, v in headers.items()]
    return client.post("/validation/webhook", content=body, headers=encoded)


def test_a_message_with_a_good_signature_is_taken_once(client: TestClient, key: bytes) -> None:
    assert deliver(client, key).json() == {"type": "user.created", "first_time": True}
    # A sender that missed the answer signs the message anew.
    assert deliver(client, key, age=1).json() == {"type": "user.created", "first_time": False}
    assert deliver(client, key, id="msg_2").json()["first_time"] is True
    with ThreadPoolExecutor(8) as threads:
        at_once = list(threads.map(lambda _: deliver(client, key, id="msg_3").json()["first_time"], range(8)))
    assert sorted(at_once) == [False] * 7 + [True]


def test_a_message_that_was_changed_is_not_signed_or_is_too_old_is_refused_before_the_model_looks_at_it(
    client: TestClient, key: bytes
) -> None:
    for refused in (
        deliver(client, key, body=MESSAGE.replace(b"1.50", b"9.50")),
        deliver(client, key, body=b'{"no": "event"}'),
        deliver(client, b"another key"),
        deliver(client, key, webhook_signature="v1,é".encode()),
        deliver(client, key, webhook_id="msg_2"),
        deliver(client, key, webhook_timestamp=str(int(time()) - 5)),
        deliver(client, key, age=301),
        deliver(client, key, age=-301),
    ):
        assert refused.status_code == 403
        assert refused.headers["content-type"] == "application/problem+json"
    for malformed in (
        deliver(client, key, webhook_id="a.b"),
        deliver(client, key, webhook_timestamp="now"),
        deliver(client, key, webhook_signature="x" * 1_001),
    ):
        assert malformed.status_code == 422
    bare = client.post("/validation/webhook", content=MESSAGE, headers={"Content-Type": "application/json"})
    assert [error["loc"][1] for error in bare.json()["errors"]] == [
        "webhook-id",
        "webhook-timestamp",
        "webhook-signature",
    ]
    assert deliver(client, key).json()["first_time"] is True


def test_so_many_ids_of_messages_are_remembered_and_no_more(settings: Settings, key: bytes) -> None:
    few = settings.webhooks.model_copy(update={"remembered_ids": 3})
    with TestClient(create_app(settings.model_copy(update={"webhooks": few}))) as client:
        for number in range(5):
            assert deliver(client, key, id=f"msg_{number}").json()["first_time"] is True
        assert [deliver(client, key, id=f"msg_{n}").json()["first_time"] for n in (4, 3, 2)] == [False] * 3
        assert deliver(client, key, id="msg_1").json()["first_time"] is True


def test_a_message_that_was_not_valid_has_not_been_taken(
    client: TestClient, settings: Settings, key: bytes
) -> None:
    timestamp = int(time())
    wrong = b'{"type": 5}'
    signed = {
        "webhook-id": "msg_1",
        "webhook-timestamp": str(timestamp),
        "webhook-signature": sign(wrong, "msg_1", timestamp, key),
        "Content-Type": "application/json",
    }
    assert client.post("/validation/webhook", content=wrong, headers=signed).status_code == 422
    assert deliver(client, key).json()["first_time"] is True


def test_trap_a_signature_of_json_that_was_written_again_fits_no_honest_message(key: bytes) -> None:
    app = FastAPI()

    @app.post("/")
    async def verify(request: Request) -> bool:
        signed = sign(json.dumps(await request.json()).encode(), "msg_1", 1, key)
        return signed == request.headers["webhook-signature"]

    headers = {"webhook-signature": sign(MESSAGE, "msg_1", 1, key)}
    assert TestClient(app).post("/", content=MESSAGE, headers=headers).json() is False


def test_a_message_has_a_greatest_size(client: TestClient, key: bytes) -> None:
    assert deliver(client, key, body=b" " * (MAX_WEBHOOK_SIZE + 1)).status_code == 413


def test_trap_a_signature_without_a_time_is_good_for_ever(client: TestClient, key: bytes) -> None:
    app = FastAPI()

    @app.post("/")
    async def verify(request: Request) -> bool:
        expected = hmac.digest(key, await request.body(), "sha256").hex()
        return hmac.compare_digest(expected, request.headers["x-signature"])

    seen = {"x-signature": hmac.digest(key, MESSAGE, "sha256").hex()}
    for _ in range(2):
        assert TestClient(app).post("/", content=MESSAGE, headers=seen).json() is True

    assert deliver(client, key).json()["first_time"] is True
    assert deliver(client, key).json()["first_time"] is False
