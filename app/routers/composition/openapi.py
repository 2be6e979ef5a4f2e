"""A document to generate clients from

`/openapi.json` is read by programs: generators of clients, of tests, of documentation. What is missing or
ugly there is missing or ugly in their code. So every operation of this service has a name that reads well, a
tag, a text, named schemas, and its errors; `app/openapi.py` has what that takes. Most of it comes from the
code: types, docstrings, names. What the types cannot say stands beside the route: examples, the
description of an answer, another media type, a header, a link.

`FastAPI(generate_unique_id_function=)` makes the names: tag and function, as in `streaming_events`. A method
`openapi()` of an own class of app adds what FastAPI does not know, here the shape of errors. FastAPI keeps
its document until a route is added, so what is changed in it must be changed in the same way each time.

One app can have several documents. Here each group of pages has one, made by `get_openapi` from the routes
with its tag, with only the schemas that they use. `app.routes` is a tree of routers since FastAPI 0.137:
`iter_route_contexts` walks it, and knows the prefix, the tags and the responses that each level adds.

## The trap

FastAPI's own operation ids contain the path and the method, as in `items_items__get`: every path that is
renamed renames a method of all clients. Ids by hand are soon there twice, which is a warning in a log and one
method less in the client; and a route with two methods has its id twice always.

A model that is both taken and given is two schemas, `Price-Input` and `Price-Output`, as soon as the two
differ, and the class of the client is renamed on that day. With `separate_input_output_schemas=False` it is
one, that of the input, in which what is always given looks optional; and two all the same with a computed
field. Take two models. And two models of one name are `app__routers__security__schemes__Caller` and the like.

`app.openapi_url = "/other.json"` changes nothing: the route was made when the app was, by `setup()`.

## What is proven

- Every operation has a readable id, a summary, a description, a tag and its errors.
- Every schema has a name of its own that reads well.
- An answer in two media types is described and given as asked.
- The examples of the document are accepted.
- A deprecated operation says so in the document and in its answer.
- A group has a document with its routes and the schemas that they use.
- What stands behind a form feed is not in the document.
- The document is made anew when a route is added, with the same additions.

## Read more

`responses=`, `openapi_examples=`, `json_schema_extra=`, `openapi_extra=`, `response_description=`,
`fastapi.openapi.utils.get_openapi`, `fastapi.routing.iter_route_contexts`.
[Additional responses](https://fastapi.tiangolo.com/advanced/additional-responses/),
[generating clients](https://fastapi.tiangolo.com/advanced/generate-clients/) and
[extending OpenAPI](https://fastapi.tiangolo.com/how-to/extending-openapi/) in the FastAPI documentation.
"""

from typing import Annotated, Any, Self

from fastapi import APIRouter, Header, Path, Query, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel, ConfigDict

from app.dependencies import SettingsDep
from app.errors import NotFound
from app.openapi import document_of

ABSOLUTE_ZERO = -273.15
MAX_CELSIUS = 1e9
DEFINITION = {"url": "https://www.bipm.org/en/measurement-units", "description": "What a degree is"}

router = APIRouter(prefix="/composition/openapi", tags=["composition"])


class Temperature(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"celsius": 37.0, "fahrenheit": 98.6}]})

    celsius: float
    fahrenheit: float

    @classmethod
    def of(cls, celsius: float) -> Self:
        return cls(celsius=celsius, fahrenheit=round(celsius * 1.8 + 32, 2))


Celsius = Annotated[
    float,
    Query(
        ge=ABSOLUTE_ZERO,
        le=MAX_CELSIUS,
        openapi_examples={
            "body": {"summary": "A healthy body", "value": 37},
            "zero": {"summary": "As cold as can be", "value": ABSOLUTE_ZERO},
        },
    ),
]

IN_TWO_FORMS: dict[int | str, dict[str, Any]] = {
    200: {
        "content": {"text/plain; charset=utf-8": {"schema": {"type": "string"}, "example": "98.6 °F"}},
        "headers": {"Vary": {"description": "Accept decides", "schema": {"type": "string"}}},
    }
}


@router.get(
    "/temperature",
    summary="Convert a temperature",
    response_model=Temperature,
    response_description="In both units; as plain text the other one only",
    responses=IN_TWO_FORMS,
    openapi_extra={"externalDocs": DEFINITION},  # the decorator has no parameter for it
)
async def convert(celsius: Celsius, accept: Annotated[str, Header(include_in_schema=False)] = "") -> Response:
    """From Celsius to Fahrenheit, as JSON, or as plain text for those who ask for it.
    \f
    Readers of the code see this line; readers of the document do not.
    """
    converted = Temperature.of(celsius)
    vary = {"Vary": "Accept"}
    if "text/plain" in accept:
        return PlainTextResponse(f"{converted.fahrenheit} °F", headers=vary)
    return JSONResponse(converted.model_dump(), headers=vary)


@router.get("/fahrenheit", deprecated=True, operation_id="composition_convert_by_old_path")
async def convert_by_old_path(celsius: Celsius, request: Request, response: Response) -> Temperature:
    """As it was called before. Its header names the operation that has taken its place."""
    response.headers["Deprecation"] = "@1767225600"  # since the first day of 2026 (RFC 9745)
    response.headers["Link"] = f'<{request.url_for("convert").path}>; rel="successor-version"'
    return Temperature.of(celsius)


def name_groups(schema: dict[str, Any]) -> None:
    """Called when a document is made: then the catalogue, which imports this module, is complete."""
    from app.catalogue import GROUPS

    schema["enum"] = list(GROUPS)


# A plain `def`: to make a document is work, which a thread does.
@router.get("/documents/{group}", summary="A document of one group")
def show_document(
    group: Annotated[str, Path(json_schema_extra=name_groups)], request: Request, settings: SettingsDep
) -> dict[str, Any]:
    """The OpenAPI document of the pages of one group."""
    tags = [tag for tag in request.app.openapi_tags or () if tag["name"] == group]
    if not settings.docs or not tags:
        raise NotFound("There is no such document.")
    routes = [
        route for route in iter_route_contexts(request.app.routes) if group in getattr(route, "tags", ())
    ]
    return document_of(request.app, f"{request.app.title}: {group}", routes, tags)
