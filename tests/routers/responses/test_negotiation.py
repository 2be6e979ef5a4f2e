import csv
import io
from typing import Any

import httpx2
import ormsgpack
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, PlainTextResponse, Response
from fastapi.testclient import TestClient

from app.routers.responses import negotiation
from app.routers.responses.negotiation import MAX_ACCEPT

URL = "/responses/items"
JSON, CSV, MSGPACK = "application/json", "text/csv; charset=utf-8", "application/vnd.msgpack"


def ask(client: TestClient, accept: str, **params: int) -> httpx2.Response:
    return client.get(URL, headers={"Accept": accept}, params=params)


LIKED_BEST = [
    ("application/json", JSON),
    ("text/csv", CSV),
    ("Text/CSV", CSV),
    ("application/vnd.msgpack", MSGPACK),
    ("text/csv;q=0.5, application/vnd.msgpack;q=0.6", MSGPACK),
    ("text/csv ; q=0.5 , application/json ; q=0.6", JSON),
    ("application/json;q=0.1, text/csv;header=present", CSV),
    ("text/*", CSV),
    ("text/html, image/webp, */*;q=0.8", JSON),
    ("application/json;q=0.001", JSON),
    ("application/json;q=2, text/csv;q=0.1", CSV),
    ("application/json;q=, text/csv;q=0.1", CSV),
]
MORE_SPECIFIC = [
    ("*/*, application/json;q=0.1, application/*;q=0.2", CSV),
    ("application/json;q=0, */*;q=0.1", CSV),
    ("application/*;q=0, */*", CSV),
    ("application/*;q=0.1, application/vnd.msgpack;q=0.2", MSGPACK),
]


def test_the_format_is_the_one_that_the_accept_header_likes_best(client: TestClient) -> None:
    for accept, answered in LIKED_BEST:
        answer = ask(client, accept)
        assert (answer.status_code, answer.headers["content-type"]) == (200, answered), accept


def test_the_more_specific_range_counts_and_a_weight_of_zero_means_never(client: TestClient) -> None:
    for accept, answered in MORE_SPECIFIC:
        assert ask(client, accept).headers["content-type"] == answered, accept


def test_where_nothing_is_asked_for_the_answer_is_json(client: TestClient) -> None:
    del client.headers["accept"]
    assert client.get(URL).headers["content-type"] == JSON
    assert ask(client, "*/*").headers["content-type"] == JSON
    assert ask(client, "application/*, text/*").headers["content-type"] == JSON


def test_several_lines_of_the_header_are_one(client: TestClient) -> None:
    lines = [("Accept", "application/json;q=0.1"), ("Accept", "text/csv")]
    del client.headers["accept"]
    assert client.get(URL, headers=lines).headers["content-type"] == CSV


def test_an_unknown_format_is_a_406_that_lists_what_there_is(client: TestClient) -> None:
    for accept in ("text/html", "image/*", "*/*;q=0", "json", "*", ",;,", "application/json;q=0.0"):
        answer = ask(client, accept)
        assert answer.status_code == 406, accept
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["detail"] == "There is application/json, text/csv, application/vnd.msgpack."


def test_an_accept_header_of_over_4_000_characters_is_a_400_in_one_line_or_in_several(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    parse = negotiation.weights_of

    def parse_in_sight(accept: str) -> dict[str, float]:
        parsed.append(accept)
        return parse(accept)

    monkeypatch.setattr(negotiation, "weights_of", parse_in_sight)
    longest = "text/csv" + "," * (MAX_ACCEPT - 8)
    assert ask(client, longest).headers["content-type"] == CSV
    assert parsed == [longest]  # once for all formats
    del client.headers["accept"]
    for lines in ([longest + ","], [longest[:100], longest[100:]], ["," * 400_000]):
        answer = client.get(URL, headers=[("Accept", line) for line in lines])
        assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")
        assert answer.json()["detail"] == "The Accept header is longer than 4000 characters."
        assert "accept" in answer.headers["vary"].lower()
    assert len(parsed) == 1


def test_every_answer_varies_by_the_accept_header(client: TestClient) -> None:
    for accept in ("application/json", "text/csv", "application/vnd.msgpack", "text/html"):
        names = ask(client, accept).headers["vary"].lower().split(", ")
        assert {"accept", "accept-encoding", "origin"} <= set(names), accept


def test_every_format_is_documented_with_its_media_type(app: FastAPI) -> None:
    content = app.openapi()["paths"][URL]["get"]["responses"]["200"]["content"]
    assert set(content) == {"application/json", "text/csv", "application/vnd.msgpack"}
    assert content["application/json"]["schema"]["items"] == {"$ref": "#/components/schemas/StoredItem"}


def in_columns(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline=""), strict=True))


def test_all_formats_hold_the_same_rows(client: TestClient) -> None:
    rows = ask(client, "application/json").json()
    assert len(rows) == 8 and set(rows[0]) == {"id", "name", "price_cents"}
    assert ormsgpack.unpackb(ask(client, "application/vnd.msgpack").content) == rows
    as_text = [{name: str(value) for name, value in row.items()} for row in rows]
    assert in_columns(ask(client, "text/csv").text) == as_text
    assert ask(client, "application/json", limit=1).json() == rows[:1]
    assert ask(client, "text/csv", limit=101).status_code == 422


def renamed(client: TestClient, name: str) -> str:
    """The first item as a line of CSV, once it has this name."""
    assert client.patch(f"{URL}/1", json={"name": name}).status_code == 200
    return ask(client, "text/csv", limit=2).text


def test_a_cell_that_begins_like_a_formula_is_text(client: TestClient) -> None:
    for start in ("=", "+", "-", "@", "\uff1d"):
        formula = f'{start}HYPERLINK("https://evil.example")'
        assert in_columns(renamed(client, formula))[0]["name"] == f"'{formula}"


def test_commas_quotes_line_ends_and_letters_of_every_script_survive_csv(client: TestClient) -> None:
    name = 'A "big", Größe 漢字 🎉'
    text = renamed(client, name)
    assert in_columns(text)[0]["name"] == name
    content = ask(client, "text/csv").content
    assert content.startswith(b"id,name,price_cents\r\n") and content.endswith(b"\r\n")
    assert content.decode("utf-8").startswith("id")  # no byte order mark


def test_head_has_the_headers_of_the_chosen_format(client: TestClient) -> None:
    answer = client.head(URL, headers={"Accept": "text/csv"})
    assert (answer.headers["content-type"], answer.content) == (CSV, b"")


def test_trap_a_search_in_the_header_sends_what_the_client_does_not_want(client: TestClient) -> None:
    async def items(request: Request) -> Response:
        if "text/csv" in request.headers["accept"]:
            return PlainTextResponse(media_type="text/csv")
        return JSONResponse([])

    app = FastAPI()
    app.add_api_route("/", items)
    theirs = TestClient(app)
    for accept, wanted in (
        ("text/csv;q=0, */*", JSON),
        ("application/json, text/csv;q=0.1", JSON),
        ("text/*", CSV),
    ):
        assert theirs.get("/", headers={"Accept": accept}).headers["content-type"] != wanted
        assert ask(client, accept).headers["content-type"] == wanted


def test_trap_a_line_put_together_by_hand_has_a_column_too_many_and_a_formula() -> None:
    name, price = "=1+1, or more", 5
    [[first, *rest]] = csv.reader([f"{name},{price}"])
    assert first == "=1+1" and rest == [" or more", "5"]


def test_trap_a_byte_order_mark_becomes_a_part_of_the_first_name() -> None:
    text = "id,name\r\n1,Größe\r\n"
    [row] = in_columns(text.encode("utf-8-sig").decode("utf-8"))
    assert "id" not in row
    [row] = in_columns(text.encode("utf-8").decode("cp1252"))  # Excel, where there is none
    assert row["name"] == "GrÃ¶ÃŸe"


def test_trap_msgpack_takes_no_large_integer_and_nothing_that_contains_itself() -> None:
    cycle: list[Any] = []
    cycle.append(cycle)
    for value in (cycle, 2**64, {1: "a number as key"}):
        with pytest.raises(ormsgpack.MsgpackEncodeError):
            ormsgpack.packb(value)
