import re
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Annotated, Any

import pytest
from fastapi import Cookie, Depends, FastAPI, Header, Query
from fastapi.exceptions import FastAPIDeprecationWarning
from fastapi.testclient import TestClient
from pydantic import AfterValidator, AliasChoices, BaseModel, Json

from app.main import create_app
from app.routers.validation.parameters import MAX_IDS, Once
from app.settings import Settings
from tests.routers.validation.bodies import answer_of, refused

SEARCH = "/validation/things"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One for the module: nothing is kept from one call to the next."""
    folder = tmp_path_factory.mktemp("parameters")
    with TestClient(create_app(Settings(data_dir=folder, uploads_dir=folder))) as client:
        yield client


def search(client: TestClient, query: str) -> dict[str, Any]:
    answer = client.get(f"{SEARCH}?{query}")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def parameters(client: TestClient, path: str = SEARCH) -> dict[str, dict[str, Any]]:
    document = client.get("/openapi.json").json()
    return {parameter["name"]: parameter for parameter in document["paths"][path]["get"]["parameters"]}


def test_several_groups_and_single_parameters_share_the_query(client: TestClient) -> None:
    found = search(client, "limit=5&start=2030-01-01&end=2030-01-31&q=tea")
    assert found["limit"] == 5 and found["words"] == "tea"
    assert found["period"] == {"start": "2030-01-01", "end": "2030-01-31"}
    assert {"skip", "limit", "start", "end", "q"} <= parameters(client).keys()
    assert refused(client.get(SEARCH, params={"limit": 0})) == [(["query", "limit"], "greater_than_equal")]


def test_an_optional_group_is_absent_or_complete(client: TestClient) -> None:
    assert search(client, "")["period"] is None
    assert refused(client.get(SEARCH, params={"start": "2030-01-01"})) == [(["query", "end"], "missing")]
    backwards = {"start": "2030-01-02", "end": "2030-01-01"}
    assert refused(client.get(SEARCH, params=backwards)) == [(["query"], "period_order")]


def test_whatever_is_sent_twice_is_refused_unless_it_is_a_list(client: TestClient) -> None:
    twice = client.get(f"{SEARCH}?limit=5&limit=100&nobody=1&nobody=2&id=1&id=1")
    assert refused(twice) == [(["query", "limit"], "repeated"), (["query", "nobody"], "repeated")]


def test_very_many_names_are_counted_in_one_pass(client: TestClient) -> None:
    query = "&".join(f"{number:x}" for number in range(10_000))
    assert client.get(f"{SEARCH}?{query}").status_code == 200


def test_a_list_stops_at_its_first_bad_item_and_has_a_limit(client: TestClient) -> None:
    assert search(client, "id=3&id=1&id=3")["ids"] == [3, 1, 3]
    assert refused(client.get(f"{SEARCH}?id=1&id=x&id=y")) == [(["query", "id", 1], "int_parsing")]
    many = client.get(SEARCH, params={"id": [1] * (MAX_IDS + 1)})
    assert refused(many) == [(["query", "id"], "too_long")]


def test_a_parameter_has_other_names_a_computed_default_and_json_in_it(client: TestClient) -> None:
    assert search(client, "q=tea")["words"] == search(client, "query=tea")["words"] == "tea"
    assert search(client, "words=tea&ids=1") == search(client, "")
    before = datetime.now(UTC).date()
    assert before <= date.fromisoformat(search(client, "")["on"]) <= datetime.now(UTC).date()
    assert search(client, "on=2030-01-31")["on"] == "2030-01-31"
    assert search(client, "shelf=[1,2]")["shelf"] == [1, 2]
    for text, kind in (("[1,2,3]", "too_long"), ("1,2", "json_invalid"), ('{"a":1}', "list_type")):
        assert refused(client.get(SEARCH, params={"shelf": text})) == [(["query", "shelf"], kind)]


def test_a_price_is_a_decimal_number_with_bounds_and_the_document_says_so(client: TestClient) -> None:
    pattern = parameters(client)["max_price"]["schema"]["pattern"]
    for text in ("0", "12.5", "12.50", "9999.99"):
        assert search(client, f"max_price={text}")["max_price"] == text
        assert re.fullmatch(pattern, text)
    for text in ("-1", "10000", "1.234", "NaN", "much"):
        assert client.get(SEARCH, params={"max_price": text}).status_code == 422
        assert not re.fullmatch(pattern, text)
    assert search(client, "rating=2.5")["rating"] == 2.5
    assert refused(client.get(SEARCH, params={"rating": 2.4})) == [(["query", "rating"], "multiple_of")]


def test_neither_nan_nor_infinity_is_a_number_here(client: TestClient) -> None:
    for text in ("nan", "inf", "-Infinity", "1e999"):
        assert refused(client.get(SEARCH, params={"boost": text})) == [(["query", "boost"], "finite_number")]
    assert refused(client.get(SEARCH, params={"boost": 0})) == [(["query", "boost"], "greater_than")]


def test_what_is_deprecated_or_hidden_still_works(client: TestClient) -> None:
    shown = parameters(client)
    assert shown["order_by"]["deprecated"] is True
    assert "preview" not in shown
    assert shown["sort"]["examples"]["dear"]["value"] == "-price"
    assert shown["q"]["schema"]["title"] == "Words"
    assert search(client, "order_by=price")["sort"] == "price"
    assert search(client, "preview=true")["sort"] == "preview"
    answer = client.get(SEARCH, params={"order_by": "price\n"})
    assert refused(answer) == [(["query", "order_by"], "string_pattern_mismatch")]


def test_a_date_has_one_form(client: TestClient) -> None:
    for text in ("1", "20300131", "2030-01-31T00:00:00", "2030-1-31", "tomorrow"):
        assert refused(client.get(SEARCH, params={"on": text})) == [(["query", "on"], "date_form")]
    assert client.get(SEARCH, params={"on": "2030-02-30"}).status_code == 422


def test_a_path_takes_a_number_or_a_name(client: TestClient) -> None:
    assert client.get("/validation/things/3").json() == 3
    assert client.get("/validation/things/tea").json() == "tea"
    for thing in ("Tea", "a_b", "1.5", "x" * 51):
        assert client.get(f"/validation/things/{thing}").status_code == 422


def test_a_header_model_reads_hyphens_and_underscores_only_where_asked(client: TestClient) -> None:
    def read(*headers: tuple[str, str]) -> Any:
        return client.get("/validation/headers", headers=list(headers))

    features = ("X-Feature", "a"), ("X-Feature", "b, c")
    assert read(("X-Client-Version", "1.2"), ("old_name", "x"), *features).json() == [
        {"x_client_version": "1.2", "x_feature": ["a", "b, c"]},
        "x",
    ]
    nothing: list[Any] = [{"x_client_version": None, "x_feature": []}, None]
    assert read(("x_client_version", "1.2"), ("old-name", "x")).json() == nothing
    assert refused(read(("X-Client-Version", "new"))) == [
        (["header", "x-client-version"], "string_pattern_mismatch")
    ]


def test_cookies_that_are_not_ours_do_no_harm(client: TestClient) -> None:
    def read(cookies: str) -> Any:
        return client.get("/validation/cookies", headers={"Cookie": cookies})

    assert read("theme=dark; visitor=7").json() == {"theme": "dark", "page_size": 10}
    assert refused(read("theme=pink; page_size=0")) == [
        (["cookie", "theme"], "literal_error"),
        (["cookie", "page_size"], "greater_than_equal"),
    ]


def test_a_body_is_never_read_as_a_form_here(client: TestClient) -> None:
    files = [("f", (None, b"1"))] * 1_001  # more than a form may have
    assert refused(client.put("/validation/volume", files=files)) == [(["body", "volume"], "missing")]


def test_a_single_value_in_a_body_has_a_name_and_no_other_type(client: TestClient) -> None:
    def put(body: object) -> Any:
        return client.put("/validation/volume", json=body)

    assert put({"volume": 3}).json() == 3
    assert refused(put(3)) == [(["body", "volume"], "missing")]
    for value in ("3", True, 3.0):
        assert refused(put({"volume": value})) == [(["body", "volume"], "int_type")]
    assert refused(put({"volume": 11})) == [(["body", "volume"], "less_than_equal")]


def test_trap_of_two_values_the_last_is_taken_in_silence() -> None:
    async def pay(amount: int) -> int:
        return amount

    assert answer_of(pay, "amount=1&amount=1000000").json() == 1_000_000
    app = FastAPI(dependencies=[Depends(Once())])
    app.add_api_route("/", pay)
    assert TestClient(app).get("/?amount=1&amount=1000000").status_code == 422


class Tags(BaseModel, extra="forbid"):
    tags: list[str] = []


def test_trap_a_model_that_forbids_refuses_its_siblings() -> None:
    async def read(tags: Annotated[Tags, Query()], q: str | None = None) -> None: ...

    class All(Tags):
        q: str | None = None

    async def read_all(wanted: Annotated[All, Query()]) -> None: ...

    assert answer_of(read, "q=tea").status_code == 422
    assert answer_of(read_all, "q=tea").status_code == 200
    assert answer_of(read_all, "tag=tea").status_code == 422


def test_trap_a_model_that_forbids_refuses_the_headers_and_cookies_of_every_browser() -> None:
    async def headers(tags: Annotated[Tags, Header()]) -> None: ...

    async def cookies(tags: Annotated[Tags, Cookie()]) -> None: ...

    assert answer_of(headers).status_code == 422
    assert answer_of(cookies, headers={"Cookie": "visitor=7"}).status_code == 422


def test_trap_strict_refuses_every_number_in_a_query() -> None:
    async def read(limit: Annotated[int, Query(strict=True)]) -> None: ...

    assert answer_of(read, "limit=5").status_code == 422


def test_trap_a_number_is_a_day_in_1970() -> None:
    async def read(on: date) -> date:
        return on

    assert answer_of(read, "on=86400").json() == "1970-01-02"


def test_trap_a_number_in_a_union_stays_a_text() -> None:
    async def smart(thing: int | str) -> int | str:
        return thing

    async def ordered(thing: Annotated[int | str, Query(union_mode="left_to_right")]) -> int | str:
        return thing

    assert answer_of(smart, "thing=3").json() == "3"
    assert answer_of(ordered, "thing=3").json() == 3


def test_trap_json_that_may_be_none_refuses_every_list() -> None:
    async def read(ids: Annotated[Json[list[int]] | None, Query()] = None) -> None: ...

    async def ours(ids: Annotated[Json[list[int]], Query(default_factory=list)]) -> None: ...

    assert answer_of(read, "ids=[1,2]").status_code == 422
    assert answer_of(ours, "ids=[1,2]").status_code == answer_of(ours).status_code == 200


def test_trap_json_of_a_dictionary_is_no_query_parameter() -> None:
    async def read(box: Annotated[Json[dict[str, int]], Query()]) -> None: ...

    with pytest.raises(AssertionError, match="one of the supported types"):
        FastAPI().add_api_route("/", read)


def test_trap_a_default_is_not_validated() -> None:
    async def read(sort: Annotated[str, Query(min_length=3)] = "up") -> str:
        return sort

    async def checked(sort: Annotated[str, Query(min_length=3, validate_default=True)] = "up") -> str:
        return sort

    assert answer_of(read).json() == "up"
    # So a wrong default is found by the first test that leaves the parameter out.
    assert answer_of(checked).status_code == 422


def test_trap_a_validator_does_not_see_the_default() -> None:
    upper = AfterValidator(str.upper)

    async def read(sort: Annotated[str, upper, Query()] = "name") -> str:
        return sort

    async def validated(sort: Annotated[str, upper, Query(validate_default=True)] = "name") -> str:
        return sort

    assert answer_of(read).json() == "name"
    assert answer_of(validated).json() == "NAME"


def test_trap_without_bounds_nan_and_infinity_are_numbers() -> None:
    async def read(boost: float, limit: Annotated[float, Query(ge=0)] = 1) -> bool:
        return boost > 1 or boost <= 1

    assert answer_of(read, "boost=nan").json() is False
    assert answer_of(read, "boost=1&limit=inf").status_code == 200


def test_trap_a_header_with_underscores_is_ignored() -> None:
    async def read(x_token: Annotated[str | None, Header()] = None) -> str | None:
        return x_token

    assert answer_of(read, headers={"x_token": "secret"}).json() is None
    assert answer_of(read, headers={"X-Token": "secret"}).json() == "secret"


def test_trap_a_compiled_pattern_lets_a_line_break_at_the_end_through() -> None:
    async def compiled(name: Annotated[str, Query(pattern=re.compile("^[a-z]+$"))]) -> str:
        return name

    async def text(name: Annotated[str, Query(pattern="^[a-z]+$")]) -> str:
        return name

    assert answer_of(compiled, "name=tea%0A").json() == "tea\n"
    assert answer_of(text, "name=tea%0A").status_code == 422


def test_trap_of_two_cookies_the_last_is_taken_though_browsers_send_the_closer_first() -> None:
    async def read(theme: Annotated[str, Cookie()]) -> str:
        return theme

    # RFC 6265, section 5.4: the one with the longer path comes first.
    assert (
        answer_of(read, headers={"Cookie": "theme=of-this-path; theme=of-the-root"}).json() == "of-the-root"
    )


def test_trap_only_the_first_of_several_names_is_documented() -> None:
    async def read(q: Annotated[str, Query(validation_alias=AliasChoices("q", "query"))]) -> None: ...

    app = FastAPI()
    app.add_api_route("/", read)
    (parameter,) = app.openapi()["paths"]["/"]["get"]["parameters"]
    assert parameter["name"] == "q" and parameter["required"]
    assert TestClient(app).get("/?query=tea").status_code == 200


def test_trap_an_alias_for_answers_or_of_higher_priority_does_nothing_here() -> None:
    async def read(
        q: Annotated[str, Query(alias="query", serialization_alias="words", alias_priority=1)],
    ) -> str:
        return q

    assert answer_of(read, "query=tea").json() == "tea"
    for name in ("q", "words"):
        assert answer_of(read, f"{name}=tea").status_code == 422


def test_trap_regex_and_example_are_deprecated_and_other_names_refused() -> None:
    with pytest.warns(FastAPIDeprecationWarning, match="`regex` has been deprecated"):
        Query(regex="^a")
    with pytest.warns(FastAPIDeprecationWarning, match="`example` has been deprecated"):
        Query(example="a")
    unknown: Any = {"unit": "kg"}
    with pytest.raises(TypeError, match="unexpected keyword argument 'unit'"):
        Query(**unknown)
