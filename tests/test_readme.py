"""What the README shows is what there is, and its commands do what it says."""

import os
import re
import shlex
import signal
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends
from fastapi.testclient import TestClient

from app.realtime.feed import Feed
from app.settings import ROOT
from tests.programs import program
from tests.readme import README, with_tables
from tests.server import Server

TEXT = README.read_text()
LIMIT = 60.0

CALLS = [line.split("  # ") for line in TEXT.splitlines() if line.startswith("curl ")]


def test_the_tables_are_those_of_the_code() -> None:
    assert with_tables(TEXT) == TEXT, "run `make fmt`"


def test_every_test_that_is_named_exists() -> None:
    named = re.findall(r"\[`(test_\w+)`\]\(([^)]+)\)", TEXT)
    assert len(named) > 40
    assert [name for name, path in named if f"def {name}(" not in (ROOT / path).read_text()] == []


def test_every_link_leads_to_a_file() -> None:
    paths = re.findall(r"\]\((?!http)([^)]+)\)", TEXT)
    assert paths and [path for path in paths if not (ROOT / path).exists()] == []


def test_every_dependency_has_its_line_and_no_other() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    section = TEXT.partition("## Dependencies\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `(.+?)` \|", section, re.MULTILINE) == [name.split(">=")[0] for name in needed]


def test_every_variable_of_the_text_is_a_setting() -> None:
    table = TEXT.partition("<!-- settings -->")[2].partition("<!-- /settings -->")[0]
    settings = set(re.findall(r"^\| `(APP_\w+)`", table, re.MULTILINE))
    assert set(re.findall(r"APP_[A-Z0-9_]+", TEXT)) <= settings


def test_the_block_that_takes_a_page_into_another_app_runs() -> None:
    [block] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    made: dict[str, Any] = {}
    exec(block, made)  # noqa: S102, our own README

    async def last(feed: Annotated[Feed, Depends(made["get_feed"])]) -> int:
        return feed.last

    made["app"].add_api_route("/", last)
    with TestClient(made["app"]) as client:
        assert client.get("/").json() == 0
        assert client.get("/nothing").headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(("command", "answer"), CALLS, ids=[call[0].split()[-1] for call in CALLS])
def test_every_call_is_answered_as_it_says(live: Server, command: str, answer: str) -> None:
    words = shlex.split(command.replace("localhost:8000", live.host))
    done = subprocess.run(
        [program("curl"), *words[1:]], cwd=ROOT, capture_output=True, text=True, timeout=LIMIT
    )
    assert answer.strip() in done.stdout


@contextmanager
def made(*arguments: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """`make` in a process group of its own, like in a terminal, so that a signal reaches all it started."""
    env = {**os.environ, "APP_DATA_DIR": str(folder / "data"), "APP_UPLOADS_DIR": str(folder / "uploads")}
    process = subprocess.Popen(
        ["make", *arguments],
        cwd=ROOT,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_make_run_serves_until_it_is_interrupted(tmp_path: Path) -> None:
    with made("run", "PORT=0", folder=tmp_path) as process:
        server = Server(process)
        answer = subprocess.check_output([program("curl"), "-s", f"{server.url}/health"], timeout=LIMIT)
        assert answer == b'{"status":"ok"}'
        os.killpg(process.pid, signal.SIGINT)
        process.wait(LIMIT)
        server.wait_for("Finished server process")
        assert "Traceback" not in server.log


def test_make_test_finds_the_tests(tmp_path: Path) -> None:
    with made("test", f"TEST_ARGS=--collect-only -q -n0 {__file__}", folder=tmp_path) as process:
        output, _ = process.communicate(timeout=LIMIT)
        assert process.returncode == 0
        assert "test_make_run_serves_until_it_is_interrupted" in output
