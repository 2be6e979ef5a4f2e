import threading
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse
from fastapi.templating import Jinja2Templates
from fastapi.testclient import TestClient
from jinja2 import DictLoader, Environment
from jinja2.exceptions import UndefinedError
from sqlalchemy import update
from starlette.responses import Response

from app.database.models import Item
from app.dependencies import get_templates
from app.lifespan import State
from app.page_templates import load_templates


class Elements(HTMLParser):
    """The elements of a page as a browser sees them: names, attributes, and text by element."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.text: dict[str, str] = {}
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.links += [value for name, value in attrs if name == "href" and value]

    def handle_data(self, data: str) -> None:
        if data.strip() and self.names:
            self.text[self.names[-1]] = self.text.get(self.names[-1], "") + data.strip()


def test_the_page_shows_the_item_with_its_title_and_heading(client: TestClient) -> None:
    answer = client.get("/items/42")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    text = Elements(answer.text).text
    assert text["title"] == "Item 42"
    assert text["h1"] == "Item: 42"
    assert text["dd"] == "Compiler" + "52.00" + "Grace Hopper"


def test_markup_in_an_item_stays_text(client: TestClient) -> None:
    answer = client.get("/items/%3Ci%3E")
    page = Elements(answer.text)
    assert page.text["title"] == "Item <i>"
    assert page.text["h1"] == "Item: <i>"
    assert page.text["dd"].startswith("Tom & <Jerry>")
    assert "i" not in page.names
    assert "Item: &lt;i&gt;" in answer.text


def test_an_item_that_does_not_exist_is_a_404_problem(client: TestClient) -> None:
    for item_id in (
        "nope",
        "%3Cscript%3Ealert(1)%3C%2Fscript%3E",
        "1%20",
        "%25",
        "é",
        "' OR 1=1 --",
        "x" * 64,
    ):
        answer = client.get(f"/items/{item_id}")
        assert answer.status_code == 404
        assert answer.headers["content-type"] == "application/problem+json"
        assert "<script" not in answer.text


def test_an_id_that_no_database_should_see_is_refused(client: TestClient) -> None:
    for item_id in ("%00", "a%0Ab", "%1B", "x" * 65):
        assert client.get(f"/items/{item_id}").status_code == 422


def test_the_page_has_no_script_and_no_style_of_its_own_and_its_policy_forbids_both(
    client: TestClient,
) -> None:
    answer = client.get("/items/1")
    page = Elements(answer.text)
    assert not {"script", "style", "base", "iframe"} & set(page.names)
    assert not {name for name in page.attributes if name.startswith("on") or name == "style"}
    policy = answer.headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy


def test_the_template_is_rendered_in_a_worker_thread(app: FastAPI) -> None:
    rendered_in: list[str] = []

    def note(request: Request) -> dict[str, str]:
        rendered_in.append(threading.current_thread().name)
        return {}

    async def noting_templates() -> Jinja2Templates:
        templates = load_templates()
        templates.context_processors.append(note)
        return templates

    app.dependency_overrides[get_templates] = noting_templates
    with TestClient(app) as client:
        assert client.get("/items/1").status_code == 200
    assert ["worker thread" in name for name in rendered_in] == [True]


def test_every_page_is_told_its_request_id_by_a_context_processor(client: TestClient) -> None:
    # TestClient keeps what the response was made from; the gzip middleware would not pass it on.
    del client.headers["accept-encoding"]
    answer: Any = client.get("/items/42", headers={"X-Request-ID": "page-id-1"})
    assert answer.template.name == "item.html"
    assert set(answer.context) == {"request", "request_id", "item"}
    assert answer.context["request_id"] == "page-id-1"
    assert Elements(answer.text).text["small"] == "Answer page-id-1"


def test_a_name_that_a_template_does_not_know_is_an_error() -> None:
    misspelled = load_templates().env.from_string("<h1>{{ itme }}</h1>")
    with pytest.raises(UndefinedError):
        misspelled.render(item="x")


def rename_to(client: TestClient, item_id: str) -> None:
    """Gives the first item another id."""
    sessions = cast(State, client.app_state)["sessions"]

    async def rename() -> None:
        async with sessions.begin() as session:
            await session.execute(update(Item).where(Item.id == "1").values(id=item_id))

    assert client.portal
    client.portal.call(rename)


@pytest.mark.parametrize("item_id", ["2?a=b", "2#x", "100%", "<i>", "é", '"onclick="alert(1)'])
def test_a_link_has_the_prefix_of_the_proxy_and_its_parts_are_quoted(app: FastAPI, item_id: str) -> None:
    with TestClient(app, root_path="/api") as client:
        if item_id != "<i>":  # which is there
            rename_to(client, item_id)
        page = client.get(f"/api/items/{quote(item_id)}").text
        link = next(link for link in Elements(page).links if link.endswith("/label"))
        assert link.startswith("/api/items/")
        assert client.get(link).text.splitlines()[0].endswith(f"({item_id})")


def test_the_label_is_plain_text_which_is_neither_escaped_nor_read_as_a_page(client: TestClient) -> None:
    answer = client.get("/items/%3Ci%3E/label")
    assert answer.text == "Tom & <Jerry> (<i>)\n1.00"
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get("/items/nope/label").status_code == 404


def test_the_media_types_are_documented(app: FastAPI) -> None:
    paths = app.openapi()["paths"]
    for path, media_type in (("/items/{item_id}", "text/html"), ("/items/{item_id}/label", "text/plain")):
        assert list(paths[path]["get"]["responses"]["200"]["content"]) == [media_type]


def test_an_id_is_never_taken_for_the_path_of_another_page(client: TestClient) -> None:
    assert client.get("/items/query-or-cookie").json() == {"q_or_cookie": None}
    assert client.get("/items/").json()["limit"] == 100


HOSTILE = "<img src=x onerror=alert(1)>"


def test_trap_an_f_string_makes_the_id_an_element(client: TestClient) -> None:
    app = FastAPI()

    @app.get("/items/{item_id}", response_class=HTMLResponse)
    async def read_item(item_id: str) -> str:
        return f"<html><head><title>Item {item_id}</title></head><body><h1>Item: {item_id}</h1></body></html>"

    theirs = TestClient(app).get(f"/items/{HOSTILE}")
    assert theirs.status_code == 200
    assert "content-security-policy" not in theirs.headers
    assert "img" in Elements(theirs.text).names
    assert "onerror" in Elements(theirs.text).attributes

    ours = client.get(f"/items/{HOSTILE}")
    assert ours.status_code == 404
    assert "<img" not in ours.text


def rendered(folder: Path, name: str, template: str, value: str) -> str:
    (folder / name).write_text(template)
    app = FastAPI()
    templates = Jinja2Templates(folder)

    @app.get("/")
    def page(request: Request) -> Response:
        return templates.TemplateResponse(request, name, {"name": value})

    return TestClient(app).get("/").text


def test_trap_a_text_template_does_not_escape(tmp_path: Path) -> None:
    assert rendered(tmp_path, "page.txt", "{{ name }}", HOSTILE) == HOSTILE
    assert "<" not in rendered(tmp_path, "page.html", "{{ name }}", HOSTILE)


def test_trap_an_attribute_without_quotes_takes_an_event_handler(tmp_path: Path) -> None:
    value = "x onmouseover=alert(1)"
    bare = Elements(rendered(tmp_path, "bare.html", "<b title={{ name }}>hi</b>", value))
    assert "onmouseover" in bare.attributes
    quoted = Elements(rendered(tmp_path, "quoted.html", '<b title="{{ name }}">hi</b>', value))
    assert quoted.attributes == {"title"}


def test_trap_a_path_with_a_parameter_declared_first_swallows_the_special_one() -> None:
    app = FastAPI()

    @app.get("/items/{item_id}")
    async def show(item_id: str) -> str:
        return f"item {item_id}"

    @app.get("/items/query-or-cookie")
    async def query_or_cookie() -> str:
        return "the query"

    assert TestClient(app).get("/items/query-or-cookie").json() == "item query-or-cookie"


def test_trap_the_second_of_two_routes_with_one_path_is_never_called() -> None:
    app = FastAPI()

    @app.get("/items/", operation_id="first")
    async def first() -> str:
        return "first"

    @app.get("/items/", operation_id="second")
    async def second() -> str:
        return "second"

    assert TestClient(app).get("/items/").json() == "first"
    assert app.openapi()["paths"]["/items/"]["get"]["operationId"] == "second"


def test_trap_the_name_before_the_request_is_not_a_template_response(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("hello")
    templates = Jinja2Templates(tmp_path)
    request = Request({"type": "http", "method": "GET", "path": "/", "headers": []})
    with pytest.raises(TypeError):
        templates.TemplateResponse("page.html", {"request": request})  # type: ignore[arg-type]  # the old order


def test_trap_options_of_the_environment_are_no_options_of_the_templates(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        Jinja2Templates(tmp_path, autoescape=True)  # type: ignore[call-overload]  # as it was once


def page_of(template: str, context: dict[str, str], **options: Any) -> str:
    """What an endpoint sends that renders this template in an environment of its own."""
    templates = Jinja2Templates(env=Environment(loader=DictLoader({"page.html": template})), **options)  # noqa: S701
    request = Request({"type": "http", "method": "GET", "path": "/", "headers": []})
    return bytes(templates.TemplateResponse(request, "page.html", context).body).decode()


def test_trap_an_environment_of_ones_own_escapes_nothing_unless_it_is_told_to() -> None:
    assert page_of("{{ name }}", {"name": HOSTILE}) == HOSTILE
    assert "<" not in load_templates().env.from_string("{{ name }}").render(name=HOSTILE)
    escapes = load_templates().env.autoescape
    assert callable(escapes) and escapes("figure.svg") and not escapes("label.txt")


def test_trap_a_misspelled_name_is_an_empty_place() -> None:
    assert page_of("Hello {{ nmae }}!", {"name": "Ada"}) == "Hello !"


def test_trap_a_context_processor_replaces_what_the_endpoint_gave() -> None:
    def describe(request: Request) -> dict[str, str]:
        return {"title": "The site"}

    assert page_of("{{ title }}", {"title": "Item 42"}, context_processors=[describe]) == "The site"


def test_trap_a_url_is_not_quoted() -> None:
    templates = Jinja2Templates(env=Environment(autoescape=True))
    app = FastAPI()

    @app.get("/items/{item_id}", name="show")
    async def show(request: Request, item_id: str) -> str:
        link = templates.env.from_string("{{ url_for('show', item_id='a?b').path }}").render(request=request)
        return link

    # The item is `a`, and `b` a query.
    assert TestClient(app).get("/items/1").json() == "/items/a"
