"""Resources that are closed again

A dependency with `yield` opens something, lends it, and closes it: what stands before the `yield` runs before
the endpoint, what stands after it runs when the endpoint is done. Use it for what must be given back.

Its scope says when that is. With `scope="function"` it is left before the answer is sent, so its exit code
can still refuse: here a commit that fails is a 409. With `scope="request"`, the default, it is left when the
answer and the background tasks are through. `POST /dependencies/timelines` records both.

`max_concurrency` bounds how many are open at a time. Here a partner's system allows two lines. Whoever comes
third waits, without a thread, and FastAPI sets no end to that. So `LineDep` depends on `TurnDep`: what a
dependency depends on is entered before its limit is applied, so the clock of `wait_for_turn` runs while the
request waits. Once it has its turn, `open_line` stops the clock; when the time is up first, it is a 503.

## The trap

Without `try` and `finally`, what stands after the `yield` is skipped whenever the endpoint raises, and when
the request is cancelled. An exception that is caught there and not raised again makes a 500 of every
refusal. In request scope an `HTTPException` comes too late: the client has its 200. The limit belongs to
the `Depends` object, so writing `Depends(open_line, max_concurrency=2)` twice allows four; share one alias.
Two requests that take the same two resources in opposite order wait for each other, for ever. A resource is
opened even if the endpoint's own parameters are refused. In `dependencies=[...]`, `use_cache=False` has no
effect. FastAPI shields what stands after the `yield` when the request is cancelled, not an `async with` of
the endpoint's own, nor from the clock of a dependency: there cleanup ends at its first `await`. In tests
`dependency_overrides` does not reach mounted apps, and the documentation keeps the original.

## What is proven

- Function scope is left before the answer and request scope after the tasks.
- A commit that fails in the exit code is a 409, and nothing is changed.
- What the partner raises inside the endpoint becomes a 404.
- At most two lines are open at a time, whichever routes use them.
- Who waits too long for a line gets a 503, and the others are served.
- A turn that comes as the time runs out opens no line.
- Requests that wait for each other's resources end with a 503.
- A line is closed when the request is cancelled.
- A positional argument of a partial is no parameter of the request.
- The same dependencies serve a socket.
- An override in a test is subject to the same limit.

## Read more

`Depends(dependency, use_cache=, scope=, max_concurrency=)`, `anyio.move_on_after`, `APIRouter(lifespan=)`.
[Dependencies with yield](https://fastapi.tiangolo.com/tutorial/dependencies/dependencies-with-yield/) and
[limits of concurrency](https://fastapi.tiangolo.com/advanced/advanced-dependencies/#limit-dependency-concurrency)
in the FastAPI documentation.
"""

import math
import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, TypedDict, cast

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled
from fastapi import APIRouter, BackgroundTasks, Depends, FastAPI, Path, Query, Request, Response
from fastapi.requests import HTTPConnection
from pydantic import BaseModel, Field

from app.dependencies import SettingsDep
from app.errors import Conflict, NotFound, ServiceUnavailable

MAX_LINES = 2
"""What the partner allows. `Depends` takes it at import, so it can be no setting of one installation."""
MAX_TIMELINES = 100


# What the partner's library raises: no errors of ours, and their text is not for our clients.
class Unknown(Exception): ...


class Stale(Exception): ...


@dataclass
class Partner:
    """Stands for a system that is expensive to talk to."""

    prices: dict[str, int]
    lines: int = 0
    most_lines: int = 0


class Line:
    """One connection to the partner. What is set counts from the commit on."""

    def __init__(self, partner: Partner) -> None:
        self._partner = partner
        self._change: tuple[str, int, int] | None = None
        partner.lines += 1
        partner.most_lines = max(partner.most_lines, partner.lines)

    def read(self, name: str) -> int:
        if name not in self._partner.prices:
            raise Unknown
        return self._partner.prices[name]

    def change(self, name: str, price: int, instead_of: int) -> None:
        self.read(name)
        self._change = name, price, instead_of

    async def commit(self) -> None:
        await checkpoint()
        if self._change:
            name, price, instead_of = self._change
            if self._partner.prices[name] != instead_of:
                raise Stale
            self._partner.prices[name] = price

    async def close(self) -> None:
        await checkpoint()
        self._partner.lines -= 1


class PageState(TypedDict):
    """What this page adds: the state of the app takes in what the lifespan of an included router yields."""

    partner: Partner
    timelines: dict[str, list[str]]


@asynccontextmanager
async def open_page_state(app: FastAPI) -> AsyncIterator[PageState]:
    yield PageState(partner=Partner({"coffee": 5, "tea": 4}), timelines={})


async def get_page_state(connection: HTTPConnection) -> PageState:
    """`HTTPConnection` is what requests and sockets have in common."""
    return cast(PageState, connection.state)


PageStateDep = Annotated[PageState, Depends(get_page_state)]


async def wait_for_turn(settings: SettingsDep) -> AsyncIterator[anyio.CancelScope]:
    # FastAPI enters and leaves it in the task of the request: only so may a cancel scope surround a `yield`.
    with anyio.move_on_after(settings.resource_wait) as waiting:
        yield waiting
    if waiting.cancelled_caught:
        raise ServiceUnavailable("All lines are busy. Try again later.", {"Retry-After": "1"})


# A clock for each wait, so not cached: the turn that one resource has got says nothing of the next.
TurnDep = Annotated[anyio.CancelScope, Depends(wait_for_turn, scope="function", use_cache=False)]


async def open_line(state: PageStateDep, turn: TurnDep) -> AsyncIterator[Line]:
    """One transaction: committed when the endpoint returns, forgotten when it raises."""
    turn.deadline = math.inf
    await checkpoint_if_cancelled()  # the clock may have run out in the very moment of the turn
    line = Line(state["partner"])
    try:
        yield line
        await line.commit()
    except Unknown:
        raise NotFound("The partner does not have this.") from None
    except Stale:
        raise Conflict("The price has changed. Read it again.") from None
    finally:
        await line.close()  # FastAPI shields it, for the clock is stopped: a cancelled request gets through


# One alias, one limit.
LineDep = Annotated[Line, Depends(open_line, scope="function", max_concurrency=MAX_LINES)]

router = APIRouter(tags=["dependencies"], lifespan=open_page_state)
Name = Annotated[str, Path(max_length=50, examples=["tea"])]


class Price(BaseModel):
    name: str
    price: int


class PriceChange(BaseModel):
    price: Annotated[int, Field(ge=0, le=1_000_000)]
    instead_of: int


@router.get("/dependencies/prices/{name}")
async def read_price(
    name: Name, line: LineDep, hold: Annotated[float, Query(ge=0, le=2, description="seconds")] = 0
) -> Price:
    """Reads a price over one of the two lines, and keeps the line for `hold` seconds."""
    price = line.read(name)
    await anyio.sleep(hold)
    return Price(name=name, price=price)


@router.put("/dependencies/prices/{name}")
async def change_price(name: Name, change: PriceChange, line: LineDep) -> Price:
    """Changes a price that is still `instead_of`; the exit code of `open_line` finds out."""
    line.change(name, change.price, change.instead_of)
    return Price(name=name, price=change.price)


@router.get("/dependencies/partner")
async def read_partner(state: PageStateDep) -> Partner:
    """All prices, how many lines are open, and how many have been at the same time. Takes no line."""
    return state["partner"]


async def start_timeline(state: PageStateDep, request: Request, response: Response) -> list[str]:
    timelines = state["timelines"]
    if len(timelines) >= MAX_TIMELINES:
        del timelines[next(iter(timelines))]
    timeline_id = secrets.token_urlsafe()
    response.headers["Location"] = request.url_for("read_timeline", timeline_id=timeline_id).path
    return timelines.setdefault(timeline_id, [])


TimelineDep = Annotated[list[str], Depends(start_timeline)]


async def stage(name: str, timeline: TimelineDep) -> AsyncIterator[None]:
    timeline.append(f"{name} entered")
    try:
        yield
    finally:
        timeline.append(f"{name} left")


async def note(timeline: list[str], event: str) -> None:
    timeline.append(event)


@router.post(
    "/dependencies/timelines",
    status_code=201,
    dependencies=[
        Depends(partial(stage, "request scope"), scope="request"),
        Depends(partial(stage, "function scope"), scope="function"),
    ],
)
async def record_timeline(timeline: TimelineDep, tasks: BackgroundTasks) -> list[str]:
    """What has happened so far; all of it is at the location afterwards."""
    timeline.append("endpoint")
    tasks.add_task(note, timeline, "background task")
    return timeline


@router.get("/dependencies/timelines/{timeline_id}")
async def read_timeline(timeline_id: Annotated[str, Path(max_length=50)], state: PageStateDep) -> list[str]:
    """The events of a request in their order, one of the latest hundred."""
    if timeline_id not in state["timelines"]:
        raise NotFound("There is no such timeline.")
    return state["timelines"][timeline_id]
