"""What the middleware costs: requests/s of the service with its whole stack, and with less.

`none` has no middleware, and no access log. `logged` is `none` with uvicorn's own access log, which a server
has unless told otherwise and for which ours stands. `tutorial` has four duties written as the usual
tutorials write them. Rounds are interleaved and every figure is a ratio of the same round: a machine that is
busy slows all alike. Needs `wrk` (Debian: `apt-get install wrk`). Run it by `make bench`.
"""

import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse
from starlette.middleware.base import RequestResponseEndpoint

from app.main import create_app
from benchmarks.load import compare

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


def main() -> None:
    compare({stack: (f"{__spec__.name}:{stack}", {}) for stack in STACKS}, PAIRS)


if __name__ == "__main__":
    main()
