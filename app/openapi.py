"""The OpenAPI document: FastAPI's own, with the shape of errors among its components."""

from typing import Any

from fastapi import FastAPI

from app.errors import Problem


class DocumentedApp(FastAPI):
    """Adds the component that `PROBLEM_RESPONSES` refers to.

    `responses={"default": {"model": Problem}}` would add it too, but would document errors as
    `application/json`: FastAPI takes the media type of the route's own answer.
    """

    def openapi(self) -> dict[str, Any]:
        document = super().openapi()
        problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas.update(problem.pop("$defs"), Problem=problem)
        return document
