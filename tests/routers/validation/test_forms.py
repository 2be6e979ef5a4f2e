from collections.abc import Iterator
from encodings import punycode
from typing import Annotated, Any, Literal

import pytest
from fastapi import FastAPI, File, Form, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.middleware import Middleware
from fastapi.testclient import TestClient
from pydantic import BaseModel, Json, ValidationError

from app.main import create_app
from app.middleware.form_charset import FormCharsetMiddleware
from app.routers.validation.forms import MAX_THUMBNAIL, Details
from app.settings import Settings
from tests.routers.validation.bodies import answer_of, refused

DOCUMENT = "/validation/document"
FILE = ("a.txt", b"text")
URL_ENCODED = "application/x-www-form-urlencoded"


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """One for the module: nothing is kept from one call to the next."""
    folder = tmp_path_factory.mktemp("forms")
    with TestClient(create_app(Settings(data_dir=folder, uploads_dir=folder))) as client:
        yield client


def blob(content: bytes) -> tuple[str, bytes, str]:
    """What `FormData.append(name, new Blob([content], {type: "application/json"}))` sends."""
    return "blob", content, "application/json"


def test_a_form_is_one_of_two_models_told_apart_by_its_kind(client: TestClient) -> None:
    def send(**fields: str) -> Any:
        return client.post("/validation/contact", data=fields)

    assert send(kind="person", name="Ada").json() == {
        "kind": "person",
        "name": "Ada",
        "newsletter": False,
        "skills": [],
    }
    assert send(kind="company", name="Acme", vat="1").json()["vat"] == "1"
    assert refused(send(kind="company", name="Acme")) == [(["body", "company", "vat"], "missing")]
    assert refused(send(name="Ada")) == [(["body"], "union_tag_not_found")]
    robot = send(kind="robot", name="R2")
    assert refused(robot) == [(["body"], "union_tag_invalid")]
    assert "robot" not in robot.text


def test_an_empty_field_counts_as_left_out_and_a_checkbox_as_false(client: TestClient) -> None:
    def send(**fields: str) -> Any:
        return client.post("/validation/contact", data={"kind": "person", "name": "Ada", **fields})

    assert send().json()["newsletter"] is send(newsletter="").json()["newsletter"] is False
    assert send(newsletter="on").json()["newsletter"] is True
    assert refused(send(name="")) == [(["body", "person", "name"], "missing")]
    # So the document must not promise that an empty text passes for a required one.
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    for form, field in (("Person", "name"), ("Company", "name"), ("Company", "vat")):
        assert schemas[form]["properties"][field]["minLength"] == 1


def test_a_form_model_takes_a_file_and_refuses_unknown_fields(client: TestClient) -> None:
    def send(data: dict[str, str], name: str = "a.txt", content: bytes = b"text") -> Any:
        return client.post(DOCUMENT, data=data, files={"file": (name, content)})

    assert send({"title": "Mine"}).json() == {
        "title": "Mine",
        "details": {"language": "en", "pages": []},
        "size": 4,
    }
    assert send({}).json()["title"] == "Untitled"
    assert refused(send({"titel": "Mine"})) == [(["body", "titel"], "extra_forbidden")]
    body = client.get("/openapi.json").json()["paths"][DOCUMENT]["post"]["requestBody"]
    assert [*body["content"]] == ["multipart/form-data"]
    # What a browser sends when no file was chosen.
    assert refused(send({}, "", b"")) == [(["body", "file"], "missing")]
    [error] = client.post(DOCUMENT, data={"file": "text"}).json()["errors"]
    assert (error["loc"], error["msg"]) == (["body", "file"], "Input should be a file")


def test_an_empty_text_in_a_list_is_an_item_and_is_refused(client: TestClient) -> None:
    def send(skills: str | list[str]) -> Any:
        form = {"kind": "person", "name": "Ada", "skills": skills}
        return client.post("/validation/contact", data=form)

    assert send([]).json()["skills"] == []
    assert send(["algebra", "flight"]).json()["skills"] == ["algebra", "flight"]
    assert refused(send("")) == [(["body", "person", "skills", 0], "string_too_short")]
    assert refused(send(["x"] * 11)) == [(["body", "person", "skills"], "too_long")]


def test_trap_an_empty_field_is_a_list_of_one_empty_text() -> None:
    async def save(skills: Annotated[list[str], Form()]) -> list[str]:
        return skills

    assert answer_of(save, method="POST", data={"skills": ""}).json() == [""]


def test_a_field_that_is_sent_twice_is_refused_unless_it_is_a_list(client: TestClient) -> None:
    form = {"kind": ["person", "company"], "name": "Ada", "vat": "1", "skills": ["a", "a"]}
    assert refused(client.post("/validation/contact", data=form)) == [(["body", "kind"], "repeated")]
    files = [("file", FILE), ("file", FILE)]
    assert refused(client.post(DOCUMENT, files=files)) == [(["body", "file"], "repeated")]


def test_a_text_of_a_form_may_be_json_with_a_model_of_its_own(client: TestClient) -> None:
    def send(details: str) -> Any:
        return client.post(DOCUMENT, data={"details": details}, files={"file": FILE})

    assert send('{"language": "de", "pages": [1, 2]}').json()["details"] == {
        "language": "de",
        "pages": [1, 2],
    }
    assert send("").json()["details"] == {"language": "en", "pages": []}
    for text, place, kind in (
        ('{"language": "fr"}', ["language"], "literal_error"),
        ('{"pages": ["x"]}', ["pages", 0], "int_parsing"),
        ('{"page": 1}', ["page"], "extra_forbidden"),
        ("[1]", [], "model_type"),
        ("{", [], "json_invalid"),
    ):
        assert refused(send(text)) == [(["body", "details", *place], kind)]


def test_a_blob_in_the_place_of_a_text_is_refused_and_counts_as_a_file(client: TestClient) -> None:
    parts: dict[str, Any] = {"file": FILE, "details": blob(b"{}")}
    assert refused(client.post(DOCUMENT, files=parts)) == [(["body", "details"], "json_type")]
    too_many = client.post(DOCUMENT, files={**parts, "title": blob(b"Mine")})
    assert (too_many.status_code, too_many.headers["content-type"]) == (400, "application/problem+json")
    contact = client.post("/validation/contact", data={"kind": "person"}, files={"name": blob(b"Ada")})
    assert refused(contact) == [(["body", "person", "name"], "string_type")]


def test_a_blob_of_json_can_be_read_by_the_endpoint() -> None:
    async def save(details: UploadFile) -> Details:
        try:
            return Details.model_validate_json(await details.read())
        except ValidationError as exc:
            raise RequestValidationError(exc.errors(include_input=False)) from None

    def send(content: bytes) -> Any:
        return answer_of(save, method="POST", files={"details": blob(content)})

    assert send(b'{"language": "de"}').json()["language"] == "de"
    for content in (b'{"language": "fr"}', b"{", b"\xff"):
        assert send(content).status_code == 422


def form_fields(client: TestClient) -> Iterator[tuple[str, str]]:
    """The path and a field of each form of the service."""
    document = client.get("/openapi.json").json()
    for path, item in document["paths"].items():
        content = item.get("post", {}).get("requestBody", {}).get("content", {})
        for kind in (URL_ENCODED, "multipart/form-data"):
            if schema := content.get(kind, {}).get("schema"):
                for variant in schema.get("oneOf", [schema]):
                    name = variant.get("$ref", "").rpartition("/")[2]
                    model = document["components"]["schemas"].get(name, variant)
                    yield from ((path, field) for field in model["properties"])


def test_no_form_of_this_service_fails_at_a_file_in_the_place_of_a_text(client: TestClient) -> None:
    fields = [*form_fields(client)]
    assert {path for path, _ in fields} >= {DOCUMENT, "/upload/", "/upload/spooled", "/validation/survey"}
    for path, field in fields:
        for content in (b"", b"[1]", b"\xff"):
            assert client.post(path, files={field: blob(content)}).status_code < 500, (path, field)


def test_trap_json_of_a_list_is_a_500_for_a_file_in_its_place() -> None:
    class Bare(BaseModel):
        ids: Json[list[int]]

    class Ids(BaseModel):
        ids: list[int]

    class Ours(BaseModel):
        ids: Json[Ids]

    async def bare(form: Annotated[Bare, Form()]) -> list[int]:
        return form.ids

    async def ours(form: Annotated[Ours, Form()]) -> list[int]:
        return form.ids.ids

    def send(endpoint: Any, content: str) -> tuple[int, int]:
        as_text = answer_of(endpoint, method="POST", data={"ids": content})
        as_file = answer_of(endpoint, method="POST", files={"ids": blob(content.encode())})
        return as_text.status_code, as_file.status_code

    assert send(bare, "[1]") == (200, 500)
    assert send(ours, '{"ids": [1]}') == (200, 422)


def test_trap_json_with_a_model_as_the_only_parameter_refuses_every_text() -> None:
    async def alone(details: Annotated[Json[Details], Form()]) -> Details:
        return details

    async def beside(details: Annotated[Json[Details], Form()], title: Annotated[str, Form()]) -> Details:
        return details

    form = {"details": '{"language": "de"}', "title": "Mine"}
    assert answer_of(alone, method="POST", data=form).status_code == 422
    assert answer_of(beside, method="POST", data=form).status_code == 200


def test_trap_bytes_that_are_not_utf_8_are_read_as_something_else() -> None:
    async def save(name: Annotated[str, Form()]) -> str:
        return name

    def send(content: bytes, kind: str) -> Any:
        return answer_of(save, method="POST", content=content, headers={"Content-Type": kind}).json()

    def in_a_part(text: bytes) -> bytes:
        return b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\n' + text + b"\r\n--x--\r\n"

    multipart = "multipart/form-data; boundary=x"
    assert send(in_a_part("é".encode()), multipart) == send(b"name=%C3%A9", URL_ENCODED) == "é"
    assert send(in_a_part(b"\xff"), multipart) == send(b"name=\xff", URL_ENCODED) == "ÿ"
    assert send(b"name=%FF", URL_ENCODED) == "\N{REPLACEMENT CHARACTER}"
    # The client may even choose.
    assert send(in_a_part("é".encode()), f"{multipart}; charset=latin-1") == "Ã©"

    async def save_json(form: Details) -> Details:
        return form

    as_json = {"Content-Type": "application/json"}
    bad = b'{"language": "\xff"}'
    assert answer_of(save_json, method="POST", content=bad, headers=as_json).status_code == 400


IN_PUNYCODE = {"Content-Type": "multipart/form-data; boundary=b; charset=punycode"}


def test_a_form_in_another_charset_than_utf_8_is_refused(client: TestClient) -> None:
    in_latin_1 = {"Content-Type": f"{URL_ENCODED}; charset=latin-1"}
    for path, operations in client.get("/openapi.json").json()["paths"].items():
        for method in operations:
            for headers in (IN_PUNYCODE, in_latin_1):
                refused = client.request(method, path, content=b"", headers=headers)
                assert refused.status_code == 415
                assert refused.headers["content-type"] == "application/problem+json"


def test_trap_a_form_is_read_by_the_codec_that_its_client_names(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    decode = punycode.punycode_decode

    def count(text: bytes, errors: str) -> str:
        decoded.append(decode(text, errors))
        return decoded[-1]

    monkeypatch.setattr(punycode, "punycode_decode", count)
    app = FastAPI()

    @app.post("/")
    async def greet(name: Annotated[str, Form()]) -> str:
        return name

    form: dict[str, Any] = {"files": {"name-": (None, "Bcher-kva")}, "headers": IN_PUNYCODE}
    # By a codec that copies the whole text for each character that it adds.
    assert TestClient(app).post("/", **form).json() == "Bücher"
    assert decoded == ["name", "Bücher"]
    app = FastAPI(routes=app.routes, middleware=[Middleware(FormCharsetMiddleware)])
    assert TestClient(app).post("/", **form).status_code == 415
    assert len(decoded) == 2


def test_a_small_file_arrives_as_bytes(client: TestClient) -> None:
    def send(content: bytes) -> Any:
        return client.post("/validation/thumbnail", files={"image": ("a.png", content)})

    assert send(b"x" * MAX_THUMBNAIL).json() == MAX_THUMBNAIL
    assert refused(send(b"x" * (MAX_THUMBNAIL + 1))) == [(["body", "image"], "bytes_too_long")]


def test_a_group_of_a_form_may_be_absent_too() -> None:
    class Card(BaseModel):
        kind: Literal["card"]
        number: str

    class Invoice(BaseModel):
        kind: Literal["invoice"]
        address: str

    async def pay(
        by: Annotated[Card | Invoice | None, Form(discriminator="kind")] = None,
        note: Annotated[str, Form()] = "",
    ) -> Card | Invoice | None:
        return by

    def send(**fields: str) -> Any:
        return answer_of(pay, method="POST", data=fields)

    assert send(note="later").json() is None
    assert send(kind="card", number="7", note="now").json() == {"kind": "card", "number": "7"}
    assert send(number="7").status_code == 422


def test_trap_json_sent_to_a_form_without_required_fields_is_an_empty_form() -> None:
    class Settings(BaseModel):
        public: bool = True

    async def save(form: Annotated[Settings, Form()]) -> bool:
        return form.public

    assert answer_of(save, method="POST", data={"public": "false"}).json() is False
    assert answer_of(save, method="POST", json={"public": False}).json() is True


def test_trap_an_emptied_field_is_the_default_again() -> None:
    async def save(note: Annotated[str, Form()] = "as before") -> str:
        return note

    assert answer_of(save, method="POST", data={"note": ""}).json() == "as before"


def test_trap_a_file_of_bytes_takes_a_text_too() -> None:
    async def save(image: Annotated[bytes, File()]) -> int:
        return len(image)

    assert answer_of(save, method="POST", data={"image": "not a file"}).json() == 10


def test_trap_a_form_model_with_a_file_is_documented_without_files() -> None:
    class Document(BaseModel):
        file: UploadFile

    async def plain(form: Annotated[Document, Form()]) -> None: ...

    async def ours(form: Annotated[Document, Form(media_type="multipart/form-data")]) -> None: ...

    app = FastAPI()
    for path, endpoint in (("/plain", plain), ("/ours", ours)):
        app.add_api_route(path, endpoint, methods=["POST"])
    paths = app.openapi()["paths"]
    assert [*paths["/plain"]["post"]["requestBody"]["content"]] == ["application/x-www-form-urlencoded"]
    assert [*paths["/ours"]["post"]["requestBody"]["content"]] == ["multipart/form-data"]


def test_trap_the_media_type_of_a_file_is_neither_checked_nor_documented() -> None:
    async def save(image: Annotated[UploadFile, File(media_type="image/png")]) -> str | None:
        return image.content_type

    app = FastAPI()
    app.add_api_route("/", save, methods=["POST"])
    web_page = {"image": ("a.html", b"<script>", "text/html")}
    assert TestClient(app).post("/", files=web_page).json() == "text/html"
    assert [*app.openapi()["paths"]["/"]["post"]["requestBody"]["content"]] == ["multipart/form-data"]
