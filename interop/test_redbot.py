"""What REDbot, which knows the rules of HTTP, says of a download and of what browsers load."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from interop.install import install
from tests.server import Server, serve

HERE = Path(__file__).parent
LIMIT = 60.0

EXPLAINED = {
    # They compute it from a `Last-Modified`, and none of the answers without a rule for caches has one.
    "This response allows caches to assign their own freshness lifetimes to it.",
    # By less than a second: uvicorn writes a `Date` that it makes once in a second.
    "The Last-Modified time is in the future.",
}


@pytest.fixture(scope="module")
def redbot() -> Path:
    """REDbot's program, in an environment of its own."""
    home = HERE / "build" / "redbot"
    program = home / "bin" / "redbot"
    if not program.exists():
        install(sys.executable, "-m", "venv", "--clear", home)
        install(home / "bin" / "pip", "install", "-q", "-r", HERE / "redbot.txt")
    return program


@pytest.fixture(scope="module")
def service(redbot: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("redbot")) as server:
        yield server


def notes(redbot: Path, url: str) -> dict[str, str]:
    """What it says, and how grave that is."""
    done = subprocess.run(
        [redbot, "-o", "har", url], check=True, stdout=subprocess.PIPE, text=True, timeout=LIMIT
    )
    (entry,) = json.loads(done.stdout)["log"]["entries"]
    return {note["summary"]: note["level"] for note in entry["_red_messages"]}


def complaints(found: dict[str, str]) -> set[str]:
    return {summary for summary, level in found.items() if level in ("WARN", "BAD")}


def test_redbot_finds_no_fault_in_a_download_that_is_not_explained(redbot: Path, service: Server) -> None:
    upload = httpx2.post(f"{service.url}/upload", files={"file": ("digits.txt", b"0123456789" * 5_000)})
    found = notes(redbot, f"{service.url}{upload.headers['location']}")
    assert complaints(found) <= EXPLAINED
    for good in (
        "If-None-Match conditional requests are supported.",
        "If-Modified-Since conditional requests are supported.",
        "A ranged request returned the correct partial content.",
        "The Content-Length header is correct.",
    ):
        assert found[good] == "GOOD"


@pytest.mark.parametrize("path", ["/", "/static/style.css", "/download", "/openapi.json", "/nothing"])
def test_redbot_finds_none_in_the_rest(redbot: Path, service: Server, path: str) -> None:
    assert complaints(notes(redbot, f"{service.url}{path}")) <= EXPLAINED
