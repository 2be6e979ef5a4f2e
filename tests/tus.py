"""Clients of resumable uploads: through `TestClient`, and by hand where a request must stand still."""

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from fastapi import FastAPI
from fastapi.testclient import TestClient
from starlette.types import Message

from tests.asgi import LIMIT, Call, http_scope

TUS = {"Tus-Resumable": "1.0.0"}
OCTETS = {**TUS, "Content-Type": "application/offset+octet-stream"}


def metadata(name: str) -> str:
    return f"filename {base64.b64encode(name.encode()).decode()}"


def create(client: TestClient, length: int, name: str = "a.txt", **headers: str) -> httpx2.Response:
    headers = {**TUS, "Upload-Length": str(length), "Upload-Metadata": metadata(name), **headers}
    return client.post("/files/uploads", headers=headers)


def created(client: TestClient, length: int, name: str = "a.txt", **headers: str) -> str:
    answer = create(client, length, name, **headers)
    assert answer.status_code == 201, answer.text
    return answer.headers["location"]


def patch(client: TestClient, url: str, offset: int, content: bytes, **headers: str) -> httpx2.Response:
    return client.patch(url, content=content, headers={**OCTETS, "Upload-Offset": str(offset), **headers})


def offset_of(client: TestClient, url: str, **headers: str) -> int:
    answer = client.head(url, headers={**TUS, **headers})
    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    return int(answer.headers["upload-offset"])


def file_of(client: TestClient, url: str, **headers: str) -> httpx2.Response:
    return client.get(url.replace("/uploads", ""), headers=headers)


def checksum(algorithm: str, content: bytes) -> str:
    return f"{algorithm} {base64.b64encode(hashlib.new(algorithm, content).digest()).decode()}"


class Body(asyncio.Queue[Message]):
    """Of a request that is still being sent: `taken` is set when the service waits for more."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = asyncio.Event()

    async def get(self) -> Message:
        if self.empty():
            self.taken.set()
        return await super().get()

    async def send(self, *chunks: bytes, more: bool = True) -> None:
        self.taken.clear()
        for chunk in chunks:
            self.put_nowait({"type": "http.request", "body": chunk, "more_body": True})
        if not more:
            self.put_nowait({"type": "http.request", "body": b"", "more_body": False})
            return
        async with asyncio.timeout(LIMIT):
            await self.taken.wait()


class Worker:
    """One process of the service, as far as one process can play several."""

    def __init__(self, app: FastAPI, state: Any) -> None:
        self._app = app
        self.state = state

    def call(self, method: str, path: str, body: asyncio.Queue[Message], **headers: str) -> Call:
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        call = Call(self._app, {**http_scope(path, method, raw), "state": self.state})
        call.incoming = body
        return call

    def patch(self, path: str, offset: int, body: asyncio.Queue[Message]) -> Call:
        headers = {**OCTETS, "Upload-Offset": str(offset), "Transfer-Encoding": "chunked"}
        return self.call("PATCH", path, body, **headers)

    async def create(self, length: int, name: str = "a.txt") -> str:
        body = Body()
        body.put_nowait({"type": "http.request", "body": b"", "more_body": False})
        headers = {**TUS, "Upload-Length": str(length), "Upload-Metadata": metadata(name)}
        call = self.call("POST", "/files/uploads", body, **headers)
        await call.run()
        return call.headers[b"location"].decode()

    async def offset(self, path: str) -> int:
        call = self.call("GET", path, Body(), **TUS)
        await call.run()
        return int(call.headers[b"upload-offset"])


@asynccontextmanager
async def working(app: FastAPI) -> AsyncIterator[Worker]:
    async with app.router.lifespan_context(app) as state:
        yield Worker(app, state)
