"""The files of the project that a page needs beside its own, found through its imports and by its text.

Whoever takes a page into another app takes these with it.
"""

import ast
import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Annotated, get_args, get_origin

from pydantic import BaseModel

from app.settings import ROOT

HOUSE = ("app.dependencies", "app.settings", "app.lifespan")
"""What one writes anew in an app of one's own, as long as it needs a part of it only."""

WHOLE = ("app/main.py", "app/explorer.py")
"""What is made of all pages: a page may name it, but does not need it."""

NAMED = re.compile(r"`((?:app|static)/[\w./-]+\.\w+)`")
LOADED_FROM_BESIDE = re.compile(r'(?:extends|from) "(?:\./)?([\w-]+\.\w+)"')
LOADED_FROM_STATIC = re.compile(r'/(static/[\w-]+\.\w+)"')
OF_ITSELF = re.compile(r'"""(.*?)"""|((?:// [^\n]*\n)+)|/\*(.*?)\*/|\{#(.*?)-?#\}', re.DOTALL)
"""How a file begins that says what it is: in Python, in a script, in a style sheet, in a template."""


class SourceFile(BaseModel):
    """A file of the project, and the first sentence of what it says of itself."""

    path: str
    summary: str


def supporting_files(module: ModuleType) -> list[SourceFile]:
    """Those that `module` imports or names by their path, and those that these import, the nearest first.

    An alias of `app.dependencies` stands for the module of its type: `FeedDep` for that of `Feed`. What
    belongs to the house comes last, and is not followed.
    """
    page = _path_of(module)
    house_paths = [f"{name.replace('.', '/')}.py" for name in HOUSE]
    found = [page]
    house = []
    for path in found:  # which grows meanwhile
        named = _named_by(module) if path == page else []
        for needed in [*_loaded_by(path), *named]:
            if needed in house_paths:
                if needed not in house:
                    house.append(needed)
            elif needed not in found:
                found.append(needed)
    return [SourceFile(path=path, summary=_summary(path)) for path in [*found[1:], *house]]


def _named_by(page: ModuleType) -> list[str]:
    return [path for path in NAMED.findall(page.__doc__ or "") if path not in WHOLE]


def _loaded_by(path: str) -> list[str]:
    text = (ROOT / path).read_text()
    if path.endswith(".py"):
        return [_path_of(module) for module in _imports(text)]
    beside = [str(Path(path).parent / name) for name in LOADED_FROM_BESIDE.findall(text)]
    return [*beside, *LOADED_FROM_STATIC.findall(text)]


def _imports(text: str) -> Iterator[ModuleType]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "app":
            source = import_module(node.module)  # not loaded yet, if it is imported where it is used
            for alias in node.names:
                thing = getattr(source, alias.name)
                if inspect.ismodule(thing):
                    yield thing
                    continue
                yield source
                if node.module == "app.dependencies" and get_origin(thing) is Annotated:
                    home = getattr(get_args(thing)[0], "__module__", "")
                    if home.startswith("app."):
                        yield import_module(home)


def _path_of(module: ModuleType) -> str:
    return str(Path(inspect.getsourcefile(module) or "").relative_to(ROOT))


def _summary(path: str) -> str:
    begin = OF_ITSELF.match((ROOT / path).read_text())
    said = "".join(filter(None, begin.groups())).replace("// ", "") if begin else ""
    return re.split(r"(?<=[.!?])\s", " ".join(said.split()), maxsplit=1)[0]
