import re
from dataclasses import dataclass
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import urljoin

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import Response
from starlette.types import Message, Receive, Scope, Send

from app.catalogue import GROUPS, PAGES, Page, read_page
from app.explorer import SLICE, Catalogue, colour
from app.main import create_app
from app.settings import ROOT, Settings

WEB_PAGES = ["/", *(f"/pages/{page.path}" for page in PAGES)]
DOCS = ["/docs", "/redoc", "/openapi.json", "/_docs/swagger-ui.css"]

each_web_page = pytest.mark.parametrize("path", WEB_PAGES)


class Elements(HTMLParser):
    """The start tags of a document, with their attributes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        # Nine tags of ten are colours of code, in which no test is interested.
        self.feed(re.sub(r'<span class="[a-z0-9]+">|</span>', "", html))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def attributes(self, *names: str) -> list[str]:
        return [attrs[name] or "" for _, attrs in self.found for name in names if name in attrs]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> TestClient:
    """One for the module: the explorer keeps no state but what it has rendered."""
    folder = tmp_path_factory.mktemp("explorer")
    return TestClient(create_app(Settings(data_dir=folder, uploads_dir=folder)))


@dataclass(frozen=True)
class WebPage:
    answer: Response
    elements: Elements


@pytest.fixture(scope="module")
def web_pages(client: TestClient) -> dict[str, WebPage]:
    """Each page, asked for once."""
    answers = {path: client.get(path) for path in WEB_PAGES}
    return {path: WebPage(answer, Elements(answer.text)) for path, answer in answers.items()}


def test_the_front_page_leads_to_every_page(web_pages: dict[str, WebPage]) -> None:
    links = web_pages["/"].elements.attributes("href")
    assert [link for link in links if link.startswith("/pages/")] == [f"/pages/{page.path}" for page in PAGES]


def test_the_catalogue_has_every_page_with_all_that_the_explorer_shows(client: TestClient) -> None:
    groups = client.get("/catalogue").json()["groups"]
    assert [group["name"] for group in groups] == list(GROUPS)
    pages = [page for group in groups for page in group["pages"]]
    assert [page["path"] for page in pages] == [page.path for page in PAGES]
    for page in pages:
        assert page["source"] and page["routes"] and page["claims"]
        assert all(route["command"] for route in page["routes"])


def test_the_catalogue_is_sent_in_slices_between_which_the_event_loop_is_free(client: TestClient) -> None:
    sizes: list[int] = []

    async def watched(scope: Scope, receive: Receive, send: Send) -> None:
        async def note(message: Message) -> None:
            sizes.append(len(message.get("body", b"")))
            await send(message)

        await client.app(scope, receive, note)

    TestClient(watched).get("/catalogue", headers={"Accept-Encoding": "identity"})
    assert sum(sizes) > 3 * SLICE
    assert max(sizes) <= SLICE


def test_the_catalogue_is_written_once_for_a_host(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[Catalogue] = []

    def write(self: Catalogue) -> str:
        written.append(self)
        return "{}"

    monkeypatch.setattr(Catalogue, "model_dump_json", write)
    for host in ("localhost:1", "localhost:1", "localhost:2"):
        client.get("/catalogue", headers={"Host": host})
    assert len(written) == 2


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_a_page_shows_its_text_trap_claims_routes_and_code(web_pages: dict[str, WebPage], page: Page) -> None:
    text = read_page(page)
    shown = web_pages[f"/pages/{text.path}"]
    html, elements = shown.answer.text, shown.elements
    assert set(elements.attributes("id")) >= {
        "trap",
        "proof",
        "routes",
        "code",
        *(t.name for t in text.tests),
    }
    assert html.index('class="trap"') < html.index('class="proof"')
    assert elements.attributes("aria-current") == ["page"]
    defined = re.findall(r"^(?:async )?def (\w+)", text.code, re.MULTILINE)
    assert all(f'<span class="nf">{name}</span>' in html for name in defined)


@each_web_page
def test_a_web_page_has_nothing_inline_and_asks_no_other_host(
    client: TestClient, web_pages: dict[str, WebPage], path: str
) -> None:
    assert "unsafe" not in web_pages[path].answer.headers["content-security-policy"]
    elements = web_pages[path].elements
    assert not {"script", "style", "iframe", "img"} & {tag for tag, _ in elements.found}
    assert not [
        name for _, attrs in elements.found for name in attrs if name == "style" or name.startswith("on")
    ]
    loaded = [attrs["href"] or "" for tag, attrs in elements.found if tag == "link"]
    assert loaded and all(link.startswith("/static/") for link in loaded)
    assert all(client.get(link).status_code == 200 for link in loaded)


@each_web_page
def test_a_web_page_has_landmarks_headings_in_order_and_each_id_once(
    web_pages: dict[str, WebPage], path: str
) -> None:
    elements = web_pages[path].elements
    tags = [tag for tag, _ in elements.found]
    assert {"main", "header", "nav"} <= set(tags)
    assert ("a", {"class": "skip", "href": "#main"}) in elements.found
    levels = [int(tag[1]) for tag in tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    ids = elements.attributes("id")
    assert len(ids) == len(set(ids))
    for link in elements.attributes("href"):
        if link.startswith("#"):
            assert link[1:] in ids


def test_previous_and_next_lead_through_all_pages(web_pages: dict[str, WebPage]) -> None:
    visited = [f"/pages/{PAGES[0].path}"]
    while True:
        links = [attrs for tag, attrs in web_pages[visited[-1]].elements.found if tag == "a"]
        onward = [str(link["href"]) for link in links if link.get("rel") == "next"]
        backward = [str(link["href"]) for link in links if link.get("rel") == "prev"]
        assert backward == visited[-2:-1]
        if not onward:
            break
        visited += onward
    assert visited == WEB_PAGES[1:]


def test_a_page_leads_to_the_source_of_the_files_that_it_needs_and_of_its_tests(
    client: TestClient, web_pages: dict[str, WebPage]
) -> None:
    links = web_pages["/pages/streaming/feed"].elements.attributes("href")
    sources = [link for link in links if link.startswith("/sources/")]
    assert "/sources/app/realtime/feed.py" in sources
    assert "/sources/tests/routers/streaming/test_feed.py" in sources
    for link in sources:
        assert Elements(client.get(link).text).attributes("aria-label").count("Source") == 1


def test_the_source_of_a_script_a_style_and_a_template_is_shown_in_its_own_colours(
    client: TestClient, web_pages: dict[str, WebPage]
) -> None:
    links = web_pages["/pages/files/progress"].elements.attributes("href")
    for path, word in (
        ("static/resumable-upload.js", '<span class="kd">const</span>'),
        ("static/uploads-demo.css", '<span class="w">'),
        ("app/templates/uploads.html", '<span class="cp">{%</span>'),
    ):
        assert f"/sources/{path}" in links
        assert word in client.get(f"/sources/{path}").text
    for link in links:
        if link.startswith("/sources/"):
            assert client.get(link).status_code == 200, link


@pytest.mark.parametrize(
    "path",
    [
        "pyproject.toml",
        "app",
        "app/../pyproject.toml",
        "..%2Fpyproject.toml",
        "/etc/passwd",
        "app/x.py",
        "app/__init__.pyc",
    ],
)
def test_only_the_files_of_the_service_and_its_tests_are_shown(client: TestClient, path: str) -> None:
    assert client.get(f"/sources/{path}").status_code == 404


@pytest.mark.parametrize("path", ["/pages/middleware/nope", "/pages/nope/timing", "/pages/..%2F/x"])
def test_an_unknown_page_is_a_problem(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_the_links_carry_the_prefix_under_which_a_proxy_serves_the_app(client: TestClient) -> None:
    behind = TestClient(client.app, root_path="/reference")
    for path in ("/reference/", f"/reference{WEB_PAGES[1]}", "/reference/docs", "/reference/redoc"):
        elements = Elements(behind.get(path).text)
        local = [link for link in elements.attributes("href", "src", "data-url") if link.startswith("/")]
        assert local and all(link.startswith("/reference/") for link in local), path


def test_a_text_leads_to_the_page_to_try_it_on_behind_a_prefix_too(web_pages: dict[str, WebPage]) -> None:
    for page, tried in (
        ("websockets/rooms", "/rooms"),
        ("files/resumable", "/files/uploads"),
        ("files/progress", "/files/uploads"),
        ("security/sessions", "/security/session"),
    ):
        links = web_pages[f"/pages/{page}"].elements.attributes("href")
        assert f"/reference{tried}" in [urljoin(f"/reference/pages/{page}", link) for link in links]
    # What starts at the root of the host would miss the prefix.
    assert not [page.path for page in PAGES if "](/" in (page.module.__doc__ or "")]


@pytest.mark.parametrize("path", DOCS)
def test_the_api_documentation_is_served_here(client: TestClient, path: str) -> None:
    assert client.get(path).status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/redoc"])
def test_the_api_documentation_has_no_inline_script_and_asks_no_other_host(
    client: TestClient, path: str
) -> None:
    html = client.get(path).text
    assert re.findall(r"<script(?! src)", html) == []
    sources = Elements(html).attributes("src")
    assert sources and all(source.startswith("/") for source in sources)


def test_only_the_styles_and_the_worker_of_redoc_need_a_wider_policy(client: TestClient) -> None:
    strict = client.get("/").headers["content-security-policy"]
    assert client.get("/docs").headers["content-security-policy"] == strict
    added = client.get("/redoc").headers["content-security-policy"].removeprefix(strict)
    assert added == "; style-src 'self' 'unsafe-inline'; worker-src blob:"


def test_trap_the_docs_of_the_framework_need_a_foreign_host_and_an_inline_script() -> None:
    for path in ("/docs", "/redoc"):
        html = TestClient(FastAPI()).get(path).text
        assert "https://cdn.jsdelivr.net/" in html and "https://fastapi.tiangolo.com/" in html
    assert "<script>" in TestClient(FastAPI()).get("/docs").text


def test_without_docs_there_is_no_documentation_no_explorer_and_no_link_to_them(tmp_path: Path) -> None:
    settings = Settings(docs=False, data_dir=tmp_path, uploads_dir=tmp_path)
    paths = [*DOCS, "/", "/catalogue", f"/pages/{PAGES[0].path}"]
    with TestClient(create_app(settings)) as client:
        assert [client.get(path).status_code for path in paths] == [404] * len(paths)
        links = Elements(client.get("/items/foo").text).attributes("href")
        assert not set(paths) & set(links)
        assert client.get("/static/style.css").status_code == 200


def test_code_is_escaped_in_whatever_language() -> None:
    assert (
        colour("<script>")
        == '<span class="o">&lt;</span><span class="n">script</span><span class="o">&gt;</span>\n'
    )
    assert colour("<i>", "no-such-language").strip() == "&lt;i&gt;"


def variables(scheme: str) -> dict[str, str]:
    return dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", scheme))


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_the_contrast_that_wcag_asks_for(scheme: str) -> None:
    light, dark = re.findall(
        r":root[^{]*\{([^}]*--paper[^}]*)\}", (ROOT / "static" / "style.css").read_text()
    )
    colours = variables(light) | (variables(dark) if scheme == "dark" else {})
    pairs = [(text, ground) for text in ("ink", "soft", "accent") for ground in ("paper", "sunk")]
    pairs += [("ink", "trap-sunk"), ("trap", "trap-sunk"), ("accent", "accent-sunk"), ("soft", "trap-sunk")]
    pairs += [(name, ground) for name in colours if name.startswith("code-") for ground in ("sunk", "raised")]
    for text, ground in pairs:
        lighter, darker = sorted((luminance(colours[text]), luminance(colours[ground])), reverse=True)
        assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (text, ground)
