from typing import Annotated, Any

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict, Field

WHOLE = {
    "fullName": "Ada Lovelace",
    "nickName": None,
    "language": "en",
    "phone": None,
    "newsletter": False,
}


def contact(client: TestClient, path: str = "") -> Any:
    return client.get(f"/responses/contact{path}").json()


def test_a_contact_has_all_its_fields_under_their_aliases(client: TestClient) -> None:
    assert contact(client) == WHOLE


def test_fields_that_nobody_has_set_are_left_out(client: TestClient) -> None:
    assert contact(client, "/set") == {"fullName": "Ada Lovelace", "nickName": None, "language": "en"}


def test_fields_that_have_their_default_are_left_out_whoever_set_them(client: TestClient) -> None:
    assert contact(client, "/unusual") == {"fullName": "Ada Lovelace"}


def test_fields_that_are_null_are_left_out(client: TestClient) -> None:
    assert contact(client, "/known") == {"fullName": "Ada Lovelace", "language": "en", "newsletter": False}


def test_only_the_fields_that_are_named_are_included(client: TestClient) -> None:
    assert contact(client, "/brief") == {"fullName": "Ada Lovelace", "language": "en"}


def test_a_field_that_is_excluded_is_left_out(client: TestClient) -> None:
    assert contact(client, "/public") == {name: WHOLE[name] for name in WHOLE if name != "phone"}


def keeps_its_word(app: FastAPI, path: str, answer: dict[str, Any]) -> bool:
    """Whether the answer to `GET path` has all the names that its schema requires, and no unknown one."""
    document = app.openapi()
    schema = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    model = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    return set(model["required"]) <= set(answer) <= set(model["properties"])


def test_every_sparse_answer_has_the_names_that_its_schema_requires(app: FastAPI, client: TestClient) -> None:
    for path in ("", "/set", "/unusual", "/known", "/brief", "/public"):
        assert keeps_its_word(app, f"/responses/contact{path}", contact(client, path)), path


URL = "/responses/items/42"
COMPILER = {"id": "42", "name": "Compiler", "price_cents": 5_200}


def test_a_patch_changes_the_fields_that_were_sent_and_no_other(client: TestClient) -> None:
    assert client.patch(URL, json={}).json() == COMPILER
    assert client.patch(URL, json={"price_cents": 100}).json() == COMPILER | {"price_cents": 100}
    assert client.patch(URL, json={"name": "Linker"}).json() == {
        "id": "42",
        "name": "Linker",
        "price_cents": 100,
    }
    assert "Linker" in client.get("/items/42").text
    assert client.patch("/responses/items/nope", json={}).status_code == 404


WRONG: list[dict[str, Any]] = [
    {"name": None},
    {"price_cents": None},
    {"id": "43"},
    {"owner_id": 1},
    {"name": ""},
    {"name": " "},
    {"name": "x" * 101},
    {"name": "a\0b"},
    {"price_cents": -1},
    {"price_cents": 2**31},
    {"price_cents": "1"},
    {"price_cents": True},
]


def test_a_patch_with_a_null_or_an_unknown_field_is_refused(client: TestClient) -> None:
    for patch in WRONG:
        refused = client.patch(URL, json=patch)
        assert refused.status_code == 422, patch
        assert refused.headers["content-type"] == "application/problem+json"
    assert client.patch(URL, json={}).json() == COMPILER


class Employee(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    full_name: Annotated[str, Field(serialization_alias="fullName")]
    salary: int = 0
    bonus: int = 0


def served(endpoint: Any, **options: Any) -> tuple[FastAPI, Any]:
    """The app, and its answer."""
    app = FastAPI()
    app.add_api_route("/", endpoint, **options)
    return app, TestClient(app).get("/").json()


async def employee() -> Employee:
    return Employee(full_name="Ada", salary=9, bonus=7)


@pytest.mark.parametrize(
    ("options", "sent"),
    [
        ({"response_model_exclude": {"full_name"}}, {"salary", "bonus"}),
        ({"response_model_include": {"salary"}}, {"salary"}),
    ],
)
def test_trap_the_schema_still_requires_a_field_that_is_left_out(
    options: dict[str, Any], sent: set[str]
) -> None:
    app, answer = served(employee, **options)
    assert set(answer) == sent
    assert not keeps_its_word(app, "/", answer)


def test_trap_the_schema_still_has_the_alias_that_is_not_sent() -> None:
    app = FastAPI()
    app.add_api_route("/", employee, response_model_by_alias=False)
    answer = TestClient(app).get("/").json()
    assert set(answer) == {"full_name", "salary", "bonus"}
    assert not keeps_its_word(app, "/", answer)


def test_trap_a_field_that_is_added_later_is_sent_by_those_that_exclude_others() -> None:
    class PublicEmployee(BaseModel):
        full_name: str

    _, answer = served(employee, response_model_exclude={"salary"})
    assert answer == {"fullName": "Ada", "bonus": 7}
    _, answer = served(employee, response_model=PublicEmployee)
    assert answer == {"full_name": "Ada"}


def test_trap_a_response_that_is_returned_is_not_filtered() -> None:
    async def returned() -> JSONResponse:
        return JSONResponse((await employee()).model_dump())

    _, answer = served(returned, response_model=Employee, response_model_exclude={"salary"})
    assert answer["salary"] == 9


def test_trap_a_model_that_was_read_from_a_row_has_nothing_unset() -> None:
    class Row:
        full_name, salary, bonus = "Ada", 0, 0

    async def from_a_row() -> Employee:
        return Employee.model_validate(Row())

    _, answer = served(from_a_row, response_model_exclude_unset=True)
    assert answer == {"fullName": "Ada", "salary": 0, "bonus": 0}


class NullablePatch(BaseModel):
    name: str | None = None
    price_cents: int | None = None


def test_trap_a_patch_whose_defaults_are_null_erases_what_was_not_sent_or_lets_a_null_through() -> None:
    stored = {"name": "Compiler", "price_cents": 5_200}
    patch = NullablePatch.model_validate({"price_cents": 100})
    assert stored | patch.model_dump() == {"name": None, "price_cents": 100}
    assert stored | patch.model_dump(exclude_unset=True) == {"name": "Compiler", "price_cents": 100}
    patch = NullablePatch.model_validate({"name": None})
    assert stored | patch.model_dump(exclude_unset=True) == {"name": None, "price_cents": 5_200}
