"""Which files a page needs, as whoever copies it has to know."""

import inspect
import re
from pathlib import Path
from types import ModuleType

import pytest

from app.catalogue import PAGES, Page
from app.realtime import feed as feed_engine
from app.routers.dependencies import resources
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_whoever_takes_all_that_is_listed_lacks_nothing(page: Page) -> None:
    taken = [ROOT / path for path in paths(page.module)] + [Path(inspect.getfile(page.module))]
    house = {ROOT / f"{name.replace('.', '/')}.py" for name in HOUSE}
    for file in set(taken) - house:
        for module in re.findall(r"^ *from (app[\w.]*) import", file.read_text(), re.MULTILINE):
            path = ROOT / module.replace(".", "/")
            assert path.is_dir() or path.with_suffix(".py") in taken, (file, module)
