"""Limits, content types and the QUERY method

`max_body_size=` is an option of the app, of a router, of `include_router` and of a route: the innermost wins,
whether it is larger or smaller. `form_limits=` bounds the fields, the files and the texts of a form; each of
the three is inherited by itself. Bound every form, for a limit of bytes alone admits a thousand fields.

A JSON body must say that it is one: without `Content-Type: application/json`, or another type that ends in
`+json`, it is refused. Leave it so.

`QUERY` is a GET with a body: safe, so that it may be repeated, and for a search that does not fit into an
address. There is no decorator of that name, `api_route` takes it, and OpenAPI 3.2 has a place for it.

## The trap

A body over the limit is 413 in one of two shapes, as it is declared or grows: plain text, or FastAPI's JSON
(`app/middleware/problems.py` and `app/errors.py` make one of the two). An endpoint that never reads its body
runs all the same, and its answer is then replaced. The `media_type` of a `Body` is documentation: nothing
compares it. With `strict_content_type=False` a page of any origin can send JSON with the cookies of its
visitor, for no preflight asks. And FastAPI documents a QUERY without its body.

## What is proven

- The innermost limit of a body wins, up or down.
- A body over the limit is a problem, declared or chunked.
- A form has a limit of fields, of files and of text.
- The limits of a form are inherited one by one.
- A body without a content type is refused.
- A QUERY searches by its body and is documented with it.

## Read more

`max_body_size=`, `form_limits=`, `strict_content_type=`, `api_route(methods=["QUERY"])`, `openapi_extra=`.
[Strict content type](https://fastapi.tiangolo.com/advanced/strict-content-type/) in the FastAPI
documentation, [the QUERY method](https://datatracker.ietf.org/doc/draft-ietf-httpbis-safe-method-w-body/) at
the IETF.
"""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from pydantic import BaseModel, Field
from sqlalchemy import select

from app.database.models import Item
from app.dependencies import SessionDep

MAX_NOTE_SIZE = 2_000

router = APIRouter(tags=["validation"])


# What is read from the request itself is documented by hand.
NOTE_BODY: dict[str, Any] = {"content": {"application/octet-stream": {}}}


@router.post("/validation/note", max_body_size=MAX_NOTE_SIZE, openapi_extra={"requestBody": NOTE_BODY})
async def take_note(request: Request) -> int:
    """How many bytes a note has: of any kind, and 2,000 at most."""
    return len(await request.body())


@router.post("/validation/survey", form_limits={"max_fields": 5, "max_files": 0, "max_part_size": 1_024})
async def survey(answer: Annotated[list[str], Form(min_length=1, examples=["yes"])]) -> int:
    """How many answers a form has: five at most, and none of them long."""
    return len(answer)


class Search(BaseModel):
    words: Annotated[list[Annotated[str, Field(max_length=50)]], Field(max_length=10, examples=[["card"]])]
    limit: Annotated[int, Field(ge=1, le=100)] = 10


SEARCH_BODY = {"required": True, "content": {"application/json": {"schema": Search.model_json_schema()}}}


@router.api_route("/validation/search", methods=["QUERY"], openapi_extra={"requestBody": SEARCH_BODY})
async def search(wanted: Search, session: SessionDep) -> list[str]:
    """The names of items that contain all of the words."""
    having_all = [Item.name.icontains(word, autoescape=True) for word in wanted.words]
    names = await session.scalars(
        select(Item.name).where(*having_all).order_by(Item.name).limit(wanted.limit)
    )
    return list(names)
