import asyncio
import gc
import threading
import tracemalloc
from contextlib import suppress
from contextvars import ContextVar

import anyio
import pytest
from pydantic import BaseModel

from app.jobs import tasks
from app.jobs.tasks import Progress, Task, open_tasks
from app.settings import Settings

pytestmark = pytest.mark.anyio
SECONDS = 10.0
NAME: ContextVar[str] = ContextVar("name", default="nobody")


class Result(BaseModel):
    text: str = ""


def quick(progress: Progress) -> Result:
    return Result()


async def drained(manager: tasks.TaskManager) -> None:
    with anyio.fail_after(SECONDS):
        await manager.drained()


async def test_a_job_sees_the_context_variables_of_its_caller(settings: Settings) -> None:
    async with open_tasks(settings) as manager:
        NAME.set("alice")
        task = manager.submit(lambda progress: Result(text=NAME.get()))
        NAME.set("bob")
        await drained(manager)
    assert task.result == Result(text="alice")


async def test_no_more_jobs_run_at_once_than_allowed_also_when_some_are_cancelled(settings: Settings) -> None:
    limit = 3
    lock = threading.Lock()
    at_once = most = 0

    def job(progress: Progress) -> Result:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        threading.Event().wait(0.002)
        with lock:
            at_once -= 1
        return Result()

    async with open_tasks(settings.model_copy(update={"task_workers": limit})) as manager:
        submitted = [manager.submit(job) for _ in range(30)]
        for task in submitted[::4]:
            manager.cancel(task)
        await drained(manager)
    assert most == limit
    assert [task.status for task in submitted].count("succeeded") == 22


async def test_a_job_that_calls_progress_all_the_time_wakes_the_loop_a_hundred_times(
    settings: Settings,
) -> None:
    def job(progress: Progress) -> Result:
        for step in range(100_000):
            progress(step / 100_000)
        return Result()

    async with open_tasks(settings) as manager:
        task = manager.submit(job)
        await drained(manager)
    assert task.status == "succeeded"
    assert task.version <= 1 + 100 + 1


async def test_progress_never_leaves_its_range_and_never_goes_back(settings: Settings) -> None:
    seen: list[int] = []
    watched = threading.Event()

    def job(progress: Progress) -> Result:
        for fraction in (-1.0, 0.5, 0.2, 7.0):
            progress(fraction)
        watched.wait(SECONDS)
        return Result()

    async with open_tasks(settings) as manager:
        task = manager.submit(job)
        while not task.done:
            seen.append(task.progress)
            if task.progress >= 100:
                watched.set()
            with anyio.fail_after(SECONDS):
                await task.changed.wait()
    assert set(seen) <= {0, 50, 100}
    assert seen == sorted(seen)


async def test_stopping_passes_through_a_job_that_catches_every_exception(settings: Settings) -> None:
    begun = threading.Event()
    ended = threading.Event()

    def job(progress: Progress) -> Result:
        begun.set()
        try:
            while True:
                with suppress(Exception):
                    progress(0.5)
        finally:
            ended.set()

    async with open_tasks(settings) as manager:
        task = manager.submit(job)
        assert await anyio.to_thread.run_sync(begun.wait, SECONDS)
        manager.cancel(task)
        await drained(manager)
    assert ended.is_set()
    assert task.status == "cancelled"


class Deaf:
    """A job that hears of no cancellation, and ends when it is `opened`."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.opened = threading.Event()
        self.thread: threading.Thread | None = None

    def __call__(self, progress: Progress) -> Result:
        self.thread = threading.current_thread()
        self.begun.set()
        self.opened.wait(SECONDS)
        return Result()


async def test_a_job_that_ignores_its_cancellation_holds_up_the_end_for_a_moment_only(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tasks, "STOP_SECONDS", 0.02)
    deaf = Deaf()
    with anyio.fail_after(SECONDS / 2):
        async with open_tasks(settings) as manager:
            task = manager.submit(deaf)
            await anyio.to_thread.run_sync(deaf.begun.wait, SECONDS)
    assert task.status == "cancelled"
    assert "task ignores its cancellation" in caplog.messages
    assert deaf.thread and deaf.thread.daemon
    deaf.opened.set()
    deaf.thread.join(SECONDS)


async def test_a_thread_that_outlives_the_event_loop_ends_in_silence() -> None:
    def run() -> None:
        async def lifespan() -> None:
            async with open_tasks(Settings(task_workers=1)) as manager:
                manager.submit(deaf)
                await anyio.to_thread.run_sync(deaf.begun.wait, SECONDS)

        asyncio.run(lifespan())

    deaf = Deaf()
    await anyio.to_thread.run_sync(run)
    deaf.opened.set()
    assert deaf.thread
    deaf.thread.join(SECONDS)
    assert not deaf.thread.is_alive()


async def test_two_managers_share_nothing(settings: Settings) -> None:
    async with open_tasks(settings) as one, open_tasks(settings) as other:
        task = one.submit(quick)
        with pytest.raises(Exception, match="no such task"):
            other.get(task.id)
        await drained(one)


async def test_memory_stays_flat_over_many_tasks(settings: Settings) -> None:
    limits = {"task_queue_size": 50, "task_retention_count": 50}

    def heavy(progress: Progress) -> Result:
        return Result(text="x" * 10_000)

    async def run(manager: tasks.TaskManager, rounds: int) -> int:
        for _ in range(rounds):
            for _ in range(50):
                manager.submit(heavy)
            await drained(manager)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    async with open_tasks(settings.model_copy(update=limits)) as manager:
        tracemalloc.start()
        try:
            before = await run(manager, 2)
            after = await run(manager, 20)
        finally:
            tracemalloc.stop()
    assert after - before < 50_000  # twenty rounds hold ten megabytes of results
    assert len([each for each in gc.get_objects() if isinstance(each, Task)]) <= 51
