"""Autobahn's suite of 517 cases for WebSocket servers, against the whole service as `make run` runs it.

The cases want texts and bytes back as they came, so they go to `/wire/echo`, which `tests/live/wire.py` adds
to the service: around it are all our middleware, and below it the protocol of every socket here. Those that
want nothing back also go to `/ws` itself; of the others each fails there, for it answers with a sentence and
refuses bytes. `make autobahn` runs all cases, in ten minutes; `make interop` about half of them, in one.
"""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from interop.install import install
from tests.server import Server, serve

HERE = Path(__file__).parent
ALL = os.environ.get("AUTOBAHN") == "all"
LIMIT = 3_600.0 if ALL else 300.0

EXPLAINED = {
    # A text arrives together with a frame that breaks the protocol, which ends the connection at once. The
    # suite would rather have the echo of the text first; RFC 6455 asks for neither.
    **dict.fromkeys(
        ("3.2", "3.3", "3.4", "4.1.3", "4.1.4", "4.1.5", "4.2.3", "4.2.4", "4.2.5"), "NON-STRICT"
    ),
    "5.15": "NON-STRICT",
    # A frame arrives in pieces, the first of them with a wrong byte of UTF-8. It is read when it is whole.
    **dict.fromkeys(("6.4.3", "6.4.4"), "NON-STRICT"),
    # The suite only notes what a server does: with 256 KiB before a close frame, and with close codes that no
    # document defines.
    **dict.fromkeys(("7.1.6", "7.13.1", "7.13.2"), "INFORMATIONAL"),
}

USUAL = ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "10.*", "12.1.1", "12.2.1"]
USUAL += [f"13.{offer}.1" for offer in range(1, 8)]
WITHOUT_ECHO = ["2.*", "3.1", "3.5", "3.6", "3.7", "4.1.1", "4.1.2", "4.2.1", "4.2.2", "5.1", "5.2", "5.9"]
WITHOUT_ECHO += ["6.3.*", "6.8.*", "6.10.*", "7.3.*", "7.5.*", "7.7.*", "7.9.*"]


def python2() -> str:
    """A Python 2.7, which no current Debian has: so this is skipped on CI too."""
    found = [os.environ.get("PYTHON2"), shutil.which("python2.7")]
    found += [str(path) for path in Path.home().glob(".pyenv/versions/2.7*/bin/python")]
    for python in filter(None, found):
        shows = subprocess.run(
            [python, "-c", "import sys; print(sys.version)"], capture_output=True, text=True
        )
        if shows.stdout.startswith("2.7"):
            return python
    pytest.skip("no Python 2.7: name one in PYTHON2")


@pytest.fixture(scope="module")
def wstest() -> Path:
    """Autobahn's program, in an environment of its own."""
    home = HERE / "build" / "autobahn"
    program = home / "bin" / "wstest"
    if not program.exists():
        python, tool = python2(), HERE / "build" / "virtualenv"
        install(python, "-m", "pip", "install", "-q", "--upgrade", "--target", tool, "virtualenv==20.15.1")
        install(python, "-m", "virtualenv", "-q", "--clear", home, path=tool)
        install(home / "bin" / "pip", "install", "-q", "-r", HERE / "autobahn.txt")
    return program


@pytest.fixture(scope="module")
def service(wstest: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limits = {"APP_WS_MESSAGES_PER_SECOND": "100000", "PYTHONPATH": str(HERE.parent)}
    args = ["--factory", "--ws-max-size", str(17 * 1024 * 1024)]
    with serve(
        tmp_path_factory.mktemp("autobahn"), limits, args, app="tests.live.wire:create_wire"
    ) as server:
        yield server


def run(wstest: Path, url: str, cases: list[str], folder: Path) -> dict[str, str]:
    """What each case found that is not OK, of its messages or its close."""
    (folder / "cases.json").write_text(
        json.dumps(
            {
                "outdir": str(folder),
                "servers": [{"agent": "service", "url": url}],
                "cases": cases,
                "exclude-cases": [],
                "exclude-agent-cases": {},
            }
        )
    )
    subprocess.run(
        [wstest, "-m", "fuzzingclient", "-s", "cases.json"],
        cwd=folder,
        check=True,
        timeout=LIMIT,
        stdout=subprocess.DEVNULL,
    )
    found = json.loads((folder / "index.json").read_text())["service"]
    sys.stdout.write(f"{len(found)} cases\n")
    return {
        case: result
        for case, each in found.items()
        for result in (each["behaviorClose"], each["behavior"])
        if result != "OK"
    }


def test_autobahn_finds_nothing_that_is_not_explained(wstest: Path, service: Server, tmp_path: Path) -> None:
    found = run(wstest, f"{service.ws_url}/wire/echo", ["*"] if ALL else USUAL, tmp_path)
    assert found.items() <= EXPLAINED.items()
    assert "Traceback" not in service.log


def test_autobahn_finds_nothing_at_the_echo_of_the_page(
    wstest: Path, service: Server, tmp_path: Path
) -> None:
    found = run(wstest, f"{service.ws_url}/ws", WITHOUT_ECHO, tmp_path)
    assert found == {}
    assert "Traceback" not in service.log
