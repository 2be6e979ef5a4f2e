"""The web pages about the pages, and the same as JSON.

Everything here is done in threads (`def` endpoints): to read files, to render and to colour code is
work that would hold up the event loop.
"""

from functools import cache, lru_cache

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import HTMLResponse, StreamingResponse
from fastapi.templating import Jinja2Templates
from markdown_it import MarkdownIt
from pydantic import BaseModel
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

from app import api_docs
from app.catalogue import GROUPS, PAGES, PageText, describe_group, read_page
from app.commands import PageRoute, routes_of
from app.errors import NotFound
from app.routers.files.static import STATIC, SiteFiles
from app.settings import ROOT, Settings

SLICE = 32 * 1024
HOSTS = 4
LANGUAGES = {"py": "python", "html": "html+jinja", "js": "js", "css": "css", "svg": "xml"}
"""Of the files that are shown, by the end of their names."""


class CataloguePage(PageText):
    routes: list[PageRoute]


class CatalogueGroup(BaseModel):
    name: str
    title: str
    description: str
    pages: list[CataloguePage]


class Catalogue(BaseModel):
    groups: list[CatalogueGroup]


def install(app: FastAPI, settings: Settings) -> None:
    """Adds the static files and, if the settings say so, the explorer and the API documentation."""
    app.mount("/static", SiteFiles(directory=STATIC), name="static")
    if not settings.docs:
        return
    templates = Jinja2Templates(ROOT / "app" / "templates")
    markdown = MarkdownIt("commonmark", {"html": False, "highlight": colour}).enable("table")
    # Each text is rendered once for an app. Only what our own files say is rendered, so the caches end there.
    templates.env.filters["markdown"] = cache(markdown.render)
    templates.env.filters["inline_markdown"] = cache(markdown.renderInline)
    templates.env.filters["colour"] = cache(colour)
    titles = {name: describe_group(name) for name in GROUPS} | {
        "explorer": ("Explorer", "The pages as data.")
    }
    app.openapi_tags = [
        {"name": name, "summary": title, "description": text} for name, (title, text) in titles.items()
    ]
    app.include_router(explorer_router(templates))
    api_docs.install(app, templates)


def explorer_router(templates: Jinja2Templates) -> APIRouter:
    router = APIRouter(tags=["explorer"])
    text_of = cache(read_page)
    paths_of_sources = cache(source_paths)
    pages = {page.path: page for page in PAGES}

    # Kept for the hosts that were asked last: who calls it often costs no memory but that of the answers.
    @lru_cache(maxsize=HOSTS)
    def describe_all(app: FastAPI, base_url: str) -> Catalogue:
        document = app.openapi()
        groups = []
        for name, group in GROUPS.items():
            described = [
                CataloguePage(**dict(text_of(page)), routes=routes_of(page.router, document, base_url))
                for page in group
            ]
            title, description = describe_group(name)
            groups.append(CatalogueGroup(name=name, title=title, description=description, pages=described))
        return Catalogue(groups=groups)

    @lru_cache(maxsize=HOSTS)
    def write_all(app: FastAPI, base_url: str) -> bytes:
        return describe_all(app, base_url).model_dump_json().encode()

    @router.get("/", response_class=HTMLResponse, include_in_schema=False)
    def index(request: Request) -> HTMLResponse:
        """All pages, by group."""
        return templates.TemplateResponse(
            request, "index.html", dict(describe_all(request.app, base_url_of(request)))
        )

    @router.get("/catalogue", response_model=Catalogue)
    def catalogue(request: Request) -> StreamingResponse:
        """All that the explorer shows: texts, routes with their commands, code, claims and tests.

        Sent in slices: the gzip middleware works on the event loop, which is free between two of them.
        """
        body = write_all(request.app, base_url_of(request))
        slices = (body[start : start + SLICE] for start in range(0, len(body), SLICE))
        return StreamingResponse(slices, media_type="application/json")

    @router.get("/pages/{group}/{name}", response_class=HTMLResponse, include_in_schema=False)
    def show_page(request: Request, group: str, name: str) -> HTMLResponse:
        """One page: its text, trap, claims, routes, code and tests."""
        page = pages.get(f"{group}/{name}")
        if page is None:
            raise NotFound("There is no such page.")
        number = PAGES.index(page)
        context = {
            "group": group,
            "group_title": describe_group(group)[0],
            "page": text_of(page),
            "routes": routes_of(page.router, request.app.openapi(), base_url_of(request)),
            "groups": {
                describe_group(name)[0]: [text_of(page) for page in pages] for name, pages in GROUPS.items()
            },
            "previous": text_of(PAGES[number - 1]) if number > 0 else None,
            "next": text_of(PAGES[number + 1]) if number + 1 < len(PAGES) else None,
        }
        return templates.TemplateResponse(request, "page.html", context)

    @router.get("/sources/{path:path}", response_class=HTMLResponse, include_in_schema=False)
    def show_source(request: Request, path: str) -> HTMLResponse:
        """One file of the service or of its tests."""
        # Looked for among all that may be shown, and only then opened.
        if path not in paths_of_sources():
            raise NotFound("There is no such file.")
        context = {
            "path": path,
            "language": LANGUAGES[path.rpartition(".")[2]],
            "source": (ROOT / path).read_text(),
        }
        return templates.TemplateResponse(request, "source.html", context)

    return router


def source_paths() -> set[str]:
    """The files of the service and the modules of its tests, relative to the project."""
    files = (path for folder in ("app", "static", "tests") for path in (ROOT / folder).rglob("*.*"))
    return {str(path.relative_to(ROOT)) for path in files if path.suffix[1:] in LANGUAGES}


def base_url_of(request: Request) -> str:
    return str(request.base_url).rstrip("/")


def colour(code: str, language: str = "python", _attributes: str = "") -> str:
    """`code` as HTML whose classes the style sheet colours, for the light and for the dark."""
    try:
        lexer = get_lexer_by_name(language or "text")
    except ClassNotFound:
        lexer = get_lexer_by_name("text")
    return highlight(code, lexer, HtmlFormatter(nowrap=True))
