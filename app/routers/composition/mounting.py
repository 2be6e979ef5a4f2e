"""Apps made of apps: mounts, hosts, versions, a front end

A router shares everything with the app that includes it: dependencies, error handlers, lifespan, document.
A mounted app shares the middleware around both and the state of the request, and nothing else. Include a
router to divide one service; mount an app that is another one: with a document of its own, or made for WSGI.

- `/composition/shop` is an API within the API. It was given our error handlers; its lifespan runs because
  that of the router here enters it, and yields into the `request.state` of both.
- `/composition/legacy` is a WSGI program, in at most four threads, behind a middleware of its own. It is
  called once its body is there: `app/wsgi.py`.
- `/composition/report` has two versions. A router whose `matches` looks at `X-API-Version` takes the
  callers of version 1 and leaves the rest to the route after it.
- `/composition/site/` is a built front end: files, and `index.html` for each path that its script knows.
- `curl http://acme.localhost:8000/` meets a router that has its hosts to itself: it stands in
  `FastAPI(routes=...)`, before all paths, and `APP_ALLOWED_HOSTS` decides who comes so far.
- `/composition/caller` shows what the service takes for true about its caller and its own address.

## The trap

`WSGIMiddleware` of a2wsgi takes a thread before the body is there: a few clients that send one byte take all.
`app.mount("/shop", shop)` leaves the lifespan of `shop` unrun, its errors in another shape, its slashes
redirected and its document open to all, whatever the parent was told. `app.mount("/", ...)` hides every
route after it, as `/users/{name}` hides `/users/me`. A front end answers a browser's call of a wrong API
path with 200 and its `index.html`; here a mount keeps `/composition/site/api` out of it.

## What is proven

- The lifespan of a mounted app is entered and left with that of its parent.
- A mounted app refuses in the same shape as the service.
- A mounted app has a document of its own whose server is the mount.
- The document of a mounted app is closed with that of the service.
- A link of a mounted app leads to where it is mounted.
- A WSGI app runs in at most four threads.
- Who waits too long for a thread of a WSGI app gets a 503.
- A body that comes slowly holds no thread of a WSGI app.
- A WSGI app streams its answer.
- A WSGI app gives its thread back when its answer is not wanted.
- A body over the limit never ends in a WSGI app.
- A middleware of one mount touches no other path.
- A tenant is found by its host in any case and at any port.
- Nothing else of the service answers at the host of a tenant.
- A stranger's host meets no tenant.
- The version of an answer is what the header asks for and the document names both.
- An unknown version is refused.
- A path that only the script knows gets its page and a wrong API path gets 404.
- The files of the front end can be read by GET and HEAD and are asked for again.
- Nothing hidden and nothing outside the folder of the front end is served.
- A prefix of the proxy is in every link and in the document.
- A trusted proxy is believed and a stranger is not.

## Read more

`Mount(path, app, middleware=[...])`, `Host(pattern, app)`, `app.router.lifespan_context(app)`,
`router.frontend(path, directory=...)`, `uvicorn --root-path /api --forwarded-allow-ips 10.0.0.1`.
[Sub-applications](https://fastapi.tiangolo.com/advanced/sub-applications/) and
[behind a proxy](https://fastapi.tiangolo.com/advanced/behind-a-proxy/) in the FastAPI documentation.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Literal

from a2wsgi.wsgi_typing import Environ, StartResponse
from fastapi import APIRouter, Depends, FastAPI, Header, Path, Request, Response
from fastapi.middleware import Middleware
from fastapi.routing import Mount
from pydantic import BaseModel
from starlette.datastructures import Headers
from starlette.routing import Host, Match
from starlette.types import Receive, Scope, Send

from app.dependencies import SettingsDep
from app.errors import EXCEPTION_HANDLERS, PROBLEM_RESPONSES, NotFound
from app.middleware.deprecated import DeprecatedMiddleware
from app.openapi import DocumentedApp
from app.settings import ROOT
from app.wsgi import WSGIProgram

LEGACY_THREADS = 4
"""As many requests at once as the WSGI program was written for."""

SITE = ROOT / "app/routers/composition/site"


@asynccontextmanager
async def open_shop(shop: FastAPI) -> AsyncIterator[dict[str, Any]]:
    prices = {"tea": 450}
    yield {"prices": prices}
    prices.clear()


shop = DocumentedApp(
    title="A shop",
    lifespan=open_shop,
    exception_handlers=EXCEPTION_HANDLERS,
    responses=PROBLEM_RESPONSES,
    redirect_slashes=False,
    openapi_url=None,  # served below, if the settings of the service say so
)


class Item(BaseModel):
    cents: int
    url: str


@shop.get("/items/{name}", tags=["shop"])
async def read_item(request: Request, name: Annotated[str, Path(examples=["tea"])]) -> Item:
    """What an item of the shop costs."""
    cents = request.state["prices"].get(name)
    if cents is None:
        raise NotFound("The shop has no such item.")
    url = request.scope["root_path"] + shop.url_path_for("read_item", name=name)
    return Item(cents=cents, url=url)


@shop.get("/openapi.json", include_in_schema=False)
async def read_document(request: Request, settings: SettingsDep) -> dict[str, Any]:
    """The document of the service does not have these operations."""
    if not settings.docs:
        raise NotFound
    return {**shop.openapi(), "servers": [{"url": request.scope["root_path"]}]}


def legacy_program(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Counts what it is sent, and says where it was called."""
    size = sum(len(chunk) for chunk in iter(lambda: environ["wsgi.input"].read(65_536), b""))
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    yield f"{size} bytes\n".encode()
    yield f"{environ['PATH_INFO']} below {environ['SCRIPT_NAME']}\n".encode("latin-1")


async def call_legacy(scope: Scope, receive: Receive, send: Send) -> None:
    await scope["state"]["legacy"](scope, receive, send)


async def nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    raise NotFound


@asynccontextmanager
async def open_mounted(app: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """Runs inside the lifespan of the app that includes the router, and adds to its state."""
    legacy = WSGIProgram(legacy_program, LEGACY_THREADS)
    try:
        async with shop.router.lifespan_context(shop) as state:
            yield {**(state or {}), "legacy": legacy}
    finally:
        legacy.close()


router = APIRouter(
    tags=["composition"],
    lifespan=open_mounted,
    routes=[  # `router.mount` has no `middleware`
        Mount("/composition/shop", shop),
        Mount("/composition/legacy", call_legacy, middleware=[Middleware(DeprecatedMiddleware, 1767225600)]),
        Mount("/composition/site/api", nothing_here),
    ],
)


class VersionRouter(APIRouter):
    """Has only the requests that ask for one version; what it leaves goes to the routes after it."""

    def __init__(self, version: str) -> None:
        super().__init__()
        self.version = version

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        asked = Headers(scope=scope).get("x-api-version", "1")
        return super().matches(scope) if asked == self.version else (Match.NONE, {})


class ReportV1(BaseModel):
    total: str


class ReportV2(BaseModel):
    cents: int


VARY = {"Vary": "X-API-Version"}
version_1 = VersionRouter("1")


@version_1.get("/composition/report", include_in_schema=False)
async def report_v1(response: Response) -> ReportV1:
    """As callers got it before there were versions."""
    response.headers.update(VARY)
    return ReportV1(total="12.50")


router.include_router(version_1)  # before the route that takes all other versions


@router.get("/composition/report")
async def report(
    response: Response, version: Annotated[Literal["1", "2"], Header(alias="X-API-Version")] = "1"
) -> ReportV1 | ReportV2:
    """The newest version, for those who ask for it."""
    response.headers.update(VARY)
    return ReportV2(cents=1250)


async def prepare_file(request: Request, response: Response) -> None:
    """For every file of the front end: what `frontend` has no option for."""
    if "/." in request.scope["path"]:
        raise NotFound
    response.headers["Cache-Control"] = "no-cache"


site = APIRouter(prefix="/composition/site", dependencies=[Depends(prepare_file)])
site.frontend("/", directory=SITE, fallback="index.html", check_dir=True)
router.include_router(site)


class CallerAddress(BaseModel):
    client: str
    scheme: str
    url: str


@router.get("/composition/caller")
async def caller(request: Request) -> CallerAddress:
    """`client` and `scheme` may come from a trusted proxy, `url` is made from the `Host` header."""
    client = request.client.host if request.client else ""
    return CallerAddress(client=client, scheme=request.url.scheme, url=str(request.url_for("caller")))


tenants = APIRouter(default=nothing_here, max_body_size=0)


@tenants.get("/")
async def read_tenant(tenant: Annotated[str, Path()]) -> str:
    if tenant not in ("acme", "globex"):
        raise NotFound("There is no such tenant.")
    return f"Welcome to {tenant}"


tenant_hosts = Host("{tenant}.localhost", tenants)
