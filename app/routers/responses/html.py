"""HTML from a template

`GET /items/{item_id}` is a web page: an item of the database, put into a Jinja2 template. Use templates for
pages that a person reads, and for anything in which data stands between tags. `Jinja2Templates` escapes
every value in `.html`, `.htm` and `.xml` files, so `<` in a name arrives as `&lt;` and stays text.

A dependency looks the item up, on the event loop; the endpoint is a plain `def`, for the template is read
from disk and rendered, which is work for a thread. The `Content-Security-Policy` that every page of the
service carries is the second lock: were a script to slip into one, the browser would not run it.

`app/page_templates.py` makes the templates once, with an environment of its own (`env=`): a name that a
template does not know is an error instead of an empty place. A context processor adds what every page
shows, here the id of the request. `url_for` in a template knows the prefix of a proxy; `.path` leaves the
`Host` header out, and `urlencode` quotes. Plain text has nothing to escape: `.txt` templates are for that,
and are served as `text/plain`, which no browser takes for a page, thanks to `nosniff`.

## The trap

`HTMLResponse(f"<h1>{item_id}</h1>")` puts what the caller sent into the page, scripts too, and says 200 to
every id. A template is not safe by itself either: values in a `.txt` template are not escaped, nor is
anything by `env=Environment(loader=...)`, which must be told `autoescape`; and escaping does not help in an
attribute without quotes, `<a title={{ name }}>`. A context processor replaces a name that the endpoint
gave. And of two paths that match, the one declared first wins: `/items/{item_id}` before
`/items/query-or-cookie` makes an item of it.

## What is proven

- The page shows the item with its title and heading.
- Markup in an item stays text.
- An item that does not exist is a 404 problem.
- The page has no script and no style of its own and its policy forbids both.
- The template is rendered in a worker thread.
- Every page is told its request id by a context processor.
- A name that a template does not know is an error.
- A link has the prefix of the proxy and its parts are quoted.
- The label is plain text which is neither escaped nor read as a page.
- An id is never taken for the path of another page.

## Read more

`Jinja2Templates(env=, context_processors=[...])`, `templates.TemplateResponse(request, "item.html",
context)`, `APIRouter(default_response_class=HTMLResponse)`; in tests `answer.template` and
`answer.context`. [Templates](https://fastapi.tiangolo.com/advanced/templates/) and [HTML
responses](https://fastapi.tiangolo.com/advanced/custom-response/) in the FastAPI documentation.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import HTMLResponse, PlainTextResponse
from sqlalchemy.orm import joinedload

from app.database.models import Item
from app.dependencies import SessionDep, TemplatesDep
from app.errors import NotFound

# What is said once here is the media type of every route below that does not say otherwise.
router = APIRouter(tags=["responses"], default_response_class=HTMLResponse)

# Postgres refuses a NUL in a text, so control characters are refused before they get there.
ItemId = Annotated[str, Path(max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$", examples=["foo"])]


async def find_item(item_id: ItemId, session: SessionDep) -> Item:
    item = await session.get(Item, item_id, options=[joinedload(Item.owner)])
    if item is None:
        raise NotFound("There is no such item.")
    return item


FoundItem = Annotated[Item, Depends(find_item)]


@router.get("/items/{item_id}")
def show_item(request: Request, item: FoundItem, templates: TemplatesDep) -> HTMLResponse:
    """A web page about one item."""
    return templates.TemplateResponse(request, "item.html", {"item": item})


@router.get("/items/{item_id}/label", response_class=PlainTextResponse)
def show_label(item: FoundItem, templates: TemplatesDep) -> PlainTextResponse:
    """The same for a printer of labels."""
    return PlainTextResponse(templates.get_template("label.txt").render(item=item))
