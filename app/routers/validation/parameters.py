"""Parameters of the query, the path, headers and cookies

A parameter of the endpoint is a parameter of the request: `Annotated[int, Query(ge=1)] = 10`. What belongs
together is a Pydantic model, `Annotated[Page, Query()]`, and a location may have several of them beside
single parameters. A group like `Period | None = None` is optional as a whole: with one of its fields, all are
required. Headers and cookies work alike, and forms have a page of their own.

FastAPI takes the last of two values with the same name and says nothing. A proxy or a filter in front may
look at the first, so `Once` refuses what is sent twice, unless it is a list. It hangs on the router.

## The trap

`extra="forbid"` on one model refuses its siblings too, for it sees everything in its location: to refuse
what is unknown, put all of it into one model. On headers and cookies it refuses every
browser. `strict=True` refuses each number in a query, as all are texts, and a `date` takes `86400` for a
day in 1970. `int | str` leaves `"3"` a text. `Json[list[int]] | None` refuses every list. A default is not
validated. A header `x_token` is ignored: underscores become hyphens. A compiled `pattern` lets a line
break at the end through. Of two cookies with one name the last is taken, and browsers send the closer
one first. `regex=` and `example=` are deprecated.

## What is proven

- Several groups and single parameters share the query.
- An optional group is absent or complete.
- Whatever is sent twice is refused unless it is a list.
- A list stops at its first bad item and has a limit.
- A parameter has other names, a computed default and JSON in it.
- A price is a decimal number with bounds, and the document says so.
- Neither NaN nor infinity is a number here.
- What is deprecated or hidden still works.
- A date has one form.
- A path takes a number or a name.
- A header model reads hyphens, and underscores only where asked.
- Cookies that are not ours do no harm.
- A body is never read as a form here.
- A single value in a body has a name and no other type.

## Read more

`Query`, `Path`, `Header`, `Cookie`, `Body(embed=True)`, pydantic's `AliasChoices` and `Json`.
[Query models](https://fastapi.tiangolo.com/tutorial/query-param-models/) and
[string validations](https://fastapi.tiangolo.com/tutorial/query-params-str-validations/) in the FastAPI
documentation.
"""

import re
from collections import Counter
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Body, Cookie, Depends, Header, Path, Query, Request
from fastapi.exceptions import RequestValidationError
from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, Json, model_validator
from pydantic_core import PydanticCustomError
from starlette.datastructures import ImmutableMultiDict

MAX_IDS = 100


class Once:
    """Refuses a name that the query has more than once, but for those of lists."""

    def __init__(self, *lists: str) -> None:
        self.lists = lists

    async def __call__(self, request: Request) -> None:
        self.refuse_repeated("query", request.query_params)

    def refuse_repeated(self, place: str, values: ImmutableMultiDict[str, Any]) -> None:
        sent = Counter(name for name, _ in values.multi_items())
        repeated = [
            {"type": "repeated", "loc": (place, name), "msg": "Send this only once"}
            for name, count in sent.items()
            if count > 1 and name not in self.lists
        ]
        if repeated:
            raise RequestValidationError(repeated)


router = APIRouter(tags=["validation"], dependencies=[Depends(Once("id"))])


def in_iso_form(day: object) -> object:
    """Pydantic would take a number for seconds since 1970."""
    if isinstance(day, str) and not re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", day):
        raise PydanticCustomError("date_form", "Write a date as 2030-01-31")
    return day


Day = Annotated[date, BeforeValidator(in_iso_form)]


def today() -> date:
    return datetime.now(UTC).date()


class Page(BaseModel):
    skip: Annotated[int, Field(ge=0, le=10_000)] = 0
    limit: Annotated[int, Field(ge=1, le=100)] = 10


class Period(BaseModel):
    start: Day
    end: Day

    @model_validator(mode="after")
    def in_order(self) -> Self:
        if self.end < self.start:
            raise PydanticCustomError("period_order", "The period ends before it starts")
        return self


class Wanted(Page):
    words: str | None
    period: Period | None
    on: date
    ids: list[int]
    shelf: list[int]
    max_price: Decimal | None
    rating: float
    boost: float
    sort: str


def as_decimal(schema: dict[str, Any]) -> None:
    """The generated schema knows neither `max_digits` nor `decimal_places`, and takes any text."""
    del schema["anyOf"]
    schema |= {"type": "string", "pattern": r"^[0-9]{1,4}(\.[0-9]{1,2})?$"}


@router.get("/validation/things")
async def find_things(
    page: Annotated[Page, Query()],
    on: Annotated[Day, Query(default_factory=today, description="day of the prices; else today, in UTC")],
    ids: Annotated[list[int], Query(alias="id", default_factory=list, max_length=MAX_IDS, fail_fast=True)],
    shelf: Annotated[Json[Annotated[list[int], Field(max_length=2)]], Query(default_factory=list)],
    period: Annotated[Period | None, Query()] = None,
    words: Annotated[
        str | None, Query(validation_alias=AliasChoices("q", "query"), title="Words", max_length=100)
    ] = None,
    max_price: Annotated[
        Decimal | None,
        Query(ge=0, lt=10_000, max_digits=6, decimal_places=2, json_schema_extra=as_decimal),
    ] = None,
    rating: Annotated[float, Query(ge=0, le=5, multiple_of=0.5)] = 0,
    boost: Annotated[float, Query(gt=0, allow_inf_nan=False)] = 1,
    sort: Annotated[
        Literal["name", "price", "-price"],
        Query(openapi_examples={"dear": {"summary": "The dearest first", "value": "-price"}}),
    ] = "name",
    order_by: Annotated[str | None, Query(deprecated=True, pattern="^(name|price)$")] = None,
    preview: Annotated[bool, Query(include_in_schema=False)] = False,
) -> Wanted:
    """Two groups and ten single parameters. `order_by` is the old name of `sort`."""
    return Wanted(
        **page.model_dump(),
        words=words,
        period=period,
        on=on,
        ids=ids,
        shelf=shelf,
        max_price=max_price,
        rating=rating,
        boost=boost,
        sort="preview" if preview else order_by or sort,
    )


Number = Annotated[int, Field(ge=1, le=2**31 - 1)]
Slug = Annotated[str, Field(pattern="^[a-z0-9-]{1,50}$", examples=["tea"])]


@router.get("/validation/things/{thing}")
async def read_thing(thing: Annotated[Number | Slug, Path(union_mode="left_to_right")]) -> Number | Slug:
    """A number if it is one, else a name."""
    return thing


class Client(BaseModel):
    x_client_version: Annotated[str | None, Field(pattern=r"^[0-9]{1,4}\.[0-9]{1,4}$")] = None
    x_feature: Annotated[list[str], Field(max_length=10)] = []


@router.get("/validation/headers")
async def read_headers(
    client: Annotated[Client, Header()],
    old_name: Annotated[str | None, Header(convert_underscores=False, max_length=100)] = None,
) -> tuple[Client, str | None]:
    """`X-Client-Version` and `X-Feature`; and `old_name`, with the underscore that proxies like to drop."""
    return client, old_name


class Preferences(BaseModel):
    theme: Literal["light", "dark"] = "light"
    page_size: Annotated[int, Field(ge=1, le=100)] = 10


@router.get("/validation/cookies")
async def read_cookies(preferences: Annotated[Preferences, Cookie()]) -> Preferences:
    """The cookies `theme` and `page_size`."""
    return preferences


@router.put("/validation/volume")
async def set_volume(volume: Annotated[int, Body(embed=True, strict=True, ge=0, le=10, examples=[3])]) -> int:
    """`{"volume": 3}` and not `3`, and neither `"3"` nor `true`."""
    return volume
