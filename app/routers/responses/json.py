"""JSON from a return type

Write what the endpoint returns as its return type, `-> Account` or `-> list[Account]`, and nothing else.
FastAPI then validates the value, leaves out every field the type does not name, documents the answer, and
has Pydantic write the bytes in one step. That is right for whatever has a shape.

An own response class is for data without one: rows of a report, another service's answer, keys that are
numbers or dates. `OrjsonResponse` writes these with orjson, and what orjson refuses (an integer of more
than 64 bits, a set, bytes) with Pydantic's serializer. *Return* an instance of it; then FastAPI does not
look at the value at all. `python -m benchmarks.responses` compares the ways.

## The trap

A response that is returned is sent as it is: `JSONResponse(account.model_dump())` sends the salary that the
return type would have left out, and nothing complains. `fastapi.responses.ORJSONResponse` of the
tutorials is deprecated, slower than a return type, and answers 500 to a number as key or of more than
64 bits. And without a type, one `NaN` in the data is a 500 too.

## What is proven

- The orjson route answers with exactly the item.
- Fields that the return type does not name are left out.
- A return type writes NaN as null, numbers as keys, and integers of any size.
- The own response class writes the same odd values without a model.
- A value that does not fit its return type is a 500 that tells nothing.
- A 204 has no body and no content type.

## Read more

`-> Account`, `status_code=204, response_class=Response`, `class OrjsonResponse(JSONResponse)` with `render`.
[Response model](https://fastapi.tiangolo.com/tutorial/response-model/) and
[custom responses](https://fastapi.tiangolo.com/advanced/custom-response/) in the FastAPI documentation.
"""

import math
from datetime import UTC, date, datetime
from typing import Any

import orjson
from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from pydantic_core import to_json

router = APIRouter(prefix="/responses", tags=["responses"])


class OrjsonResponse(JSONResponse):
    """JSON of values that have no model."""

    def render(self, content: Any) -> bytes:
        try:
            # UTC as Z, which is how Pydantic writes it.
            return orjson.dumps(content, option=orjson.OPT_NON_STR_KEYS | orjson.OPT_UTC_Z)
        except orjson.JSONEncodeError:
            return to_json(content, inf_nan_mode="null")


class ItemRef(BaseModel):
    item_id: str


@router.get("/orjson", responses={200: {"model": list[ItemRef]}})
async def read_items() -> OrjsonResponse:
    """A list, written by orjson; the schema is declared by hand, for the return type says nothing."""
    return OrjsonResponse([{"item_id": "Foo"}])


@router.get("/odd", response_class=OrjsonResponse)
async def odd() -> OrjsonResponse:
    """Numbers and dates as keys, NaN, and an integer of 71 bits, without a model."""
    return OrjsonResponse(
        {
            1: "a number as key",
            date(2026, 1, 31): "a date as key",
            "ratio": math.nan,
            "atoms": 2**70,
            "at": datetime(2026, 1, 31, 12, tzinfo=UTC),
            "tags": {"set"},
        }
    )


class Reading(BaseModel):
    ratio: float
    names: dict[int, str]
    atoms: int


@router.get("/typed")
async def typed() -> Reading:
    """The like with a return type. A script rounds integers above 2⁵³: send those as text."""
    return Reading(ratio=math.nan, names={1: "a number as key"}, atoms=2**70)


class Account(BaseModel):
    name: str


class StoredAccount(Account):
    salary_cents: int


@router.get("/accounts")
async def accounts() -> list[Account]:
    """What is stored says more than the return type, and more than everybody may know."""
    return [StoredAccount(name="Ada", salary_cents=9_900_000)]


# With the default class an empty answer would still call itself JSON.
@router.post("/beacon", status_code=204, response_class=Response)
async def beacon() -> None:
    """Taken note of; there is nothing to say."""
