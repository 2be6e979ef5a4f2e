"""Shapes of data: unions, aliases, computed fields, serialisers, strictness

What comes in and what goes out need not look alike, nor like the Python in between. `POST /validation/orders`
takes an order and answers it as it would be stored.

- **Unions.** `Field(discriminator="kind")` picks one model by a literal field: only that model is tried, and
  only its errors are told. Where no field tells, a function does: `Discriminator(f)` with a `Tag` for each.
- **Names.** `alias_generator=to_camel` gives JSON its camelCase. FastAPI answers by alias, too;
  `validate_by_name` lets our own code use the names of Python.
- **What goes out.** `exclude=True` keeps a field in, `exclude_if` leaves it out by its value, and
  `@computed_field` adds one. `@field_serializer` and `@model_serializer` write a field or the model another
  way.
- **Types.** A plain dataclass is a model. An `Annotated` type carries its bounds and its encoding with it, as
  `Base64` does.

## The trap

`strict=True` for a whole model refuses dates, UUIDs, decimals, enums and tuples: JSON has none of them.
`model_validate_json` knows that and makes an exception; FastAPI validates what `json.loads` has made. So be
strict field by field, with numbers. `Base64Bytes` skips whatever is not Base64, and `ser_json_bytes="base64"`
writes the alphabet for URLs; returned alone, an encoded type is decoded once more. Aliases alone make a
misspelt name a missing one. A dataclass ignores what it does not know. `model_dump()` knows no aliases. An
excluded field still stands in `repr()`, and so in the log.

## What is proven

- A payment is one of two models, told apart by its kind.
- An address is a text or an object.
- Names are camelCase outside and snake_case inside.
- What is secret goes in and never out.
- A field and a model are written another way, and the document says so.
- What is absent is left out.
- A number is a number, and a date is a text in one form.
- A list of dataclasses has a limit.
- Base64 is all that passes for Base64.

## Read more

`Field(discriminator=, exclude=, exclude_if=, strict=, union_mode=)`, `Discriminator`, `Tag`,
`Body(discriminator=)`, `@computed_field`, `@field_serializer`, `@model_serializer`, `EncodedBytes`.
[Nested models](https://fastapi.tiangolo.com/tutorial/body-nested-models/),
[dataclasses](https://fastapi.tiangolo.com/advanced/dataclasses/) and [separate
schemas](https://fastapi.tiangolo.com/how-to/separate-openapi-schemas/) in the FastAPI documentation,
[unions](https://docs.pydantic.dev/latest/concepts/unions/) in Pydantic's.
"""

import re
from base64 import b64decode, b64encode
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Literal

from fastapi import APIRouter, Body
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    EncodedBytes,
    EncoderProtocol,
    Field,
    Tag,
    computed_field,
    field_serializer,
    model_serializer,
    with_config,
)
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

MAX_LINES = 20
MAX_PICTURE = 4_000

router = APIRouter(tags=["validation"])


class Base64Encoder(EncoderProtocol):
    """The alphabet of RFC 4648, section 4, and nothing else; Pydantic's own skips what it does not know."""

    @classmethod
    def decode(cls, data: bytes) -> bytes:
        try:
            return b64decode(data, validate=True)
        except ValueError:
            raise PydanticCustomError("base64", "Input should be Base64") from None

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        return b64encode(value)

    @classmethod
    def get_json_format(cls) -> Literal["base64"]:
        return "base64"


FOURS = "^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$"
# Limit and pattern stand before the encoding: they are those of the text, as the schema says.
Base64 = Annotated[
    bytes,
    Field(max_length=MAX_PICTURE, json_schema_extra={"pattern": FOURS}),
    EncodedBytes(encoder=Base64Encoder),
]


def in_one_form(day: object) -> object:
    """Pydantic takes `86400` for a day in 1970."""
    if not isinstance(day, str) or not re.fullmatch("[0-9]{4}-[0-9]{2}-[0-9]{2}", day):
        raise PydanticCustomError("date_form", "Write a date as 2030-01-31")
    return day


Day = Annotated[date, BeforeValidator(in_one_form, json_schema_input_type=date)]


class CamelModel(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True, extra="forbid")


class Card(CamelModel):
    kind: Literal["card"]
    card_number: Annotated[
        str, Field(pattern="^[0-9]{12,19}$", exclude=True, repr=False, examples=["4111111111111111"])
    ]

    # Pydantic makes a property of it. With `@property` in between, type checkers give up.
    @computed_field
    def last_digits(self) -> str:
        return self.card_number[-4:]


class Transfer(CamelModel):
    kind: Literal["transfer"]
    iban: Annotated[str, Field(pattern="^[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}$")]

    @field_serializer("iban")
    def without_the_middle(self, iban: str) -> str:
        return f"{iban[:4]} … {iban[-4:]}"


class Amount(CamelModel):
    cents: Annotated[int, Field(strict=True, ge=0, le=10**9, examples=[1250])]
    currency: Literal["EUR", "USD"]

    @model_serializer
    def as_text(self) -> str:
        return f"{self.cents // 100}.{self.cents % 100:02} {self.currency}"


class Address(CamelModel):
    street_name: Annotated[str, Field(min_length=1, max_length=100)]
    city: Annotated[str, Field(min_length=1, max_length=100)]


def kind_of_address(address: object) -> str:
    return "shop" if isinstance(address, str) else "street"


ShopId = Annotated[str, Field(pattern="^[a-z0-9-]{1,50}$", examples=["old-town"])]
Destination = Annotated[
    Annotated[ShopId, Tag("shop")] | Annotated[Address, Tag("street")], Discriminator(kind_of_address)
]


@with_config(ConfigDict(extra="forbid"))
@dataclass
class Line:
    product: Annotated[str, Field(min_length=1, max_length=100)]
    quantity: Annotated[int, Field(strict=True, ge=1, le=100)] = 1


class Order(CamelModel):
    pay_by: Annotated[Card | Transfer, Field(discriminator="kind")]
    send_to: Destination
    total: Amount
    deliver_on: Day
    lines: Annotated[list[Line], Field(min_length=1, max_length=MAX_LINES)]
    gift_note: Annotated[str | None, Field(max_length=200, exclude_if=lambda note: note is None)] = None
    picture: Annotated[Base64 | None, Field(exclude_if=lambda picture: picture is None)] = None


@router.post("/validation/orders")
async def place_order(order: Order) -> Order:
    """The order as it would be stored and shown."""
    return order


@router.put("/validation/payment")
async def choose_payment(
    payment: Annotated[Card | Transfer, Body(discriminator="kind")],
) -> Annotated[Card | Transfer, Field(discriminator="kind")]:
    """The same union as the whole body."""
    return payment


@router.put("/validation/cart")
async def fill_cart(
    lines: Annotated[list[Line], Body(min_length=1, max_length=MAX_LINES, fail_fast=True)],
) -> int:
    """A list as the whole body; the answer is the number of pieces."""
    return sum(line.quantity for line in lines)
