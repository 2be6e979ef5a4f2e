"""What the tools of others make of the documents and of the running service."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.programs import program
from tests.server import Server, serve

HERE = Path(__file__).parent
TOOLS = HERE / "node_modules" / ".bin"
LIMIT = 600.0


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("interop")) as server:
        yield server


@pytest.fixture(scope="module")
def openapi(service: Server, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("document") / "openapi.json"
    path.write_text(json.dumps(httpx2.get(f"{service.url}/openapi.json").json(), indent=1))
    return path


def run(*command: str | Path, given: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        cwd=HERE,
        input=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=LIMIT,
    )


def test_redocly_finds_no_error_in_the_openapi_document(openapi: Path) -> None:
    done = run(TOOLS / "redocly", "lint", "--config=openapi-lint.yaml", "--max-problems=20", openapi)
    assert done.returncode == 0, done.stdout


def validate_asyncapi(document: str) -> subprocess.CompletedProcess[str]:
    return run(program("node"), "validate-asyncapi.mjs", given=document)


def test_the_parser_of_asyncapi_finds_nothing_in_the_document_of_the_sockets(service: Server) -> None:
    done = validate_asyncapi(httpx2.get(f"{service.url}/asyncapi.json").text)
    assert done.returncode == 0, done.stdout


def test_the_parser_of_asyncapi_finds_a_message_that_is_not_there(service: Server) -> None:
    document = httpx2.get(f"{service.url}/asyncapi.json").json()
    del document["channels"]["echo"]["messages"]["text"]
    done = validate_asyncapi(json.dumps(document))
    assert done.returncode == 1
    assert "echo" in done.stdout


def test_a_client_with_generated_types_compiles_and_is_served(service: Server, openapi: Path) -> None:
    for command in (
        # What has a default may be left out of a request, though the generator thinks of answers.
        (TOOLS / "openapi-typescript", openapi, "--output=openapi.ts", "--default-non-nullable=false"),
        (TOOLS / "tsc",),
        (program("node"), "build/client.js", service.url),
    ):
        done = run(*command)
        assert done.returncode == 0, done.stdout
    assert "served as the document says" in done.stdout


def test_schemathesis_finds_nothing_that_is_not_explained(service: Server) -> None:
    schemathesis = Path(sys.executable).with_name("schemathesis")
    done = run(schemathesis, "--config-file=schemathesis.toml", "run", f"{service.url}/openapi.json")
    assert done.returncode == 0, done.stdout
    assert not [line for line in service.lines if re.search(r'"level": ?"(ERROR|CRITICAL)"|Traceback', line)]
