"""What the middleware costs: requests/s of the service with its whole stack, and with less.

`none` has no middleware, and no access log. `logged` is `none` with uvicorn's own access log, which a server
has unless told otherwise and for which ours stands. `tutorial` has four duties written as the usual
tutorials write them. Rounds are interleaved and every figure is a ratio of the same round: a machine that is
busy slows all alike. Needs `wrk` (Debian: `apt-get install wrk`). Run it by `make bench`.
"""

import logging
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.middleware.base import RequestResponseEndpoint

from app.main import create_app

ROUNDS = 15
SECONDS = 1
START_SECONDS = 20
CONNECTIONS = 32
ROUTES = ("/health", "/items/")
"""A plain JSON route, and one with a class dependency."""

STACKS = ("none", "logged", "whole", "tutorial")
PAIRS = (("whole", "none"), ("whole", "logged"), ("tutorial", "none"), ("whole", "tutorial"))


def whole() -> FastAPI:
    return create_app()


def none() -> FastAPI:
    """The same service, with no middleware of its own."""
    app = create_app()
    app.user_middleware.clear()
    return app


def logged() -> FastAPI:
    """The same service with no middleware, and with the server's access log, in our queue."""
    app = none()
    opened = app.router.lifespan_context

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        async with opened(app) as state:
            logging.getLogger("uvicorn.access").propagate = True
            assert state
            yield state

    app.router.lifespan_context = lifespan
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


@contextmanager
def _served(stack: str) -> Iterator[str]:
    """The address of a server whose output nobody reads, for a reader would take part in the race."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", f"{__spec__.name}:{stack}", "--factory", "--port", str(port)],
            env={**os.environ, "APP_DATA_DIR": folder, "APP_UPLOADS_DIR": folder},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            for _ in range(START_SECONDS * 10):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.1)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()
            process.wait()


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
        urls = {stack: running.enter_context(_served(stack)) for stack in STACKS}
        for url in urls.values():
            _wrk(url + ROUTES[0], SECONDS)  # caches, and the server's own lazy beginnings
        for _ in range(ROUNDS):
            for route in ROUTES:
                rates = {stack: _wrk(url + route, SECONDS) for stack, url in urls.items()}
                print(f"{route:10}", *(f"{stack} {rate:.0f}/s" for stack, rate in rates.items()), sep="  ")
                for over, under in PAIRS:
                    ratios.setdefault(f"{route:10} {over} / {under}", []).append(rates[over] / rates[under])
    print("\nmedian of the ratios of each round [least to most]")
    for name, values in ratios.items():
        print(f"{name:30} {statistics.median(values):.2f} [{min(values):.2f} to {max(values):.2f}]")


if __name__ == "__main__":
    main()
