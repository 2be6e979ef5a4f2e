"""Rows in a stream: JSON Lines and CSV

`GET /streaming/rows` sends the items of the database as JSON Lines, one JSON object a line. Use it for
exports: the client handles each row as it comes, and neither side ever holds them all. The endpoint is a
generator annotated `AsyncIterable[StoredItem]`, and nothing more: FastAPI validates each row, leaves out
what the model does not name, and sends `application/jsonl`.

For any other kind of bytes the class says the media type: `class CsvStream(StreamingResponse)`. Whatever
belongs to the head of a stream is decided in a dependency, which runs before the first byte: the 404 for an
owner that does not exist, the name of the file.

`PATCH /streaming/rows` takes JSON Lines: new prices, line by line, so that a line is refused as soon as it
is too long or nonsense. The rule is all or nothing. The transaction begins when the last line has been read
and all are good, so no slow client holds the lock of the database, and a body that is cut changes nothing.
A bad line is named by its number and what is wrong with it, not by what it says.

An error in mid-stream cannot become a status code, for 200 has been sent. The connection is cut instead,
without the chunk that ends a response, so that a client can tell "cut" from "complete". Check for that: a
truncated export is still valid JSON Lines.

## The trap

A database session from a dependency lives as long as the response. Injected into a stream, it is held while
the slowest client reads its last row; a few such clients empty the pool, and the service stands still. With
`scope="function"` it is closed before the first row instead. But a closed session of SQLAlchemy opens again
when it is used, and nobody gives that connection back. Our sessions are made with
`close_resets_only=False`: used too late, they raise. This stream opens a session for each page of rows,
gives the connection back, and then sends.

In the generator it is too late for the head: an `HTTPException(404)` there is a 200 that is cut, and a
header that is set is lost. A plain `StreamingResponse` has no `Content-Type` at all. And who stores line by
line has stored half of a body whose last line is bad.

## What is proven

- Each line is one row of the database in the order of its key.
- What the row model does not name is left out.
- The number of rows is bounded.
- No database connection is held while the client reads.
- A session that is used after its scope fails and holds no connection.
- The CSV of an owner is streamed under its media type and a file name.
- An unknown owner is a 404 before the stream begins.
- A stream that fails is seen to fail by the client.
- Prices are taken line by line however the body is cut into chunks.
- One bad line refuses all and is named by its number.
- A line or a body that is too long is refused while it arrives.
- A body that is cut changes nothing.
- No transaction is open while the body arrives.

## Read more

`async def endpoint() -> AsyncIterable[Model]`, `class CsvStream(StreamingResponse)` with `media_type`,
`request.stream()`. [Stream JSON Lines](https://fastapi.tiangolo.com/tutorial/stream-json-lines/) and
[stream data](https://fastapi.tiangolo.com/advanced/stream-data/) in the FastAPI documentation.
"""

from collections.abc import AsyncIterable, AsyncIterator, Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import ColumnElement, select, update

from app.csv_lines import csv_line
from app.database.models import Item, User
from app.database.session import SessionMaker
from app.dependencies import SessionDep, SettingsDep, StateDep
from app.errors import MAX_REPORTED_ERRORS, ContentTooLarge, NotFound, UnsupportedMediaType
from app.routers.responses.fields import MAX_PRICE_CENTS, StoredItem

PAGE_ROWS = 100
MAX_LINE_BYTES = 1_000

router = APIRouter(prefix="/streaming", tags=["streaming"])


async def read_items(sessions: SessionMaker, limit: int, *which: ColumnElement[bool]) -> AsyncIterator[Item]:
    """Items by id. No session is open while one of them is in use."""
    after = ""
    while limit > 0:
        query = select(Item).where(Item.id > after, *which)
        async with sessions() as session:
            page = (await session.scalars(query.order_by(Item.id).limit(min(limit, PAGE_ROWS)))).all()
        for item in page:
            yield item
        if not page:
            return
        limit -= len(page)
        after = page[-1].id


@router.get("/rows")
async def rows(
    state: StateDep,
    settings: SettingsDep,
    limit: Annotated[int, Query(ge=1, description="at most as many rows")] = 1_000,
) -> AsyncIterable[StoredItem]:
    """Items by id, one a line."""
    async for item in read_items(state["sessions"], min(limit, settings.stream_max_events)):
        yield StoredItem.model_validate(item)


class CsvStream(StreamingResponse):
    media_type = "text/csv"


async def find_owner(
    owner_id: Annotated[int, Path(ge=1, le=2**31 - 1, examples=[1])], session: SessionDep, response: Response
) -> int:
    if await session.get(User, owner_id) is None:
        raise NotFound("There is no such owner.")
    response.headers["Content-Disposition"] = f'attachment; filename="items-of-{owner_id}.csv"'
    return owner_id


@router.get("/owners/{owner_id}/rows.csv", response_class=CsvStream)
async def owned_rows(
    owner_id: Annotated[int, Depends(find_owner)], state: StateDep, settings: SettingsDep
) -> AsyncIterable[bytes]:
    """The items of one owner, as a file for a spreadsheet."""
    yield csv_line(list(StoredItem.model_fields)).encode()
    owned = Item.owner_id == owner_id
    async for item in read_items(state["sessions"], settings.stream_max_events, owned):
        yield csv_line(list(dict(StoredItem.model_validate(item)).values())).encode()


class NewPrice(BaseModel):
    model_config = ConfigDict(extra="forbid")

    id: Annotated[str, Field(max_length=64, pattern=r"^[^\x00-\x1f\x7f]+$")]
    price_cents: Annotated[int, Field(strict=True, ge=0, le=MAX_PRICE_CENTS)]


class Change(BaseModel):
    rows: int


async def lines_of(request: Request) -> AsyncIterator[bytes]:
    """The lines of the body, each as soon as it is there. One that is far too long ends them, as it is."""
    rest = b""
    async for chunk in request.stream():
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line
        if len(rest) > MAX_LINE_BYTES:
            break
    if rest:
        yield rest


BODY = {
    "required": True,
    "content": {
        "application/jsonl": {
            "itemSchema": NewPrice.model_json_schema(),
            "example": '{"id": "foo", "price_cents": 5020}\n{"id": "bar", "price_cents": 6200}\n',
        }
    },
}


async def read_prices(request: Request, settings: SettingsDep) -> dict[str, tuple[int, int]]:
    """The line and the new price by id. Of two lines about one item the later counts."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/jsonl":
        raise UnsupportedMediaType("Send application/jsonl.")
    prices: dict[str, tuple[int, int]] = {}
    errors: list[Any] = []
    number = 0
    async for line in lines_of(request):
        number += 1
        if number > settings.stream_max_events:
            raise ContentTooLarge(f"One body has at most {settings.stream_max_events} lines.")
        if len(line) > MAX_LINE_BYTES:
            errors.append(bad_line(number, "line_too_long", f"A line has at most {MAX_LINE_BYTES} bytes"))
        elif line.strip():
            try:
                price = NewPrice.model_validate_json(line)
                prices[price.id] = (number, price.price_cents)
            except ValidationError as exc:
                errors += [{**each, "loc": ("body", number, *each["loc"])} for each in exc.errors()]
        if len(errors) >= MAX_REPORTED_ERRORS:
            break
    if errors:
        raise RequestValidationError(errors)
    return prices


def bad_line(number: int, kind: str, message: str) -> dict[str, Any]:
    return {"type": kind, "loc": ("body", number), "msg": message}


@router.patch("/rows", openapi_extra={"requestBody": BODY})
async def change_prices(
    prices: Annotated[dict[str, tuple[int, int]], Depends(read_prices)], state: StateDep
) -> Change:
    """Sets new prices, all of them or none."""
    ids = list(prices)
    async with state["sessions"].begin() as session:
        for start in range(0, len(ids), PAGE_ROWS):
            page = ids[start : start + PAGE_ROWS]
            known = set(await session.scalars(select(Item.id).where(Item.id.in_(page))))
            refuse_unknown([prices[id][0] for id in page if id not in known])
            values = [{"id": id, "price_cents": prices[id][1]} for id in page]
            await session.execute(update(Item), values)
    return Change(rows=len(ids))


def refuse_unknown(lines: Sequence[int]) -> None:
    if lines:
        raise RequestValidationError([bad_line(n, "item_unknown", "There is no such item") for n in lines])
