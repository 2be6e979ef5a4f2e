"""Validators and their order

A validator is a function on the way of a value into a model. There are four modes. `after` gets a value
that has its type already: the first choice. `before` gets whatever was sent, and may bring another form
into the expected one. `wrap` gets a handler that does the rest, so it may look at both sides of it, and
catch its error. `plain` takes the place of the type: nothing else is checked.

In `Annotated` a validator belongs to a type that many models share; as a decorator, to one field of one
model. A model has `before`, `wrap` and `after` of its own, the last a plain method. They nest like shells:
what stands further out runs first on the way in and last on the way out. `GET /validation/order` shows it.

`ValidationInfo` is an optional last argument. Its `context` is what the caller of `model_validate` hands
over; here the list that the order is written to. FastAPI hands over nothing: a rule that needs the user or
the database belongs in a dependency. Its `data` has the fields above this one that were valid; a default that
follows from them is a `default_factory` with one argument. Defaults are trusted, so set `validate_default`
where one is made of what a client sent.

## The trap

A `before` validator sees the raw input: a `TypeError` in it is a 500, and so is `info.data["start"]` when
`start` was not valid. A `plain` validator on an `int` lets a text pass, and the schema promises less than
one thinks. A `classmethod` with `mode="after"` still runs, and warns. Models of `pydantic.v1` are refused.

## What is proven

- Validators run from the outside in and out again.
- A before validator takes another form and leaves the rest to the type.
- A wrap validator puts an error into plain words.
- A default that is made from another field is validated like what is sent.

## Read more

`@field_validator(name, mode=)`, `@model_validator(mode=)`, `BeforeValidator(f, json_schema_input_type=)`,
`AfterValidator`, `WrapValidator`, `PlainValidator`, `ValidationInfo`.
[Validators](https://docs.pydantic.dev/latest/concepts/validators/) in Pydantic's documentation.
"""

import re
from collections.abc import Callable
from typing import Annotated, Any, Self

from fastapi import APIRouter
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    PlainValidator,
    ValidationError,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

MAX_SLUG_LENGTH = 60
MAX_TAGS = 5

router = APIRouter(tags=["validation"])


def write_down(step: str, info: ValidationInfo) -> None:
    assert info.context is not None
    info.context.append(step)


def noted(step: str) -> Callable[[Any, ValidationInfo], Any]:
    """A validator that changes nothing and writes its name into the context."""

    def note(value: Any, info: ValidationInfo) -> Any:
        write_down(step, info)
        return value

    return note


def annotated_wrap(value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
    write_down("annotated wrap, in", info)
    value = handler(value)
    write_down("annotated wrap, out", info)
    return value


class Trace(BaseModel):
    value: Annotated[
        int,
        BeforeValidator(noted("annotated before")),
        AfterValidator(noted("annotated after")),
        WrapValidator(annotated_wrap),
    ]
    unchecked: Annotated[int, PlainValidator(noted("annotated plain"))]
    unchecked_too: int

    @field_validator("value", mode="before")
    @classmethod
    def field_before(cls, value: Any, info: ValidationInfo) -> Any:
        return noted("field before")(value, info)

    @field_validator("value", mode="after")
    @classmethod
    def field_after(cls, value: int, info: ValidationInfo) -> Any:
        return noted("field after")(value, info)

    @field_validator("value", mode="wrap")
    @classmethod
    def field_wrap(cls, value: Any, handler: ValidatorFunctionWrapHandler, info: ValidationInfo) -> Any:
        write_down("field wrap, in", info)
        value = handler(value)
        write_down("field wrap, out", info)
        return value

    @field_validator("unchecked_too", mode="plain")
    @classmethod
    def field_plain(cls, value: Any, info: ValidationInfo) -> Any:
        return noted("field plain")(value, info)

    @model_validator(mode="before")
    @classmethod
    def model_before(cls, data: Any, info: ValidationInfo) -> Any:
        return noted("model before")(data, info)

    @model_validator(mode="wrap")
    @classmethod
    def model_wrap(cls, data: Any, handler: ModelWrapValidatorHandler[Self], info: ValidationInfo) -> Self:
        write_down("model wrap, in", info)
        trace = handler(data)
        write_down("model wrap, out", info)
        return trace

    @model_validator(mode="after")
    def model_after(self, info: ValidationInfo) -> Self:
        write_down("model after", info)
        return self


@router.get("/validation/order")
async def order() -> list[str]:
    """The validators of one model, in the order in which they ran."""
    steps: list[str] = []
    Trace.model_validate({"value": 1, "unchecked": 2, "unchecked_too": 3}, context=steps)
    return steps


def split_at_commas(tags: object) -> object:
    """What is no text goes on as it is: the type refuses it better than an exception here would."""
    return [tag.strip() for tag in tags.split(",")] if isinstance(tags, str) else tags


def in_plain_words(slug: Any, handler: ValidatorFunctionWrapHandler) -> Any:
    try:
        return handler(slug)
    except ValidationError:
        message = "Use small letters, digits and single hyphens, {most} at most"
        raise PydanticCustomError("slug", message, {"most": MAX_SLUG_LENGTH}) from None


def slug_of_title(data: dict[str, Any]) -> str:
    return "-".join(re.findall("[a-z0-9]+", data["title"].lower()))


WORDS = "[a-z0-9]+(-[a-z0-9]+)*"
Slug = Annotated[
    str,
    Field(max_length=MAX_SLUG_LENGTH, pattern=f"^{WORDS}$", examples=["green-tea"]),
    WrapValidator(in_plain_words),
]
TagsInText = Annotated[str, Field(pattern=rf"^\s*{WORDS}(\s*,\s*{WORDS}){{0,{MAX_TAGS - 1}}}\s*$")]
Tags = Annotated[
    list[Slug],
    Field(max_length=MAX_TAGS),
    # To the schema alone, which would know of a list only.
    BeforeValidator(split_at_commas, json_schema_input_type=list[Slug] | TagsInText),
]


class Article(BaseModel):
    model_config = ConfigDict(extra="forbid")

    title: Annotated[str, Field(min_length=1, max_length=100, examples=["Green tea"])]
    tags: Tags = []
    slug: Slug = Field(default_factory=slug_of_title, validate_default=True)


@router.post("/validation/articles")
async def name_article(article: Article) -> Article:
    """The article as it would be stored: its tags as a list, its slug made from the title if it has none."""
    return article
