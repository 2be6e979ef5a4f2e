"""Traces and metrics without a middleware

FastAPI records traces and metrics itself: `FastAPI(telemetry=TelemetryConfig(...))`. Use metrics to be told
that something is slow or fails, and traces to see which part of which request it is. Here both are off until
`APP_TELEMETRY__LEVEL` says otherwise; each level has what the one before it has:

- `metrics`: duration and number of the requests by route, method and status, for Prometheus at
  `/application/telemetry/metrics`. FastAPI measures no sockets, so `app/realtime/instruments.py` adds what
  sockets and rooms count: `app.sockets.open`, `app.rooms.lag` and others.
- `traces`: one span for each request and each socket, from its first byte to its last. The newest are kept
  in memory, and read at `/application/telemetry/traces`.
- `all`: spans of the dependencies, the endpoint, the answer's serialisation and the background tasks, and
  on the request's span which checks the input failed.

`APP_TELEMETRY__OTLP=true` sends them to a collector too, as the standard variables say
(`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_SERVICE_NAME`); with several workers, which share no memory, that is
the way to read them. Every log line of a request has its `trace_id` beside the `request_id`.

Off costs nothing. Of the requests a second that a short route answers without telemetry, `metrics` leaves
0.7, `traces` 0.5, `all` 0.4, and 0.3 when it is sent too; 0.5 with `APP_TELEMETRY__SAMPLED_SHARE=0.01`, which
records one request in a hundred (`python -m benchmarks.telemetry`). What a level costs is the same for every
route, 0.1 to 0.4 ms on the machine that was measured: where a query takes 10 ms nobody notices.

Who can read these addresses learns how the service is built and used: let the proxy keep
`/application/telemetry` inside. It should also drop `traceparent` of callers it does not trust, for theirs
decides whether a trace is recorded. `app/telemetry.py` has the providers and the list of what may leave.

## The trap

FastAPI's spans have the raw path, the query and the `Host`, and so the e-mail addresses and tokens in them;
a span of your own has the text of every exception, and so have the log events. All of that goes to the
collector. `get_telemetry_data()` holds bodies, passwords too, for processors that know what to leave out.

A raw path as an attribute of a metric makes a new series for each path that a scanner tries. A typing error
in a key of `telemetry=` is accepted in silence (a `TelemetryConfig` is checked by mypy), and Starlette's
`OpenTelemetryMiddleware` on top of it makes a second trace of every request. The usual Prometheus registry is
the process's: two apps get each other's figures; and of two that read it at once, one gets nothing. An
instrument that is made a second time goes on reading what the first was given, in silence. With
`auto_configure` a dead collector holds up the stop.

## What is proven

- It is off unless asked for, and what is off is not there.
- Each level records what its name says.
- The trace of the caller is continued.
- The caller's traceparent decides, and else the share that is set.
- A log line has the trace id and the request id.
- Nothing that a client sends is in what is kept and what is sent.
- The checks that failed are named without what was sent.
- A span of our own is a part of the request's trace.
- A path that no route has is counted without the path.
- The metrics tell how many sockets and streams are open and what goes through the rooms.
- The span of a stream and of a socket lasts until its end.
- Health checks, the documentation and the reading itself are not recorded.
- Traces, the spans of one and their texts are bounded.
- Two apps share nothing.
- Two that read the metrics at once get all of them.
- A collector gets traces and metrics by OTLP.
- A dead collector does not hold up the stop.

## Read more

`fastapi.telemetry`: `TelemetryConfig(tracer_provider=, meter_provider=, logger_provider=, tracing=, metrics=,
logs=, operation_spans=, auto_configure=, exclude=)`, `TelemetryData`, `get_telemetry_data(context)`.
[FastAPI reference](https://fastapi.tiangolo.com/reference/fastapi/),
[variables of OpenTelemetry](https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/).
"""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Query
from fastapi.responses import Response
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode, format_span_id, format_trace_id, get_current_span
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import BaseModel, TypeAdapter

from app.dependencies import TelemetryDep
from app.errors import NotFound
from app.telemetry import KeptTrace, LastTraces

router = APIRouter(prefix="/application/telemetry", tags=["application"])

NANOSECONDS = 1_000_000_000

Attributes = dict[str, str | int | list[str]]
ATTRIBUTES = TypeAdapter(Attributes)


class Span(BaseModel):
    name: str
    span_id: str
    parent_id: str | None
    started: datetime
    seconds: float
    failed: bool
    attributes: Attributes


class Trace(BaseModel):
    trace_id: str
    spans: list[Span]
    dropped_spans: int


class Work(BaseModel):
    trace_id: str
    steps: int


class PrometheusText(Response):
    media_type = CONTENT_TYPE_LATEST


Steps = Annotated[int, Query(ge=1, le=10, description="how many steps, each with a span of its own")]
TraceId = Annotated[str, Path(pattern="^[0-9a-f]{32}$", description="as in a log line, or a `traceparent`")]


def recorded_traces(telemetry: TelemetryDep) -> LastTraces:
    if not telemetry.traces:
        raise NotFound("No traces are recorded: APP_TELEMETRY__LEVEL decides.")
    return telemetry.traces


TracesDep = Annotated[LastTraces, Depends(recorded_traces)]


# In threads, for a thousand spans take a while to be written.
@router.get("/traces")
def traces(recorded: TracesDep) -> list[Trace]:
    """The traces that are kept, newest first. 404 where none are recorded."""
    return [shown(trace) for trace in recorded.newest_first()]


@router.get("/traces/{trace_id}")
def one_trace(recorded: TracesDep, trace_id: TraceId) -> Trace:
    """The trace that a log line names. 404 when it is kept no longer, or was not recorded."""
    kept = recorded.find(int(trace_id, 16))
    if not kept:
        raise NotFound("This trace is not kept.")
    return shown(kept)


@router.get("/metrics", response_class=PrometheusText)
def metrics(telemetry: TelemetryDep) -> PrometheusText:
    """The metrics in the format of Prometheus. 404 where none are recorded."""
    if not telemetry.metrics:
        raise NotFound("No metrics are recorded: APP_TELEMETRY__LEVEL decides.")
    return PrometheusText(telemetry.metrics.text())


@router.get("/work")
async def work(telemetry: TelemetryDep, steps: Steps = 3) -> Work:
    """Does some steps, each in a span of its own, and names the trace to look for."""
    for _ in range(steps):
        with telemetry.tracer.start_as_current_span("step"):
            await asyncio.sleep(0.001)
    return Work(trace_id=format_trace_id(get_current_span().get_span_context().trace_id), steps=steps)


def shown(trace: KeptTrace) -> Trace:
    spans = [shown_span(span) for span in trace.spans]
    return Trace(trace_id=format_trace_id(trace.trace_id), spans=spans, dropped_spans=trace.dropped_spans)


def shown_span(span: ReadableSpan) -> Span:
    assert span.context and span.start_time and span.end_time
    return Span(
        name=span.name,
        span_id=format_span_id(span.context.span_id),
        parent_id=format_span_id(span.parent.span_id) if span.parent else None,
        started=datetime.fromtimestamp(span.start_time / NANOSECONDS, UTC),
        seconds=(span.end_time - span.start_time) / NANOSECONDS,
        failed=span.status.status_code is StatusCode.ERROR,
        attributes=ATTRIBUTES.validate_python(span.attributes),
    )
