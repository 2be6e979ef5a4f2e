import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Self, cast

import pydantic
import pytest
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict, Field, PydanticUserError, field_validator, model_validator

from app.main import create_app
from app.routers.validation.models import MAX_NAME_LENGTH
from app.settings import Settings

KATHERINE = {"name": "katherine johnson", "email": "katherine@example.com"}


def refusal_of(client: TestClient, **changes: Any) -> dict[str, Any]:
    """The only error that `KATHERINE` gets with these changes."""
    answer = client.post("/users", json={**KATHERINE, **changes})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    (error,) = answer.json()["errors"]
    assert isinstance(error, dict)
    return error


def test_a_user_is_stored_with_each_word_of_the_name_in_title_case_and_can_be_read_at_its_location(
    client: TestClient,
) -> None:
    answer = client.post("/users", json={**KATHERINE, "age": 101})
    assert answer.status_code == 201
    stored = {"id": 4, "name": "Katherine Johnson", "email": "katherine@example.com", "age": 101}
    assert answer.json() == stored
    assert answer.headers["location"] == "/users/4"
    # Everybody may read it there, so it tells less.
    assert client.get("/users/4").json() == {"id": 4, "name": "Katherine Johnson"}


def test_an_unknown_user_is_a_problem(client: TestClient) -> None:
    for user_id, status in {"5": 404, "0": 422, "-1": 422, "9" * 20: 422, "x": 422}.items():
        answer = client.get(f"/users/{user_id}")
        assert answer.status_code == status
        assert answer.headers["content-type"] == "application/problem+json"


NAMES = {
    "ronald McDonald": "Ronald McDonald",
    "ben's shop": "Ben's Shop",
    "ludwig van Beethoven": "Ludwig Van Beethoven",
    "  ada \u00a0 lovelace ": "Ada Lovelace",
    "e\u0301va o'neil-smith": "\u00c9va O'neil-smith",
    "ǆemal x": "ǅemal X",
    "शर्\u200dमा वर्मा": "शर्\u200dमा वर्मा",
    "李 小龙": "李 小龙",
}


def test_names_keep_their_inner_capitals_their_apostrophes_and_their_accents(client: TestClient) -> None:
    for number, (given, stored) in enumerate(NAMES.items()):
        answer = client.post("/users", json={"name": given, "email": f"u{number}@example.com"})
        assert answer.json()["name"] == stored
        assert unicodedata.is_normalized("NFC", stored)


FORBIDDEN = "\x00\n\r\t\x1b\x7f\u0085\u2028\u202e\u200b\ufeff"
"""Controls, line separators, marks that turn the direction of text or that nobody sees."""


def test_a_name_needs_a_space_and_has_no_control_characters(client: TestClient) -> None:
    for bad in ("", " ", "ada", " ada ", "ada\u2000"):
        error = refusal_of(client, name=bad)
        assert (error["loc"], error["msg"]) == (["body", "name"], "Name must contain a space")
    for bad in FORBIDDEN:
        error = refusal_of(client, name=f"ada{bad} lovelace")
        assert error["msg"] == "Name must not contain control characters"


def test_a_name_has_a_greatest_length_also_in_title_case(client: TestClient) -> None:
    for name in ("x " * MAX_NAME_LENGTH, "x" * 50_000 + " y", ("ß " * 50).strip()):
        assert refusal_of(client, name=name)["loc"] == ["body", "name"]


def test_an_address_is_one_bare_address_in_lower_case(client: TestClient) -> None:
    answer = client.post("/users", json={**KATHERINE, "email": "Katherine@EXAMPLE.com"})
    assert answer.json()["email"] == "katherine@example.com"
    for bad in (
        "@",
        "nobody",
        "a@b",
        "a@b@example.com",
        "a b@example.com",
        "Ada <ada@example.com>",
        "a@b.c\r\nBcc: all@example.com",
        "x" * 243 + "@example.com",
        "İ" * 200 + "@example.com",
        "x" * 50_000 + "@example.com",
        None,
        7,
    ):
        assert refusal_of(client, email=bad)["loc"] == ["body", "email"]


def test_a_child_needs_consent_at_the_age_of_0_too(client: TestClient) -> None:
    for age in (0, 1, 12):
        error = refusal_of(client, age=age)
        assert (error["loc"], error["msg"]) == (["body"], "Children must have parental consent")
        assert refusal_of(client, age=age, parental_consent=False) == error
        assert refusal_of(client, age=age, parental_consent="yes")["loc"] == ["body", "parental_consent"]
    for number, age in enumerate((0, 12)):
        consented = {"name": "a b", "email": f"c{number}@example.com", "age": age, "parental_consent": True}
        assert client.post("/users", json=consented).json()["age"] == age
    for number, of_age in enumerate((13, 150, None)):
        grown = {"name": "a b", "email": f"d{number}@example.com", "age": of_age}
        assert client.post("/users", json=grown).json()["age"] == of_age


def test_an_age_is_a_whole_number_from_0_to_150(client: TestClient) -> None:
    refused: list[Any] = [-1, 151, 10**20, 12.5, 20.0, "20", False, True, [], {}]
    for age in refused:
        assert refusal_of(client, age=age)["loc"] == ["body", "age"]


def test_a_second_user_with_the_same_address_is_refused_even_at_the_same_time(client: TestClient) -> None:
    spellings = ["Katherine@example.com", "katherine@EXAMPLE.com"] * 4
    with ThreadPoolExecutor(len(spellings)) as threads:
        answers = list(
            threads.map(lambda e: client.post("/users", json={**KATHERINE, "email": e}), spellings)
        )
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert refused.headers["content-type"] == "application/problem+json"
    assert "katherine" not in refused.text.lower()
    # The refused transactions are rolled back and their connections work on.
    assert client.post("/users", json={**KATHERINE, "email": "k@example.com"}).status_code == 201


def test_unknown_fields_are_refused(client: TestClient) -> None:
    for name in ("id", "is_admin", "agee"):
        error = refusal_of(client, **{name: 1})
        assert (error["loc"], error["type"]) == (["body", name], "extra_forbidden")


JSON = "application/json"
HOSTILE_BODIES = [
    (b"", JSON),
    (b"{", JSON),
    (b"null", JSON),
    (b"[]", JSON),
    (b'"hunter2"', JSON),
    (b"hunter2", "text/plain"),
    (b"\x80\x81\xffhunter2", "application/octet-stream"),
    (b'\x80\x81\xff{"hunter2"', JSON),
    (b'{"name": "hunter2", "email": "hunter2", "age": "hunter2", "parental_consent": "hunter2"}', JSON),
    (b'{"name": "a b", "email": "<hunter2@example.com>"}', JSON),
    (b'{"name": "a b", "email": "hunter2@hunter2"}', JSON),
    (b'{"name": ["hunter2"], "email": {"hunter2": "hunter2"}}', JSON),
    (b'{"age": NaN, "name": "hunter2"}', JSON),
    (b'{"age": -Infinity, "name": "hunter2"}', JSON),
    (b'{"age": ' + b"9" * 400 + b', "name": "hunter2"}', JSON),
    (b'{"age": ' + b"9" * 5_000 + b', "name": "hunter2"}', JSON),
    (b'{"name": "\\ud800 hunter2"}', JSON),
    (b'{"\\ud800": "hunter2"}', JSON),
    (b'{"x": ' + b"[" * 600 + b'"hunter2"' + b"]" * 600 + b"}", JSON),
    (b"[" * 90_000, JSON),
    (b'{"a":' * 19_000, JSON),
    (b'{"' + b"k" * 50_000 + b'": "hunter2"}', JSON),
    (b"{" + b",".join(b'"f%d": "hunter2"' % n for n in range(4_000)) + b"}", JSON),
]


def test_of_the_body_a_refusal_repeats_no_value_and_at_most_20_names_each_cut_at_200_characters(
    client: TestClient,
) -> None:
    for body, content_type in HOSTILE_BODIES:
        answer = client.post("/users", content=body, headers={"Content-Type": content_type})
        assert answer.status_code in (400, 422), body[:50]
        assert answer.headers["content-type"] == "application/problem+json"
        assert "hunter2" not in answer.text, body[:50]
        assert len(answer.content) < 5_000
    names = {f"{n:03}" + "k" * 1_000: "hunter2" for n in range(90)}
    errors = client.post("/users", json={**KATHERINE, **names}).json()["errors"]
    assert [error["loc"] for error in errors] == [["body", name[:200]] for name in list(names)[:20]]
    assert "hunter2" not in str(errors)


def test_the_table_of_users_has_a_limit_however_many_sign_up_at_once(settings: Settings) -> None:
    with TestClient(create_app(settings.model_copy(update={"max_users": 10}))) as client:
        bodies = [{**KATHERINE, "email": f"{number}@example.com"} for number in range(40)]
        with ThreadPoolExecutor(len(bodies)) as threads:
            answers = list(threads.map(lambda body: client.post("/users", json=body), bodies))
        assert ([client.get(f"/users/{id}").status_code for id in (10, 11)]) == [200, 404]
    assert sorted(answer.status_code for answer in answers) == [201] * 7 + [507] * 33
    refused = next(answer for answer in answers if answer.status_code == 507)
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.json()["detail"] == "There is no room for another user."


RootValidator = Callable[[Callable[..., Any]], Any]


def make_model(root_validator: RootValidator) -> type[BaseModel]:
    class Order(BaseModel):
        @root_validator
        def check(cls, values: dict[str, Any]) -> dict[str, Any]:
            return {**values, "checked": True}

        checked: bool = False

    return Order


def test_trap_a_root_validator_without_pre_or_skip_on_failure_does_not_import() -> None:
    bare = cast(RootValidator, pydantic.root_validator)
    for make in (lambda: bare, lambda: cast(Any, pydantic.root_validator)()):
        with pytest.warns(DeprecationWarning, match="@root_validator"), pytest.raises(PydanticUserError):
            make_model(make())


def test_trap_a_root_validator_with_pre_or_skip_on_failure_warns() -> None:
    for argument in ("pre", "skip_on_failure"):
        with pytest.warns(DeprecationWarning, match="@root_validator"):
            model = make_model(cast(Any, pydantic.root_validator)(**{argument: True}))
        assert model().model_dump() == {"checked": True}


def test_trap_validator_warns() -> None:
    with pytest.warns(pydantic.PydanticDeprecatedSince20, match="@validator"):

        class User(BaseModel):
            name: str

            @pydantic.validator("name")
            @classmethod
            def check(cls, name: str) -> str:
                return name


class TutorialUser(BaseModel):
    name: str
    email: str
    age: int | None = None

    @field_validator("name")
    @classmethod
    def name_must_contain_space(cls, name: str) -> str:
        if " " not in name:
            raise ValueError("Name must contain a space")
        return name.title()

    @field_validator("email")
    @classmethod
    def email_must_be_valid(cls, email: str) -> str:
        if "@" not in email:
            raise ValueError("Invalid email address")
        return email

    @model_validator(mode="after")
    def check_age(self) -> Self:
        if self.age and self.age < 13:
            raise ValueError("Children must have parental consent")
        return self


async def create_tutorial_user(user: TutorialUser) -> TutorialUser:
    return user


@pytest.fixture
def tutorial() -> TestClient:
    app = FastAPI()
    app.add_api_route("/users", create_tutorial_user, methods=["POST"])
    return TestClient(app, raise_server_exceptions=False)


BADLY_ACCEPTED: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"age": 0}, {"age": 0}),
    ({"age": False}, {"age": 0}),
    ({"age": 10**20}, {"age": 10**20}),
    ({"email": "@"}, {"email": "@"}),
    ({"email": "a@b.c\r\nBcc: all@example.com"}, {"email": "a@b.c\r\nBcc: all@example.com"}),
    ({"name": " "}, {"name": " "}),
    ({"name": "ronald McDonald"}, {"name": "Ronald Mcdonald"}),
    ({"name": "ben's shop", "email": "ben@example.com"}, {"name": "Ben'S Shop"}),
    ({"agee": 5}, {"age": None}),
]


def test_trap_the_validators_of_the_tutorials_let_nonsense_pass_and_damage_names(
    tutorial: TestClient, client: TestClient
) -> None:
    for sent, stored in BADLY_ACCEPTED:
        theirs = tutorial.post("/users", json={**KATHERINE, **sent})
        assert theirs.status_code == 200
        assert theirs.json().items() >= stored.items()

        ours = client.post("/users", json={**KATHERINE, **sent})
        assert ours.status_code == 422 or ours.json()["name"] != stored["name"]


def test_trap_the_default_answer_repeats_the_input_and_names_the_exception(tutorial: TestClient) -> None:
    answer = tutorial.post("/users", json={**KATHERINE, "name": "hunter2"})
    assert answer.status_code == 422
    assert "hunter2" in answer.text
    assert answer.json()["detail"][0]["msg"] == "Value error, Name must contain a space"


class Amount(BaseModel):
    model_config = ConfigDict(extra="forbid")

    value: int = Field(le=10, strict=True)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"\x80\x81\xff", "application/octet-stream"),
        (b'{"value": NaN}', JSON),
        (b'{"value": "\\ud800"}', JSON),
    ],
)
def test_trap_the_default_handler_is_a_500_for_input_that_json_cannot_repeat(
    body: bytes, content_type: str
) -> None:
    async def pay(amount: Amount) -> None: ...

    app = FastAPI()
    app.add_api_route("/pay", pay, methods=["POST"])
    client = TestClient(app, raise_server_exceptions=False)
    assert client.post("/pay", content=body, headers={"Content-Type": content_type}).status_code == 500


def test_trap_a_handler_that_sends_the_errors_as_they_are_is_a_500_for_a_value_error() -> None:
    async def errors(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, RequestValidationError)
        return JSONResponse({"detail": exc.errors()}, 422)

    app = FastAPI(exception_handlers={RequestValidationError: errors})
    app.add_api_route("/users", create_tutorial_user, methods=["POST"])
    with pytest.raises(TypeError, match="not JSON serializable"):
        TestClient(app).post("/users", json={**KATHERINE, "name": "ada"})
