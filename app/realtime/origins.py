"""Which web pages may open a socket here, and which may use the cookie of a visitor."""

from fastapi.requests import HTTPConnection

from app.errors import Forbidden
from app.settings import Settings


async def check_origin(connection: HTTPConnection) -> None:
    """A dependency that refuses (403, before the handshake) the page of a foreign origin.

    Browsers open a socket to any host, with the cookies of that host, and no CORS rule stops them. They
    always say which origin the page is from; whoever sends no `Origin` is not a browser.
    """
    settings: Settings = connection.state["settings"]
    scheme = {"ws": "http", "wss": "https"}.get(connection.url.scheme, connection.url.scheme)
    own = f"{scheme}://{connection.headers.get('host', '')}"
    for origin in connection.headers.getlist("origin"):
        if origin != own and origin not in settings.cors_origins:
            raise Forbidden("Pages of this origin may not do this here.")


async def check_page(connection: HTTPConnection) -> None:
    """The same for who brings a cookie: a browser adds it whoever asks, so the page must be known.

    Without an `Origin` only reading is left: browsers send none when a page reads from its own origin.
    """
    await check_origin(connection)
    if "origin" in connection.headers:
        return
    reads = connection.scope["type"] == "http" and connection.scope["method"] in ("GET", "HEAD")
    sites = connection.headers.getlist("sec-fetch-site")
    if not reads or any(site not in ("same-origin", "none") for site in sites):
        raise Forbidden("With a cookie, only a page that says its origin may do this.")
