"""The service, with a few routes more that only a real server can be asked."""

import logging
from collections.abc import AsyncIterator

import anyio
from fastapi import FastAPI, Request, WebSocket
from fastapi.responses import StreamingResponse

from app.dependencies import FeedDep
from app.main import create_app
from app.routers.streaming.feed import News

logger = logging.getLogger("tests.wire")


async def poll(request: Request) -> None:
    """Works in small steps and looks after each whether anybody still waits for the result."""
    logger.info("poll started")
    while not await request.is_disconnected():
        with anyio.move_on_after(0.02):
            await anyio.Event().wait()
    logger.info("poll saw the client leave")


async def read(request: Request) -> int:
    return len(await request.body())


async def endless() -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        try:
            yield "first\n"
            await anyio.Event().wait()
        finally:
            logger.info("stream ended")

    return StreamingResponse(lines())


async def publish(count: int, feed: FeedDep) -> None:
    """As many news at once, of two thousand bytes each."""
    for _ in range(count):
        feed.publish("news", News(text="\N{TEAPOT}" * 500))


async def echo(websocket: WebSocket) -> None:
    """Sends each message back as it came, which is what Autobahn asks of a server."""
    await websocket.accept()
    while (message := await websocket.receive())["type"] == "websocket.receive":
        await websocket.send({**message, "type": "websocket.send"})


def create_wire() -> FastAPI:
    app = create_app()
    app.add_api_route("/wire/poll", poll)
    app.add_api_route("/wire/read", read, methods=["POST"])
    app.add_api_route("/wire/endless", endless)
    app.add_api_route("/wire/news", publish, methods=["POST"])
    app.add_api_websocket_route("/wire/echo", echo)
    return app
