"""JSON Lines, row by row

`GET /streaming/rows` sends the items of the database as JSON Lines, one JSON object a line. Use it for
exports: the client handles each row as it comes, and neither side ever holds them all.

The endpoint is a generator annotated `AsyncIterable[Row]`, and nothing more: FastAPI validates each row
against `Row`, leaves out what `Row` does not name, and sends `application/jsonl`.

An error in mid-stream cannot become a status code, for 200 has been sent. The connection is cut instead,
without the chunk that ends a response, so that a client can tell "cut" from "complete". Check for that:
a truncated export is still valid JSON Lines.

## The trap

A database session from a dependency lives as long as the response. Injected into a stream, it is held
while the slowest client reads its last row; a few such clients empty the pool, and the service stands
still. With `scope="function"` it is closed before the first row instead. But a closed session of
SQLAlchemy opens again when it is used, and nobody gives that connection back. Our sessions are made with
`close_resets_only=False`: used too late, they raise. This stream opens a session for each page of rows,
gives the connection back, and then sends.

## What is proven

- Each line is one row of the database in the order of its key.
- What the row model does not name is left out.
- The number of rows is bounded.
- No database connection is held while the client reads.
- A session that is used after its scope fails and holds no connection.

## Read more

`async def endpoint() -> AsyncIterable[Model]` with the default response class.
[Stream JSON Lines](https://fastapi.tiangolo.com/tutorial/stream-json-lines/) in the FastAPI documentation.
"""

from collections.abc import AsyncIterable
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel
from sqlalchemy import select

from app.database.models import Item
from app.dependencies import SettingsDep, StateDep

PAGE_ROWS = 100

router = APIRouter(prefix="/streaming", tags=["streaming"])


class Row(BaseModel, from_attributes=True):
    id: str
    name: str
    price_cents: int


@router.get("/rows")
async def rows(
    state: StateDep,
    settings: SettingsDep,
    limit: Annotated[int, Query(ge=1, description="at most as many rows")] = 1_000,
) -> AsyncIterable[Row]:
    """Items by id, one a line."""
    left = min(limit, settings.stream_max_events)
    after = ""
    while left > 0:
        query = select(Item).where(Item.id > after).order_by(Item.id).limit(min(left, PAGE_ROWS))
        async with state["sessions"]() as session:
            page = (await session.scalars(query)).all()
        for item in page:
            yield Row.model_validate(item)
        if not page:
            return
        left -= len(page)
        after = page[-1].id
