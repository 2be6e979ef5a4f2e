"""Dependencies in a chain

A dependency is a callable whose parameters FastAPI fills from the request, like those of an endpoint; the
endpoint receives what it returns. It may be a class, a function or a callable object, and may depend on
others. Use one when several endpoints need the same input, or when the input needs more than a type:
a look-up, a permission, a second place to look in.

Here `Window` is a class that three query parameters make, `Wanted` looks in the query and then in a cookie,
and `draw` shows that FastAPI calls a dependency once a request, however many ask for it. When only a
few parameters belong together, no dependency is needed: `Annotated[Model, Query()]` takes a whole model,
and `extra="forbid"` refuses what the model does not know.

## The trap

`Depends(CommonQueryParams)` looks free, but a class is a plain callable, so FastAPI runs it in a worker
thread: every request pays the way there and back, waits when all 40 threads are busy, and loses the
context variables that the class sets. `python -m benchmarks.dependencies` prints the price. Keep the
class, and depend on an `async` class method that makes it. And without bounds `limit=-1` and
`limit=10**12` are accepted, while `Depends(partial(f, limit=50))` sets only a default that every caller
may override.

## What is proven

- The window has its defaults and refuses values out of bounds.
- The query wins over the cookie and an empty query does not.
- A plain class is made in a worker thread and an async class method is not.
- A dependency runs once in a request unless it asks not to be cached.
- A parameter model refuses parameters it does not know.
- An object with an async call is a dependency with arguments.

## Read more

`Annotated[Window, Depends(Window.from_query)]`, `Depends(draw, use_cache=False)`,
`Annotated[Filter, Query()]`. [Dependencies](https://fastapi.tiangolo.com/tutorial/dependencies/) and
[query parameter models](https://fastapi.tiangolo.com/tutorial/query-param-models/) in the FastAPI
documentation.
"""

import secrets
import threading
from dataclasses import dataclass
from typing import Annotated, Self

from fastapi import APIRouter, Cookie, Depends, Query
from pydantic import BaseModel, ConfigDict

from app.errors import Forbidden

MAX_SEARCH_LENGTH = 200
MAX_SKIP = 10_000
"""A database reads all the rows that it skips."""
MAX_LIMIT = 100
"""Part of what the API promises, as the schema shows; so no setting of one installation."""

router = APIRouter(tags=["dependencies"])

Search = Annotated[str | None, Query(max_length=MAX_SEARCH_LENGTH)]
Skip = Annotated[int, Query(ge=0, le=MAX_SKIP)]
Limit = Annotated[int, Query(ge=1, le=MAX_LIMIT)]


@dataclass
class Window:
    """Which part of a list is wanted."""

    q: str | None
    skip: int
    limit: int

    @classmethod
    async def from_query(cls, q: Search = None, skip: Skip = 0, limit: Limit = MAX_LIMIT) -> Self:
        """`async` though it awaits nothing: `Depends(Window)` would go through a thread."""
        return cls(q, skip, limit)


WindowDep = Annotated[Window, Depends(Window.from_query)]


@router.get("/items", include_in_schema=False, name="items_without_slash")
@router.get("/items/")
async def items(window: WindowDep) -> Window:
    """The window that the query asks for."""
    return window


async def get_query(q: Search = None) -> str | None:
    return q


async def get_wanted(
    q: Annotated[str | None, Depends(get_query)],
    last_query: Annotated[str | None, Cookie(max_length=MAX_SEARCH_LENGTH)] = None,
) -> str | None:
    return q or last_query


Wanted = Annotated[str | None, Depends(get_wanted)]


class QueryOrCookie(BaseModel):
    q_or_cookie: str | None


@router.get("/items/query-or-cookie")
async def query_or_cookie(wanted: Wanted) -> QueryOrCookie:
    """The query, else the cookie `last_query`."""
    return QueryOrCookie(q_or_cookie=wanted)


class Birthplace:
    """Remembers the thread that made it."""

    def __init__(self) -> None:
        self.thread = threading.current_thread().name

    @classmethod
    async def make(cls) -> Self:
        return cls()


class Threads(BaseModel):
    endpoint: str
    plain_class: str
    async_class_method: str


@router.get("/dependencies/threads")
async def threads(
    plain: Annotated[Birthplace, Depends()], made: Annotated[Birthplace, Depends(Birthplace.make)]
) -> Threads:
    """In which thread each kind of dependency ran."""
    here = threading.current_thread().name
    return Threads(endpoint=here, plain_class=plain.thread, async_class_method=made.thread)


async def draw() -> str:
    return secrets.token_hex(4)


class Draws(BaseModel):
    first: str
    second: str
    fresh: str


@router.get("/dependencies/cache")
async def cache(
    first: Annotated[str, Depends(draw)],
    second: Annotated[str, Depends(draw)],
    fresh: Annotated[str, Depends(draw, use_cache=False)],
) -> Draws:
    """Three draws of a random number, two of them the same."""
    return Draws(first=first, second=second, fresh=fresh)


class Filter(BaseModel):
    """The same window as a parameter model: no dependency, no thread, and no unknown names."""

    model_config = ConfigDict(extra="forbid")

    q: Search = None
    skip: Skip = 0
    limit: Limit = MAX_LIMIT


@router.get("/dependencies/model")
async def model(wanted: Annotated[Filter, Query()]) -> Filter:
    """Like `/items/`, but `?limt=5` is an error."""
    return wanted


class Within:
    """A dependency with an argument: refuses windows that end beyond the first `rows`."""

    def __init__(self, rows: int) -> None:
        self.rows = rows

    async def __call__(self, window: WindowDep) -> Window:
        if window.skip + window.limit > self.rows:
            raise Forbidden(f"Only the first {self.rows} rows are open to everybody.")
        return window


@router.get("/dependencies/preview")
async def preview(window: Annotated[Window, Depends(Within(200))]) -> Window:
    """Like `/items/`, for the first 200 rows."""
    return window
