"""What a page of a real browser is told when its socket is refused, and which subprotocols it takes."""

from typing import Any

from fastapi import FastAPI, WebSocket
from fastapi.responses import HTMLResponse
from playwright.sync_api import Browser

from tests.routers.websockets.test_guarded import served
from tests.server import Server

OPEN = """([url, protocols]) => new Promise(resolve => {
    const socket = new WebSocket(url, protocols);
    socket.onopen = () => { resolve(["open", socket.protocol]); socket.close(); };
    socket.onclose = event => resolve([event.code, event.reason]);
})"""

REFUSED = [1006, ""]


def another_origin() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    async def page() -> HTMLResponse:
        return HTMLResponse("<title>Another origin</title>")

    @app.websocket("/{answer}")
    async def accept(websocket: WebSocket, answer: str) -> None:
        await websocket.accept(None if answer == "none" else answer)

    return app


def test_a_page_learns_nothing_of_a_refusal_but_1006_and_takes_only_a_subprotocol_that_it_offered(
    live: Server, browser: Browser
) -> None:
    guarded = f"{live.ws_url}/guarded"
    with served(another_origin()) as other:
        page = browser.new_page()
        page.set_default_timeout(10_000)

        def opened(url: str, *protocols: str) -> Any:
            return page.evaluate(OPEN, [url, list(protocols)])

        page.goto(f"{live.url}/health")
        assert opened(f"{guarded}/first-message") == ["open", ""]
        assert opened(f"{guarded}/cookie") == REFUSED  # 401
        assert opened(f"{guarded}/subprotocol", "app.bearer", "no-token") == REFUSED

        page.goto(other.replace("ws:", "http:"))
        assert opened(f"{guarded}/first-message") == REFUSED  # 403
        assert opened(f"{other}/none") == ["open", ""]
        assert opened(f"{other}/app.bearer", "app.bearer", "token") == ["open", "app.bearer"]
        assert opened(f"{other}/none", "app.bearer", "token") == REFUSED
        assert opened(f"{other}/bearer", "app.bearer", "token") == REFUSED
