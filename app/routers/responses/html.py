"""HTML from a template

`GET /items/{item_id}` is a web page: an item of the database, put into a Jinja2 template. Use templates for
pages that a person reads, and for anything in which data stands between tags. `Jinja2Templates` escapes
every value in `.html`, `.htm` and `.xml` files, so `<` in a name arrives as `&lt;` and stays text.

A dependency looks the item up, on the event loop; the endpoint is a plain `def`, for the template is read
from disk and rendered, which is work for a thread. The `Content-Security-Policy` that every page of
the service carries is the second lock: were a script to slip into one, the browser would not run it.

## The trap

`HTMLResponse(f"<h1>{item_id}</h1>")` puts what the caller sent into the page, scripts too, and says 200 to
every id. A template is not safe by itself either: values in a `.txt` template are not escaped, and
escaping does not help in an attribute without quotes, `<a title={{ name }}>`. And of two paths that
match, the one declared first wins: `/items/{item_id}` before `/items/query-or-cookie` makes an item of it.

## What is proven

- The page shows the item with its title and heading.
- Markup in an item stays text.
- An item that does not exist is a 404 problem.
- The page has no script and no style of its own and its policy forbids both.
- The template is rendered in a worker thread.
- An id is never taken for the path of another page.

## Read more

`Jinja2Templates(directory)`, `templates.TemplateResponse(request, "item.html", context)`,
`response_class=HTMLResponse`. [Templates](https://fastapi.tiangolo.com/advanced/templates/) and
[HTML responses](https://fastapi.tiangolo.com/advanced/custom-response/) in the FastAPI documentation.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import HTMLResponse
from sqlalchemy.orm import joinedload

from app.database.models import Item
from app.dependencies import SessionDep, TemplatesDep
from app.errors import NotFound

router = APIRouter(tags=["responses"])

# Postgres refuses a NUL in a text, so control characters are refused before they get there.
ItemId = Annotated[str, Path(max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$", examples=["foo"])]


async def find_item(item_id: ItemId, session: SessionDep) -> Item:
    item = await session.get(Item, item_id, options=[joinedload(Item.owner)])
    if item is None:
        raise NotFound("There is no such item.")
    return item


@router.get("/items/{item_id}", response_class=HTMLResponse)
def show_item(
    request: Request, item: Annotated[Item, Depends(find_item)], templates: TemplatesDep
) -> HTMLResponse:
    """A web page about one item."""
    return templates.TemplateResponse(request, "item.html", {"item": item})
