import re
from datetime import date
from typing import Annotated, Any, Self

import pytest
from fastapi import FastAPI
from fastapi.exceptions import PydanticV1NotSupportedError
from fastapi.testclient import TestClient
from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    PydanticDeprecatedSince212,
    ValidationInfo,
    field_validator,
    model_validator,
    v1,
)

from app.routers.validation.validators import MAX_SLUG_LENGTH, Article
from tests.routers.validation.bodies import taking


def test_validators_run_from_the_outside_in_and_out_again(client: TestClient) -> None:
    assert client.get("/validation/order").json() == [
        "model wrap, in",
        "model before",
        "field wrap, in",
        "field before",
        "annotated wrap, in",
        "annotated before",
        "annotated after",
        "annotated wrap, out",
        "field after",
        "field wrap, out",
        "annotated plain",
        "field plain",
        "model wrap, out",
        "model after",
    ]


def name_article(client: TestClient, **fields: Any) -> Any:
    return client.post("/validation/articles", json={"title": "Green tea", **fields})


REFUSED_TAGS: list[list[Any]] = [[5], [None], [{"a": 1}], [[5], 0], ["", 0], ["a,,b", 1], ["a,b,c,d,e,f"]]
"""Each with the rest of its place."""


def test_a_before_validator_takes_another_form_and_leaves_the_rest_to_the_type(client: TestClient) -> None:
    as_text, as_list = " tea, green,hot-drink\n", ["tea", "green", "hot-drink"]
    for sent in (as_text, as_list):
        assert name_article(client, tags=sent).json()["tags"] == ["tea", "green", "hot-drink"]
    for sent, *place in REFUSED_TAGS:
        refused = name_article(client, tags=sent)
        assert refused.status_code == 422
        assert refused.json()["errors"][0]["loc"] == ["body", "tags", *place]
    tags = Article.model_json_schema()["properties"]["tags"]
    assert [form["type"] for form in tags["anyOf"]] == ["array", "string"]
    pattern = tags["anyOf"][1]["pattern"]
    assert re.search(pattern, as_text)
    assert not any(isinstance(sent, str) and re.search(pattern, sent) for sent, *_ in REFUSED_TAGS)


def test_a_wrap_validator_puts_an_error_into_plain_words(client: TestClient) -> None:
    assert name_article(client, slug="a" * MAX_SLUG_LENGTH).json()["slug"] == "a" * MAX_SLUG_LENGTH
    for slug in ("", "Tea", "a--b", "-a", "a b", "é", "tea\n", "a" * (MAX_SLUG_LENGTH + 1), 5, None):
        (error,) = name_article(client, slug=slug).json()["errors"]
        assert error == {
            "loc": ["body", "slug"],
            "msg": "Use small letters, digits and single hyphens, 60 at most",
            "type": "slug",
        }


def test_a_default_that_is_made_from_another_field_is_validated_like_what_is_sent(client: TestClient) -> None:
    assert name_article(client).json() == {"title": "Green tea", "tags": [], "slug": "green-tea"}
    for title in ("!!!", "a " * 40):
        (error,) = name_article(client, title=title).json()["errors"]
        assert error["loc"] == ["body", "slug"]
    # A title that is refused has no default made of it.
    assert [error["loc"][1] for error in name_article(client, title="").json()["errors"]] == ["title", "slug"]


def test_trap_a_default_is_trusted() -> None:
    class Trusting(Article):
        slug: Annotated[str, Field(min_length=1)] = Field(
            default_factory=lambda data: data["title"].strip("!"), validate_default=False
        )

    assert taking(Trusting).post("/", json={"title": "!!!"}).json()["slug"] == ""


def test_trap_a_type_error_in_a_before_validator_is_a_500() -> None:
    class Tags(BaseModel):
        tags: list[str]

        @field_validator("tags", mode="before")
        @classmethod
        def split(cls, tags: Any) -> Any:
            return [tag.strip() for tag in tags]

    client = taking(Tags)
    assert client.post("/", json={"tags": [" a "]}).json() == {"tags": ["a"]}
    assert client.post("/", json={"tags": 5}).status_code == 500


class Stay(BaseModel):
    start: date
    end: date


class StayByField(Stay):
    @field_validator("end")
    @classmethod
    def ends_later(cls, end: date, info: ValidationInfo) -> date:
        if end <= info.data["start"]:
            raise ValueError("must be later than start")
        return end


class StayByModel(Stay):
    @model_validator(mode="after")
    def ends_later(self) -> Self:
        if self.end <= self.start:
            raise ValueError("end must be later than start")
        return self


def test_trap_a_field_that_was_not_valid_is_missing_from_the_data() -> None:
    wrong = {"start": "tomorrow", "end": "2030-01-02"}
    assert taking(StayByField).post("/", json=wrong).status_code == 500
    assert taking(StayByModel).post("/", json=wrong).status_code == 422
    for model in (StayByField, StayByModel):
        backwards = {"start": "2030-01-02", "end": "2030-01-01"}
        assert taking(model).post("/", json=backwards).status_code == 422


def not_before_today(day: date, info: ValidationInfo) -> date:
    if info.context and day < info.context["today"]:
        raise ValueError("is over")
    return day


def test_trap_fastapi_hands_no_context_to_validators() -> None:
    class Appointment(BaseModel):
        day: Annotated[date, AfterValidator(not_before_today)]

    with pytest.raises(ValueError, match="is over"):
        Appointment.model_validate({"day": "1999-01-01"}, context={"today": date(2030, 1, 1)})
    assert taking(Appointment).post("/", json={"day": "1999-01-01"}).status_code == 200


def test_trap_a_plain_validator_takes_the_place_of_the_type() -> None:
    class Order(BaseModel):
        amount: int

        @field_validator("amount", mode="plain")
        @classmethod
        def passes(cls, amount: Any) -> Any:
            return amount

    assert Order.model_validate({"amount": "much"}).amount == "much"  # type: ignore[comparison-overlap]
    assert "type" not in Order.model_json_schema()["properties"]["amount"]


def test_trap_a_class_method_as_an_after_validator_of_a_model_warns() -> None:
    with pytest.warns(PydanticDeprecatedSince212, match="on a classmethod is deprecated"):

        class Order(BaseModel):
            amount: int = 1

            @model_validator(mode="after")  # type: ignore[arg-type]
            @classmethod
            def check(cls, order: "Order") -> "Order":
                return order

    assert Order().amount == 1


def test_trap_a_model_of_pydantic_v1_is_refused() -> None:
    class Old(v1.BaseModel):
        name: str

    async def take(old: Old) -> None: ...

    with pytest.raises(PydanticV1NotSupportedError):
        FastAPI().add_api_route("/", take, methods=["POST"])
