import base64
import hashlib
import json
import math
import warnings
from datetime import UTC, date, datetime
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.datastructures import Default
from fastapi.encoders import jsonable_encoder
from fastapi.exceptions import FastAPIDeprecationWarning, FastAPIError
from fastapi.responses import JSONResponse, ORJSONResponse, Response, UJSONResponse
from fastapi.testclient import TestClient

from app.main import create_app
from app.routers.responses.json import Account, OrjsonResponse, StoredAccount
from app.settings import Settings


def test_the_orjson_route_answers_with_exactly_the_item(client: TestClient) -> None:
    answer = client.get("/responses/orjson")
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.content == b'[{"item_id":"Foo"}]'


def test_the_orjson_route_is_described_in_the_schema(client: TestClient) -> None:
    operation = client.get("/openapi.json").json()["paths"]["/responses/orjson"]["get"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    assert schema["items"] == {"$ref": "#/components/schemas/ItemRef"}


def test_fields_that_the_return_type_does_not_name_are_left_out(client: TestClient) -> None:
    assert client.get("/responses/accounts").json() == [{"name": "Ada"}]


def test_a_return_type_lets_pydantic_write_the_bytes_without_a_response_class(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: JSONResponse, content: Any) -> bytes:
        raise AssertionError("the response class was asked to write")

    monkeypatch.setattr(JSONResponse, "render", refuse)
    assert client.get("/responses/accounts").json() == [{"name": "Ada"}]


def test_a_return_type_writes_nan_as_null_numbers_as_keys_and_integers_of_any_size(
    client: TestClient,
) -> None:
    content = client.get("/responses/typed").content
    assert content == b'{"ratio":null,"names":{"1":"a number as key"},"atoms":1180591620717411303424}'


def test_the_null_of_a_number_that_is_none_is_documented(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()["components"]["schemas"]["Reading"]
    assert {"type": "null"} in schema["properties"]["ratio"]["anyOf"]


def test_a_dataclass_is_documented_like_a_model_and_its_bytes_are_base64_for_urls(client: TestClient) -> None:
    empty = hashlib.sha256(b"").digest()
    digest = base64.urlsafe_b64encode(empty).decode()
    assert digest != base64.b64encode(empty).decode()
    assert client.get("/responses/checksum").json() == {"algorithm": "sha256", "digest": digest}
    schema = client.get("/openapi.json").json()["components"]["schemas"]["Checksum"]
    assert schema["properties"]["digest"]["contentEncoding"] == "base64"


def test_trap_bytes_that_are_no_text_are_a_500_without_an_encoding() -> None:
    async def digest() -> dict[str, bytes]:
        return {"digest": hashlib.sha256(b"").digest()}

    assert answer_of(digest).status_code == 500


def test_the_own_response_class_writes_the_same_odd_values_without_a_model(client: TestClient) -> None:
    assert client.get("/responses/odd").json() == {
        "1": "a number as key",
        "2026-01-31": "a date as key",
        "ratio": None,
        "atoms": 2**70,
        "at": "2026-01-31T12:00:00Z",
        "tags": ["set"],
    }


NOW = datetime(2026, 1, 31, 12, 30, 15, 250_000, tzinfo=UTC)
ODD: list[Any] = [{1: "a"}, {1.5: "a"}, 2**63, 2**64, math.inf, "é\u2028", {1}, b"x", NOW, date(2026, 1, 31)]


@pytest.mark.parametrize("value", ODD)
def test_the_own_response_class_takes_every_odd_value(value: Any) -> None:
    body = bytes(OrjsonResponse(value).body)
    # A 70-bit number beside it goes another way, to the same text.
    assert OrjsonResponse([value, 2**70]).body == b"[%b,%d]" % (body, 2**70)
    if isinstance(value, int | str):
        assert json.loads(body) == value


def test_a_value_that_does_not_fit_its_return_type_is_a_500_that_tells_nothing(settings: Settings) -> None:
    app = create_app(settings)
    router = APIRouter()

    @router.get("/misfit", response_model=Account)
    async def misfit() -> dict[str, str]:
        return {"secret": "hunter2"}

    app.include_router(router)
    with TestClient(app, raise_server_exceptions=False) as client:
        answer = client.get("/misfit")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert "hunter2" not in answer.text


def test_a_204_has_no_body_and_no_content_type(client: TestClient) -> None:
    answer = client.post("/responses/beacon")
    assert answer.status_code == 204
    assert answer.content == b""
    assert not {"content-type", "content-length"} & set(answer.headers)


def test_trap_a_204_of_the_default_class_calls_its_empty_body_json() -> None:
    async def says_nothing() -> None: ...

    answer = answer_of(says_nothing, status_code=204)
    assert answer.content == b""
    assert answer.headers["content-type"] == "application/json"


def test_a_204_with_a_return_type_is_refused_when_it_is_declared() -> None:
    async def says_something() -> dict[str, str]:
        return {}

    with pytest.raises(AssertionError, match="must not have a response body"):
        APIRouter().add_api_route("/", says_something, status_code=204)


def answer_of(endpoint: Any, **options: Any) -> Any:
    app = FastAPI()
    app.add_api_route("/", endpoint, **options)
    return TestClient(app, raise_server_exceptions=False).get("/")


def test_trap_a_response_that_is_returned_sends_what_the_model_would_leave_out() -> None:
    stored = StoredAccount(name="Ada", salary_cents=9_900_000)

    async def returned() -> JSONResponse:
        return JSONResponse(stored.model_dump())

    async def typed() -> Account:
        return stored

    assert answer_of(returned, response_model=Account).json() == {"name": "Ada", "salary_cents": 9_900_000}
    assert answer_of(typed).json() == {"name": "Ada"}


def test_trap_the_orjson_response_of_fastapi_is_deprecated() -> None:
    with pytest.warns(FastAPIDeprecationWarning, match="ORJSONResponse is deprecated"):
        ORJSONResponse([{"item_id": "Foo"}])


def test_trap_the_ujson_response_of_fastapi_is_deprecated_and_needs_a_package_that_does_not_come_along() -> (
    None
):
    with (
        pytest.warns(FastAPIDeprecationWarning, match="UJSONResponse is deprecated"),
        pytest.raises(AssertionError, match="ujson must be installed"),
    ):
        UJSONResponse([])


@pytest.mark.parametrize("value", [2**70, {1: {2**64: "a"}}])
def test_trap_a_plain_orjson_class_is_a_500_for_an_integer_of_more_than_64_bits(value: Any) -> None:
    def theirs() -> Response:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FastAPIDeprecationWarning)
            return ORJSONResponse(value)

    def ours() -> Response:
        return OrjsonResponse(value)

    assert answer_of(theirs).status_code == 500
    assert answer_of(ours).status_code == 200


def test_trap_nan_without_a_type_is_a_500() -> None:
    async def untyped() -> Any:
        return {"ratio": math.nan}

    async def typed() -> dict[str, float]:
        return {"ratio": math.nan}

    assert answer_of(untyped, response_model=None).status_code == 500
    assert answer_of(typed).json() == {"ratio": None}


async def ratio() -> dict[str, float]:
    return {"ratio": math.nan}


@pytest.mark.parametrize("named_by", ["route", "router", "include_router", "app", "nowhere"])
def test_trap_a_response_class_that_is_named_anywhere_leaves_the_direct_way(named_by: str) -> None:
    def at(place: str) -> Any:
        # The same class as the default, and yet another way: `json` refuses what Pydantic writes as null.
        return JSONResponse if place == named_by else Default(JSONResponse)

    app = FastAPI(default_response_class=at("app"))
    router = APIRouter(default_response_class=at("router"))
    router.add_api_route("/", ratio, response_class=at("route"))
    app.include_router(router, prefix="/named", default_response_class=at("include_router"))
    answer = TestClient(app, raise_server_exceptions=False).get("/named/")
    assert answer.status_code == (200 if named_by == "nowhere" else 500)


def test_trap_a_union_with_a_response_does_not_start_and_no_model_is_no_filter() -> None:
    async def either() -> Account | Response:
        return StoredAccount(name="Ada", salary_cents=9_900_000)

    with pytest.raises(FastAPIError, match="Invalid args for response field"):
        answer_of(either)
    assert "salary_cents" in answer_of(either, response_model=None).json()
    assert answer_of(either, response_model=Account).json() == {"name": "Ada"}


def test_trap_a_json_response_takes_no_date_and_no_model_until_they_are_encoded() -> None:
    content = {"at": NOW, "account": Account(name="Ada"), "tags": {"set"}}

    async def plain() -> JSONResponse:
        return JSONResponse(content, status_code=202)

    async def encoded() -> JSONResponse:
        return JSONResponse(jsonable_encoder(content), status_code=202)

    assert answer_of(plain).status_code == 500
    assert answer_of(encoded).json() == {
        "at": "2026-01-31T12:30:15.250000+00:00",  # a model would have written Z
        "account": {"name": "Ada"},
        "tags": ["set"],
    }
