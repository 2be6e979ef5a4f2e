"""JSON from a return type

Write what the endpoint returns as its return type, `-> Account` or `-> list[Account]`, and nothing else.
FastAPI then validates the value, leaves out every field the type does not name, documents the answer, and
has Pydantic write the bytes in one step. That is right for whatever has a shape, a plain dataclass too.
Bytes need to be told how they become text: `ser_json_bytes="base64"`, the alphabet that is safe in URLs.

An own response class is for data without one: rows of a report, another service's answer, keys that are
numbers or dates. `OrjsonResponse` writes these with orjson, and what orjson refuses (an integer of more
than 64 bits, a set, bytes) with Pydantic's serializer. *Return* an instance of it; then FastAPI does not
look at the value at all. `python -m benchmarks.responses` compares the ways. In a `JSONResponse` of your
own, `jsonable_encoder` makes models, dates and sets into what `json` can write.

## The trap

A response that is returned is sent as it is: `JSONResponse(account.model_dump())` sends the salary that the
return type would have left out, and nothing complains; nor does it with `response_model=None`, the usual
cure where `-> Account | Response` does not start (`response_model=Account` is the right one).

Any response class that is named, the default one too, on the route, the router or the app, leaves the
direct way: two steps instead of one, and one `NaN` is a 500, as it is without a type.
`fastapi.responses.ORJSONResponse` and `UJSONResponse` of the tutorials are deprecated for that, and the
first answers 500 to a number of more than 64 bits.

## What is proven

- The orjson route answers with exactly the item.
- Fields that the return type does not name are left out.
- A return type lets Pydantic write the bytes without a response class.
- A return type writes NaN as null, numbers as keys, and integers of any size.
- A dataclass is documented like a model and its bytes are Base64 for URLs.
- The own response class writes the same odd values without a model.
- A value that does not fit its return type is a 500 that tells nothing.
- A 204 has no body and no content type.

## Read more

`-> Account`, `status_code=204, response_class=Response`, `class OrjsonResponse(JSONResponse)` with
`render`. [Response model](https://fastapi.tiangolo.com/tutorial/response-model/) and [custom
responses](https://fastapi.tiangolo.com/advanced/custom-response/) in the FastAPI documentation.
"""

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime
from hashlib import sha256
from typing import Any, ClassVar

import orjson
from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict
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
    # NaN arrives as null; without None the document would not say so.
    ratio: float | None
    names: dict[int, str]
    atoms: int


@router.get("/typed")
async def typed() -> Reading:
    """The like with a return type. A script rounds integers above 2⁵³: send those as text."""
    return Reading(ratio=math.nan, names={1: "a number as key"}, atoms=2**70)


@dataclass
class Checksum:
    """Without the setting a byte that is no UTF-8 would be a 500."""

    __pydantic_config__: ClassVar = ConfigDict(ser_json_bytes="base64")

    algorithm: str
    digest: bytes


@router.get("/checksum")
async def checksum() -> Checksum:
    """The checksum of nothing, by a dataclass of the standard library."""
    return Checksum(algorithm="sha256", digest=sha256(b"").digest())


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
