from typing import Annotated, Any

from fastapi import Body, FastAPI
from fastapi.testclient import TestClient


def taking(kind: Any) -> TestClient:
    """A client of a plain app whose `POST /` takes a body of this type and answers it."""

    async def take(body: Any) -> Any:
        return body

    take.__annotations__ = {"body": Annotated[kind, Body()], "return": kind}
    app = FastAPI()
    app.add_api_route("/", take, methods=["POST"])
    return TestClient(app, raise_server_exceptions=False)


def answer_of(endpoint: Any, query: str = "", **options: Any) -> Any:
    app = FastAPI()
    app.add_api_route("/", endpoint, methods=["GET", "POST"])
    return TestClient(app, raise_server_exceptions=False).request(
        options.pop("method", "GET"), f"/?{query}", **options
    )


def refused(answer: Any) -> list[tuple[list[str | int], str]]:
    """Place and kind of each error of a 422."""
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    return [(error["loc"], error["type"]) for error in answer.json()["errors"]]
