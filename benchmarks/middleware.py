"""What the middleware costs: requests/s with the whole stack, with the tutorials' stack, and with none.

Rounds are interleaved and every figure is a ratio of the same round: a machine that is busy
slows all three alike. Needs `wrk` (Debian: `apt-get install wrk`). Run it by `make bench`.
"""

import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.middleware.base import RequestResponseEndpoint

from app.main import create_app
from tests.server import serve

ROUNDS = 7
SECONDS = 3
CONNECTIONS = 32
ROUTES = ("/health", "/items/")
"""A plain JSON route, and one with a class dependency."""

STACKS = ("none", "whole", "tutorial")


def whole() -> FastAPI:
    return create_app()


def none() -> FastAPI:
    """The same service, with no middleware of its own."""
    app = create_app()
    app.user_middleware.clear()
    return app


def tutorial() -> FastAPI:
    """The same service with four duties as the usual tutorials write them."""
    app = none()
    app.add_middleware(
        CORSMiddleware, allow_origins=["*"], allow_credentials=True, allow_methods=["*"], allow_headers=["*"]
    )

    @app.middleware("http")
    async def add_process_time(request: Request, call_next: RequestResponseEndpoint) -> Response:
        started = time.time()
        response = await call_next(request)
        response.headers["X-Process-Time"] = str(time.time() - started)
        return response

    @app.middleware("http")
    async def log_requests(request: Request, call_next: RequestResponseEndpoint) -> Response:
        print(f"Incoming request: {request.method} {request.url}")
        response = await call_next(request)
        print(f"Response status: {response.status_code}")
        return response

    @app.middleware("http")
    async def handle_errors(request: Request, call_next: RequestResponseEndpoint) -> Response:
        try:
            return await call_next(request)
        except Exception as error:
            return JSONResponse({"error": str(error)}, status_code=500)

    return app


def _wrk(url: str, seconds: int) -> float:
    done = subprocess.run(
        ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", url], capture_output=True, text=True, check=True
    )
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    assert rate and "Non-2xx" not in done.stdout, done.stdout
    return float(rate[1])


def main() -> None:
    if not shutil.which("wrk"):
        sys.exit("This benchmark needs wrk: apt-get install wrk")
    ratios: dict[str, list[float]] = {}
    with ExitStack() as running:
        urls = {}
        for stack in STACKS:
            folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
            app = f"{__spec__.name}:{stack}"
            urls[stack] = running.enter_context(serve(folder, args=["--factory"], app=app)).url
        for _ in range(ROUNDS):
            for route in ROUTES:
                # The first is a warm-up: caches, and the server's own lazy beginnings.
                rates = {
                    stack: [_wrk(url + route, 1), _wrk(url + route, SECONDS)][1]
                    for stack, url in urls.items()
                }
                print(f"{route:10}", *(f"{stack} {rate:.0f}/s" for stack, rate in rates.items()), sep="  ")
                for over, under in (("whole", "none"), ("tutorial", "none"), ("whole", "tutorial")):
                    ratios.setdefault(f"{route:10} {over} / {under}", []).append(rates[over] / rates[under])
    print("\nmedian of the ratios of each round [least to most]")
    for name, values in ratios.items():
        print(f"{name:30} {statistics.median(values):.2f} [{min(values):.2f} to {max(values):.2f}]")


if __name__ == "__main__":
    main()
