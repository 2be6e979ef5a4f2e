import re
from collections.abc import Iterator
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient
from pydantic import BaseModel, ConfigDict, computed_field, create_model

from app.catalogue import GROUPS
from app.main import create_app
from app.openapi import DocumentedApp
from app.settings import Settings

BASE = "/composition/openapi"
METHODS = ("get", "put", "post", "delete", "patch", "query")


def operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Those of paths, of webhooks, and of callbacks."""
    items = [*document["paths"].values(), *document.get("webhooks", {}).values()]
    for item in items:
        for method in METHODS:
            if operation := item.get(method):
                yield operation
                for callback in operation.get("callbacks", {}).values():
                    yield from operations({"paths": callback})


def test_every_operation_has_a_readable_id_a_summary_a_description_a_tag_and_its_errors(app: FastAPI) -> None:
    document = app.openapi()
    tags = {tag["name"] for tag in document["tags"]}
    ids = set()
    for operation in operations(document):
        id, [tag] = operation["operationId"], operation["tags"]
        assert re.fullmatch(rf"{tag}_[a-z][a-z0-9_]*", id) and tag in tags, id
        assert id not in ids
        ids.add(id)
        assert operation["summary"] and operation["description"], id
        assert {"4XX", "5XX"} <= operation["responses"].keys(), id
    assert {"streaming_events", "composition_receive_announcement", "composition_verify_subscription"} <= ids


def test_every_schema_has_a_name_of_its_own_that_reads_well(app: FastAPI) -> None:
    names = app.openapi()["components"]["schemas"]
    form = re.compile(r"(Body_)?[A-Za-z][A-Za-z0-9]*(_[a-z]+)*(-Input|-Output)?")
    assert [name for name in names if not form.fullmatch(name)] == []


def test_an_answer_in_two_media_types_is_described_and_given_as_asked(
    client: TestClient, app: FastAPI
) -> None:
    answer = app.openapi()["paths"][f"{BASE}/temperature"]["get"]["responses"]["200"]
    assert answer["description"] == "In both units; as plain text the other one only"
    assert answer["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Temperature"}
    for kind, media in answer["content"].items():
        given = client.get(f"{BASE}/temperature?celsius=37", headers={"Accept": kind})
        assert given.headers["content-type"] == kind
        assert given.text == media.get("example", '{"celsius":37.0,"fahrenheit":98.6}')
        assert set(answer["headers"]) == {"Vary"} and "Accept" in given.headers["vary"]


def test_the_examples_of_the_document_are_accepted(client: TestClient, app: FastAPI) -> None:
    document = app.openapi()
    [parameter] = document["paths"][f"{BASE}/temperature"]["get"]["parameters"]
    examples = [example["value"] for example in parameter["examples"].values()]
    answers = [client.get(f"{BASE}/temperature", params={"celsius": value}) for value in examples]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert answers[0].json() in document["components"]["schemas"]["Temperature"]["examples"]
    for wrong in ("-274", "nan", "inf", "1e10", "warm", ""):
        assert client.get(f"{BASE}/temperature", params={"celsius": wrong}).status_code == 422


def test_a_deprecated_operation_says_so_in_the_document_and_in_its_answer(
    client: TestClient, app: FastAPI
) -> None:
    deprecated = [
        path for path, item in app.openapi()["paths"].items() if item.get("get", {}).get("deprecated")
    ]
    assert f"{BASE}/fahrenheit" in deprecated
    answer = client.get(f"{BASE}/fahrenheit?celsius=100")
    assert answer.headers["deprecation"].startswith("@")
    assert answer.headers["link"] == f'<{BASE}/temperature>; rel="successor-version"'
    assert answer.json() == client.get(f"{BASE}/temperature?celsius=100").json()


def test_a_group_has_a_document_with_its_routes_and_the_schemas_that_they_use(
    client: TestClient, app: FastAPI
) -> None:
    document = app.openapi()
    for group in GROUPS:
        own = client.get(f"{BASE}/documents/{group}").json()
        assert own["openapi"] == document["openapi"]
        assert [tag["name"] for tag in own["tags"]] == [group]
        tagged = {
            path
            for path, item in document["paths"].items()
            if any(group in operation["tags"] for operation in item.values())
        }
        assert own["paths"].keys() == tagged
        used = set(re.findall(r"#/components/schemas/([\w-]+)", str(own)))
        assert used <= own["components"]["schemas"].keys() < document["components"]["schemas"].keys()
    [parameter] = document["paths"][f"{BASE}/documents/{{group}}"]["get"]["parameters"]
    assert parameter["schema"]["enum"] == list(GROUPS)
    assert client.get(f"{BASE}/documents/nothing").status_code == 404


def test_without_documents_no_group_has_one(settings: Settings) -> None:
    with TestClient(create_app(settings.model_copy(update={"docs": False}))) as client:
        assert client.get(f"{BASE}/documents/composition").status_code == 404


def test_what_stands_behind_a_form_feed_is_not_in_the_document(client: TestClient) -> None:
    text = client.get("/openapi.json").text
    assert "for those who ask for it" in text
    assert "Readers of the code" not in text and "\\f" not in text


def test_the_document_is_made_anew_when_a_route_is_added_with_the_same_additions() -> None:
    app = DocumentedApp()
    first = app.openapi()
    assert app.openapi() is first and "Problem" in first["components"]["schemas"]
    app.add_api_route("/late", lambda: None)
    second = app.openapi()
    assert list(second["paths"]) == ["/late"] and "Problem" in second["components"]["schemas"]


def test_trap_the_id_of_fastapi_contains_the_path_and_the_method() -> None:
    async def items() -> None: ...

    ids = []
    for path in ("/items/", "/things/"):
        app = FastAPI()
        app.add_api_route(path, items)
        ids.append(app.openapi()["paths"][path]["get"]["operationId"])
    assert ids == ["items_items__get", "items_things__get"]


def test_trap_an_id_that_is_there_twice_is_only_a_warning() -> None:
    app = FastAPI()
    app.add_api_route("/one", lambda: None, operation_id="read")
    app.add_api_route("/two", lambda: None, operation_id="read")
    with pytest.warns(UserWarning, match="Duplicate Operation ID read"):
        document = app.openapi()
    assert [operation["operationId"] for operation in operations(document)] == ["read", "read"]


def test_trap_a_route_with_two_methods_has_its_id_twice() -> None:
    app = FastAPI(generate_unique_id_function=lambda route: route.name)
    app.api_route("/", methods=["PUT", "POST"], name="write")(lambda: None)
    with pytest.warns(UserWarning, match="Duplicate Operation ID write"):
        app.openapi()


class Price(BaseModel):
    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    cents: int
    currency: str = "EUR"


class PriceInEuros(Price):
    @computed_field
    def euros(self) -> float:
        return self.cents / 100


def schemas_of(model: type[Price], separate: bool) -> dict[str, Any]:
    async def change(price: Any) -> Any: ...

    change.__annotations__.update(price=model, **{"return": model})
    app = FastAPI(separate_input_output_schemas=separate)
    app.add_api_route("/", change, methods=["POST"])
    schemas = app.openapi()["components"]["schemas"]
    return {name: schema["required"] for name, schema in schemas.items() if name.startswith("Price")}


def test_trap_a_model_for_both_ways_is_two_schemas_or_says_too_little() -> None:
    cents, both = ["cents"], ["cents", "currency"]
    assert schemas_of(Price, separate=True) == {"Price-Input": cents, "Price-Output": both}
    assert schemas_of(Price, separate=False) == {"Price": cents}
    assert list(schemas_of(PriceInEuros, separate=False)) == ["PriceInEuros-Input", "PriceInEuros-Output"]


def test_trap_two_models_of_one_name_are_named_by_their_modules() -> None:
    app = FastAPI()
    for module, kind in {"app.shop": str, "app.staff": int}.items():
        model = create_model("Caller", __module__=module, name=(kind, ...))
        app.add_api_route(f"/{module}", lambda: None, response_model=model)
    assert list(app.openapi()["components"]["schemas"]) == ["app__shop__Caller", "app__staff__Caller"]


def test_trap_a_url_that_is_set_on_a_finished_app_changes_nothing() -> None:
    app = FastAPI(docs_url=None, redoc_url=None)
    app.openapi_url = "/other.json"
    client = TestClient(app)
    assert [client.get(path).status_code for path in ("/openapi.json", "/other.json")] == [200, 404]
    app.setup()  # what made the routes in the beginning
    assert [client.get(path).status_code for path in ("/openapi.json", "/other.json")] == [200, 200]
