"""The service on S3: how it gets there, that all works there, and what happens when S3 does not."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import cast
from urllib.parse import unquote, urlsplit

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
from tests.contract.storages import ID, LIMIT, Seen, chunks, content_of
from tests.s3 import Bucket

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


class Relay:
    """Between us and an S3 of which others have need: when it is cut, that S3 is dead to us."""

    def __init__(self, endpoint: str) -> None:
        self._port = urlsplit(endpoint).port
        self._carrying: set[asyncio.Task[None]] = set()

    async def open(self) -> str:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        return endpoint_of(self._server)

    async def cut(self) -> None:
        self._server.close()
        for each in self._carrying:
            each.cancel()
        await asyncio.wait(self._carrying, timeout=LIMIT)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._carrying.add(task)
        answers, requests = await asyncio.open_connection("127.0.0.1", self._port)
        with suppress(ConnectionError, asyncio.CancelledError):
            await asyncio.gather(copy(reader, requests), copy(answers, writer))
        for each in (writer, requests):
            each.transport.abort()


async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while received := await reader.read(2**16):
        writer.write(received)
        await writer.drain()


def endpoint_of(server: asyncio.Server) -> str:
    return f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@asynccontextmanager
async def silent_s3(timeout: float) -> AsyncIterator[S3Storage]:
    connections: list[asyncio.StreamWriter] = []

    def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    settings = S3Settings(
        endpoint=endpoint_of(server),
        access_key_id=SecretStr("a"),
        secret_access_key=SecretStr("b"),
        timeout=timeout,
    )
    async with server:
        yield S3Storage(open_bucket("s3://bucket", settings), direct_seconds=60)
        for connection in connections:
            connection.close()
            with suppress(ConnectionError):
                await connection.wait_closed()


@pytest.mark.anyio
async def test_an_s3_that_dies_is_503_in_time_and_the_log_says_why(
    bucket: Bucket, caplog: pytest.LogCaptureFixture
) -> None:
    relay = Relay(bucket.settings.endpoint)
    mortal = bucket.settings.model_copy(update={"endpoint": await relay.open()})
    storage = S3Storage(open_bucket(bucket.url, mortal), direct_seconds=60)

    async def dying() -> AsyncIterator[bytes]:
        async for chunk in chunks(b"x" * 6_000_000):
            yield chunk
        await relay.cut()
        async for chunk in chunks(b"x" * 20_000_000):
            yield chunk

    async with asyncio.timeout(10):
        await storage.save(ID, chunks(b"x"), Seen())
        caplog.clear()
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
    assert {(type(each), str(each)) for each in answers} == {
        (ServiceUnavailable, "The storage does not answer.")
    }
    assert {record.levelname for record in caplog.records} == {"WARNING"}
    assert re.search("S3 does not answer: .*error sending request", caplog.text)


@pytest.mark.anyio
async def test_an_s3_that_hangs_is_503_in_time() -> None:
    async with silent_s3(timeout=0.1) as storage, asyncio.timeout(LIMIT):
        for call in (storage.check(), storage.save(ID, chunks(b"x"), Seen()), content_of(storage)):
            with pytest.raises(ServiceUnavailable):
                await call


@pytest.mark.anyio
async def test_a_slow_reader_is_no_slow_s3(bucket: Bucket) -> None:
    """It takes longer than another S3 had for its answer, under the same limit."""
    size = 20 * 2**20
    bucket.put(ID, b"x" * size)
    impatient = bucket.settings.model_copy(update={"timeout": 0.3})
    storage = S3Storage(open_bucket(bucket.url, impatient), direct_seconds=60)
    async with aclosing(storage.read(ID, 0, size)) as pieces, silent_s3(impatient.timeout) as silent:
        read = len(await anext(pieces))
        with pytest.raises(ServiceUnavailable):
            await asyncio.wait_for(silent.check(), LIMIT)
        read += sum([len(piece) async for piece in pieces])
    assert read == size


@pytest.mark.anyio
async def test_a_bucket_that_is_not_there_is_no_missing_file(bucket: Bucket) -> None:
    storage = S3Storage(open_bucket("s3://nowhere", bucket.settings), direct_seconds=60)
    for call in (storage.save(ID, chunks(b"x"), Seen()), content_of(storage), storage.check()):
        with pytest.raises(ServiceUnavailable):
            await call
