"""Tasks with a status

`POST /tasks` starts work that takes longer than a client wants to wait, answers 202 at once, and names in
`Location` where its status is. The client polls there, or reads the progress as server-sent events, and may
cancel. The work here is real: the digests of an uploaded file and, if it is text, its most frequent words.

Use it for work of seconds to minutes which the caller can start again when the process dies. Below that,
`BackgroundTasks` is enough; above, when accepted work must survive a restart or its status be the same in
every worker process, it takes a durable queue.

The manager is `app/jobs/tasks.py`; the lifespan owns it. Jobs are blocking functions, run by threads of
their own, so that the forty threads of `def` endpoints stay free. A file is read on the event loop, be it on
a disk or in S3, and its thread asks for one piece after the other. Threads share one interpreter: work in
pure Python slows requests down unless it is done in small steps.

Every number has a limit: tasks that run, tasks that wait, finished tasks that are remembered, how long one
may run and how long one is remembered. How long one may wait follows from these.

## The trap

Tutorials keep `asyncio.create_task(...)` in a dictionary under an id that the client chose. The event loop
holds tasks weakly, so a second task under the same id lets the first vanish half-done. Finished tasks stay
for ever. A failed one looks like one that succeeded, and nobody logs its error. Cancelling a finished one
returns True. And when the process stops, what was running is gone without a word.

## What is proven

- A task is accepted with its location and ends with the report of the file.
- A file that is unknown is a 404 and starts nothing.
- The file of somebody else is a 404 and starts nothing.
- A failed task shows an error id, and the log has its traceback once under that id.
- A queued task and a running one are cancelled at once, and a finished one is a 409.
- A task that takes too long fails.
- A full queue is a 503.
- Finished tasks are forgotten by number and by age.
- A def endpoint does not wait for a full queue.
- The events of a task tell its progress and end with its result.
- A client that has seen the end is told by 204 to stay away.
- The events end with a goodbye when the server stops.
- An unknown task is a 404 on every path.

## Read more

`response_class=EventSourceResponse`, `fastapi.sse.ServerSentEvent`, `loop.call_soon_threadsafe`,
`anyio.from_thread.run`, `contextvars.copy_context`.
[Server-sent events](https://fastapi.tiangolo.com/tutorial/server-sent-events/) in the FastAPI documentation,
[202 Accepted](https://www.rfc-editor.org/rfc/rfc9110#name-202-accepted) in RFC 9110.
"""

import asyncio
from collections.abc import AsyncIterable
from functools import partial
from typing import Annotated

from anyio.lowlevel import current_token
from fastapi import APIRouter, Depends, Header, HTTPException, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, ConfigDict, Field

from app.dependencies import FilesDep, OwnerDep, StoppingDep, TasksDep
from app.jobs.file_report import FileReport, report_on
from app.jobs.tasks import Status, Task
from app.security.file_owner import ANONYMOUS_TOO

router = APIRouter(prefix="/tasks", tags=["background"])


class TaskRequest(BaseModel):
    file_id: Annotated[str, Field(max_length=100, description="from `POST /upload/`")]


class TaskStatus(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    status: Status
    progress: Annotated[int, Field(ge=0, le=100, description="percent")]
    result: FileReport | None
    error: Annotated[str | None, Field(description="names the line of the log that tells more")]
    done: bool
    cancelled: bool


# A dependency, for in a stream it would be too late to answer 404.
async def find_task(task_id: str, tasks: TasksDep) -> Task:
    return tasks.get(task_id)


TaskDep = Annotated[Task, Depends(find_task)]


@router.post("", status_code=202, openapi_extra=ANONYMOUS_TOO)
async def start(
    wanted: TaskRequest,
    owner: OwnerDep,
    files: FilesDep,
    tasks: TasksDep,
    request: Request,
    response: Response,
) -> TaskStatus:
    """Queues a report on an uploaded file: one of yours, or one without an owner."""
    file = await files.find(wanted.file_id, owner)
    pieces = files.storage.read(file.id, 0, file.size)
    is_text = file.content_type.startswith("text/")
    task = tasks.submit(partial(report_on, pieces, current_token(), file.size, is_text))
    response.headers["Location"] = request.url_for("show", task_id=task.id).path
    return TaskStatus.model_validate(task)


@router.get("/{task_id}")
async def show(task: TaskDep) -> TaskStatus:
    """The state of a task: queued, running, succeeded, failed or cancelled."""
    return TaskStatus.model_validate(task)


@router.delete("/{task_id}")
async def cancel(task: TaskDep, tasks: TasksDep) -> TaskStatus:
    """Cancels a task. Work that runs stops at its next step, and its result is not kept."""
    tasks.cancel(task)
    return TaskStatus.model_validate(task)


async def find_task_to_follow(
    task: TaskDep, last_event_id: Annotated[str | None, Header(max_length=20)] = None
) -> Task:
    if task.done and last_event_id == str(task.version):
        raise HTTPException(204)
    return task


@router.get(
    "/{task_id}/events",
    response_class=EventSourceResponse,
    responses={204: {"description": "The client has seen the end"}},
)
async def stream_events(
    task: Annotated[Task, Depends(find_task_to_follow)], stopping: StoppingDep
) -> AsyncIterable[ServerSentEvent]:
    """Sends the state at each change: `progress` events, and `done` as the last one.

    A slow client misses states in between and never holds anything up: no event waits for it.
    `EventSource` connects again after `done`; it is answered 204, which stops it.
    """
    while not stopping.is_set():
        changed = task.changed  # taken before the state is read, so that no change falls in between
        event = "done" if task.done else "progress"
        yield ServerSentEvent(event=event, id=str(task.version), data=TaskStatus.model_validate(task))
        if task.done:
            return
        await first_of(changed, stopping)
    yield ServerSentEvent(event="goodbye", data={"reason": "The server is stopping."})


async def first_of(*events: asyncio.Event) -> None:
    waiting = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in waiting:
            task.cancel()
