import asyncio
import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import strawberry
from fastapi import FastAPI
from fastapi.testclient import TestClient
from graphql import get_introspection_query
from sqlalchemy import event, select, text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import async_sessionmaker
from sqlalchemy.orm import Session
from strawberry.dataloader import DataLoader
from strawberry.extensions import MaskErrors, MaxAliasesLimiter, QueryDepthLimiter
from strawberry.fastapi import GraphQLRouter
from strawberry.types import ExecutionResult, get_object_definition

from app.database.models import Item, User
from app.database.session import SessionMaker, open_database
from app.main import create_app
from app.routers.graphql import schema
from app.settings import Settings
from tests.routers.validation.test_models import FORBIDDEN, NAMES

STANDARD = {"Accept": "application/graphql-response+json"}


def ask(client: TestClient, query: str, **variables: Any) -> dict[str, Any]:
    answer = client.post("/graphql", json={"query": query, "variables": variables}).json()
    assert isinstance(answer, dict)
    return answer


def in_braces(first: str, fields: Iterable[str]) -> str:
    return f"{{ {first}{' '.join(fields)} }}"


def messages(answer: dict[str, Any]) -> str:
    return "\n".join(error["message"] for error in answer["errors"])


def sessions_of(client: TestClient) -> SessionMaker:
    sessions = client.app_state["sessions"]
    assert isinstance(sessions, async_sessionmaker)
    return sessions


def execute_sql(client: TestClient, *statements: str) -> None:
    async def execute() -> None:
        async with sessions_of(client).begin() as session:
            for statement in statements:
                await session.execute(text(statement))

    assert client.portal
    client.portal.call(execute)


@pytest.fixture
def statements(client: TestClient) -> Iterator[list[str]]:
    """Every SQL statement that the service sends from here on."""
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        seen.append(statement)

    engine = sessions_of(client).kw["bind"].sync_engine
    event.listen(engine, "before_cursor_execute", note)
    yield seen
    event.remove(engine, "before_cursor_execute", note)


def test_a_query_gets_the_fields_it_names(client: TestClient) -> None:
    assert ask(client, "{ user(id: 1) { id name email } }") == {
        "data": {"user": {"id": 1, "name": "Ada Lovelace", "email": "ada@example.com"}}
    }
    assert ask(client, '{ user(id: 99) { id } item(id: "42") { priceCents owner { name } } }') == {
        "data": {"user": None, "item": {"priceCents": 5_200, "owner": {"name": "Grace Hopper"}}}
    }


def test_lists_are_bounded_pages(client: TestClient) -> None:
    everything = [item["id"] for item in ask(client, "{ items { id } }")["data"]["items"]]
    assert len(everything) == 8
    page = ask(client, "{ items(limit: 3, skip: 2) { id } }")["data"]["items"]
    assert [item["id"] for item in page] == everything[2:5]
    nested = ask(client, "{ users { few: items(limit: 1) { id } more: items(limit: 2) { id } } }")["data"]
    assert [(len(user["few"]), len(user["more"])) for user in nested["users"]] == [(1, 2), (1, 2), (1, 2)]
    for arguments in ("limit: 0", "limit: 101", "limit: -1", "skip: -1"):
        assert "`limit` is from 1 to 100" in messages(ask(client, f"{{ users({arguments}) {{ id }} }}"))
    assert "`limit` is from 1 to 100" in messages(ask(client, "{ user(id: 1) { items(limit: 101) { id } } }"))


def test_related_rows_cost_one_statement_a_level_not_one_a_row(
    client: TestClient, statements: list[str]
) -> None:
    answer = ask(client, "{ users { items { id } } }")["data"]["users"]
    assert sum(len(user["items"]) for user in answer) == 8
    assert len(statements) == 1 + 1
    ask(client, "{ items { owner { items { id } } } }")
    assert len(statements) == 2 + (1 + 1 + 1)


@strawberry.type
class Row:
    owner_id: int

    @strawberry.field
    async def owner(self, info: strawberry.Info) -> str:
        async with info.context["sessions"]() as session:
            user = await session.get(User, self.owner_id)
        assert user
        return str(user.name)


@strawberry.type
class RowQuery:
    @strawberry.field
    async def rows(self, info: strawberry.Info) -> list[Row]:
        async with info.context["sessions"]() as session:
            return [Row(owner_id=id) for id in await session.scalars(select(Item.owner_id))]


def test_trap_a_resolver_that_reads_its_own_row_costs_a_statement_a_row(
    client: TestClient, statements: list[str]
) -> None:
    async def execute() -> ExecutionResult:
        return await strawberry.Schema(RowQuery).execute(
            "{ rows { owner } }", context_value={"sessions": sessions_of(client)}
        )

    assert client.portal
    assert not client.portal.call(execute).errors
    assert len(statements) == 1 + 8


def test_loaders_forget_everything_after_the_request(client: TestClient) -> None:
    query = "{ user(id: 1) { name } }"
    ask(client, query)
    execute_sql(client, "UPDATE users SET name = 'Ada King' WHERE id = 1")
    assert ask(client, query)["data"]["user"]["name"] == "Ada King"
    renamed_twice = """mutation {
        a: updateUser(id: 1, patch: {name: "Ada Byron"}) { items(limit: 1) { owner { name } } }
        b: updateUser(id: 1, patch: {name: "Ada Noel"}) { items(limit: 1) { owner { name } } }
    }"""
    answer = ask(client, renamed_twice)["data"]
    assert answer["b"]["items"][0]["owner"]["name"] == "Ada Noel"


def test_trap_a_loader_of_the_module_never_forgets_a_row() -> None:
    names = {1: "Ada Lovelace"}

    async def load(ids: list[int]) -> list[str]:
        return [names[id] for id in ids]

    loader = DataLoader(load)

    @strawberry.type
    class Query:
        @strawberry.field
        async def name(self, id: int) -> str:
            return await loader.load(id)

    async def two_requests() -> list[dict[str, Any] | None]:
        schema = strawberry.Schema(Query)
        first = await schema.execute("{ name(id: 1) }")
        names[1] = "Ada King"
        second = await schema.execute("{ name(id: 1) }")
        return [first.data, second.data]

    assert asyncio.run(two_requests()) == [{"name": "Ada Lovelace"}, {"name": "Ada Lovelace"}]


def test_two_fields_of_one_query_never_share_a_session(client: TestClient) -> None:
    begun: list[Session] = []

    def note(session: Session, *_: object) -> None:
        begun.append(session)

    event.listen(Session, "after_begin", note)
    try:
        answer = ask(client, '{ users { items { id } } items { owner { id } } item(id: "1") { id } }')
    finally:
        event.remove(Session, "after_begin", note)
    assert "errors" not in answer
    assert len(begun) == 5
    assert len({id(session) for session in begun}) == 5


def test_trap_resolvers_that_share_a_session_disturb_each_other(settings: Settings) -> None:
    @strawberry.type
    class Query:
        @strawberry.field
        async def name(self, info: strawberry.Info, id: int) -> str:
            user = await info.context["session"].get(User, id)
            return str(user.name)

    async def execute() -> ExecutionResult:
        async with open_database(settings.sqlalchemy_url) as sessions, sessions() as session:
            query = "{ a: name(id: 1) b: name(id: 2) }"
            return await strawberry.Schema(Query).execute(query, context_value={"session": session})

    errors = asyncio.run(execute()).errors
    assert errors
    assert isinstance(errors[0].original_error, InvalidRequestError)


def test_invalid_input_is_refused_with_the_place_and_the_reason(client: TestClient) -> None:
    create = "mutation($input: NewItem!) { createItem(input: $input) { id name priceCents owner { id } } }"
    made = ask(client, create, input={"name": "  Abacus ", "priceCents": 0, "ownerId": 1})["data"][
        "createItem"
    ]
    assert made == {"id": made["id"], "name": "Abacus", "priceCents": 0, "owner": {"id": 1}}
    refused = ask(client, create, input={"name": "", "priceCents": -1, "ownerId": 1})
    assert [
        (error["location"], error["type"]) for error in refused["errors"][0]["extensions"]["validationErrors"]
    ] == [
        (["input", "name"], "too_short"),
        (["input", "priceCents"], "greater_than_equal"),
    ]
    unknown = ask(client, create, input={"name": "Abacus", "priceCents": 1, "ownerId": 99})
    assert messages(unknown) == "There is no user with this id."
    assert len(ask(client, "{ items { id } }")["data"]["items"]) == 9


CREATE_ITEM = "mutation($input: NewItem!) { createItem(input: $input) { name } }"
UPDATE_USER = "mutation($patch: UserPatch!) { updateUser(id: 1, patch: $patch) { name } }"


def test_a_name_is_held_to_the_rule_of_post_users(client: TestClient) -> None:
    for name, stored in NAMES.items():
        assert ask(client, UPDATE_USER, patch={"name": name})["data"]["updateUser"] == {"name": stored}
    for bad in ("", "ada", *(f"ada{char} lovelace" for char in FORBIDDEN), "ß " * 50, "x " * 101):
        reason = client.post("/users", json={"name": bad, "email": "a@example.com"}).json()["errors"][0][
            "msg"
        ]
        assert messages(ask(client, UPDATE_USER, patch={"name": bad})).endswith(reason)
    assert ask(client, "{ user(id: 1) { name } }")["data"]["user"]["name"] == list(NAMES.values())[-1]
    # That of an item is the same, but may be one word, as it is written.
    for bad in (" ", *(f"ada{char} lovelace" for char in FORBIDDEN), "\u0958" * 51, "x" * 101):
        item = {"name": bad, "priceCents": 1, "ownerId": 1}
        assert "input.name" in messages(ask(client, CREATE_ITEM, input=item))


def ages(client: TestClient) -> list[int | None]:
    async def read() -> list[int | None]:
        async with sessions_of(client)() as session:
            return list(await session.scalars(select(User.age).order_by(User.id)))

    assert client.portal
    return client.portal.call(read)


def test_there_is_no_authorization_whoever_asks_reads_each_address_and_changes_any_user(
    client: TestClient,
) -> None:
    assert "authorization" not in client.headers
    answer = ask(client, "{ users { email items { priceCents } } }")["data"]["users"]
    assert [user["email"] for user in answer] == ["ada@example.com", "alan@example.com", "grace@example.com"]
    ask(client, 'mutation { updateUser(id: 2, patch: {name: "Not Alan"}) { id } }')
    assert client.get("/users/2").json()["name"] == "Not Alan"


def test_an_age_can_be_changed_and_is_never_told(client: TestClient) -> None:
    assert ask(client, "mutation { updateUser(id: 2, patch: {age: 50}) { id } }")["data"]
    assert ages(client) == [36, 50, 85]
    for query in ("{ user(id: 2) { age } }", "mutation { updateUser(id: 2, patch: {}) { age } }"):
        assert "Cannot query field 'age' on type 'User'" in messages(ask(client, query))


def test_a_patch_tells_an_absent_field_from_a_null(client: TestClient) -> None:
    assert ask(client, UPDATE_USER, patch={})["data"]["updateUser"] == {"name": "Ada Lovelace"}
    assert ask(client, UPDATE_USER, patch={"name": "Ada King"})["data"]["updateUser"] == {"name": "Ada King"}
    assert ages(client) == [36, 41, 85]
    assert ask(client, UPDATE_USER, patch={"age": None})["data"]["updateUser"] == {"name": "Ada King"}
    assert ages(client) == [None, 41, 85]
    assert "patch.name" in messages(ask(client, UPDATE_USER, patch={"name": None}))
    assert "patch.age" in messages(ask(client, UPDATE_USER, patch={"age": 12}))
    nobody = ask(client, "mutation { updateUser(id: 99, patch: {}) { name } }")
    assert messages(nobody) == "There is no user with this id."


def test_items_are_refused_once_the_table_is_full_however_many_are_added_at_once(settings: Settings) -> None:
    create = 'mutation { createItem(input: {name: "Abacus", priceCents: 1, ownerId: 1}) { name } }'
    full = {"data": None, "errors": [{"message": "There is no room for another item."}]}
    with TestClient(create_app(settings.model_copy(update={"max_items": 20}))) as client:
        with ThreadPoolExecutor(40) as threads:
            answers = list(threads.map(lambda _: ask(client, create), range(40)))
        assert len(ask(client, "{ items(limit: 100) { id } }")["data"]["items"]) == 20
    refused = [answer for answer in answers if "errors" in answer]
    assert len(refused) == 40 - 12
    for answer in refused:
        assert {**answer, "errors": [{"message": messages(answer)}]} == full


def doubling(count: int, type_name: str = "User") -> str:
    """`count` fragments, each of which spreads the next one twice."""
    fragments = (f"fragment F{n} on {type_name} {{ ...F{n + 1} ...F{n + 1} }}" for n in range(count))
    last = f"fragment F{count} on {type_name} {{ id }}"
    return "{ user(id: 1) { ...F0 } } " + " ".join([*fragments, last])


BEYOND = [
    ("{ nope user(id: 1) { items { owner { items { owner { items { id } } } } } } }", "6 levels"),
    (in_braces("nope ", (f"a{n}: user(id: 1) {{ id }}" for n in range(16))), "15 aliases"),
    ("{ nope user(id: 1) { %s } }" % ("id " * 17), "15 aliases or repetitions"),
    ("{ nope } fragment Unused on User { " + "id " * 17 + "}", "15 aliases or repetitions"),
    ("{ nope users(limit: 100) { id items(limit: 9) { id } } }", "1000 fields"),
    ("query($most: Int!) { nope users(limit: $most) { items { id } } }", "1000 fields"),
    ("{ nope ...Page } fragment Page on Query { users(limit: 100) { items { id } } }", "1000 fields"),
    ("{ nope " + "user(id: 1) " * 100 + "}", "500 tokens"),
    (doubling(40).replace("{", "{ nope ", 1), "1000 fields"),
    ("{ nope " + "... { " * 190 + "id" + " }" * 190 + " }", "tokens"),
]


def test_a_query_beyond_a_limit_is_refused_before_it_is_validated(
    client: TestClient, statements: list[str]
) -> None:
    for query, reason in BEYOND:
        answer = ask(client, query, most=100)
        assert reason in messages(answer)
        assert len(answer["errors"]) == 1, "`nope` was not looked at"
        assert "data" not in answer
    assert statements == []


@pytest.mark.parametrize("limit", ["depth", "aliases", "cost", "tokens"])
def test_each_limit_is_a_setting(settings: Settings, limit: str) -> None:
    with TestClient(create_app(settings.model_copy(update={f"graphql_max_{limit}": 0}))) as client:
        assert "more than 0" in messages(ask(client, "{ a: user(id: 1) { id } }"))


def test_a_limit_counts_what_a_variable_says_or_its_default(client: TestClient) -> None:
    users = "users(limit: $most) { items(limit: 10) { id } }"
    small, large = (
        f"query Small($most: Int = 5) {{ {users} }}",
        f"query Large($most: Int = 100) {{ {users} }}",
    )
    assert ask(client, small)["data"]
    assert "1000 fields" in messages(ask(client, large))
    assert ask(client, large, most=5)["data"]
    for most in (100, None, 5.5, "5", 10**12):
        assert "1000 fields" in messages(ask(client, small, most=most))
    for default in ("null", "1" * 5_000):
        assert "1000 fields" in messages(ask(client, small.replace("5", default)))
    # Without either it is the default of the argument that counts: ten.
    assert ask(client, f"query($most: Int!) {{ {users} }}", most=10)["data"]
    assert ask(client, small.replace(" = 5", ""))["data"]
    # The same fragment weighs what the variables of each operation make of it.
    shared = f"fragment Page on Query {{ {users} }}"
    for operation, accepted in ((small, True), (large, False), (f"{small} {large}", False)):
        answer = ask(client, f"{operation.replace(users, '...Page')} {shared}")
        assert ("data" in answer) is accepted


def test_a_fragment_is_weighed_once_however_often_it_is_spread(client: TestClient) -> None:
    # 2⁴⁰ steps would take days.
    assert "more than 1000 fields" in messages(ask(client, doubling(40)))
    within = (
        "{ user(id: 1) { ...A ...A } } fragment A on User { id items { ...B } } fragment B on Item { id }"
    )
    assert ask(client, within)["data"]
    cycle = "{ user(id: 1) { ...A } } fragment A on User { items { owner { ...A } } }"
    assert "within itself" in messages(ask(client, cycle))
    assert "Unknown fragment" in messages(ask(client, "{ ...Nope }"))


@strawberry.type
class Person:
    id: int


@strawberry.type
class Plain:
    @strawberry.field
    def user(self, id: int) -> Person:
        return Person(id=id)

    @strawberry.field
    def crash(self, password: str = "") -> str | None:
        raise ValueError(f"cannot connect with {password or 'hunter2'}")


def test_trap_the_limiters_that_ship_take_exponential_time() -> None:
    schema = strawberry.Schema(
        Plain, extensions=[lambda: QueryDepthLimiter(max_depth=6), lambda: MaxAliasesLimiter(15)]
    )

    def seconds(count: int) -> float:
        started = time.perf_counter()
        assert not schema.execute_sync(doubling(count, "Person")).errors
        return time.perf_counter() - started

    seconds(1)
    # Six fragments more, 200 bytes, and 64 times the steps.
    assert seconds(15) > 8 * min(seconds(9) for _ in range(3))


def test_trap_without_limits_every_alias_is_run() -> None:
    app = FastAPI()
    app.include_router(GraphQLRouter(strawberry.Schema(Plain)), prefix="/graphql")
    query = in_braces("", (f"a{n}: user(id: 1) {{ id }}" for n in range(300)))
    answer = TestClient(app).post("/graphql", json={"query": query})
    assert len(answer.json()["data"]) == 300


def test_an_unexpected_error_is_hidden_from_the_client_and_logged_once(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    execute_sql(client, "DROP TABLE items")
    response = client.post("/graphql", json={"query": '{ a: item(id: "1") { id } b: item(id: "2") { id } }'})
    hidden = {"request_id": response.headers["x-request-id"]}
    assert [error["extensions"] for error in response.json()["errors"]] == [hidden, hidden]
    assert "Something went wrong" in response.text
    assert "SELECT" not in response.text
    assert "no such table" not in response.text
    logged = [record for record in caplog.records if record.name == "app.graphql"]
    assert [record.getMessage() for record in logged] == ["GraphQL operation failed"]
    assert logged[0].exc_info
    assert "no such table" in str(logged[0].exc_info[1])


def test_trap_the_text_of_an_exception_reaches_the_client() -> None:
    answer = strawberry.Schema(Plain).execute_sync("{ crash }")
    assert answer.errors
    assert answer.errors[0].formatted["message"] == "cannot connect with hunter2"


def test_syntax_and_validation_errors_are_shown(client: TestClient) -> None:
    assert messages(ask(client, "{ user(")) == "Syntax Error: Expected Name, found <EOF>."
    assert "Cannot query field 'usr' on type 'Query'" in messages(ask(client, "{ usr }"))
    assert "of type 'Int!' is required" in messages(ask(client, "{ user { id } }"))
    assert "Variable '$id'" in messages(ask(client, "query($id: Int!) { user(id: $id) { id } }", id="x"))


def test_trap_mask_errors_hides_which_field_was_mistyped() -> None:
    schema = strawberry.Schema(Plain, extensions=[MaskErrors])
    for query in ("{ usr }", "{ user(", "{ user(id: 1) { nme } }"):
        answer = schema.execute_sync(query)
        assert answer.errors
        assert {error.message for error in answer.errors} == {"Unexpected error."}


def test_trap_mask_errors_shows_what_an_extension_raised() -> None:
    schema = strawberry.Schema(Plain, extensions=[lambda: QueryDepthLimiter(max_depth=6), MaskErrors])
    answer = asyncio.run(schema.execute("{ ...Nope }"))
    assert answer.errors
    assert answer.errors[0].message == "'Nope'"
    assert isinstance(answer.errors[0].original_error, KeyError)


SECRETIVE = [
    '{ item(id: "hunter2") { id } }',
    '{ nope(password: "hunter2") }',
    '{ user(id: "hunter2") { id } }',
    '{ user(id: 1) { id } } "hunter2"',
    '{ items(limit: 0) { id } a: item(id: "hunter2") { id } }',
]


def test_the_log_never_holds_a_query(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "strawberry")
    execute_sql(client, "DROP TABLE items")
    for query in SECRETIVE:
        caplog.clear()
        ask(client, query)
        assert "hunter2" not in caplog.text
        assert len([record for record in caplog.records if record.name != "httpx2"]) <= 1


def test_trap_strawberry_logs_the_whole_query_for_each_error(caplog: pytest.LogCaptureFixture) -> None:
    query = in_braces("", (f'a{n}: crash(password: "hunter{n}")' for n in range(10)))
    strawberry.Schema(Plain).execute_sync(query)
    assert len(caplog.records) == 10
    assert "hunter9" in caplog.text
    assert len(caplog.text) > 10 * len(query)


def test_only_json_by_post_is_read(client: TestClient) -> None:
    body = b'{"query": "{ users { id } }"}'
    for content_type in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
    ):
        refused = client.post("/graphql", content=body, headers={"Content-Type": content_type})
        assert refused.status_code == 415
        assert refused.json()["detail"] == "Send the query as application/json."
    assert client.post("/graphql", content=body).status_code == 415
    accepted = {"Content-Type": "Application/JSON; charset=utf-8"}
    assert client.post("/graphql", content=body, headers=accepted).json()["data"]
    for method in ("GET", "PUT"):
        refused = client.request(method, "/graphql", params={"query": "{ users { id } }"})
        assert refused.status_code == 405
        assert refused.headers["allow"] == "POST"
        assert refused.headers["content-type"] == "application/problem+json"
    assert client.get("/graphql", headers={"Accept": "text/html"}).status_code == 405


BAD_BODIES = {
    "no JSON": b"{",
    "a number": b"1",
    "a batch": b'[{"query": "{ users { id } }"}]',
    "no query": b'{"variables": {}}',
    "an empty query": b'{"query": ""}',
    "a query that is no text": b'{"query": {}}',
    "variables that are no object": b'{"query": "{ users { id } }", "variables": []}',
    "an operation name that is no text": b'{"query": "{ users { id } }", "operationName": {}}',
    "no UTF-8": b'{"query": "\xff"}',
    "half a surrogate": b'{"query": "{ users { id } } # \\ud800"}',
    "deep nesting": b"[" * 90_000,
    "a number of 5,000 digits": b'{"query": "{ users { id } }", "variables": {"n": ' + b"1" * 5_000 + b"}}",
}


def test_a_body_that_is_no_graphql_request_is_a_problem(client: TestClient) -> None:
    for name, body in BAD_BODIES.items():
        refused = client.post("/graphql", content=body, headers={"Content-Type": "application/json"})
        assert refused.status_code == 400, name
        assert refused.headers["content-type"] == "application/problem+json", name
        assert "hunter2" not in refused.text, name


def test_a_body_over_the_limit_is_a_problem(client: TestClient) -> None:
    query = in_braces("", (f"a{n}: user(id: 1) {{ id name }}" for n in range(30_000)))
    refused = client.post("/graphql", json={"query": query})
    assert refused.status_code == 413
    assert refused.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize("body", [b"1", b'{"query": "\xff"}', b"[" * 90_000])
def test_trap_a_body_that_is_no_object_crashes_the_plain_router(body: bytes) -> None:
    app = FastAPI()
    app.include_router(GraphQLRouter(strawberry.Schema(Plain)), prefix="/graphql")
    client = TestClient(app, raise_server_exceptions=False)
    crashed = client.post("/graphql", content=body, headers={"Content-Type": "application/json"})
    assert crashed.status_code == 500


def test_a_client_of_the_standard_media_type_gets_the_standard_status(client: TestClient) -> None:
    def post(query: str, headers: dict[str, str]) -> tuple[int, str, set[str]]:
        response = client.post("/graphql", json={"query": query}, headers=headers)
        return response.status_code, response.headers["content-type"], set(response.json())

    standard, plain = STANDARD["Accept"], "application/json"
    assert post("{ users { id } }", STANDARD) == (200, standard, {"data"})
    assert post("{ nope }", STANDARD) == (400, standard, {"errors"})
    assert post("{ users(limit: 0) { id } }", STANDARD) == (200, standard, {"data", "errors"})
    assert post("{ users { id } }", {}) == (200, plain, {"data"})
    assert post("{ nope }", {}) == (200, plain, {"errors"})


WITHOUT_AN_OPERATION = [
    {"query": "{ users { id } }", "operationName": "hunter2"},
    {"query": "query hunter1 { users { id } }", "operationName": "hunter2"},
    {"query": "query A { users { id } }", "operationName": ""},
    {"query": "fragment hunter2 on User { id }"},
    {"query": "subscription { hunter2 }"},
]


@pytest.mark.parametrize("body", WITHOUT_AN_OPERATION)
def test_a_request_without_an_operation_to_run_is_refused_as_any_other_query(
    client: TestClient, caplog: pytest.LogCaptureFixture, body: dict[str, str]
) -> None:
    for headers, status, media_type in (
        (STANDARD, 400, "application/graphql-response+json"),
        ({}, 200, "application/json"),
    ):
        refused = client.post("/graphql", json=body, headers=headers)
        assert refused.status_code == status
        assert refused.headers["content-type"] == media_type
        assert set(refused.json()) == {"errors"}
        assert "operation" in messages(refused.json())
        assert "hunter" not in refused.text
    assert not [record for record in caplog.records if record.name == "app.graphql"]


def test_introspection_and_suggestions_are_off_where_the_docs_are_off(settings: Settings) -> None:
    introspection, typo, argument = get_introspection_query(), "{ usr }", "{ user(idd: 1) { id } }"
    with TestClient(create_app(settings)) as client:
        assert ask(client, introspection)["data"]["__schema"]["types"]
        assert "more than 1000 fields" in messages(
            ask(client, introspection.replace("__schema", "__schema { types { ...FullType } } a: __schema"))
        )
        assert "Did you mean 'user'" in messages(ask(client, typo))
    with TestClient(create_app(settings.model_copy(update={"docs": False}))) as client:
        for query in (introspection, '{ __type(name: "User") { name } }'):
            assert "introspection has been disabled" in messages(ask(client, query))
        assert ask(client, "{ __typename }")["data"] == {"__typename": "Query"}
        for query in (typo, argument, "{ users { nam } }", "{ users { ... on Usr { id } } }"):
            assert "Did you mean" not in messages(ask(client, query))


def test_the_openapi_document_describes_the_request(client: TestClient) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths["/graphql"]) == {"post"}
    schema = paths["/graphql"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert schema["required"] == ["query"]
    example = schema["properties"]["query"]["examples"][0]
    assert ask(client, example)["data"]["user"]["name"] == "Ada Lovelace"


def test_two_apps_in_one_process_have_their_own_data_and_limits(settings: Settings) -> None:
    other = settings.model_copy(update={"data_dir": settings.data_dir / "other", "graphql_max_depth": 1})
    with TestClient(create_app(settings)) as first, TestClient(create_app(other)) as second:
        ask(first, 'mutation { updateUser(id: 1, patch: {name: "Ada King"}) { id } }')
        assert ask(first, "{ user(id: 1) { name } }")["data"]["user"]["name"] == "Ada King"
        assert "1 levels" in messages(ask(second, "{ user(id: 1) { name } }"))


def test_every_resolver_is_asynchronous() -> None:
    resolvers = [
        field.base_resolver
        for type_ in (schema.Query, schema.Mutation, schema.User, schema.Item)
        for field in get_object_definition(type_, strict=True).fields
        if field.base_resolver
    ]
    assert len(resolvers) == 8
    assert all(resolver.is_async for resolver in resolvers)


def test_trap_a_plain_function_as_resolver_stops_the_event_loop() -> None:
    loop_thread = threading.get_ident()
    threads: list[int] = []

    @strawberry.type
    class Query:
        @strawberry.field
        def slow(self) -> int:
            threads.append(threading.get_ident())
            return 1

    app = FastAPI()

    @app.get("/slow")
    def slow() -> None:
        threads.append(threading.get_ident())

    @app.get("/loop")
    async def loop() -> None:
        nonlocal loop_thread
        loop_thread = threading.get_ident()

    app.include_router(GraphQLRouter(strawberry.Schema(Query)), prefix="/graphql")
    with TestClient(app) as client:
        client.get("/loop")
        client.post("/graphql", json={"query": "{ slow }"})
        client.get("/slow")
    assert threads[0] == loop_thread, "the resolver"
    assert threads[1] != loop_thread, "the endpoint"


def test_the_answer_is_json_that_no_page_can_run(client: TestClient) -> None:
    response = client.post("/graphql", json={"query": '{ item(id: "<i>") { name } }'})
    assert response.headers["x-content-type-options"] == "nosniff"
    assert json.loads(response.text)["data"]["item"]["name"] == "Tom & <Jerry>"
