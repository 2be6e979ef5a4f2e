import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Annotated, Any

import pytest
from fastapi import Body, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.telemetry import TelemetryConfig, TelemetryData, _runtime, get_telemetry_data
from fastapi.testclient import TestClient
from opentelemetry import trace
from opentelemetry._logs import LogRecord
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadWriteLogRecord
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import REGISTRY, CollectorRegistry, generate_latest
from starlette.middleware.base import RequestResponseEndpoint
from starlette.middleware.opentelemetry import OpenTelemetryMiddleware

from app.main import create_app
from app.realtime.instruments import observing
from app.realtime.messages import Member as RoomMember
from app.realtime.messages import Message
from app.settings import Settings, TelemetrySettings
from app.telemetry import MAX_ATTRIBUTE_LENGTH, Metrics, Telemetry
from tests.asgi import Call, http_scope
from tests.collector import collecting
from tests.members import open_house

SECRET = "hunter2"
TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
SPAN_ID = "b7ad6b7169203331"
TRACES = "/application/telemetry/traces"
METRICS = "/application/telemetry/metrics"
REALTIME = (
    "app_sockets_open",
    "app_connections_streams",
    "app_rooms_open",
    "app_sockets_deliveries_total",
    "app_sockets_queued_total",
    "app_connections_too_slow_total",
    "app_rooms_messages_total",
    "app_rooms_gaps_total",
    "app_rooms_lag_seconds",
    "app_rooms_degraded",
)

Service = Callable[..., FastAPI]


@pytest.fixture
def service(settings: Settings) -> Service:
    def make(level: str = "all", **options: Any) -> FastAPI:
        telemetry = TelemetrySettings.model_validate({"level": level, **options})
        return create_app(settings.model_copy(update={"telemetry": telemetry}))

    return make


@pytest.fixture
def recorded(service: Service) -> Iterator[TestClient]:
    with TestClient(service(), raise_server_exceptions=False) as client:
        yield client


def traceparent(sampled: bool) -> dict[str, str]:
    return {"traceparent": f"00-{TRACE_ID}-{SPAN_ID}-0{sampled:d}"}


def newest(client: TestClient) -> dict[str, Any]:
    """The spans of the newest trace by their names."""
    return {span["name"]: span for span in client.get(TRACES).json()[0]["spans"]}


def test_it_is_off_unless_asked_for_and_what_is_off_is_not_there(
    client: TestClient, service: Service, settings: Settings
) -> None:
    for path in (METRICS, TRACES, f"{TRACES}/{TRACE_ID}"):
        answer = client.get(path)
        assert answer.status_code == 404
        assert "APP_TELEMETRY__LEVEL" in answer.json()["detail"]
    config = Telemetry(settings.telemetry).config
    assert [name for name, value in config.items() if value] == ["exclude"]
    assert len(create_app(settings).user_middleware) == len(service("all").user_middleware)
    assert client.get("/application/telemetry/work").json()["trace_id"] == "0" * 32


@pytest.mark.parametrize(
    ("level", "spans"),
    [
        ("metrics", None),
        ("traces", ["GET /items/"]),
        ("all", ["fastapi.dependencies", "fastapi.endpoint", "fastapi.serialization", "GET /items/"]),
    ],
)
def test_each_level_records_what_its_name_says(service: Service, level: str, spans: list[str] | None) -> None:
    with TestClient(service(level)) as client:
        client.get("/items/")
        assert 'http_route="/items/"' in client.get(METRICS).text
        answer = client.get(TRACES)
        assert (answer.status_code == 200) is (spans is not None)
        assert spans is None or list(newest(client)) == spans


def test_the_trace_of_the_caller_is_continued(recorded: TestClient) -> None:
    recorded.get("/items/", headers=traceparent(sampled=True))
    kept = recorded.get(f"{TRACES}/{TRACE_ID}").json()
    assert kept["spans"][-1]["name"] == "GET /items/"
    assert kept["spans"][-1]["parent_id"] == SPAN_ID
    assert recorded.get(f"{TRACES}/{TRACE_ID[::-1]}").status_code == 404


def test_the_callers_traceparent_decides_and_else_the_share_that_is_set(service: Service) -> None:
    for share, headers, count in (
        (1, {}, 1),
        (1, traceparent(sampled=False), 0),
        (0, {}, 0),
        (0, traceparent(sampled=True), 1),
    ):
        with TestClient(service(sampled_share=share)) as client:
            client.get("/items/", headers=headers)
            assert len(client.get(TRACES).json()) == count


def test_a_log_line_has_the_trace_id_and_the_request_id(
    capsys: pytest.CaptureFixture[str], service: Service
) -> None:
    headers = {**traceparent(sampled=True), "X-Request-ID": "the-id-of-it"}
    for level in ("all", "off"):
        with TestClient(service(level), raise_server_exceptions=False) as client:
            client.get("/errors/crash", headers=headers)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    of_it = [line for line in lines if line["request_id"] == "the-id-of-it"]
    assert {line["logger"] for line in of_it} == {"app.access", "app.errors"}
    assert [line.get("trace_id") for line in of_it] == [TRACE_ID, TRACE_ID, None, None]


def send_secrets(client: TestClient) -> None:
    client.post(f"/send-notification/{SECRET}@example.com?token={SECRET}")
    client.get(f"/{SECRET}", headers={"Host": SECRET, "User-Agent": SECRET, "X-Request-ID": SECRET * 2})
    tracing = {"tracestate": f"vendor={SECRET}", "baggage": f"user={SECRET}"}
    client.get("/items/", headers={**traceparent(sampled=True), **tracing, "Cookie": f"last_query={SECRET}"})
    client.post("/users", json={SECRET: SECRET, "name": SECRET, "email": SECRET, "age": SECRET})
    client.request(SECRET.upper(), "/items/")
    client.get("/errors/crash")
    client.get("/unicorns/" + SECRET)


def test_nothing_that_a_client_sends_is_in_what_is_kept_and_what_is_sent(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        with TestClient(service(otlp=True), raise_server_exceptions=False) as client:
            send_secrets(client)
            kept = client.get(TRACES)
            read = kept.text + client.get(METRICS).text
    assert len(kept.json()) == 7 and len(collector.spans) > 7
    sent = b"".join(body for _, body in collector.received)
    assert SECRET not in read.lower() and SECRET.encode() not in sent.lower()


def test_no_text_of_an_exception_is_in_a_span() -> None:
    telemetry = Telemetry(TelemetrySettings(level="all"))
    with suppress(ValueError), telemetry.tracer.start_as_current_span("work"):
        raise ValueError(SECRET)
    assert telemetry.traces
    [kept] = telemetry.traces.newest_first()
    assert SECRET not in kept.spans[0].to_json()
    assert kept.spans[0].status.status_code is trace.StatusCode.ERROR


def test_the_checks_that_failed_are_named_without_what_was_sent(recorded: TestClient) -> None:
    recorded.post("/users?x=1", json={"name": "Ada Lovelace", "email": SECRET, SECRET: 1})
    attributes = newest(recorded)["POST /users"]["attributes"]
    assert attributes["app.validation.errors"] == ["body value_error", "body extra_forbidden"]


def test_a_span_of_our_own_is_a_part_of_the_requests_trace(recorded: TestClient) -> None:
    trace_id = recorded.get("/application/telemetry/work?steps=2").json()["trace_id"]
    spans = recorded.get(f"{TRACES}/{trace_id}").json()["spans"]
    [endpoint] = [span for span in spans if span["name"] == "fastapi.endpoint"]
    steps = [span for span in spans if span["name"] == "step"]
    assert [step["parent_id"] for step in steps] == [endpoint["span_id"]] * 2


def test_a_path_that_no_route_has_is_counted_without_the_path(recorded: TestClient) -> None:
    for number in range(3):
        recorded.get(f"/nothing/{number}")
    assert "http.route" not in newest(recorded)["GET"]["attributes"]
    text = recorded.get(METRICS).text
    [line] = re.findall(r"^http_server_request_duration_seconds_count{.*", text, re.MULTILINE)
    assert line.endswith(" 3.0") and "http_route" not in line and '"404"' in line


def test_the_span_of_a_stream_and_of_a_socket_lasts_until_its_end(recorded: TestClient) -> None:
    recorded.get("/middleware/timing/stream?seconds=0.1")
    assert newest(recorded)["GET /middleware/timing/stream"]["seconds"] >= 0.1
    with recorded.websocket_connect("/ws") as socket:
        socket.send_text("x")
        socket.receive_text()
        assert "WS /ws" not in newest(recorded)
    assert "WS /ws" in newest(recorded)


@pytest.mark.parametrize("prefix", ["", "/api"])
def test_health_checks_the_documentation_and_the_reading_itself_are_not_recorded(
    service: Service, prefix: str
) -> None:
    with TestClient(service(), root_path=prefix) as client:
        for path in ("/health", "/ready", "/docs", "/redoc", "/openapi.json", "/_docs/x", TRACES, METRICS):
            client.get(prefix + path)
        assert client.get(prefix + TRACES).json() == []
        assert "http_server" not in client.get(prefix + METRICS).text
        client.get(f"{prefix}/healthy")
        assert len(client.get(prefix + TRACES).json()) == 1


def test_traces_the_spans_of_one_and_their_texts_are_bounded(service: Service) -> None:
    with TestClient(service(kept_traces=2, kept_spans=3)) as client:
        for number in range(1, 4):
            client.get("/application/telemetry/work", params={"steps": number})
        kept = client.get(TRACES).json()
    # Its spans: dependencies, a span a step, endpoint, serialization, the request.
    assert [trace["dropped_spans"] for trace in kept] == [4, 3]
    assert [len(trace["spans"]) for trace in kept] == [3, 3]
    assert kept[0]["spans"][-1]["name"] == "GET /application/telemetry/work"

    telemetry = Telemetry(TelemetrySettings(level="all"))
    telemetry.tracer.start_span("work", attributes={"code.function.name": "x" * 10_000}).end()
    assert telemetry.traces
    attributes = telemetry.traces.newest_first()[0].spans[0].attributes
    assert attributes == {"code.function.name": "x" * MAX_ATTRIBUTE_LENGTH}


def test_two_apps_share_nothing(service: Service) -> None:
    with TestClient(service()) as one, TestClient(service()) as other:
        one.get("/items/")
        assert len(one.get(TRACES).json()) == 1
        assert other.get(TRACES).json() == []
        assert "/items/" not in other.get(METRICS).text
    assert type(trace.get_tracer_provider()).__name__ == "ProxyTracerProvider"
    assert b"http_server" not in generate_latest(REGISTRY)


class MeetingReader(PrometheusMetricReader):
    """Between what it has collected and what it hands over, one that reads waits for the other."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.both_are_here = threading.Barrier(2, timeout=0.1)

    def _receive_metrics(self, *args: Any, **options: Any) -> None:
        super()._receive_metrics(*args, **options)
        with suppress(threading.BrokenBarrierError):
            self.both_are_here.wait()


def counted_by_two_readers(reader: PrometheusMetricReader, text: Callable[[], bytes]) -> list[int]:
    """How often each of two that read at once finds the one counter there is."""
    counter = MeterProvider([reader], shutdown_on_exit=False).get_meter("app").create_counter("orders")
    counter.add(1)
    with ThreadPoolExecutor(2) as threads:
        found = [threads.submit(text) for _ in range(2)]
    return sorted(each.result().count(b"\norders_total") for each in found)


def test_two_that_read_the_metrics_at_once_get_all_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.telemetry.PrometheusMetricReader", MeetingReader)
    metrics = Metrics()
    assert counted_by_two_readers(metrics.reader, metrics.text) == [1, 1]


def test_trap_of_two_that_read_the_metrics_at_once_one_gets_nothing() -> None:
    registry = CollectorRegistry()
    reader = MeetingReader(registry=registry)
    nothing, too_much = counted_by_two_readers(reader, lambda: generate_latest(registry))
    assert nothing == 0 and too_much > 1


def test_a_collector_gets_traces_and_metrics_by_otlp(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    with collecting() as collector:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
        monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
        with TestClient(service(otlp=True)) as client:
            client.get("/items/")
    [sent] = collector.traces
    names = {attribute.key: attribute.value.string_value for attribute in sent.resource.attributes}
    assert names["service.name"] == "shop"
    assert collector.spans[-1].name == "GET /items/"
    assert "http.server.request.duration" in {metric.name for metric in collector.metrics}


@contextmanager
def dead_collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It takes connections and is mute."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{mute.getsockname()[1]}")
        yield


def seconds_to_stop(app: FastAPI) -> float:
    with TestClient(app) as client:
        client.get("/items/")
        started = time.monotonic()
    return time.monotonic() - started


def test_a_dead_collector_does_not_hold_up_the_stop(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with dead_collector(monkeypatch):
        assert 0.1 <= seconds_to_stop(service(otlp=True, flush_timeout=0.1)) < 0.6


def test_every_key_is_one_that_fastapi_knows() -> None:
    assert set(Telemetry(TelemetrySettings()).config) == set(TelemetryConfig.__annotations__)


def provider() -> tuple[TracerProvider, InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


def test_trap_a_span_has_the_raw_path_the_query_the_host_and_the_text_of_exceptions() -> None:
    tracing, exporter = provider()
    app = FastAPI(telemetry=TelemetryConfig(tracer_provider=tracing))

    @app.get("/mail/{address}")
    async def mail(address: str) -> None:
        with tracing.get_tracer("app").start_as_current_span("work"):
            raise ValueError(SECRET)

    client = TestClient(app, base_url="http://shop.example", raise_server_exceptions=False)
    client.get("/mail/ada@example.com?token=hunter2")
    spans = {span.name: span for span in exporter.get_finished_spans()}
    of_request = dict(spans["GET /mail/{address}"].attributes or {})
    assert of_request["url.path"] == "/mail/ada@example.com"
    assert of_request["url.query"] == "token=hunter2"
    assert of_request["server.address"] == "shop.example"
    assert (spans["work"].events[0].attributes or {})["exception.message"] == SECRET
    assert spans["work"].status.description == f"ValueError: {SECRET}"


class Events(LogRecordProcessor):
    def __init__(self) -> None:
        self.kept: list[LogRecord] = []

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        self.kept.append(log_record.log_record)

    def shutdown(self) -> None: ...

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True


def test_trap_the_log_events_have_the_text_of_exceptions() -> None:
    events = Events()
    logs = LoggerProvider(shutdown_on_exit=False)
    logs.add_log_record_processor(events)
    app = FastAPI(telemetry=TelemetryConfig(logger_provider=logs, tracing=False, metrics=False))

    @app.get("/")
    async def fail() -> None:
        raise ValueError(SECRET)

    TestClient(app, raise_server_exceptions=False).get("/")
    [event] = events.kept
    assert event.event_name == "http.server.request.exception"
    assert (event.attributes or {})["exception.message"] == SECRET


def test_trap_the_telemetry_data_hold_what_was_sent_and_end_with_the_request() -> None:
    tracing, _ = provider()
    app = FastAPI(telemetry=TelemetryConfig(tracer_provider=tracing))
    seen: list[TelemetryData] = []

    @app.post("/login")
    async def login(password: Annotated[str, Body(embed=True)]) -> bool:
        data = get_telemetry_data()
        assert data and data.request
        seen.append(replace(data))
        return data.websocket is None

    @app.exception_handler(RequestValidationError)
    async def refuse(request: Request, error: Exception) -> Response:
        data = get_telemetry_data()
        assert data
        seen.append(replace(data))
        return Response(status_code=422)

    client = TestClient(app)
    client.post("/login", json={"password": SECRET})
    client.post("/login", json={"password": [SECRET]})
    assert seen[0].body == seen[0].values == {"password": SECRET}
    assert seen[1].errors and seen[1].errors[0]["input"] == [SECRET]
    assert get_telemetry_data() is None


def test_trap_a_typing_error_in_a_key_is_accepted_in_silence() -> None:
    tracing, exporter = provider()
    mistyped: Any = {"tracer_provider": tracing, "traceing": False}
    TestClient(FastAPI(telemetry=mistyped)).get("/")
    assert len(exporter.get_finished_spans()) == 1


def test_trap_starlettes_middleware_makes_a_second_trace_and_tells_of_the_client() -> None:
    tracing, exporter = provider()
    app = FastAPI(telemetry=TelemetryConfig(tracer_provider=tracing, operation_spans=False))
    app.add_middleware(OpenTelemetryMiddleware, tracer_provider=tracing)
    TestClient(app).get("/docs?token=hunter2", headers={"User-Agent": "Ada's phone"})
    spans = exporter.get_finished_spans()
    assert [span.kind for span in spans] == [trace.SpanKind.SERVER] * 2
    assert len({span.context.trace_id for span in spans if span.context}) == 2
    [attributes] = [span.attributes or {} for span in spans if span.name == "GET"]
    assert attributes["user_agent.original"] == "Ada's phone"
    assert attributes["client.address"] == "testclient"


def test_trap_a_raw_path_makes_a_series_for_each_path(recorded: TestClient) -> None:
    registry = CollectorRegistry()
    meters = MeterProvider([PrometheusMetricReader(registry=registry)], shutdown_on_exit=False)
    counter = meters.get_meter("app").create_counter("requests")
    app = FastAPI()

    @app.middleware("http")
    async def count(request: Request, call_next: RequestResponseEndpoint) -> Response:
        counter.add(1, {"path": request.url.path})
        return await call_next(request)

    theirs = TestClient(app)
    for number in range(20):
        for client in (theirs, recorded):
            client.get(f"/wp-admin/{number}")
    assert generate_latest(registry).count(b"requests_total{") == 20
    assert recorded.get(METRICS).text.count("http_server_request_duration_seconds_count{") == 1


@pytest.mark.anyio
async def test_the_metrics_tell_how_many_sockets_and_streams_are_open_and_what_goes_through_the_rooms(
    service: Service,
) -> None:
    app = service("metrics")
    async with open_house(app) as house:

        def read(name: str) -> float:
            assert house.state["telemetry"].metrics
            text = house.state["telemetry"].metrics.text().decode()
            [value] = re.findall(rf"^{name} (\S+)$", text, re.MULTILINE)
            return float(value)

        before = [read(name) for name in REALTIME]
        assert before == [0.0] * len(REALTIME)
        ada = await house.join("kitchen", "ada")
        await house.join("kitchen", "bob")
        scope = http_scope(
            "/rooms/kitchen/events", headers=[(b"authorization", f"Bearer {house.token('eve')}".encode())]
        )
        scope["state"] = dict(house.state)
        stream = Call(app, scope)
        streaming = asyncio.create_task(stream.run())
        await stream.until_sent(2)
        ada.say("Tea?")
        await ada.next_of("message")
        local = house.state["hub"].local
        local.lost("kitchen", "0-0")
        local.degraded(True)
        sent_at = datetime.now(UTC) - timedelta(seconds=7)
        sender = RoomMember.model_validate(ada.received[0]["you"])
        local.posted("kitchen", Message(id="1-1", sender=sender, text="late", sent_at=sent_at))
        traffic = house.state["connections"].traffic
        traffic.queued, traffic.too_slow = 2, 1
        open_sockets, streams, rooms, deliveries, queued, too_slow, messages, gaps, lag, degraded = (
            read(name) for name in REALTIME
        )
        assert (open_sockets, streams, rooms) == (2, 1, 1)
        assert deliveries == traffic.delivered >= 6
        assert (queued, too_slow, messages, gaps, degraded) == (2, 1, 2, 1, 1)
        assert 7 <= lag < 8
        stream.leave()
        await streaming


def test_trap_an_instrument_that_is_made_a_second_time_reads_what_the_first_was_given() -> None:
    reader = InMemoryMetricReader()
    meter = MeterProvider([reader], shutdown_on_exit=False).get_meter("app")
    for number in (1, 2):
        meter.create_observable_gauge("app.open", [observing(partial(int, number))])
    data = reader.get_metrics_data()
    assert data
    [metric] = data.resource_metrics[0].scope_metrics[0].metrics
    assert [point.value for point in metric.data.data_points if isinstance(point, NumberDataPoint)] == [1]


def test_trap_the_usual_registry_is_the_processs() -> None:
    readers = [PrometheusMetricReader() for _ in range(2)]
    for number, reader in enumerate(readers):
        meters = MeterProvider([reader], shutdown_on_exit=False)
        meters.get_meter("app").create_counter(f"app_{number}").add(1)
    text = generate_latest(REGISTRY)
    for reader in readers:
        reader.shutdown()
    assert b"app_0_total" in text and b"app_1_total" in text


def test_trap_with_auto_configure_a_dead_collector_holds_up_the_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    # FastAPI keeps what it makes for the whole process; here it ends with the test.
    monkeypatch.setattr(_runtime, "_owned", [])
    monkeypatch.setattr(_runtime, "_configured", [])
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.6")
    tracing, _ = provider()
    config = TelemetryConfig(tracer_provider=tracing, auto_configure=True, metrics=False, logs=False)
    with dead_collector(monkeypatch):
        assert seconds_to_stop(FastAPI(telemetry=config)) >= 0.6
