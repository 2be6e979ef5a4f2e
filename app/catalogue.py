"""The pages in reading order, and all that can be derived from their files."""

from dataclasses import dataclass
from types import ModuleType

from fastapi import APIRouter

from app.routers.middleware import timing


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
    "middleware": (Page(timing),),
}
"""Reading order. A module that is not listed here is not served, and a test says so."""

PAGES = [page for pages in GROUPS.values() for page in pages]
