from collections.abc import Iterator
from typing import Annotated

import pytest
from fastapi import Form
from fastapi.testclient import TestClient
from python_multipart import multipart
from starlette import formparsers, requests

from app.main import create_app
from app.middleware import form_charset
from app.middleware.form_charset import MAX_CONTENT_TYPE, FormCharsetMiddleware
from app.settings import Settings
from app.storage import form_file
from tests.asgi import EMPTY_BODY, Call, http_scope

PARTS = "multipart/form-data; boundary=b"
URL_ENCODED = "application/x-www-form-urlencoded"
ENCODED = "Bcher-kva"
"""`Bücher` in punycode, and an innocent text in UTF-8."""


def parts(value: str, *headers: str, name: str = "name") -> bytes:
    disposition = f'Content-Disposition: form-data; name="{name}"'
    return "\r\n".join(["--b", disposition, *headers, "", value, "--b--", ""]).encode()


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    folder = tmp_path_factory.mktemp("charset")
    app = create_app(Settings(data_dir=folder, uploads_dir=folder))
    app.add_api_route("/probe", read_name, methods=["POST"])
    with TestClient(app) as client:
        yield client


async def read_name(name: Annotated[str, Form()]) -> str:
    return name


@pytest.mark.parametrize(
    "content_type",
    [
        f"{PARTS}; charset=punycode",
        f"{PARTS};CHARSET = idna",
        f'{PARTS}; charset="utf-7"',
        f"{PARTS}; charset=utf-8; charset=punycode",
        "Multipart/Form-Data ; charset=punycode; boundary=b",
        f"{PARTS}; charset=no-such-codec",
        f"{PARTS}; charset=",
        f"{URL_ENCODED}; charset=latin-1",
    ],
)
def test_a_form_in_another_charset_is_refused_wherever_it_is_sent(
    client: TestClient, content_type: str
) -> None:
    for path in ("/probe", "/security/oauth2/revoke", "/composition/shop/", "/nope"):
        refused = client.post(path, content=parts(ENCODED), headers={"Content-Type": content_type})
        assert refused.status_code == 415, path
        assert refused.headers["content-type"] == "application/problem+json"
        assert refused.json()["detail"] == "A form is read as UTF-8 only."


def test_a_form_in_utf_8_is_read_whatever_a_part_says_of_itself(client: TestClient) -> None:
    of_part = "Content-Type: text/plain; charset=punycode"
    of_form = parts("punycode", name="_charset_").removesuffix(b"--b--\r\n") + parts(ENCODED)
    for charset in ("", "; charset=utf-8", "; charset=UTF-8", '; charset="utf-8"'):
        for body in (parts(ENCODED), parts(ENCODED, of_part), of_form):
            answer = client.post("/probe", content=body, headers={"Content-Type": PARTS + charset})
            assert answer.json() == ENCODED
    assert client.post("/probe", data={"name": ENCODED}).json() == ENCODED


def test_what_is_no_form_is_none_of_its_business(client: TestClient) -> None:
    headers = {"Content-Type": "application/json; charset=punycode"}
    assert client.post("/validation/measurements", content=b"[1]", headers=headers).status_code == 200


def test_a_content_type_that_is_too_long_to_be_one_is_never_parsed(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 KB of semicolons take its parser 50 milliseconds, in the event loop."""
    parsed: list[bytes] = []
    parse = multipart.parse_options_header

    def watched(value: str | bytes | None) -> tuple[bytes, dict[bytes, bytes]]:
        parsed.append(value.encode() if isinstance(value, str) else value or b"")
        return parse(value)

    for module in (form_charset, form_file, formparsers, requests):
        monkeypatch.setattr(module, "parse_options_header", watched)
    for kind in (PARTS, URL_ENCODED, "application/json"):
        most = f'{kind}; x="'.ljust(MAX_CONTENT_TYPE - 1, ";") + '"'
        for path in ("/probe", "/upload/", "/security/oauth2/revoke"):
            answer = client.post(path, content=b"", headers={"Content-Type": most.replace('"', ';"', 1)})
            assert answer.status_code == 400
            assert answer.headers["content-type"] == "application/problem+json"
            assert not parsed
            assert client.post(path, content=b"", headers={"Content-Type": most}).status_code in (400, 422)
            assert parsed
            parsed.clear()


@pytest.mark.anyio
async def test_of_two_content_types_neither_may_name_another_charset() -> None:
    async def never(*_: object) -> None:
        raise AssertionError

    other = (b"content-type", f"{PARTS}; charset=punycode".encode())
    for headers in ([(b"content-type", PARTS.encode()), other], [other, (b"content-type", b"text/plain")]):
        call = Call(FormCharsetMiddleware(never), http_scope("/", "POST", headers), EMPTY_BODY)
        await call.run()
        assert call.status == 415
