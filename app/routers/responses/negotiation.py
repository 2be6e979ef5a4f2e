"""One resource in the format that the client asks for

`GET /responses/items` answers with JSON, CSV or MessagePack, whichever the `Accept` header likes best: each
media range in it may have a weight, `text/csv;q=0.5`, the more specific range counts, and `q=0` means
never. Among equals the server's own order decides. Use it where programs of different kinds read the same
data; one address then stays one resource. A format that nobody here knows is a 406 that lists what there
is. A header of over 4,000 characters is a 400 before it is read: the server itself sets no such limit.

`Vary: Accept` stands on every answer, the 406 too: without it a cache hands the CSV of one client to the
next. All formats are documented, each under its own media type. A dependency chooses, so the choice is
made, or refused, before any work is done.

CSV is for people with spreadsheets. It is UTF-8 and says so in its `Content-Type`, without a byte order
mark, which most programs take for a part of the first name. Excel reads a *file* without the mark in the
code page of its country: for Excel alone, encode as `utf-8-sig`. A text that begins with `=`, `+`, `-` or
`@` would be run as a formula by whoever opens the file, so `app/csv_lines.py` puts an apostrophe before it.
MessagePack is binary and shorter: bytes stay bytes. It holds integers of at most 64 bits and nothing that
contains itself.

## The trap

`if "text/csv" in accept` sends CSV to a client that wrote `text/csv;q=0`, which means never, or
`application/json, text/csv;q=0.1`, which means if need be; and misses `text/*`. `f"{name},{price}"` is no
CSV: a comma in a name makes a column. And a response that is returned is not filtered: make the rows of the
model that is documented, and render those.

## What is proven

- The format is the one that the accept header likes best.
- The more specific range counts and a weight of zero means never.
- Where nothing is asked for the answer is JSON.
- An unknown format is a 406 that lists what there is.
- An Accept header of over 4,000 characters is a 400, in one line or in several.
- Every answer varies by the accept header.
- Every format is documented with its media type.
- All formats hold the same rows.
- A cell that begins like a formula is text.
- Commas, quotes, line ends and letters of every script survive CSV.

## Read more

`Depends(choose_format)`, `responses={200: {"content": {...}}}`, `response_model=list[StoredItem]`.
[Additional responses](https://fastapi.tiangolo.com/advanced/additional-responses/) in the FastAPI
documentation, [proactive negotiation](https://www.rfc-editor.org/rfc/rfc9110#section-12) in RFC 9110, [CSV
injection](https://owasp.org/www-community/attacks/CSV_Injection) at OWASP.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import ormsgpack
from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import TypeAdapter
from sqlalchemy import select

from app.csv_lines import csv_line
from app.database.models import Item
from app.dependencies import SessionDep
from app.errors import AppError, BadRequest
from app.routers.responses.fields import StoredItem

MAX_ROWS = 100
MAX_ACCEPT = 4_000
"""Characters. A browser sends a few hundred; to read many more would keep everybody else waiting."""
WEIGHT = re.compile(r"q=(0(\.\d{0,3})?|1(\.0{0,3})?)")

ROWS = TypeAdapter(Sequence[StoredItem])

router = APIRouter(prefix="/responses", tags=["responses"])


def to_csv(rows: Sequence[StoredItem]) -> bytes:
    names = list(StoredItem.model_fields)
    return "".join(csv_line(line) for line in (names, *([*dict(row).values()] for row in rows))).encode()


def to_msgpack(rows: Sequence[StoredItem]) -> bytes:
    return ormsgpack.packb(ROWS.dump_python(rows))


@dataclass(frozen=True)
class Format:
    media_type: str
    render: Callable[[Sequence[StoredItem]], bytes]


FORMATS = (  # the best first
    Format("application/json", ROWS.dump_json),
    Format("text/csv", to_csv),
    Format("application/vnd.msgpack", to_msgpack),
)
VARY = {"Vary": "Accept"}


class NotAcceptable(AppError):
    status = 406
    detail = f"There is {', '.join(each.media_type for each in FORMATS)}."


def weights_of(accept: str) -> dict[str, float]:
    """The weight of each media range in an `Accept` header.

    Other parameters than the weight are not looked at, and a range with a malformed weight is passed over.
    """
    weights: dict[str, float] = {}
    for part in accept.lower().split(","):
        name, *parameters = (piece.strip() for piece in part.split(";"))
        weight = next((each for each in parameters if each.startswith("q=")), "q=1")
        if WEIGHT.fullmatch(weight):
            weights[name] = max(weights.get(name, 0.0), float(weight[2:]))
    return weights


def quality(weights: Mapping[str, float], media_type: str) -> float:
    """That of the most specific range which covers the media type."""
    ranges = (media_type, f"{media_type.partition('/')[0]}/*", "*/*")
    return next((weights[each] for each in ranges if each in weights), 0.0)


async def choose_format(request: Request) -> Format:
    # A header may be sent in several lines.
    accept = ",".join(request.headers.getlist("accept")) or "*/*"
    if len(accept) > MAX_ACCEPT:
        raise BadRequest(f"The Accept header is longer than {MAX_ACCEPT} characters.", VARY)
    weights = weights_of(accept)
    chosen = max(FORMATS, key=lambda each: quality(weights, each.media_type))  # the first of equals
    if quality(weights, chosen.media_type) == 0:
        raise NotAcceptable(headers=VARY)
    return chosen


SAME_ROWS: dict[str, Any] = {"type": "array", "items": {"$ref": "#/components/schemas/StoredItem"}}


@router.get(
    "/items",
    response_model=list[StoredItem],
    responses={
        200: {
            "content": {
                "text/csv": {"schema": {"type": "string"}, "example": "id,name,price_cents\r\n"},
                "application/vnd.msgpack": {"schema": SAME_ROWS},
            }
        },
    },
)
async def items(
    session: SessionDep,
    chosen: Annotated[Format, Depends(choose_format)],
    limit: Annotated[int, Query(ge=1, le=MAX_ROWS)] = MAX_ROWS,
) -> Response:
    """The first items by id, as JSON, CSV or MessagePack."""
    found = await session.scalars(select(Item).order_by(Item.id).limit(limit))
    rows = [StoredItem.model_validate(item) for item in found]
    return Response(chosen.render(rows), media_type=chosen.media_type, headers=VARY)
