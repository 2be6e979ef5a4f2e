"""The rules of the house, as tests."""

import ast
import re
from pathlib import Path

import pytest

from app.catalogue import PAGES, Page

ROOT = Path(__file__).parent.parent


def claims(page: Page) -> list[str]:
    docstring = page.module.__doc__ or ""
    section = docstring.partition("## What is proven\n")[2].partition("\n## ")[0]
    items = re.split(r"^- ", section, flags=re.MULTILINE)[1:]
    return [" ".join(item.split()) for item in items]


def name_of_test(claim: str) -> str:
    return "test_" + re.sub(r"[^a-z0-9]+", "_", claim.lower().replace("'", "")).strip("_")


def proofs_of(page: Page) -> set[str]:
    path = ROOT / "tests" / "routers" / page.path.replace("/", "/test_")
    tree = ast.parse(path.with_suffix(".py").read_text())
    return {
        node.name
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith("test_")
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_every_claim_of_a_page_has_the_test_of_that_name(page: Page) -> None:
    assert claims(page)
    assert {name_of_test(claim) for claim in claims(page)} <= proofs_of(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.path)
def test_every_page_runs_its_trap(page: Page) -> None:
    assert "## The trap" in (page.module.__doc__ or "")
    assert any(name.startswith("test_trap_") for name in proofs_of(page))
