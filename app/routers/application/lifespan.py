"""What is opened at start and closed at the end

The lifespan opens the log, the database and the rest, hands them to the endpoints, and closes them when
the server stops. Use it for everything that is made once and used by many requests. `GET /health` says
that the process answers; `GET /ready` tries what it needs to do its work: the database, the place of the
uploads, and Redis where the rooms use it; not the mail server, for mail waits when that is away. An
orchestrator restarts a process that is not healthy, and sends no requests to one that is not ready: so a
database that is away must not make `/health` fail.

It is `app/lifespan.py`. Every resource is a context manager entered on one `AsyncExitStack`. When one
fails to open, those before it are closed in reverse order and the process ends with an error, which is
what makes an orchestrator try again. What the lifespan yields is a `TypedDict`; the server copies it
into each request's `state`, and `app/dependencies.py` gives each resource one typed alias.

Each process of `--workers 4` has a lifespan, and so all of this, of its own: the second to start says in
the log what they do not share (`app/single_process.py`).

## The trap

`@app.on_event("startup")` is deprecated, and ignored without a word as soon as there is a `lifespan=`.
And when one of several start-up handlers fails, what the earlier ones opened stays open: the shutdown
handlers do not run. Clean-up written after a bare `yield` has the same hole.

The state is copied for each request, but not deeply: `request.state.hits += 1` on an `int` binds a name
on the copy and is lost. What must be shared has to be an object that is changed in place. Module-level
globals are shared too, but by every app of the process, so one test meets the leftovers of another.

## What is proven

- The health check answers while the database is away.
- The service is ready when its engines answer.
- A database that fails makes it not ready, without a word of why.
- A database that hangs makes it not ready in time.
- A folder that cannot be written makes it not ready.
- A bucket that cannot be written makes it not ready.
- Redis is one of the engines where it is used.
- When a resource fails to open, those before it are closed in reverse order.
- A start that fails ends the process with an error.
- Two apps of one process share nothing but the log.
- Of several processes the second says once what they do not share.
- A change inside an object of the state is kept.

## Read more

`FastAPI(lifespan=)`, `contextlib.AsyncExitStack`, `request.state`. [Lifespan
events](https://fastapi.tiangolo.com/advanced/events/) in the FastAPI documentation, [lifespan
state](https://starlette.dev/lifespan/#lifespan-state) in Starlette's.
"""

import asyncio
import logging
from collections.abc import Awaitable
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from app.database.models import User
from app.database.session import SessionMaker
from app.dependencies import StateDep
from app.errors import AppError, ServiceUnavailable
from app.realtime.backplane import Unavailable

logger = logging.getLogger("app.ready")

router = APIRouter(tags=["application"])


class Health(BaseModel):
    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    status: Literal["ready"] = "ready"
    engines: list[str]


@router.get("/health")
async def health() -> Health:
    """The process answers. It looks at nothing else."""
    return Health()


@router.get("/ready")
async def ready(state: StateDep) -> Ready:
    """Tries what nothing works without, each within `APP_READY_TIMEOUT`; 503 when one does not answer."""
    checks: dict[str, Awaitable[None]] = {
        "database": read_a_row(state["sessions"]),
        "uploads": state["storage"].check(),
    }
    if state["settings"].redis_url:
        checks["redis"] = state["hub"].backplane.check()
    seconds = state["settings"].ready_timeout
    results = await asyncio.gather(*(answers_in_time(*check, seconds) for check in checks.items()))
    failed = [name for name, answers in zip(checks, results, strict=True) if not answers]
    if failed:
        raise ServiceUnavailable(f"Not ready: {', '.join(failed)}.")
    return Ready(engines=list(checks))


async def answers_in_time(name: str, check: Awaitable[None], seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await check
    except (OSError, TimeoutError, SQLAlchemyError, Unavailable, AppError) as exc:
        # The reason is for us: an address or a path has no place in an answer anybody can ask for.
        logger.warning("%s does not answer: %s", name, exc)
        return False
    return True


async def read_a_row(sessions: SessionMaker) -> None:
    # Not `SELECT 1`, which SQLite answers without a look at its file.
    async with sessions() as session:
        await session.execute(select(User.id).limit(1))
