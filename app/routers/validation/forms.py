"""Forms, files and JSON in a form

A form is a Pydantic model, `Annotated[Person, Form()]`, or one of several, told apart by a field
(`Form(discriminator="kind")`). It may hold a file, and then needs `media_type="multipart/form-data"`.
Whatever is not a file is text: `""` for a single field means that it was left out, and a checkbox that is
not ticked is not sent, so its default is `False`. In a list `""` is an item, so the items have bounds too.

What is nested goes into one field as JSON: `Json[Details]` reads a text, and a browser sends one by
`form.append("details", JSON.stringify(details))`. A `Blob`, also one of `application/json`, is sent as a
file: it counts in `max_files`, and `Json` and `str` refuse it. To take one, make the field an `UploadFile`,
read it with `model_validate_json`, and raise what that finds as a `RequestValidationError`.

Bound every form by `form_limits`. What is sent twice is refused, unless it is a list: `OnceInForm` hangs on
this router only, for it would read the body of any other route as a form, too.

## The trap

`Json[list[int]]` in a form is a 500 for a file in its place: FastAPI asks for the length of the list
before it looks at what it has. Put a model around the list, and that into the model of the form; as the
only parameter of an endpoint `Json[Details]` refuses every text.

Bytes that are not UTF-8 are no error. Raw or in a part they are read as Latin-1 (`ÿ`), as `%FF` they become
`�`, and afterwards nobody can tell. Where each character counts take JSON, which refuses them.

Parts are decoded by whatever codec of Python the client names, `multipart/form-data; charset=punycode`: one
megabyte of that stops the event loop for 40 seconds. `app/middleware/form_charset.py` refuses all but UTF-8.

JSON sent to a form without required fields is an empty form. A field that was emptied is its default
again. A file of `bytes` takes a text too, and the `media_type` of a `File` is neither checked nor documented.

## What is proven

- A form is one of two models, told apart by its kind.
- An empty field counts as left out and a checkbox as false.
- An empty text in a list is an item and is refused.
- A field that is sent twice is refused unless it is a list.
- A form model takes a file and refuses unknown fields.
- A text of a form may be JSON with a model of its own.
- A blob in the place of a text is refused and counts as a file.
- No form of this service fails at a file in the place of a text.
- A form in another charset than UTF-8 is refused.
- A small file arrives as bytes.

## Read more

`Form`, `File`, `UploadFile`, `form_limits=`, pydantic's `Json`.
[Form models](https://fastapi.tiangolo.com/tutorial/request-form-models/) and
[forms and files](https://fastapi.tiangolo.com/tutorial/request-forms-and-files/) in the FastAPI
documentation, [FormData](https://developer.mozilla.org/docs/Web/API/FormData/append) at MDN.
"""

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, File, Form, Request, UploadFile
from pydantic import BaseModel, Field, Json

from app.routers.validation.parameters import Once

MAX_THUMBNAIL = 50_000


class OnceInForm(Once):
    """Refuses a field or a file that is sent more than once, but for those of lists."""

    async def __call__(self, request: Request) -> None:
        self.refuse_repeated("body", await request.form())


router = APIRouter(
    tags=["validation"],
    dependencies=[Depends(OnceInForm("skills"))],
    # Of files one more than a form has: the refusal of one in the place of a text can then name that place.
    form_limits={"max_files": 2, "max_fields": 20},
)


class Person(BaseModel):
    kind: Literal["person"]
    name: Annotated[str, Field(min_length=1, max_length=100)]
    newsletter: bool = False
    skills: Annotated[list[Annotated[str, Field(min_length=1, max_length=50)]], Field(max_length=10)] = []


class Company(BaseModel):
    kind: Literal["company"]
    name: Annotated[str, Field(min_length=1, max_length=100)]
    vat: Annotated[str, Field(min_length=1, max_length=20)]


@router.post("/validation/contact")
async def contact(form: Annotated[Person | Company, Form(discriminator="kind")]) -> Person | Company:
    """A form for persons and for companies."""
    return form


class Details(BaseModel, extra="forbid"):
    language: Literal["de", "en"] = "en"
    pages: Annotated[list[Annotated[int, Field(ge=1, le=10_000)]], Field(max_length=100)] = []


class Document(BaseModel, extra="forbid"):
    title: Annotated[str, Field(max_length=100)] = "Untitled"
    details: Annotated[Json[Details], Field(default_factory=Details)]
    file: UploadFile


class Received(BaseModel):
    title: str
    details: Details
    size: int | None


@router.post("/validation/document")
async def document(form: Annotated[Document, Form(media_type="multipart/form-data")]) -> Received:
    """A form with a file; without `media_type` the API documentation would tell of a form without files."""
    return Received(title=form.title, details=form.details, size=form.file.size)


@router.post("/validation/thumbnail")
async def thumbnail(image: Annotated[bytes, File(max_length=MAX_THUMBNAIL)]) -> int:
    """The size of a file that is small enough to be held as bytes."""
    return len(image)
