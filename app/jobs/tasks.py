"""Tasks with a status, beside the requests: a bounded queue, bounded threads, a bounded memory.

A task leaves `queued` and `running` once, for `succeeded`, `failed` or `cancelled`; what comes later, as a
result after the cancellation, is ignored.

A thread cannot be stopped from outside. A job calls `progress` now and then, and there it is stopped when its
task is over. Until then it counts as running, so that there are never more threads at work than allowed.

All of it lives in the process: a restart forgets the tasks, and each worker process has its own.
"""

import asyncio
import logging
import secrets
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from contextvars import copy_context
from functools import partial
from queue import SimpleQueue
from typing import Literal

import anyio
from pydantic import BaseModel

from app.errors import Conflict, NotFound, ServiceUnavailable
from app.settings import Settings

logger = logging.getLogger("app.jobs.tasks")

Status = Literal["queued", "running", "succeeded", "failed", "cancelled"]
Job = Callable[["Progress"], BaseModel]

STOP_SECONDS = 0.4
"""How long running jobs may take at shutdown to notice that they are cancelled."""


class Stopped(BaseException):
    """Raised by `progress` in a job whose task is over. Not an `Exception`, which jobs may well catch."""


class Task:
    """What is known of one task. Only the event loop changes it; threads may read it."""

    def __init__(self) -> None:
        self.id = secrets.token_hex(16)
        self.status: Status = "queued"
        self.progress = 0
        self.result: BaseModel | None = None
        self.error: str | None = None
        self.finished_at = 0.0
        self.version = 0
        self.changed = asyncio.Event()
        """Set at the next change, and then replaced by another event."""

    @property
    def done(self) -> bool:
        return self.status not in ("queued", "running")

    @property
    def cancelled(self) -> bool:
        return self.status == "cancelled"

    def notify(self) -> None:
        self.version += 1
        self.changed.set()
        self.changed = asyncio.Event()


class Progress:
    """What a job gets: called with the done fraction, it tells the task, or raises `Stopped`."""

    def __init__(self, task: Task, tell: Callable[[Task, int], None]) -> None:
        self._task = task
        self._tell = tell
        self._told = 0

    def __call__(self, fraction: float) -> None:
        if self._task.done:
            raise Stopped
        percent = min(int(fraction * 100), 100)
        # In whole percents: however often a job calls this, the event loop hears of it a hundred times.
        if percent > self._told:
            self._told = percent
            self._tell(self._task, percent)


class TaskManager:
    """Made by `open_tasks`. All public methods belong to the event loop, so that there is nothing to lock."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[str, Task] = {}
        self._queued: dict[Task, Callable[[], None]] = {}
        self._running: dict[Task, asyncio.TimerHandle] = {}
        self._finished: deque[Task] = deque()
        self._drained = asyncio.Event()
        self._drained.set()
        # Holds what a free thread is about to take, so never more than there are threads.
        self._ready: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        # Daemons: a job that never calls `progress` does not keep the process alive.
        self._threads = [
            threading.Thread(target=self._work, name=f"task-worker-{number}", daemon=True)
            for number in range(settings.task_workers)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> Task:
        """Queues `job`. It runs in a thread, with the context variables of the caller."""
        if len(self._queued) >= self._settings.task_queue_size:
            raise ServiceUnavailable("Too many tasks wait. Try again later.", {"Retry-After": "1"})
        task = Task()
        self._tasks[task.id] = task
        self._queued[task] = partial(copy_context().run, self._run, task, job)
        self._drained.clear()
        self._start_next()
        return task

    def get(self, task_id: str) -> Task:
        self._forget_old()
        if task_id not in self._tasks:
            raise NotFound("There is no such task, or it finished long ago.")
        return self._tasks[task_id]

    def cancel(self, task: Task) -> None:
        if task.done:
            raise Conflict("The task has finished already.")
        self._queued.pop(task, None)
        self._finish(task, "cancelled")
        self._start_next()

    async def drained(self) -> None:
        """Returns when nothing is queued and no thread works."""
        await self._drained.wait()

    async def close(self) -> None:
        """Cancels and logs what has not finished."""
        for task in [*self._queued, *self._running]:
            if not task.done:
                fields = {"task": task.id, "status": task.status, "progress": task.progress}
                logger.warning("task cancelled at shutdown", extra={"fields": fields})
                self._finish(task, "cancelled")
        self._queued.clear()
        self._start_next()
        for _ in self._threads:
            self._ready.put(None)
        with anyio.move_on_after(STOP_SECONDS):
            await self.drained()
        for task in self._running:
            logger.error("task ignores its cancellation", extra={"fields": {"task": task.id}})

    def _start_next(self) -> None:
        while self._queued and len(self._running) < self._settings.task_workers:
            task = next(iter(self._queued))
            run = self._queued.pop(task)
            self._running[task] = self._loop.call_later(self._settings.task_timeout, self._time_out, task)
            task.status = "running"
            task.notify()
            self._ready.put(run)
        if not self._queued and not self._running:
            self._drained.set()

    def _work(self) -> None:
        """One thread: runs what is ready until it gets None."""
        while run := self._ready.get():
            run()

    def _run(self, task: Task, job: Job) -> None:
        result: BaseModel | None = None
        error: str | None = None
        try:
            result = job(Progress(task, partial(self._tell, self._advance)))
        except Stopped:
            pass
        except BaseException:  # also SystemExit: nothing a job raises may end the thread
            error = secrets.token_hex(8)
            fields = {"task": task.id, "error": error}
            logger.exception("task failed", extra={"fields": fields})
        self._tell(self._end, task, result, error)

    def _tell(self, function: Callable[..., None], *args: object) -> None:
        """Calls `function` on the event loop, which a thread may outlive that ignores its cancellation."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(function, *args)

    def _advance(self, task: Task, percent: int) -> None:
        if not task.done:
            task.progress = percent
            task.notify()

    def _time_out(self, task: Task) -> None:
        if not task.done:
            error = secrets.token_hex(8)
            logger.error("task timed out", extra={"fields": {"task": task.id, "error": error}})
            self._finish(task, "failed", error=error)

    def _end(self, task: Task, result: BaseModel | None, error: str | None) -> None:
        """The thread of `task` is free again."""
        self._running.pop(task).cancel()
        if error:
            self._finish(task, "failed", error=error)
        elif result is not None:
            self._finish(task, "succeeded", result=result)
        self._start_next()

    def _finish(
        self, task: Task, status: Status, result: BaseModel | None = None, error: str | None = None
    ) -> None:
        if task.done:
            return
        task.status, task.result, task.error = status, result, error
        if status == "succeeded":
            task.progress = 100
        task.finished_at = self._loop.time()
        self._finished.append(task)
        self._forget_old()
        task.notify()

    def _forget_old(self) -> None:
        """Drops finished tasks over the number and over the age that the settings allow."""
        oldest = self._loop.time() - self._settings.task_retention_seconds
        while self._finished and (
            len(self._finished) > self._settings.task_retention_count
            or self._finished[0].finished_at < oldest
        ):
            del self._tasks[self._finished.popleft().id]


@asynccontextmanager
async def open_tasks(settings: Settings) -> AsyncIterator[TaskManager]:
    """Runs the threads. Leaving cancels what has not finished, so await `drained()` before, with a limit."""
    tasks = TaskManager(settings)
    tasks.start()
    try:
        yield tasks
    finally:
        await tasks.close()
