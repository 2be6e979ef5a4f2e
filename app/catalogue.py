"""The pages in reading order, and what their files say: the text, the code, the tests, the claims.

Nothing is read at import. `read_page` reads files: call it in a thread.
"""

import ast
import re
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from types import ModuleType

from fastapi import APIRouter
from pydantic import BaseModel

from app.routers.application import errors, lifespan, settings, telemetry
from app.routers.background import after_response, tasks
from app.routers.composition import asyncapi, mounting, openapi, webhooks
from app.routers.dependencies import chains, resources
from app.routers.files import direct, downloads, library, progress, resumable, static, uploads
from app.routers.graphql import schema
from app.routers.middleware import stack, timing
from app.routers.responses import fields, headers, html, json, negotiation
from app.routers.security import oauth2, schemes, sessions
from app.routers.streaming import feed, lines, sse
from app.routers.validation import (
    compressed,
    forms,
    models,
    parameters,
    requests,
    shapes,
    signed,
    validators,
)
from app.routers.websockets import echo, guarded, rooms, rooms_http
from app.settings import ROOT
from app.supporting_files import SourceFile, supporting_files


@dataclass(frozen=True)
class Page:
    """One feature: one router module, and the test module that mirrors it."""

    module: ModuleType

    @property
    def path(self) -> str:
        """`group/name`, as in `app/routers/` and in the address of the page."""
        _, _, group, name = self.module.__name__.split(".")
        return f"{group}/{name}"

    @property
    def router(self) -> APIRouter:
        router = self.module.router
        assert isinstance(router, APIRouter)
        return router


GROUPS: dict[str, tuple[Page, ...]] = {
    "middleware": (Page(timing), Page(stack)),
    "websockets": (Page(echo), Page(rooms), Page(rooms_http), Page(guarded)),
    "background": (Page(after_response), Page(tasks)),
    "dependencies": (Page(chains), Page(resources)),
    "responses": (Page(json), Page(fields), Page(negotiation), Page(html), Page(headers)),
    "graphql": (Page(schema),),
    "application": (Page(lifespan), Page(errors), Page(settings), Page(telemetry)),
    "validation": (
        Page(models),
        Page(validators),
        Page(shapes),
        Page(parameters),
        Page(forms),
        Page(requests),
        Page(signed),
        Page(compressed),
    ),
    "files": (
        Page(uploads),
        Page(resumable),
        Page(progress),
        Page(direct),
        Page(downloads),
        Page(library),
        Page(static),
    ),
    "streaming": (Page(sse), Page(feed), Page(lines)),
    "security": (Page(schemes), Page(oauth2), Page(sessions)),
    "composition": (Page(openapi), Page(webhooks), Page(asyncapi), Page(mounting)),
}
"""Reading order. A module that is not listed here is not served, and a test says so."""

PAGES = [page for pages in GROUPS.values() for page in pages]


class Test(BaseModel):
    name: str
    sentence: str
    source: str


class Claim(BaseModel):
    """A sentence of the page, and the name of the test that proves it."""

    sentence: str
    test: str


class Section(BaseModel):
    heading: str
    text: str


class PageText(BaseModel):
    """What the files of a page say. Paths are relative to the project, texts are Markdown."""

    path: str
    title: str
    summary: str
    sections: list[Section]
    source_path: str
    source: str
    needs: list[SourceFile]
    test_path: str
    tests: list[Test]
    claims: list[Claim]

    def section(self, heading: str) -> str:
        return next((section.text for section in self.sections if section.heading == heading), "")

    @property
    def code(self) -> str:
        """The source below its docstring."""
        return self.source.split('"""', 2)[2].strip()

    @property
    def proofs(self) -> dict[str, Test | None]:
        """The test of each claim; None where the tests are not installed."""
        tests = {test.name: test for test in self.tests}
        return {claim.sentence: tests.get(claim.test) for claim in self.claims}

    @property
    def traps(self) -> list[Test]:
        return [test for test in self.tests if test.name.startswith("test_trap_")]

    @property
    def other_tests(self) -> list[Test]:
        shown = {claim.test for claim in self.claims} | {trap.name for trap in self.traps}
        return [test for test in self.tests if test.name not in shown]


def read_page(page: Page) -> PageText:
    """Reads the router module and its test module; where tests are not installed, there are none."""
    source_path = Path("app", "routers", f"{page.path}.py")
    test_path = Path("tests", "routers", page.path.replace("/", "/test_") + ".py")
    docstring = page.module.__doc__ or ""
    title, _, body = docstring.partition("\n")
    introduction, *sections = re.split(r"^## ", body.strip(), flags=re.MULTILINE)
    parts = [section.partition("\n") for section in sections]
    claims = next((text for heading, _, text in parts if heading == "What is proven"), "")
    sentences = [" ".join(item.split()) for item in re.split(r"^- ", claims, flags=re.MULTILINE)[1:]]
    return PageText(
        path=page.path,
        title=title,
        summary=re.split(r"(?<=[.!?])\s", " ".join(introduction.split()), maxsplit=1)[0],
        sections=[
            Section(heading="", text=introduction.strip()),
            *(Section(heading=heading, text=text.strip()) for heading, _, text in parts),
        ],
        source_path=str(source_path),
        source=(ROOT / source_path).read_text(),
        needs=supporting_files(page.module),
        test_path=str(test_path),
        tests=read_tests(ROOT / test_path),
        claims=[Claim(sentence=sentence, test=name_of_test(sentence)) for sentence in sentences],
    )


def read_tests(path: Path) -> list[Test]:
    """The tests of a module and of its classes, decorators included, in the order of the file."""
    if not path.exists():
        return []
    source = path.read_text()
    lines = source.splitlines()
    tests = []
    body = ast.parse(source).body
    nodes = [inner for node in body for inner in (node.body if isinstance(node, ast.ClassDef) else [node])]
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_"):
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            words = node.name.removeprefix("test_").removeprefix("trap_").replace("_", " ")
            tests.append(
                Test(
                    name=node.name,
                    sentence=words[:1].upper() + words[1:],
                    source=dedent("\n".join(lines[first - 1 : node.end_lineno])),
                )
            )
    return tests


def name_of_test(claim: str) -> str:
    return "test_" + re.sub(r"[^a-z0-9]+", "_", claim.lower().replace("'", "")).strip("_")


def describe_group(name: str) -> tuple[str, str]:
    """Title and description: the docstring of the package that holds the pages."""
    title, _, description = (import_module(f"app.routers.{name}").__doc__ or "").partition("\n")
    return title, description.strip()
