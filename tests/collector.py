"""A collector of telemetry, as small as can be: it keeps what it is sent by OTLP over HTTP."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span


class Collector(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Intake)
        self.received: list[tuple[str, bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    @property
    def traces(self) -> list[ResourceSpans]:
        bodies = [body for path, body in self.received if path == "/v1/traces"]
        return [each for body in bodies for each in ExportTraceServiceRequest.FromString(body).resource_spans]

    @property
    def spans(self) -> list[Span]:
        return [span for each in self.traces for scope in each.scope_spans for span in scope.spans]

    @property
    def metrics(self) -> list[Metric]:
        bodies = [body for path, body in self.received if path == "/v1/metrics"]
        return [
            metric
            for body in bodies
            for each in ExportMetricsServiceRequest.FromString(body).resource_metrics
            for scope in each.scope_metrics
            for metric in scope.metrics
        ]


class Intake(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        assert isinstance(self.server, Collector)
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.received.append((self.path, body))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def collecting() -> Iterator[Collector]:
    with Collector() as collector:
        thread = threading.Thread(target=collector.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield collector
        finally:
            collector.shutdown()
            thread.join(5)
