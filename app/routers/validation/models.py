"""Validating a body with a model

`POST /users` takes a JSON body as a Pydantic model. Types and bounds say most of what is needed; what is
left goes into validators, and a validator that several fields may share goes into a type: `Name` and
`Email` below are ordinary annotations, and the GraphQL page takes the same `Name`. A rule about two fields
is a `@model_validator(mode="after")`, a plain method. `extra="forbid"` refuses a misspelt field instead of
ignoring it.

Raise `PydanticCustomError`: its message reaches the client as it is. What a validator returns is stored,
so it is also the place to bring a value into one form: names lose double spaces, addresses their capitals,
and both are in Unicode's composed form. A name is one line: for prose, copy `in_one_form` without the
`split`, and let line breaks through (a browser sends each as CR and LF). That an address is free is not for a
validator: only the database knows, by its unique index, in the moment of writing.

There is no authorization here: whoever can reach the service may add a user, and reads the name of any.

## The trap

`@root_validator` raises at import unless it has `pre=True` or `skip_on_failure=True`; with one of them it
warns, as `@validator` does. `'@' in email` takes `'@'`. `if age and age < 13` lets an age of 0 pass, and an
`int` takes `false` for 0. `name.title()` makes `Mcdonald` of McDonald and `Ben'S` of Ben's. FastAPI's own
422 repeats the input, passwords too, and is a 500 when the body is binary or holds `NaN`; a handler with
`JSONResponse(exc.errors())` is a 500 for every `ValueError`.

## What is proven

- A user is stored, with each word of the name in title case, and can be read at its location.
- Names keep their inner capitals, their apostrophes and their accents.
- A name needs a space and has no control characters.
- An address is one bare address in lower case.
- A child needs consent, at the age of 0 too.
- An age is a whole number from 0 to 150.
- A second user with the same address is refused, even at the same time.
- Unknown fields are refused.
- Of the body, a refusal repeats no value and at most 20 names, each cut at 200 characters.
- The table of users has a limit, however many sign up at once.

## Read more

`Annotated[str, AfterValidator(f)]`, `@field_validator`, `@model_validator(mode="after")`,
`PydanticCustomError(type, message)`.
[Request body](https://fastapi.tiangolo.com/tutorial/body/) in the FastAPI documentation,
[validators](https://docs.pydantic.dev/latest/concepts/validators/) in Pydantic's.
"""

import unicodedata
from typing import Annotated, Self

from fastapi import APIRouter, Path, Request, Response
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    EmailStr,
    Field,
    StrictBool,
    model_validator,
)
from pydantic_core import PydanticCustomError
from sqlalchemy.exc import IntegrityError

from app.database.models import User
from app.database.room import ensure_room
from app.dependencies import SessionDep, SettingsDep
from app.errors import Conflict, NotFound

MAX_NAME_LENGTH = 100
MAX_AGE = 150
AGE_OF_CONSENT = 13

# Controls, line separators, and the marks that turn the direction of text: they forge what a person reads.
FORBIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Zl", "Zp"}
JOINERS = "\u200c\u200d"
"""Of category Cf, but letters of Persian and Indian names depend on them."""

router = APIRouter(tags=["validation"])


def in_one_form(name: str) -> str:
    if any(unicodedata.category(char) in FORBIDDEN_CATEGORIES and char not in JOINERS for char in name):
        raise PydanticCustomError("name_characters", "Name must not contain control characters")
    return " ".join(unicodedata.normalize("NFC", name).split())


def in_title_case(name: str) -> str:
    if " " not in name:
        raise PydanticCustomError("name_space", "Name must contain a space")
    # Only first letters: title() of the whole would also lower the D of McDonald.
    return " ".join(word[0].title() + word[1:] for word in name.split())


def still_short_enough(name: str) -> str:
    """The composed form of a few letters is longer, and so is title case: ß becomes Ss."""
    if len(name) > MAX_NAME_LENGTH:
        raise PydanticCustomError("name_length", "Name is too long")
    return name


def refuse_display_name(email: object) -> object:
    """`EmailStr` also takes `Ada <ada@example.com>`."""
    if isinstance(email, str) and "<" in email:
        raise PydanticCustomError("email_display_name", "Give the address only, without a name")
    return email


# The second limit bounds what is stored; the first, the work on what was sent.
NameOfThing = Annotated[
    str,
    Field(max_length=MAX_NAME_LENGTH),
    AfterValidator(in_one_form),
    AfterValidator(still_short_enough),
]
Name = Annotated[NameOfThing, AfterValidator(in_title_case), AfterValidator(still_short_enough)]
Email = Annotated[EmailStr, BeforeValidator(refuse_display_name), AfterValidator(str.lower)]
# Strict, for Python takes False for 0.
Age = Annotated[int, Field(strict=True, ge=0, le=MAX_AGE)]


class NewUser(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={"examples": [{"name": "katherine johnson", "email": "katherine@example.com"}]},
    )

    name: Name
    email: Email
    age: Age | None = None
    parental_consent: StrictBool = False

    @model_validator(mode="after")
    def children_have_consent(self) -> Self:
        if self.age is not None and self.age < AGE_OF_CONSENT and not self.parental_consent:
            raise PydanticCustomError("parental_consent", "Children must have parental consent")
        return self


class PublicUser(BaseModel):
    """What `GET /users/{user_id}` tells whoever asks. GraphQL tells the e-mail too; neither tells the age."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str


class OwnUser(PublicUser):
    """What `POST /users` answers, to the one who has just sent it."""

    email: str
    age: int | None


@router.post("/users", status_code=201)
async def create_user(
    new: NewUser, session: SessionDep, settings: SettingsDep, request: Request, response: Response
) -> OwnUser:
    """Stores a user."""
    await ensure_room(session, User, settings.max_users)
    user = User(name=new.name, email=new.email, age=new.age)
    session.add(user)
    try:
        await session.flush()
    except IntegrityError:
        raise Conflict("There is a user with this e-mail address.") from None
    response.headers["Location"] = request.url_for("read_user", user_id=user.id).path
    return OwnUser.model_validate(user)


@router.get("/users/{user_id}")
async def read_user(user_id: Annotated[int, Path(ge=1, le=2**31 - 1)], session: SessionDep) -> PublicUser:
    """The public fields of a user."""
    user = await session.get(User, user_id)
    if user is None:
        raise NotFound("There is no such user.")
    return PublicUser.model_validate(user)
