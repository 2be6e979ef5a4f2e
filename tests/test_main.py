"""What holds for the app as a whole."""

import re
from collections.abc import Sequence

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.routing import iter_route_contexts
from fastapi.testclient import TestClient
from starlette.routing import BaseRoute, Host, WebSocketRoute

from app.main import create_app
from app.settings import Settings

ROUTES = """
    GET /                          GET /openapi.json            HEAD /openapi.json
    GET /catalogue                 GET /docs                    GET /redoc
    GET /pages/{group}/{name}      GET /sources/{path:path}    MOUNT /static                MOUNT /_docs
    GET /middleware/stack          GET /middleware/timing/sleep GET /middleware/timing/stream
    WS /ws                         WS /ws/{client_id}           WS /chat
    WS /rooms/{room}               GET /rooms/{room}/events     POST /rooms/{room}/messages
    GET /websockets/open           POST /rooms/tickets          WS /guarded/first-message
    WS /guarded/cookie             WS /guarded/ticket           WS /guarded/header
    WS /guarded/subprotocol        GET /rooms
    POST /notify                   POST /send-notification/{email}
    POST /tasks                    GET /tasks/{task_id}         DELETE /tasks/{task_id}
    GET /tasks/{task_id}/events
    GET /items/                    GET /items                   GET /items/query-or-cookie
    GET /dependencies/cache        GET /dependencies/model      GET /dependencies/preview
    GET /dependencies/threads      GET /dependencies/partner    POST /dependencies/timelines
    GET /dependencies/prices/{name}                             PUT /dependencies/prices/{name}
    GET /dependencies/timelines/{timeline_id}
    GET /responses/orjson          GET /responses/odd           GET /responses/typed
    GET /responses/accounts        GET /responses/report        POST /responses/beacon
    GET /responses/checksum        GET /responses/contact       GET /responses/contact/set
    GET /responses/contact/unusual GET /responses/contact/known GET /responses/contact/brief
    GET /responses/contact/public  PATCH /responses/items/{item_id}
    GET /responses/items           GET /responses/hints
    GET /items/{item_id}           GET /items/{item_id}/label
    GET /headers                   GET /custom-headers          GET /redirect
    GET /responses/greeting        POST /responses/greeting     GET /set-cookie
    GET /responses/visit           POST /responses/visit        DELETE /responses/visit
    POST /graphql
    GET /health                    GET /ready
    GET /unicorns/{name}           GET /errors/crash            GET /errors/stream
    WS /errors/socket/{moment}     GET /application/settings    GET /application/telemetry/work
    GET /application/telemetry/metrics                          GET /application/telemetry/traces
    GET /application/telemetry/traces/{trace_id}
    POST /users                    GET /users/{user_id}         GET /validation/order
    POST /validation/articles      POST /validation/webhook     POST /validation/measurements
    POST /validation/orders        PUT /validation/payment      PUT /validation/cart
    POST /validation/survey        POST /validation/note        QUERY /validation/search
    GET /validation/things         GET /validation/things/{thing}
    GET /validation/headers        GET /validation/cookies      PUT /validation/volume
    POST /validation/contact       POST /validation/document    POST /validation/thumbnail
    POST /upload                   POST /upload/                POST /upload/spooled
    GET /files/uploads             GET /files/uploads/{upload_id}/events
    OPTIONS /files/uploads         POST /files/uploads          GET /files/uploads/{upload_id}
    PATCH /files/uploads/{upload_id}                            DELETE /files/uploads/{upload_id}
    GET /files/{file_id}           GET /download                GET /files/static/manifest
    POST /files/direct             POST /files/direct/{file_id}/confirm
    GET /files                     DELETE /files/{file_id}
    GET /streaming/events          GET /streaming/feed          POST /streaming/feed
    POST /streaming/answers        GET /streaming/rows           PATCH /streaming/rows
    GET /streaming/owners/{owner_id}/rows.csv
    GET /composition/openapi/temperature                        GET /composition/openapi/fahrenheit
    GET /composition/openapi/documents/{group}
    POST /composition/webhooks/subscriptions                    POST /composition/webhooks/announcements
    GET /composition/webhooks/subscriptions/{subscription_id}
    DELETE /composition/webhooks/subscriptions/{subscription_id}
    GET /security/caller           GET /security/visitor        GET /security/account
    WS /security/socket
    GET /security/session          GET /security/session/member
    POST /security/session/login   POST /security/session/note  POST /security/session/logout
    POST /security/oauth2/accounts GET /security/oauth2/accounts
    POST /security/oauth2/token    POST /security/oauth2/refresh
    POST /security/oauth2/revoke   GET /security/oauth2/me      GET /security/oauth2/greeting
    GET /asyncapi.json
    HOST {tenant}.localhost        MOUNT /composition/shop      MOUNT /composition/legacy
    GET /composition/caller        MOUNT /composition/site/api
    GET /composition/report        GET /composition/report
"""


def claims(routes: Sequence[BaseRoute]) -> list[str]:
    """Method and path of every route, `WS` for sockets, `MOUNT` for mounts and `HOST` for hosts, sorted."""
    found = []
    for route in iter_route_contexts(routes):
        if isinstance(route.original_route, Host):
            found.append(f"HOST {route.original_route.host}")
            continue
        kind = "WS" if isinstance(route.original_route, WebSocketRoute) else "MOUNT"
        found += [f"{method} {route.path}" for method in route.methods or {kind}]
    return sorted(found)


def test_these_routes_are_served_and_no_two_claim_the_same_method_and_path(app: FastAPI) -> None:
    assert claims(app.routes) == sorted(re.findall(r"[A-Z]+ \S+", ROUTES))


def test_trap_the_second_of_two_equal_routes_is_silently_never_called() -> None:
    app = FastAPI()
    routers = [APIRouter(), APIRouter()]
    for number, router in enumerate(routers):
        router.add_api_route("/items/", lambda number=number: number)
        app.include_router(router)
    assert TestClient(app).get("/items/").json() == 0
    assert claims(app.routes).count("GET /items/") == 2


def test_two_apps_can_be_made_in_one_process_with_different_limits(settings: Settings) -> None:
    app, other = create_app(settings), create_app(settings.model_copy(update={"docs": False}))
    assert (app.openapi_url, other.openapi_url) == ("/openapi.json", None)


@pytest.mark.parametrize("path", ["/nope", "/health/"])
def test_no_redirect_is_made_from_the_host_of_the_caller(app: FastAPI, path: str) -> None:
    answer = TestClient(app, follow_redirects=False).get(path)
    assert answer.status_code == 404
