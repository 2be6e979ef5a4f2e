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
