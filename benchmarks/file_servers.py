"""The servers of `benchmarks/files.py`: the least there is to do, the tutorials', ours with a ticker."""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any

from fastapi import FastAPI, UploadFile
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import FileResponse
from starlette.types import Receive, Scope, Send

from app.main import create_app
from app.storage import inspection
from app.storage.disk import THREADS, DiskStorage
from app.storage.storage import Inspector
from app.storage.threads import Threads

CHUNK_SIZE = 256 * 1024
TICK_SECONDS = 0.001
SLOW_BYTES_PER_SECOND = 2_000_000

FOLDER = Path(os.environ.get("APP_UPLOADS_DIR", ""))
RECEIVED = "received"


async def bare(scope: Scope, receive: Receive, send: Send) -> None:
    """`POST` writes the body to a file; `/flushed`, until the disk has it. `GET` sends the file it names."""
    headers = []
    if scope["method"] == "POST":
        with (FOLDER / RECEIVED).open("wb", buffering=0) as file:
            more = True
            while more:
                message = await receive()
                file.write(message["body"])
                more = message["more_body"]
            if scope["path"] == "/flushed":
                os.fsync(file.fileno())
    else:
        size = (FOLDER / scope["path"][1:]).stat().st_size
        headers = [(b"content-length", str(size).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if scope["method"] == "GET":
        with (FOLDER / scope["path"][1:]).open("rb", buffering=0) as file:
            while chunk := file.read(CHUNK_SIZE):
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


tutorial = FastAPI()


@tutorial.post("/copyfileobj")
async def copy(file: UploadFile) -> None:
    with (FOLDER / RECEIVED).open("wb") as target:
        shutil.copyfileobj(file.file, target)


@tutorial.post("/read")
async def read(file: UploadFile) -> None:
    (FOLDER / RECEIVED).write_bytes(await file.read())


@tutorial.post("/chunks")
async def copy_in_chunks(file: UploadFile) -> None:
    with (FOLDER / RECEIVED).open("wb") as target:
        while chunk := await file.read(CHUNK_SIZE):
            await run_in_threadpool(target.write, chunk)
        await run_in_threadpool(os.fsync, target.fileno())


@tutorial.get("/{name}")
async def send_file(name: str) -> FileResponse:
    return FileResponse(FOLDER / name)


class NoDigest:
    def update(self, piece: bytes) -> None:
        """What ours costs beside SHA-256, which takes the processor as long as all the rest."""

    def hexdigest(self) -> str:
        return ""


def create_without_digest() -> FastAPI:
    vars(inspection)["hashlib"] = SimpleNamespace(sha256=NoDigest)
    return create_app()


def create_ticking() -> FastAPI:
    """Ours. `GET /ticker` tells the longest time in milliseconds that the loop was late since the last such
    call. `SLOW` makes its storage slow."""
    app = create_app()
    open_state = app.router.lifespan_context
    latest = 0.0

    async def tick() -> None:
        nonlocal latest
        while True:
            due = perf_counter() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            latest = max(latest, perf_counter() - due)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        async with open_state(app) as state:
            assert state is not None
            if "SLOW" in os.environ:
                state["files"].storage = SlowDisk(FOLDER, Threads(THREADS), None)
            ticking = asyncio.create_task(tick())
            yield state
            ticking.cancel()

    async def ticker() -> float:
        nonlocal latest
        before, latest = latest, 0.0
        return before * 1_000

    app.router.lifespan_context = lifespan
    app.add_api_route("/ticker", ticker)
    return app


class SlowDisk(DiskStorage):
    async def save(self, file_id: str, chunks: AsyncIterable[bytes], inspector: Inspector) -> None:
        await super().save(file_id, chunks, SlowInspector(inspector))


class SlowInspector:
    """Takes the time of a slow disk in the thread that writes."""

    def __init__(self, inspector: Inspector) -> None:
        self._inspector = inspector

    def feed(self, piece: bytes) -> None:
        time.sleep(len(piece) / SLOW_BYTES_PER_SECOND)
        self._inspector.feed(piece)

    def finish(self) -> None:
        self._inspector.finish()
