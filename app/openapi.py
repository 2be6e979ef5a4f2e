"""The OpenAPI document: FastAPI's own, with the shape of errors in it, and no parameter that is null."""

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute, RouteContext
from starlette.routing import BaseRoute

from app.errors import Problem

NULL = {"type": "null"}


def operation_id(route: APIRoute) -> str:
    """`streaming_events`: the tag, then the name of the function, for the methods of a generated client.

    FastAPI's own has the path and the method in it, so that a client changes with each path.
    """
    return "_".join([*map(str, route.tags[:1]), route.name])


class DocumentedApp(FastAPI):
    """An app whose document names the component that `PROBLEM_RESPONSES` refers to.

    `responses={"4XX": {"model": Problem}}` would add it too, but would document errors as
    `application/json`: FastAPI takes the media type of the route's own answer.
    """

    def openapi(self) -> dict[str, Any]:
        """FastAPI's method keeps its document until a route is added, and then makes another one."""
        return completed(super().openapi())


def document_of(
    app: FastAPI, title: str, routes: Sequence[BaseRoute | RouteContext], tags: list[dict[str, Any]]
) -> dict[str, Any]:
    """A document of some of the routes of `app`, with the components that these use and no others."""
    document = get_openapi(
        title=title,
        version=app.version,
        openapi_version=app.openapi_version,
        routes=routes,
        tags=tags,
        separate_input_output_schemas=app.separate_input_output_schemas,
    )
    return completed(document)


def completed(document: dict[str, Any]) -> dict[str, Any]:
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas = document.setdefault("components", {}).setdefault("schemas", {})
    schemas.update(problem.pop("$defs"), Problem=problem)
    # Said outright, for linters take silence for an oversight: what names no scheme is open to all.
    document.setdefault("security", [])
    for parameter in _parameters(document):
        _without_null(parameter["schema"])
    return document


def _parameters(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for item in document.get("paths", {}).values():
        for operation in item.values():
            yield from operation.get("parameters", [])


def _without_null(schema: dict[str, Any]) -> None:
    """`str | None` is what the endpoint gets. A client leaves out what it has not: `null` would be a text."""
    if NULL in schema.get("anyOf", []):
        kinds = [kind for kind in schema.pop("anyOf") if kind != NULL]
        schema |= kinds[0] if len(kinds) == 1 else {"anyOf": kinds}
