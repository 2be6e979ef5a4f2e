from collections.abc import Iterator

import pytest
from fastapi import FastAPI
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse
from fastapi.testclient import TestClient

from app.middleware.compression import CompressionMiddleware

GZIP = {"Accept-Encoding": "gzip"}
IDENTITY = {"Accept-Encoding": "identity"}


@pytest.fixture(params=[CompressionMiddleware, GZipMiddleware])
def client(request: pytest.FixtureRequest) -> Iterator[TestClient]:
    app = FastAPI()
    app.add_middleware(request.param)

    @app.get("/")
    async def source() -> FileResponse:
        return FileResponse(__file__)

    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize("client", [CompressionMiddleware], indirect=True)
def test_what_was_compressed_has_a_weak_tag_and_is_not_resumed(client: TestClient) -> None:
    plain, packed = client.get("/", headers=IDENTITY), client.get("/", headers=GZIP)
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["etag"] == f"W/{plain.headers['etag']}"
    rest = client.get("/", headers={"Range": "bytes=9-", "If-Range": packed.headers["etag"]})
    assert (rest.status_code, rest.content) == (200, plain.content)
    rest = client.get("/", headers={"Range": "bytes=9-", "If-Range": plain.headers["etag"]})
    assert (rest.status_code, rest.content) == (206, plain.content[9:])


@pytest.mark.parametrize("client", [GZipMiddleware], indirect=True)
def test_trap_two_sequences_of_bytes_have_the_same_strong_tag(client: TestClient) -> None:
    plain, packed = client.get("/", headers=IDENTITY), client.get("/", headers=GZIP)
    assert packed.headers["content-encoding"] == "gzip"
    assert packed.headers["etag"] == plain.headers["etag"]
