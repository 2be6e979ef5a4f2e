"""What telemetry costs: requests/s of the service at each level, as a share of those without.

`without` goes around FastAPI's own entrance, where its telemetry begins. `sent` is the dearest level, which
also goes to a collector; this one runs beside the servers and takes a part of the machine. `sampled` is the
same for one request in a hundred. Needs `wrk` (Debian: `apt-get install wrk`). Run it by `make bench`.
"""

from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from app.main import create_app
from benchmarks.load import compare
from tests.collector import collecting

LEVELS = ("off", "metrics", "traces", "all")
ROUTES = ("/items/", "/responses/orjson")
"""A route with a class dependency, and one with an answer of its own; `/health` is not recorded."""


def without() -> ASGIApp:
    app = create_app()

    async def entrance(scope: Scope, receive: Receive, send: Send) -> None:
        await Starlette.__call__(app, scope, receive, send)

    return entrance


def main() -> None:
    with collecting() as collector:
        servers: dict[str, tuple[str, dict[str, str]]] = {"without": (f"{__spec__.name}:without", {})}
        for level in LEVELS:
            servers[level] = ("app.main:create_app", {"APP_TELEMETRY__LEVEL": level})
        everything = {"APP_TELEMETRY__LEVEL": "all", "APP_TELEMETRY__OTLP": "true"}
        everything["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.url
        servers["sent"] = ("app.main:create_app", everything)
        sampled = everything | {"APP_TELEMETRY__SAMPLED_SHARE": "0.01"}
        servers["sampled"] = ("app.main:create_app", sampled)
        compare(servers, [(name, "without") for name in servers if name != "without"], ROUTES)


if __name__ == "__main__":
    main()
