"""What holds for the app as a whole."""

from collections import Counter
from collections.abc import Sequence

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from starlette.routing import BaseRoute

from app.main import create_app
from app.settings import Settings


def claimed_twice(routes: Sequence[BaseRoute]) -> list[tuple[str, str | None]]:
    """Methods and paths that two routes answer: only the first ever would."""
    claims = Counter(
        (method, route.path)
        for route in iter_route_contexts(routes)
        for method in route.methods or {"WEBSOCKET"}
    )
    return [claim for claim, count in claims.items() if count > 1]


def test_no_two_routes_claim_the_same_method_and_path(app: FastAPI) -> None:
    assert claimed_twice(app.routes) == []


def test_trap_the_second_of_two_equal_routes_is_silently_never_called() -> None:
    app = FastAPI()
    routers = [APIRouter(), APIRouter()]
    for number, router in enumerate(routers):
        router.add_api_route("/items/", lambda number=number: number)
        app.include_router(router)
    assert TestClient(app).get("/items/").json() == 0
    assert claimed_twice(app.routes) == [("GET", "/items/")]


def test_two_apps_can_be_made_in_one_process_with_different_limits(settings: Settings) -> None:
    app, other = create_app(settings), create_app(settings.model_copy(update={"docs": False}))
    assert (app.openapi_url, other.openapi_url) == ("/openapi.json", None)


@pytest.mark.parametrize("path", ["/nope", "/health/"])
def test_no_redirect_is_made_from_the_host_of_the_caller(app: FastAPI, path: str) -> None:
    answer = TestClient(app, follow_redirects=False).get(path)
    assert answer.status_code == 404
