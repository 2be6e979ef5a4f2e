import asyncio
import zlib
from collections.abc import AsyncIterator, Iterator

import pytest
from fastapi import FastAPI, Request, WebSocket
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.testclient import TestClient
from pydantic import ValidationError
from starlette.middleware.base import RequestResponseEndpoint
from starlette.testclient import WebSocketDenialResponse
from starlette.websockets import WebSocketDisconnect

from app.main import create_app
from app.settings import Settings
from tests.asgi import EMPTY_BODY, Call, Log, http_scope

OURS = "http://localhost:3000"
LAYERS = [
    "StalledSocketMiddleware",
    "LingeringCloseMiddleware",
    "RequestIdMiddleware",
    "AccessLogMiddleware",
    "TimingMiddleware",
    "SecurityHeadersMiddleware",
    "ProblemMiddleware",
    "CORSMiddleware",
    "KnownHostMiddleware",
    "UnhandledErrorMiddleware",
    "HeadMiddleware",
    "CompressionMiddleware",
    "FormCharsetMiddleware",
    "BodyDeadlineMiddleware",
]
ERRORS = [
    ("GET", "/nope", 404),
    ("POST", "/health", 405),
    ("POST", "/probe", 413),
    ("GET", "/middleware/timing/sleep?seconds=x", 422),
    ("GET", "/errors/crash", 500),
]


async def long_text(request: Request) -> Response:
    await request.body()
    return PlainTextResponse("x" * 5_000)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    folder = tmp_path_factory.mktemp("stack")
    app = create_app(Settings(data_dir=folder / "data", uploads_dir=folder / "uploads"))
    app.add_api_route("/probe", long_text, methods=["GET", "POST"], max_body_size=10)
    return app


@pytest.fixture(scope="module")
def client(app: FastAPI) -> Iterator[TestClient]:
    with TestClient(app) as client:
        yield client


def test_the_layers_stand_in_the_order_in_which_this_page_lists_them(client: TestClient) -> None:
    names = [layer["name"] for layer in client.get("/middleware/stack").json()["outermost_first"]]
    assert names == LAYERS


@pytest.mark.parametrize(
    "origin",
    [
        "https://evil.example",
        "null",
        "http://localhost:3000.evil.example",
        "http://localhost:3001",
        "https://localhost:3000",
        "http://LOCALHOST:3000",
        "http://localhost:3000/",
        "*",
    ],
)
def test_only_a_listed_origin_is_allowed_to_read_an_answer_and_never_the_origin_null(
    client: TestClient, origin: str
) -> None:
    allowed = client.get("/health", headers={"Origin": OURS})
    assert allowed.headers["access-control-allow-origin"] == OURS
    assert allowed.headers["access-control-allow-credentials"] == "true"
    refused = client.get("/health", headers={"Origin": origin})
    assert "access-control-allow-origin" not in refused.headers
    assert "origin" in refused.headers["vary"].lower()


@pytest.mark.parametrize(
    "origin",
    [
        "*",
        "null",
        "https://*.example",
        "localhost:3000",
        "http://localhost:3000/",
        "https://a.example/path",
        "https://A.example",
        "https://me@a.example",
        "https://a.example:x",
    ],
)
def test_a_star_among_the_origins_stops_the_start(origin: str) -> None:
    with pytest.raises(ValidationError, match="cors_origins"):
        Settings(cors_origins=(OURS, origin))


def preflight(client: TestClient, method: str = "GET", headers: str = "", origin: str = OURS) -> int:
    asked = {"Origin": origin, "Access-Control-Request-Method": method}
    if headers:
        asked["Access-Control-Request-Headers"] = headers
    return client.options("/health", headers=asked).status_code


def test_the_preflight_passes_for_each_method_and_header_of_our_front_end_and_for_no_other(
    client: TestClient,
) -> None:
    for method in ("GET", "POST", "DELETE"):
        assert preflight(client, method) == 200
    for header in ("authorization", "content-type", "last-event-id", "x-request-id"):
        assert preflight(client, headers=header) == 200
    assert preflight(client, "PUT") == 400
    assert preflight(client, headers="x-admin") == 400
    assert preflight(client, headers="authorization,x-admin") == 400
    assert preflight(client, origin="null") == 400


@pytest.mark.parametrize(("method", "path", "status"), ERRORS)
def test_every_error_answer_has_cors_headers_and_the_request_id(
    client: TestClient, method: str, path: str, status: int
) -> None:
    answer = client.request(
        method,
        path,
        content=b"x" * 11 if status == 413 else None,
        headers={"Origin": OURS, "X-Request-ID": "from-the-page"},
    )
    assert answer.status_code == status
    assert answer.headers["access-control-allow-origin"] == OURS
    assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "from-the-page"
    assert "x-process-time" in answer.headers


@pytest.mark.parametrize("host", ["evil.example", "", "localhost.evil.example", "a b", "[::1"])
def test_a_host_that_is_not_ours_gets_a_400_on_a_socket_too(client: TestClient, host: str) -> None:
    answer = client.get("/health", headers={"Host": host})
    assert answer.status_code == 400
    assert answer.headers["content-type"] == "application/problem+json"
    with (
        pytest.raises(WebSocketDenialResponse) as refused,
        client.websocket_connect("/errors/socket/after", headers={"Host": host}),
    ):
        pass
    assert refused.value.status_code == 400
    assert refused.value.headers["content-type"] == "application/problem+json"
    assert refused.value.headers["x-content-type-options"] == "nosniff"


@pytest.mark.anyio
@pytest.mark.parametrize("media_type", ["application/jsonl", "text/event-stream"])
async def test_compression_does_not_hold_a_stream_back(app: FastAPI, media_type: str) -> None:
    go_on = asyncio.Event()

    async def lines() -> AsyncIterator[str]:
        yield "first\n"
        await go_on.wait()
        yield "last\n"

    async def stream() -> Response:
        return StreamingResponse(lines(), media_type=media_type)

    path = f"/probe/{media_type}"
    app.add_api_route(path, stream)
    call = Call(app, http_scope(path, headers=[(b"accept-encoding", b"gzip")]), EMPTY_BODY)
    async with asyncio.TaskGroup() as group:
        group.create_task(call.run())
        await call.until_sent(2)
        packed = call.headers.get(b"content-encoding") == b"gzip"
        assert packed == (media_type != "text/event-stream")
        decompressor = zlib.decompressobj(16 + zlib.MAX_WBITS)
        assert (decompressor.decompress(call.body) if packed else call.body) == b"first\n"
        go_on.set()


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_head_has_the_headers_of_get_compressed_or_not(client: TestClient, encoding: str) -> None:
    answers = [
        client.request(method, "/probe", headers={"Accept-Encoding": encoding}) for method in ("GET", "HEAD")
    ]
    get, head = [
        {
            name: value
            for name, value in answer.headers.items()
            if name not in ("x-request-id", "x-process-time")
        }
        for answer in answers
    ]
    assert get == head
    assert ("content-encoding" in get) == (encoding == "gzip")
    assert answers[1].content == b""


@pytest.mark.parametrize("path", ["/health", "/nope", "/errors/crash", "/probe"])
def test_every_answer_has_nosniff_and_every_document_a_content_policy(client: TestClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert "strict-transport-security" not in headers
    assert "strict-transport-security" in client.get(f"https://testserver{path}").headers
    if path == "/probe":
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy and "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy and "*" not in policy


def test_a_socket_has_a_request_id_and_an_access_record(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Log()
    monkeypatch.setitem(client.app_state, "log", log)
    headers = {"X-Request-ID": "socket-id-1"}
    with client.websocket_connect("/errors/socket/after", headers=headers) as socket:
        assert (b"x-request-id", b"socket-id-1") in (socket.extra_headers or ())
        with pytest.raises(WebSocketDisconnect):
            socket.receive_text()
    [fields] = log.lines
    assert (fields["method"], fields["path"], fields["status"]) == ("WEBSOCKET", "/errors/socket/after", 1008)


class Tutorial:
    """What most tutorials show: a function for each duty, and any origin with credentials."""

    def __init__(self) -> None:
        self.app = FastAPI()
        self.seen: list[str] = []
        self.app.add_middleware(CORSMiddleware, allow_origins=["*"], allow_credentials=True)

        @self.app.middleware("http")
        async def log_requests(request: Request, call_next: RequestResponseEndpoint) -> Response:
            self.seen.append(request.url.path)
            return await call_next(request)

        @self.app.exception_handler(Exception)
        async def handle(request: Request, exc: Exception) -> Response:
            return JSONResponse({"detail": "constant"}, 500)

        @self.app.get("/crash")
        async def crash() -> None:
            raise RuntimeError

        @self.app.get("/half")
        async def half() -> Response:
            async def lines() -> AsyncIterator[str]:
                yield "first\n"
                raise RuntimeError

            return StreamingResponse(lines())

        @self.app.websocket("/ws")
        async def socket(websocket: WebSocket) -> None:
            await websocket.accept()
            await websocket.close()


@pytest.fixture
def tutorial() -> Tutorial:
    return Tutorial()


def test_trap_a_function_middleware_is_blind_to_sockets(tutorial: Tutorial) -> None:
    with TestClient(tutorial.app).websocket_connect("/ws", headers={"Origin": "https://evil.example"}):
        pass
    assert tutorial.seen == []


@pytest.mark.anyio
async def test_trap_a_stream_that_failed_half_way_looks_complete(tutorial: Tutorial) -> None:
    call = Call(tutorial.app, http_scope("/half"), EMPTY_BODY)
    with pytest.raises(RuntimeError):
        await call.run()
    assert call.body == b"first\n"
    assert call.sent[-1].get("more_body", False) is False


@pytest.mark.anyio
@pytest.mark.parametrize("encoding", [b"gzip", b"identity"])
async def test_a_stream_that_failed_half_way_is_never_ended(app: FastAPI, encoding: bytes) -> None:
    scope = http_scope("/errors/stream", headers=[(b"accept-encoding", encoding)])
    sent = await Call(app, scope, EMPTY_BODY).run()
    assert len(sent) == 2
    assert sent[-1]["more_body"] is True


@pytest.mark.parametrize("origin", ["https://evil.example", "null"])
def test_trap_a_star_with_credentials_reflects_every_origin(tutorial: Tutorial, origin: str) -> None:
    answer = TestClient(tutorial.app).get("/nope", headers={"Origin": origin, "Cookie": "session=1"})
    assert answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["access-control-allow-credentials"] == "true"


def test_trap_a_500_has_no_cors_headers(tutorial: Tutorial) -> None:
    client = TestClient(tutorial.app, raise_server_exceptions=False)
    answer = client.get("/crash", headers={"Origin": OURS})
    assert answer.status_code == 500
    assert "access-control-allow-origin" not in answer.headers


def test_trap_a_middleware_added_last_is_the_outermost() -> None:
    order: list[str] = []
    app = FastAPI()
    for name in ("added first", "added last"):

        async def note(request: Request, call_next: RequestResponseEndpoint, name: str = name) -> Response:
            order.append(name)
            return await call_next(request)

        app.middleware("http")(note)
    TestClient(app).get("/")
    assert order == ["added last", "added first"]
