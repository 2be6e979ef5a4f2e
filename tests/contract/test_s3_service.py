"""The service on S3: how it gets there, that all works there, and what happens when S3 does not."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from time import monotonic
from typing import cast
from urllib.parse import unquote

import pytest
from fastapi.testclient import TestClient
from pydantic import SecretStr, ValidationError
from sqlalchemy import update

from app.database.models import StoredFile
from app.errors import ServiceUnavailable
from app.lifespan import State
from app.main import create_app
from app.settings import S3Settings, Settings
from app.storage.bucket import open_bucket
from app.storage.s3 import S3Storage
from tests.contract.storages import ID, Seen, chunks, content_of
from tests.s3 import Bucket, s3_server

LINES = b"".join(b"line %d\n" % number for number in range(700_000))


@pytest.mark.parametrize(
    "url",
    [
        "file:///hunter2",
        "s3://",
        "s3:///hunter2",
        "S3//hunter2",
        "s3://user:hunter2@bucket",
        "s3://bucket?key=hunter2",
        "s3://bucket#hunter2",
        "s3://hunter2:99",
        "s3://bucket/../hunter2",
        "https://bucket.example/hunter2",
        "s3://[hunter2",
    ],
)
def test_a_wrong_url_stops_the_start_with_the_name_of_the_setting_alone(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_STORAGE_URL", url)
    with pytest.raises(ValidationError, match="storage_url") as error:
        Settings()
    assert "hunter2" not in str(error.value)


def test_the_settings_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_STORAGE_URL", "s3://my-bucket/a/b")
    monkeypatch.setenv("APP_S3__ENDPOINT", "http://127.0.0.1:9000")
    monkeypatch.setenv("APP_S3__SECRET_ACCESS_KEY", "hunter2")
    with pytest.raises(ValidationError, match="access_key_id and secret_access_key come together"):
        Settings()
    monkeypatch.setenv("APP_S3__ACCESS_KEY_ID", "somebody")
    settings = Settings()
    assert settings.s3.endpoint == "http://127.0.0.1:9000"
    assert "hunter2" not in repr(settings)
    monkeypatch.setenv("APP_S3__ENDPOINT", "http://user:hunter2@127.0.0.1:9000")
    with pytest.raises(ValidationError, match=r"s3\.endpoint") as error:
        Settings()
    assert "hunter2" not in str(error.value)


@pytest.mark.anyio
async def test_credentials_come_from_the_variables_of_aws_where_there_are_no_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def signed(settings: S3Settings) -> str:
        url = await open_bucket("s3://bucket/folder", settings).sign_put("x", timedelta(seconds=60))
        return unquote(url)

    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "theirs")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert re.match(
        r"https://s3\.eu-west-1\.amazonaws\.com/bucket/folder/x\?.*=theirs/.*/eu-west-1/",
        await signed(S3Settings()),
    )
    ours = S3Settings(access_key_id=SecretStr("ours"), secret_access_key=SecretStr("secret"), region="x")
    assert re.search("=ours/.*/x/", await signed(ours))


def test_the_whole_service_runs_on_s3(settings: Settings, bucket: Bucket) -> None:
    with TestClient(create_app(bucket.applied(settings))) as client:
        assert client.get("/ready").status_code == 200
        answer = client.post("/upload/", files={"file": ("lines.txt", LINES)})
        assert answer.status_code == 201, answer.text
        assert answer.json()["sha256"] == sha256(LINES).hexdigest()
        file, location = answer.json()["id"], answer.headers["location"]
        assert bucket.paths == [file]
        assert client.get(location).content == LINES
        part = client.get(location, headers={"Range": "bytes=1000000-1000009"})
        assert (part.status_code, part.content) == (206, LINES[1_000_000:1_000_010])
        assert client.get(location, headers={"Range": "bytes=-5"}).content == LINES[-5:]
        refused = client.post("/upload/", files={"file": ("a.png", b"<script>")})
        assert (refused.status_code, bucket.paths, bucket.uploads) == (415, [file], [])
        assert client.delete(location).status_code == 204
        assert (client.get(location).status_code, bucket.paths) == (404, [])
        client.post("/upload/", files={"file": ("a.txt", b"anonymous, for a while")})
        state = cast(State, client.app_state)

        async def sweep() -> None:
            async with state["sessions"].begin() as session:
                await session.execute(update(StoredFile).values(expires_at=datetime.now(UTC)))
            await state["files"].sweep()

        assert client.portal
        client.portal.call(sweep)
        assert bucket.paths == []


@pytest.mark.anyio
async def test_an_s3_that_dies_is_503_in_time_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with s3_server() as server:
        bucket = server.bucket()
        storage = S3Storage(open_bucket(bucket.url, bucket.settings), direct_seconds=60)
        await storage.save(ID, chunks(b"x"), Seen())

        async def dying() -> AsyncIterator[bytes]:
            async for chunk in chunks(b"x" * 6_000_000):
                yield chunk
            server.stop()
            async for chunk in chunks(b"x" * 20_000_000):
                yield chunk

        started = monotonic()
        async with asyncio.timeout(10):
            with pytest.raises(ServiceUnavailable):
                await storage.save("f" * 32, dying(), Seen())
        answers = await asyncio.gather(
            storage.check(),
            storage.append(ID, 0, chunks(b"x")),
            storage.offset(ID),
            storage.publish(ID, Seen()),
            storage.publish_direct(ID, Seen()),
            content_of(storage),
            storage.delete(ID),
            storage.sweep(),
            return_exceptions=True,
        )
        assert monotonic() - started < 10
    assert {(type(each), str(each)) for each in answers} == {
        (ServiceUnavailable, "The storage does not answer.")
    }
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert re.search("S3 does not answer: .*error sending request", caplog.text)


@pytest.mark.anyio
async def test_an_s3_that_hangs_is_503_in_time() -> None:
    connections: list[asyncio.StreamWriter] = []

    def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    settings = S3Settings(
        endpoint=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
        access_key_id=SecretStr("a"),
        secret_access_key=SecretStr("b"),
        timeout=0.1,
    )
    storage = S3Storage(open_bucket("s3://bucket", settings), direct_seconds=60)
    async with server, asyncio.timeout(5):
        for call in (storage.check(), storage.save(ID, chunks(b"x"), Seen()), content_of(storage)):
            with pytest.raises(ServiceUnavailable):
                await call
        for connection in connections:
            connection.close()
            with suppress(ConnectionError):
                await connection.wait_closed()


@pytest.mark.anyio
async def test_a_slow_reader_is_no_slow_s3(bucket: Bucket) -> None:
    size = 20 * 2**20
    bucket.put(ID, b"x" * size)
    impatient = bucket.settings.model_copy(update={"timeout": 0.3})
    storage = S3Storage(open_bucket(bucket.url, impatient), direct_seconds=60)
    async with aclosing(storage.read(ID, 0, size)) as pieces:
        read = len(await anext(pieces))
        await asyncio.sleep(0.6)
        read += sum([len(piece) async for piece in pieces])
    assert read == size


@pytest.mark.anyio
async def test_a_bucket_that_is_not_there_is_no_missing_file(bucket: Bucket) -> None:
    storage = S3Storage(open_bucket("s3://nowhere", bucket.settings), direct_seconds=60)
    for call in (storage.save(ID, chunks(b"x"), Seen()), content_of(storage), storage.check()):
        with pytest.raises(ServiceUnavailable):
            await call
