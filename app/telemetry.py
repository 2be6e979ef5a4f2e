"""Traces and metrics by FastAPI's own telemetry: what is recorded, what is kept, and what leaves.

Every app has its own providers. Nothing is set for the process, so two apps share nothing, and no library
that asks for the global provider starts to record. The page `application/telemetry` shows the rest.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, MutableMapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from time import monotonic
from typing import Any, get_args

import anyio
import anyio.to_thread
from fastapi.telemetry import TelemetryConfig, get_telemetry_data
from opentelemetry import trace
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import NoOpMeter
from opentelemetry.sdk._logs import LoggerProvider, LogRecordProcessor, ReadWriteLogRecord
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import NoOpTracer, SpanContext, Status
from prometheus_client import CollectorRegistry, generate_latest

from app.errors import MAX_REPORTED_ERRORS
from app.settings import TelemetryLevel, TelemetrySettings

LEVELS = get_args(TelemetryLevel)

UNRECORDED_PATHS = frozenset({"/health", "/ready", "/docs", "/redoc", "/openapi.json"})
UNRECORDED_FOLDERS = ("/_docs/", "/application/telemetry/traces", "/application/telemetry/metrics")
"""What machines ask for over and over, and the reading of telemetry itself."""

MAX_ATTRIBUTE_LENGTH = 200

VALIDATION_ERRORS = "app.validation.errors"

EXPORTED_ATTRIBUTES = frozenset(
    {
        "http.request.method",
        "http.response.status_code",
        "http.route",
        "url.scheme",
        "network.protocol.name",
        "network.protocol.version",
        "error.type",
        "code.function.name",
        VALIDATION_ERRORS,
    }
)
"""The attributes that are kept and sent: each has few values, and none is chosen by a client."""


@dataclass
class KeptTrace:
    trace_id: int
    spans: deque[ReadableSpan]
    dropped_spans: int = 0

    def copy(self) -> "KeptTrace":
        return replace(self, spans=self.spans.copy())


class LastTraces(SpanProcessor):
    """Keeps the newest traces in memory: so many, of so many spans each. Spans end in threads too."""

    def __init__(self, max_traces: int, max_spans: int) -> None:
        self._max_traces = max_traces
        self._max_spans = max_spans
        self._traces: OrderedDict[int, KeptTrace] = OrderedDict()
        self._lock = threading.Lock()

    def on_end(self, span: ReadableSpan) -> None:
        assert span.context
        trace_id = span.context.trace_id
        with self._lock:
            kept = self._traces.get(trace_id)
            if kept is None:
                kept = self._traces[trace_id] = KeptTrace(trace_id, deque(maxlen=self._max_spans))
            # The oldest goes: the span of the whole request is the last to end, and tells most.
            kept.dropped_spans += len(kept.spans) == self._max_spans
            kept.spans.append(span)
            if len(self._traces) > self._max_traces:
                self._traces.popitem(last=False)

    def newest_first(self) -> list[KeptTrace]:
        with self._lock:
            return [kept.copy() for kept in reversed(self._traces.values())]

    def find(self, trace_id: int) -> KeptTrace | None:
        with self._lock:
            kept = self._traces.get(trace_id)
            return kept and kept.copy()


class Metrics:
    """What Prometheus reads, in a registry of its own: the usual one is shared by the whole process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.reader = PrometheusMetricReader(registry=self._registry, scope_info_enabled=False)
        self._lock = threading.Lock()

    def text(self) -> bytes:
        # One at a time: of two that read at once, the exporter gives one all and the other nothing.
        with self._lock:
            return generate_latest(self._registry)


class Redaction(SpanProcessor):
    """Passes on what may leave of a span: the attributes of the list above, no event, no text of an error.

    FastAPI records the raw path, the query and the `Host`; a span of your own records the exceptions that
    pass through it. A list of what may leave also holds for what the next version records.
    """

    def __init__(self, *receivers: SpanProcessor) -> None:
        self.receivers = [*receivers]

    def on_end(self, span: ReadableSpan) -> None:
        given = span.attributes or {}
        allowed = ReadableSpan(
            name=span.name,
            context=_without_state(span.context),
            parent=_without_state(span.parent),
            resource=span.resource,
            attributes={key: given[key] for key in given if key in EXPORTED_ATTRIBUTES},
            kind=span.kind,
            status=Status(span.status.status_code),
            start_time=span.start_time,
            end_time=span.end_time,
            instrumentation_scope=span.instrumentation_scope,
        )
        for receiver in self.receivers:
            receiver.on_end(allowed)


class ValidationErrors(LogRecordProcessor):
    """Notes on the span which checks a request failed: the part of the request and the kind, no value.

    FastAPI reports it as a log event and has the errors, with all that was sent, in its telemetry data. Its
    other event, of an exception, is not used: our log has the exception, with the request id.
    """

    def on_emit(self, log_record: ReadWriteLogRecord) -> None:
        context = log_record.log_record.context
        data = get_telemetry_data(context)
        if data and data.errors:
            # The first part of `loc` is FastAPI's (body, query); those behind it may be names of the client.
            failed = [f"{error['loc'][0]} {error['type']}" for error in data.errors[:MAX_REPORTED_ERRORS]]
            trace.get_current_span(context).set_attribute(VALIDATION_ERRORS, failed)

    def shutdown(self) -> None:
        pass

    def force_flush(self, timeout_millis: int = 0) -> bool:
        return True


class Telemetry:
    """The providers of one app, as far as its level asks for them, and what they have recorded."""

    def __init__(self, settings: TelemetrySettings) -> None:
        self.settings = settings
        level = LEVELS.index(settings.level)
        has_metrics, has_traces, has_all = (level >= LEVELS.index(each) for each in LEVELS[1:])
        self.metrics = Metrics() if has_metrics else None
        self.traces = LastTraces(settings.kept_traces, settings.kept_spans) if has_traces else None
        # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES replace our name.
        resource = Resource({SERVICE_NAME: "fastapi-reference"}).merge(OTELResourceDetector().detect())
        self._meter_provider = self._tracer_provider = logger_provider = None
        if self.metrics:
            self._meter_provider = MeterProvider([self.metrics.reader], resource, shutdown_on_exit=False)
        if self.traces:
            self._redaction = Redaction(self.traces)
            self._tracer_provider = TracerProvider(
                ParentBased(TraceIdRatioBased(settings.sampled_share)),
                resource,
                shutdown_on_exit=False,
                span_limits=SpanLimits(max_span_attribute_length=MAX_ATTRIBUTE_LENGTH),
            )
            self._tracer_provider.add_span_processor(self._redaction)
        if has_all:
            logger_provider = LoggerProvider(resource, shutdown_on_exit=False)
            logger_provider.add_log_record_processor(ValidationErrors())
        # For spans and metrics of our own. `get_tracer` and `get_meter` of `opentelemetry` ask the process,
        # where there is no provider.
        self.tracer = self._tracer_provider.get_tracer("app") if self._tracer_provider else NoOpTracer()
        self.meter = self._meter_provider.get_meter("app") if self._meter_provider else NoOpMeter("app")
        self.config = TelemetryConfig(
            metrics=has_metrics,
            meter_provider=self._meter_provider,
            tracing=has_traces,
            tracer_provider=self._tracer_provider,
            operation_spans=has_all,
            logs=has_all,
            logger_provider=logger_provider,
            # It would send what was recorded as it is, and wait for a dead collector at the stop.
            auto_configure=False,
            exclude=is_unrecorded,
        )

    @asynccontextmanager
    async def exporting(self) -> AsyncIterator[None]:
        """Sends all to the collector that `OTEL_EXPORTER_OTLP_ENDPOINT` names, until the app stops.

        The exporters have threads, which a fork does not copy: they begin here, not in `create_app`.
        """
        closing: list[Callable[[], None]] = []
        # The exporters are imported where they are used, for they take a tenth of the time of a start.
        if self.settings.otlp and self._meter_provider:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

            reader = PeriodicExportingMetricReader(OTLPMetricExporter())
            self._meter_provider.add_metric_reader(reader)
            closing.append(reader.shutdown)
        if self.settings.otlp and self._tracer_provider:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

            batches = BatchSpanProcessor(OTLPSpanExporter())
            self._redaction.receivers.append(batches)
            closing.append(batches.shutdown)
        try:
            yield
        finally:
            if closing:
                # A limiter of its own: endpoints that hang have the threads of the usual one.
                own = anyio.CapacityLimiter(1)
                await anyio.to_thread.run_sync(_finish, closing, self.settings.flush_timeout, limiter=own)


def _finish(closing: Sequence[Callable[[], None]], seconds: float) -> None:
    """Each sends what waits, in a thread that is left behind when the collector does not answer."""
    end = monotonic() + seconds
    threads = [threading.Thread(target=close, daemon=True) for close in closing]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, end - monotonic()))


def is_unrecorded(scope: MutableMapping[str, Any]) -> bool:
    path: str = scope["path"].removeprefix(scope.get("root_path", ""))
    return path in UNRECORDED_PATHS or path.startswith(UNRECORDED_FOLDERS)


def _without_state(context: SpanContext | None) -> SpanContext | None:
    """Without `tracestate`, a header of the caller."""
    return context and SpanContext(context.trace_id, context.span_id, context.is_remote, context.trace_flags)
