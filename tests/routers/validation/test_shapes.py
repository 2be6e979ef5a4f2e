import json
import re
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Annotated, Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from pydantic import Base64Bytes, BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from app.routers.validation.shapes import (
    MAX_LINES,
    MAX_PICTURE,
    Base64,
    CamelModel,
    Card,
    Order,
    Transfer,
    router,
)
from tests.routers.validation.bodies import taking

CARD: Any = {"kind": "card", "cardNumber": "4111111111111111"}
TRANSFER = {"kind": "transfer", "iban": "DE89370400440532013000"}
ORDER: dict[str, Any] = {
    "payBy": CARD,
    "sendTo": "old-town",
    "total": {"cents": 1250, "currency": "EUR"},
    "deliverOn": "2030-01-31",
    "lines": [{"product": "tea", "quantity": 2}, {"product": "cup"}],
}


def place(client: TestClient, **changes: Any) -> Any:
    answer = client.post("/validation/orders", json={**ORDER, **changes})
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(client: TestClient, **changes: Any) -> list[list[str | int]]:
    """The places of the errors of `ORDER` with these changes."""
    answer = client.post("/validation/orders", json={**ORDER, **changes})
    assert answer.status_code == 422
    return [error["loc"][1:] for error in answer.json()["errors"]]


@pytest.fixture(scope="module")
def schemas() -> Any:
    app = FastAPI()
    app.include_router(router)
    return app.openapi()["components"]["schemas"]


def test_a_payment_is_one_of_two_models_told_apart_by_its_kind(client: TestClient, schemas: Any) -> None:
    def put(body: Any) -> Any:
        return client.put("/validation/payment", json=body)

    assert put(CARD).json() == place(client)["payBy"] == {"kind": "card", "lastDigits": "1111"}
    assert put(TRANSFER).json() == {"kind": "transfer", "iban": "DE89 … 3000"}
    # Nothing of a card is missing in a transfer.
    assert refused(client, payBy={"kind": "transfer"}) == [["payBy", "transfer", "iban"]]
    for unknown in ({"kind": "hunter2"}, {"kind": None}, {}, {"kind": ["card"]}, "card", None):
        answer = put(unknown)
        assert answer.status_code == 422
        assert "hunter2" not in answer.text
    pay_by = schemas["Order-Input"]["properties"]["payBy"]
    assert sorted(pay_by["discriminator"]["mapping"]) == ["card", "transfer"]


def test_an_address_is_a_text_or_an_object(client: TestClient) -> None:
    street = {"streetName": "Main Street", "city": "London"}
    assert place(client, sendTo=street)["sendTo"] == street
    assert place(client)["sendTo"] == "old-town"
    assert refused(client, sendTo="Old Town!") == [["sendTo", "shop"]]
    assert refused(client, sendTo={"city": "London"}) == [["sendTo", "street", "streetName"]]
    assert refused(client, sendTo=5) == refused(client, sendTo=None) == [["sendTo", "street"]]


def test_names_are_camelcase_outside_and_snake_case_inside(client: TestClient) -> None:
    assert {"payBy", "sendTo", "deliverOn"} <= place(client).keys()
    card = Card(kind="card", card_number="4111111111111111")
    assert card.model_dump(by_alias=True) == {"kind": "card", "lastDigits": "1111"}
    assert refused(client, pay_by=CARD) == [["pay_by"]]


def test_what_is_secret_goes_in_and_never_out(client: TestClient, schemas: Any) -> None:
    assert CARD["cardNumber"] not in client.post("/validation/orders", json=ORDER).text
    card = Card(kind="card", card_number=CARD["cardNumber"])
    assert CARD["cardNumber"] not in f"{card!r} {card} {card.model_dump()} {card.model_dump_json()}"
    assert list(schemas["Card-Input"]["properties"]) == ["kind", "cardNumber"]
    assert list(schemas["Card-Output"]["properties"]) == ["kind", "lastDigits"]


def test_a_field_and_a_model_are_written_another_way_and_the_document_says_so(
    client: TestClient, schemas: Any
) -> None:
    assert place(client)["total"] == "12.50 EUR"
    assert place(client, total={"cents": 5, "currency": "USD"})["total"] == "0.05 USD"
    assert place(client, payBy=TRANSFER)["payBy"]["iban"] == "DE89 … 3000"
    assert schemas["Amount-Input"]["type"] == "object"
    assert schemas["Amount-Output"]["type"] == "string"
    iban = [schemas[f"Transfer-{way}"]["properties"]["iban"] for way in ("Input", "Output")]
    assert ["pattern" in schema for schema in iban] == [True, False]


def test_what_is_absent_is_left_out(client: TestClient) -> None:
    assert not {"giftNote", "picture"} & place(client, giftNote=None).keys()
    assert place(client, giftNote="")["giftNote"] == ""


def test_a_number_is_a_number_and_a_date_is_a_text_in_one_form(client: TestClient) -> None:
    for number in ("2", 2.0, True, None, -1, 10**10):
        assert refused(client, total={"cents": number, "currency": "EUR"}) == [["total", "cents"]]
        lines = [{"product": "tea", "quantity": number}]
        assert refused(client, lines=lines) == [["lines", 0, "quantity"]]
    for day in (86_400, "86400", "2030-01-31T00:00:00", "2030-02-30", "31.01.2030", None):
        assert refused(client, deliverOn=day) == [["deliverOn"]]
    assert place(client)["deliverOn"] == "2030-01-31"


def test_a_list_of_dataclasses_has_a_limit(client: TestClient) -> None:
    def put(body: Any) -> Any:
        return client.put("/validation/cart", json=body)

    assert put(ORDER["lines"]).json() == 3
    assert put([{"product": "tea"}] * MAX_LINES).json() == MAX_LINES
    unknown = [{"product": "tea", "price": 1}]
    for wrong in ([], [{"product": "tea"}] * (MAX_LINES + 1), {"product": "tea"}, unknown):
        assert put(wrong).status_code == 422
    # It stops at the first.
    assert len(put([{"product": ""}] * 3).json()["errors"]) == 1


NO_BASE64: list[Any] = [
    "é",
    "aGVs!bG8=",
    "aGVsbG8",
    "aGVsbG8=\n",
    "aGVsbG8=aGVs",
    "-_8=",
    "a" * (MAX_PICTURE + 4),
    5,
]


def test_base64_is_all_that_passes_for_base64(client: TestClient) -> None:
    said = Order.model_json_schema()["properties"]["picture"]["anyOf"][0]

    def fits_the_schema(text: Any) -> bool:
        is_short = isinstance(text, str) and len(text) <= said["maxLength"]
        return is_short and re.fullmatch(said["pattern"], text) is not None

    for picture in ("", "aGVsbG8=", "+/8=", "a" * MAX_PICTURE):
        assert place(client, picture=picture)["picture"] == picture
        assert fits_the_schema(picture)
    for picture in NO_BASE64:
        assert refused(client, picture=picture) == [["picture"]]
        assert not fits_the_schema(picture)


def test_trap_base64_bytes_skip_what_is_not_base64_and_the_option_writes_another_alphabet() -> None:
    class Lenient(BaseModel):
        content: Base64Bytes

    class ByOption(BaseModel):
        model_config = ConfigDict(val_json_bytes="base64", ser_json_bytes="base64")

        content: bytes

    assert taking(Lenient).post("/", json={"content": "é!"}).json() == {"content": ""}
    assert taking(Lenient).post("/", json={"content": "aGVs!bG8="}).json() == {"content": "aGVsbG8="}
    assert taking(ByOption).post("/", json={"content": "+/8="}).json() == {"content": "-_8="}


def test_trap_encoded_bytes_that_are_no_field_of_a_model_are_decoded_again_on_the_way_out() -> None:
    for encoded in (Base64, Base64Bytes):
        assert taking(encoded).post("/", json="aGVsbG8=").status_code == 500


class Colour(Enum):
    RED = "red"


class StrictThing(BaseModel):
    model_config = ConfigDict(strict=True)

    day: date | None = None
    id: UUID | None = None
    price: Decimal | None = None
    colour: Colour | None = None
    place: tuple[int, int] | None = None


NO_JSON_TYPE: dict[str, Any] = {
    "day": "2030-01-31",
    "id": "12345678-1234-5678-1234-567812345678",
    "price": "1.50",
    "colour": "red",
    "place": [1, 2],
}


def test_trap_a_strict_model_refuses_what_json_has_no_type_for() -> None:
    assert StrictThing.model_validate_json(json.dumps(NO_JSON_TYPE)).price == Decimal("1.50")
    errors = taking(StrictThing).post("/", json=NO_JSON_TYPE).json()["detail"]
    assert [error["loc"][1] for error in errors] == list(NO_JSON_TYPE)


def test_trap_a_union_without_a_discriminator_reports_the_errors_of_every_member() -> None:
    answer = taking(Card | Transfer).post("/", json={"kind": "transfer"})
    places = {error["loc"][1] for error in answer.json()["detail"]}
    assert places == {"Card", "Transfer"}


def test_trap_left_to_right_makes_a_number_of_a_text() -> None:
    assert taking(int | str).post("/", json="007").json() == "007"
    assert taking(Annotated[int | str, Field(union_mode="left_to_right")]).post("/", json="007").json() == 7


def test_trap_with_aliases_alone_a_name_of_python_is_ignored() -> None:
    class Gift(BaseModel):
        model_config = ConfigDict(alias_generator=to_camel)

        gift_note: str | None = None

    assert taking(Gift).post("/", json={"gift_note": "for you"}).json() == {"giftNote": None}


def test_trap_model_dump_knows_no_aliases() -> None:
    class Gift(CamelModel):
        gift_note: str

    async def give(by_hand: bool = False) -> Any:
        gift = Gift(gift_note="for you")
        return JSONResponse(gift.model_dump()) if by_hand else gift

    app = FastAPI()
    app.add_api_route("/", give, response_model=Gift)
    assert TestClient(app).get("/").json() == {"giftNote": "for you"}
    assert TestClient(app).get("/?by_hand=true").json() == {"gift_note": "for you"}


def test_trap_an_excluded_field_stands_in_the_repr() -> None:
    class Login(BaseModel):
        password: Annotated[str, Field(exclude=True)]

    login = Login(password="hunter2")
    assert login.model_dump() == {}
    assert "hunter2" in repr(login)


def test_trap_a_dataclass_ignores_what_it_does_not_know() -> None:
    @dataclass
    class Line:
        product: str
        quantity: int = 1

    answer = taking(list[Line]).post("/", json=[{"product": "tea", "quantiti": 5}])
    assert answer.json() == [{"product": "tea", "quantity": 1}]
