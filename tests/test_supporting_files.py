"""Which files a page needs, as whoever copies it has to know."""

import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

from app.catalogue import PAGES, Page
from app.realtime import feed as feed_engine
from app.routers.dependencies import resources
from app.routers.files import progress, static, uploads
from app.routers.responses import negotiation
from app.routers.security import oauth2
from app.routers.streaming import feed
from app.settings import ROOT
from app.supporting_files import HOUSE, supporting_files


def paths(module: ModuleType) -> list[str]:
    return [file.path for file in supporting_files(module)]


def test_an_alias_stands_for_the_module_of_its_type() -> None:
    assert paths(feed)[0] == "app/realtime/feed.py"
    assert (
        supporting_files(feed)[0].summary
        == " ".join((feed_engine.__doc__ or "").split()).split(". ")[0] + "."
    )


def test_what_the_files_import_is_needed_too_and_the_house_comes_last() -> None:
    needed = paths(oauth2)
    assert needed.index("app/security/accounts.py") < needed.index("app/security/passwords.py")
    assert needed.index("app/database/room.py") < needed.index("app/dependencies.py")
    assert len(needed) == len(set(needed))


@pytest.mark.parametrize("module", [feed, oauth2, resources])
def test_no_page_needs_itself(module: ModuleType) -> None:
    assert not [path for path in paths(module) if path.startswith("app/routers")]


def test_a_page_of_which_a_part_is_used_is_needed_too() -> None:
    assert "app/routers/responses/fields.py" in paths(negotiation)


def test_what_a_page_names_is_needed_too_with_what_that_imports() -> None:
    assert set(paths(uploads)) >= {
        "app/middleware/lingering_close.py",
        "app/middleware/body_deadline.py",
        "app/middleware/problems.py",
        "app/shutdown.py",
        "app/middleware/form_charset.py",
        "app/storage/engines.py",
        "app/storage/sweeping.py",
        "app/storage/disk.py",
        "app/storage/disk_files.py",
        "app/storage/pieces.py",
        "app/storage/write_behind.py",
    }


def test_scripts_and_templates_are_needed_too_with_what_they_load() -> None:
    needed = {file.path: file.summary for file in supporting_files(progress)}
    assert set(needed) >= {
        "app/templates/uploads.html",
        "app/templates/base.html",
        "static/resumable-upload.js",
        "static/uploads-demo.js",
        "static/uploads-demo.css",
    }
    assert needed["static/uploads-demo.js"] == "The page `GET /files/uploads`: one file at a time."
    assert needed["app/templates/uploads.html"] == "The page `GET /files/uploads`."
    assert needed["static/uploads-demo.css"] == "The page that uploads a file."


def test_a_page_that_names_what_is_made_of_all_pages_does_not_need_them() -> None:
    assert "`app/explorer.py`" in (static.__doc__ or "")
    assert not [path for path in paths(static) if path.startswith("app/routers")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_every_file_that_a_page_names_by_its_path_is_there(page: Page) -> None:
    for path in re.findall(r"`((?:app|static|tests)/[\w./-]+)`", page.module.__doc__ or ""):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_whoever_takes_all_that_is_listed_lacks_nothing(page: Page) -> None:
    taken = [ROOT / path for path in paths(page.module)] + [Path(inspect.getfile(page.module))]
    house = {ROOT / f"{name.replace('.', '/')}.py" for name in HOUSE}
    for file in set(taken) - house:
        for name in re.findall(r'/static/([\w.-]+)"', file.read_text() if file.suffix == ".html" else ""):
            assert ROOT / "static" / name in taken, (file, name)
        for module in re.findall(r"^ *from (app[\w.]*) import", file.read_text(), re.MULTILINE):
            path = ROOT / module.replace(".", "/")
            assert path.is_dir() or path.with_suffix(".py") in taken, (file, module)
