"""Which web pages may open a socket here."""

from fastapi import WebSocket

from app.dependencies import SettingsDep
from app.errors import Forbidden


async def check_origin(websocket: WebSocket, settings: SettingsDep) -> None:
    """A dependency that refuses the handshake (403) of a page from a foreign origin.

    Browsers open a socket to any host, with the cookies of that host, and no CORS rule stops them. They
    always say which origin the page is from; whoever sends no `Origin` is not a browser.
    """
    scheme = "https" if websocket.url.scheme == "wss" else "http"
    own = f"{scheme}://{websocket.headers.get('host', '')}"
    for origin in websocket.headers.getlist("origin"):
        if origin != own and origin not in settings.cors_origins:
            raise Forbidden("Pages of this origin may not open a socket here.")
