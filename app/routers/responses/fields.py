"""Which fields an answer has

The fields of an answer are those of its return type. Where one model serves several answers, the route says
which fields are left out: `response_model_exclude_unset` those that nobody has set,
`response_model_exclude_defaults` those that have their default, `response_model_exclude_none` the nulls,
and `response_model_include` and `response_model_exclude` those that are named. Use the first three for
sparse data. For an answer of another shape write another model: that one is documented.

`PATCH /responses/items/{item_id}` is the same question on the way in: which fields were sent? `MISSING` is
the default of a field that may be left out and may not be null; `model_dump()` then has what was sent and
nothing else. A field that may be null too is `str | None | MISSING`.

## The trap

All of these happen after the answer has been documented: the schema still lists every field, and one that
it calls required may be missing. `response_model_by_alias=False` sends names that the schema does not have.
Leave out only what has a default. `response_model_exclude={"salary"}` is no lock, for a field that is added
later is sent; a return type is. A response that is returned is not looked at by any of them. A model that
was read from a row has all its fields set, so `exclude_unset` leaves out nothing.

And a `PATCH` model with `name: str | None = None` cannot tell "not sent" from "make it null":
`model_dump()` erases what was not sent, and with `exclude_unset=True` a null still reaches the database.

## What is proven

- A contact has all its fields under their aliases.
- Fields that nobody has set are left out.
- Fields that have their default are left out whoever set them.
- Fields that are null are left out.
- Only the fields that are named are included.
- A field that is excluded is left out.
- Every sparse answer has the names that its schema requires.
- A patch changes the fields that were sent and no other.
- A patch with a null or an unknown field is refused.

## Read more

`@router.get(path, response_model_exclude_unset=True)`, `from pydantic import MISSING`. [Response
model](https://fastapi.tiangolo.com/tutorial/response-model/) and [partial
updates](https://fastapi.tiangolo.com/tutorial/body-updates/) in the FastAPI documentation,
[MISSING](https://docs.pydantic.dev/latest/concepts/experimental/) in that of Pydantic.
"""

from typing import Annotated

from fastapi import APIRouter
from pydantic import MISSING, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from app.routers.responses.html import FoundItem
from app.routers.validation.models import NameOfThing

MAX_PRICE_CENTS = 2**31 - 1
"""What an integer of every database holds."""

router = APIRouter(prefix="/responses", tags=["responses"])


class Contact(BaseModel):
    """Only what may be left out has a default, and only what has a default is left out."""

    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True)

    full_name: str
    nick_name: str | None = None
    language: str = "en"
    phone: str | None = None
    newsletter: bool = False


ADA = Contact(full_name="Ada Lovelace", nick_name=None, language="en")
"""With a null and a default that were set, and two fields that were not."""


@router.get("/contact")
async def contact() -> Contact:
    """All fields."""
    return ADA


@router.get("/contact/set", response_model_exclude_unset=True)
async def set_fields() -> Contact:
    """What somebody has set, be it to a null or to the default."""
    return ADA


@router.get("/contact/unusual", response_model_exclude_defaults=True)
async def unusual_fields() -> Contact:
    """What differs from the default."""
    return ADA


@router.get("/contact/known", response_model_exclude_none=True)
async def known_fields() -> Contact:
    """What is not null."""
    return ADA


# By the names of the model, not by the aliases.
@router.get("/contact/brief", response_model_include={"full_name", "language"})
async def brief() -> Contact:
    """Two fields that are named."""
    return ADA


@router.get("/contact/public", response_model_exclude={"phone"})
async def public_fields() -> Contact:
    """All but one field that is named."""
    return ADA


class StoredItem(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    name: str
    price_cents: int


class ItemPatch(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"price_cents": 450}]},
    )

    name: Annotated[NameOfThing, Field(min_length=1)] | MISSING = MISSING
    price_cents: Annotated[int, Field(strict=True, ge=0, le=MAX_PRICE_CENTS)] | MISSING = MISSING


@router.patch("/items/{item_id}")
async def change_item(item: FoundItem, patch: ItemPatch) -> StoredItem:
    """Changes the fields that are sent."""
    # The session that has found the item commits when this returns.
    for name, value in patch.model_dump().items():
        setattr(item, name, value)
    return StoredItem.model_validate(item)
