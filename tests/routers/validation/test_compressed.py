import gzip
import json
import zlib
from typing import Annotated, Any

import httpx2
import pytest
from fastapi import APIRouter, FastAPI, Form, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from pydantic import Field

from app.errors import EXCEPTION_HANDLERS, add_exception_handlers
from app.main import create_app
from app.routers.validation.compressed import SLICE, GzipRoute, Inflated
from app.settings import Settings

NUMBERS = [1.5, 2.5] * 40_000


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """A limit of several slices."""
    return settings.model_copy(update={"max_body_size": 1_000_000})


def measure(client: TestClient, body: Any, encoding: str = "gzip") -> httpx2.Response:
    headers = [(b"Content-Type", b"application/json"), (b"Content-Encoding", encoding.encode())]
    return client.post("/validation/measurements", content=body, headers=headers)


def test_a_gzip_body_is_inflated_while_it_is_read(client: TestClient) -> None:
    plain = json.dumps(NUMBERS).encode()
    body = gzip.compress(plain)
    assert len(plain) > 5 * SLICE
    summary = {"count": 80_000, "mean": 2.0}
    for sent in (body, [body[n : n + 1] for n in range(len(body))], [body, b""], [b"", body]):
        for encoding in ("gzip", "GZIP", "x-gzip"):
            assert measure(client, iter(sent) if isinstance(sent, list) else sent, encoding).json() == summary
    for encoding in ("", "identity"):
        assert measure(client, plain, encoding).json() == summary
    for no_number in (False, "1", None):
        refused = client.post("/validation/measurements", json=[1, no_number])
        assert refused.status_code == 422
    exactly = gzip.compress(b"[1" + b" " * (2 * SLICE - 3) + b"]")
    assert measure(client, exactly).json() == {"count": 1, "mean": 1}
    assert measure(client, gzip.compress(b"")).status_code == 422


@pytest.fixture
def inflated(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of all that was inflated."""
    sizes: list[int] = []
    take = Inflated._next_slice

    def count(body: Inflated) -> bytes:
        inflated = take(body)
        sizes.append(len(inflated))
        return inflated

    monkeypatch.setattr(Inflated, "_next_slice", count)
    return sizes


def bomb(repetitions: int) -> bytes:
    """The beginning of a gzip body of so many times ten million zeros."""
    compressor = zlib.compressobj(9, wbits=16 + zlib.MAX_WBITS)
    head = compressor.compress(b"0" * 10_000_000) + compressor.flush(zlib.Z_FULL_FLUSH)
    block = compressor.compress(b"0" * 10_000_000) + compressor.flush(zlib.Z_FULL_FLUSH)
    return head + block * repetitions


def test_a_bomb_is_refused_after_the_first_slices(
    client: TestClient, settings: Settings, inflated: list[int]
) -> None:
    body = bomb(90)
    assert 800_000 < len(body) < settings.max_body_size
    for sent in (body, iter([body])):
        inflated.clear()
        refused = measure(client, sent)
        assert refused.status_code == 413
        assert refused.headers["content-type"] == "application/problem+json"
        assert sum(inflated) <= settings.max_body_size + SLICE
        assert max(inflated) == SLICE


def test_a_gzip_body_that_is_cut_damaged_or_followed_by_more_is_refused(client: TestClient) -> None:
    body = gzip.compress(json.dumps(NUMBERS).encode())
    damaged = bytearray(body)
    damaged[-6] ^= 1  # in the checksum
    for wrong in (
        b"",
        body[:5],
        body[:-1],
        body[: len(body) // 2],
        bytes(damaged),
        b"[1]",
        body + body,
        body + b"x",
    ):
        refused = measure(client, wrong)
        assert refused.status_code == 400, wrong[-20:]
        assert refused.headers["content-type"] == "application/problem+json"
        assert "gzip" in refused.json()["detail"]


def test_an_encoding_that_nobody_knows_is_refused(client: TestClient) -> None:
    for encoding in ("br", "deflate", "gzip, gzip", "gzip, br", "zstd", "é", "gzip;q=1"):
        refused = measure(client, gzip.compress(b"[1]"), encoding)
        assert refused.status_code == 415
        assert refused.headers["accept-encoding"] == "gzip"
        assert refused.headers["content-type"] == "application/problem+json"


def app_with_gzip(max_body_size: int | None) -> TestClient:
    router = APIRouter(route_class=GzipRoute, max_body_size=max_body_size)

    @router.post("/stream")
    async def stream(request: Request) -> dict[str, Any]:
        about = [name for name in request.headers if name.startswith("content-")]
        return {"sizes": [len(chunk) async for chunk in request.stream()], "headers": about}

    @router.post("/form")
    async def form(name: Annotated[str, Form()]) -> str:
        return name

    app = FastAPI()
    app.include_router(router)
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def errors(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many errors each body had."""
    counts: list[int] = []

    async def count(request: Request, exc: Exception) -> JSONResponse:
        assert isinstance(exc, RequestValidationError)
        counts.append(len(exc.errors()))
        return JSONResponse({}, 422)

    monkeypatch.setitem(EXCEPTION_HANDLERS, RequestValidationError, count)
    return counts


NO_NUMBERS = gzip.compress(json.dumps([""] * 100_000).encode())


def test_of_a_list_that_has_many_errors_one_is_made(settings: Settings, errors: list[int]) -> None:
    assert len(NO_NUMBERS) < 1_000
    with TestClient(create_app(settings)) as client:
        assert measure(client, NO_NUMBERS).status_code == 422
    assert errors == [1]


def test_trap_a_small_body_makes_an_error_for_each_item(errors: list[int]) -> None:
    router = APIRouter(route_class=GzipRoute, max_body_size=1_000_000)

    @router.post("/validation/measurements")
    async def count_values(values: Annotated[list[float], Field(max_length=200_000)]) -> int:
        return len(values)

    app = FastAPI()
    add_exception_handlers(app)
    app.include_router(router)
    assert measure(TestClient(app), NO_NUMBERS).status_code == 422
    assert errors == [100_000]


def test_streams_and_forms_are_inflated_too_and_know_nothing_of_it() -> None:
    client = app_with_gzip(10 * SLICE)
    headers = {"Content-Encoding": "gzip"}
    answer = client.post("/stream", content=gzip.compress(b"x" * (2 * SLICE + 1)), headers=headers)
    assert answer.json() == {"sizes": [SLICE, SLICE, 1, 0], "headers": []}
    headers["Content-Type"] = "application/x-www-form-urlencoded"
    assert client.post("/form", content=gzip.compress(b"name=Ada"), headers=headers).json() == "Ada"


def test_a_route_without_a_limit_inflates_nothing() -> None:
    client = app_with_gzip(None)
    assert client.post("/stream", content=b"plain").json()["sizes"] == [5, 0]
    refused = client.post("/stream", content=gzip.compress(b"x"), headers={"Content-Encoding": "gzip"})
    assert refused.status_code == 500


def test_trap_gzip_decompress_makes_much_of_little_whatever_the_limit() -> None:
    class TrustingRoute(APIRoute):
        def get_route_handler(self) -> Any:
            handle = super().get_route_handler()

            async def handle_inflated(request: Request) -> Any:
                request._body = gzip.decompress(await request.body())
                return await handle(request)

            return handle_inflated

    router = APIRouter(route_class=TrustingRoute, max_body_size=20_000)

    @router.post("/")
    async def size(request: Request) -> int:
        return len(await request.body())

    app = FastAPI()
    app.include_router(router)
    assert TestClient(app).post("/", content=gzip.compress(b"0" * 10_000_000)).json() == 10_000_000
