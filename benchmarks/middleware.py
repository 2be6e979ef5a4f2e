"""What the middleware costs: requests/s with the whole stack, with the tutorials' stack, and with none.

One server at a time, rounds interleaved, every figure a ratio of the same round: a machine that is busy
slows all three alike. Needs `wrk` (Debian: `apt-get install wrk`). Run it by `make bench`.
"""

import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

from fastapi import Depends, FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.middleware.base import RequestResponseEndpoint

from app.main import middleware
from app.lifespan import open_state
from app.settings import Settings
from tests.server import serve

ROUNDS = 3
SECONDS = 3
CONNECTIONS = 32
ROUTES = ("/plain", "/items/")
STACKS = ("none", "whole", "tutorial")


class Paging:
    def __init__(self, q: str | None = None, skip: int = 0, limit: int = 100) -> None:
        self.q = q
        self.skip = skip
        self.limit = limit


def with_routes(app: FastAPI) -> FastAPI:
    @app.get("/plain")
    async def plain() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/items/")
    async def items(paging: Annotated[Paging, Depends()]) -> dict[str, str | int | None]:
        return {"q": paging.q, "skip": paging.skip, "limit": paging.limit}

    return app


def none() -> FastAPI:
    settings = Settings()
    return with_routes(FastAPI(lifespan=open_state(settings)))


def whole() -> FastAPI:
    settings = Settings()
    return with_routes(FastAPI(lifespan=open_state(settings), middleware=middleware(settings)))


def tutorial() -> FastAPI:
    """CORS, process time, a log line and a catch-all, each as the usual tutorials write them."""
    app = with_routes(FastAPI())
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


def requests_per_second(stack: str, folder: Path) -> dict[str, float]:
    """Both routes of one server, each after a warm-up."""
    with serve(folder, args=["--factory", "--no-access-log"], app=f"{__spec__.name}:{stack}") as server:
        return {route: _wrk(f"{server.url}{route}", 1) and _wrk(f"{server.url}{route}", SECONDS) for route in ROUTES}


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
    ratios: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            turned = STACKS[number % 3 :] + STACKS[: number % 3]
            rates = {stack: requests_per_second(stack, Path(folder)) for stack in turned}
            for route in ROUTES:
                for over, under in (("whole", "none"), ("tutorial", "none"), ("whole", "tutorial")):
                    ratio = rates[over][route] / rates[under][route]
                    ratios.setdefault((route, f"{over} / {under}"), []).append(ratio)
            print(f"round {number + 1} of {ROUNDS}:", {s: {r: round(v) for r, v in x.items()} for s, x in rates.items()})
    for (route, name), values in ratios.items():
        print(f"{route:8} {name:16} {statistics.median(values):.2f}  [{min(values):.2f} to {max(values):.2f}]")


if __name__ == "__main__":
    main()
