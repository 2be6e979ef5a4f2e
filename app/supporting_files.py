"""The files of the project that a page needs beside its own, found through its imports.

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


class SourceFile(BaseModel):
    """A file of the project, and the first sentence of what it says of itself."""

    path: str
    summary: str


def supporting_files(module: ModuleType) -> list[SourceFile]:
    """Those that `module` imports, and those that these import, the nearest first.

    An alias of `app.dependencies` stands for the module of its type: `FeedDep` for that of `Feed`. What
    belongs to the house comes last, and is not followed.
    """
    found = {module.__name__: module}
    waiting = [module]
    house = {}
    while waiting:
        for imported in _imports(waiting.pop(0)):
            name = imported.__name__
            if name in HOUSE:
                house[name] = imported
            elif name not in found:
                found[name] = imported
                waiting.append(imported)
    return [_described(each) for each in [*list(found.values())[1:], *house.values()]]


def _imports(module: ModuleType) -> Iterator[ModuleType]:
    for node in ast.walk(ast.parse(inspect.getsource(module))):
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


def _described(module: ModuleType) -> SourceFile:
    text = " ".join((module.__doc__ or "").split())
    path = Path(inspect.getsourcefile(module) or "").relative_to(ROOT)
    return SourceFile(path=str(path), summary=re.split(r"(?<=[.!?])\s", text, maxsplit=1)[0])
