import asyncio
import gc
import hashlib
import json
import logging
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from anyio import to_thread
from fastapi import FastAPI
from fastapi.testclient import TestClient
from httpx2 import Response
from pydantic import BaseModel

from app.jobs.file_report import FileReport
from app.jobs.tasks import Job, Progress, TaskManager
from app.main import create_app
from app.settings import Settings
from tests.owners import log_in

SECONDS = 10.0
KEYS = ["id", "status", "progress", "result", "error", "done", "cancelled"]
REPORT = FileReport(size=0, sha256="", blake2b="", text=None)


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"task_workers": 1, "task_queue_size": 2, "task_retention_count": 3})


def manager_of(client: TestClient) -> TaskManager:
    tasks = client.app_state["tasks"]
    assert isinstance(tasks, TaskManager)
    return tasks


def submit(client: TestClient, job: Job) -> str:
    assert client.portal
    return client.portal.call(manager_of(client).submit, job).id


def drain(client: TestClient) -> None:
    assert client.portal
    client.portal.start_task_soon(manager_of(client).drained).result(SECONDS)


def status(client: TestClient, task_id: str) -> dict[str, Any]:
    shown = client.get(f"/tasks/{task_id}").json()
    assert isinstance(shown, dict)
    return shown


def quick(progress: Progress) -> BaseModel:
    return REPORT


def fails(progress: Progress) -> BaseModel:
    raise ValueError("password=hunter2")


class Gate:
    """A job that reports its progress when told to, and ends when the gate opens."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.opened = threading.Event()
        self.stopped = threading.Event()

    def __call__(self, progress: Progress) -> BaseModel:
        self.begun.set()
        try:
            while not self.opened.wait(0.005):
                progress(0.5)
        except BaseException:
            self.stopped.set()
            raise
        return REPORT


@contextmanager
def running(client: TestClient) -> Iterator[tuple[Gate, str]]:
    """One job that occupies the only worker."""
    gate = Gate()
    task_id = submit(client, gate)
    assert gate.begun.wait(SECONDS)
    try:
        yield gate, task_id
    finally:
        gate.opened.set()


def upload(client: TestClient, content: bytes, headers: dict[str, str] | None = None) -> str:
    answer = client.post("/upload/", files={"file": ("poem.txt", content, "text/plain")}, headers=headers)
    assert answer.status_code == 201
    return str(answer.json()["id"])


def test_a_task_is_accepted_with_its_location_and_ends_with_the_report_of_the_file(
    client: TestClient,
) -> None:
    content = b"the cat and the hat\nThe END"
    accepted = client.post("/tasks", json={"file_id": upload(client, content)})
    assert accepted.status_code == 202
    assert list(accepted.json()) == KEYS
    assert accepted.headers["location"] == f"/tasks/{accepted.json()['id']}"
    drain(client)
    shown = client.get(accepted.headers["location"]).json()
    assert list(shown) == KEYS
    assert (shown["status"], shown["progress"], shown["error"]) == ("succeeded", 100, None)
    assert (shown["done"], shown["cancelled"]) == (True, False)
    result = shown["result"]
    assert result["sha256"] == hashlib.sha256(content).hexdigest()
    assert result["blake2b"] == hashlib.blake2b(content).hexdigest()
    assert (result["text"]["lines"], result["text"]["words"], result["text"]["characters"]) == (2, 7, 27)
    assert result["text"]["most_frequent_words"][0] == {"word": "the", "count": 3}


@pytest.mark.parametrize("file_id", ["0" * 32, "../../etc/passwd", ""])
def test_a_file_that_is_unknown_is_a_404_and_starts_nothing(client: TestClient, file_id: str) -> None:
    assert client.post("/tasks", json={"file_id": file_id}).status_code == 404
    drain(client)


def test_the_file_of_somebody_else_is_a_404_and_starts_nothing(client: TestClient) -> None:
    ada, bob = log_in(client, "ada"), log_in(client, "bob")
    wanted = {"file_id": upload(client, b"of Ada", headers=ada)}
    for headers in (bob, {}):
        assert client.post("/tasks", json=wanted, headers=headers).status_code == 404
    assert not manager_of(client)._tasks
    accepted = client.post("/tasks", json=wanted, headers=ada)
    drain(client)
    assert status(client, accepted.json()["id"])["result"]["size"] == len(b"of Ada")


def test_a_file_that_is_gone_when_its_turn_comes_fails_its_task(client: TestClient) -> None:
    file_id = upload(client, b"text")
    with running(client):
        task_id = client.post("/tasks", json={"file_id": file_id}).json()["id"]
        assert client.delete(f"/files/{file_id}").status_code == 204
    drain(client)
    assert status(client, task_id)["status"] == "failed"


def test_a_failed_task_shows_an_error_id_and_the_log_has_its_traceback_once_under_that_id(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    task_id = submit(client, fails)
    drain(client)
    shown = status(client, task_id)
    assert (shown["status"], shown["done"], shown["cancelled"]) == ("failed", True, False)
    assert "hunter2" not in json.dumps(shown)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert vars(record)["fields"] == {"task": task_id, "error": shown["error"]}


def test_a_job_that_would_end_its_thread_only_fails(client: TestClient) -> None:
    def exits(progress: Progress) -> BaseModel:
        raise SystemExit

    failed, succeeded = submit(client, exits), submit(client, quick)
    drain(client)
    assert status(client, failed)["status"] == "failed"
    assert status(client, succeeded)["status"] == "succeeded"


def test_a_queued_task_and_a_running_one_are_cancelled_at_once_and_a_finished_one_is_a_409(
    client: TestClient,
) -> None:
    with running(client) as (gate, task_id):
        queued = submit(client, quick)
        assert status(client, queued)["status"] == "queued"
        assert status(client, task_id)["status"] == "running"
        for each in (queued, task_id):
            answer = client.delete(f"/tasks/{each}")
            assert answer.status_code == 200
            assert (answer.json()["status"], answer.json()["done"]) == ("cancelled", True)
            assert answer.json()["cancelled"]
        assert gate.stopped.wait(SECONDS)
    drain(client)
    assert status(client, task_id)["status"] == "cancelled"
    assert client.delete(f"/tasks/{task_id}").status_code == 409
    finished = submit(client, quick)
    drain(client)
    assert client.delete(f"/tasks/{finished}").status_code == 409


def test_a_result_that_comes_after_the_cancellation_is_not_kept(client: TestClient) -> None:
    opened = threading.Event()

    def ignores_cancellation(progress: Progress) -> BaseModel:
        opened.wait(SECONDS)
        return REPORT

    task_id = submit(client, ignores_cancellation)
    assert client.delete(f"/tasks/{task_id}").status_code == 200
    waiting = submit(client, quick)
    assert status(client, waiting)["status"] == "queued"
    opened.set()
    drain(client)
    assert (status(client, task_id)["status"], status(client, task_id)["result"]) == ("cancelled", None)
    assert status(client, waiting)["status"] == "succeeded"


def test_a_task_that_takes_too_long_fails(settings: Settings, caplog: pytest.LogCaptureFixture) -> None:
    hasty = settings.model_copy(update={"task_timeout": 0.05})
    with TestClient(create_app(hasty)) as client, running(client) as (gate, task_id):
        assert gate.stopped.wait(SECONDS)
        drain(client)
        shown = status(client, task_id)
        assert shown["status"] == "failed"
        (record,) = [record for record in caplog.records if record.message == "task timed out"]
        assert vars(record)["fields"] == {"task": task_id, "error": shown["error"]}


def test_a_full_queue_is_a_503(client: TestClient) -> None:
    file_id = upload(client, b"text")
    with running(client):
        answers = [client.post("/tasks", json={"file_id": file_id}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [202, 202, 503]
        assert answers[2].headers["content-type"] == "application/problem+json"
        assert answers[2].headers["retry-after"] == "1"
        assert client.delete(answers[0].headers["location"]).status_code == 200
        assert client.post("/tasks", json={"file_id": file_id}).status_code == 202


def test_finished_tasks_are_forgotten_by_number_and_by_age(settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        ids = []
        for _ in range(5):
            ids.append(submit(client, quick))
            drain(client)
        codes = [client.get(f"/tasks/{task_id}").status_code for task_id in ids]
        assert codes == [404, 404, 200, 200, 200]
        manager_of(client).get(ids[2]).finished_at -= settings.task_retention_seconds + 1
        codes = [client.get(f"/tasks/{task_id}").status_code for task_id in ids]
        assert codes == [404, 404, 404, 200, 200]


def test_a_def_endpoint_does_not_wait_for_a_full_queue(app: FastAPI) -> None:
    app.add_api_route("/def", lambda: "answered", methods=["GET"])

    async def leave_one_thread() -> None:
        to_thread.current_default_thread_limiter().total_tokens = 1

    with TestClient(app) as client, running(client):
        assert client.portal
        client.portal.call(leave_one_thread)
        for _ in range(2):
            submit(client, quick)
        with ThreadPoolExecutor(1) as thread:
            assert thread.submit(client.get, "/def").result(SECONDS).json() == "answered"


def events_of(answer: Response) -> Iterator[dict[str, Any]]:
    event: dict[str, Any] = {}
    for line in answer.iter_lines():
        if line:
            name, _, value = line.partition(": ")
            event[name] = json.loads(value) if name == "data" else value
        else:
            yield event
            event = {}


def test_the_events_of_a_task_tell_its_progress_and_end_with_its_result(client: TestClient) -> None:
    steps = threading.Semaphore(0)

    def in_steps(progress: Progress) -> BaseModel:
        for tenths in (1, 2, 3):
            assert steps.acquire(timeout=SECONDS)
            for _ in range(1_000 if tenths < 3 else 0):
                progress(tenths / 10)
        return REPORT

    task_id = submit(client, in_steps)
    seen = []
    with client.stream("GET", f"/tasks/{task_id}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for event in events_of(answer):
            seen.append((event["event"], event["data"]["progress"], event["data"]["status"]))
            steps.release()
    assert seen == [
        ("progress", 0, "running"),
        ("progress", 10, "running"),
        ("progress", 20, "running"),
        ("done", 100, "succeeded"),
    ]
    assert int(event["id"]) > 0
    assert event["data"]["result"] == REPORT.model_dump()


def test_the_events_end_with_a_goodbye_when_the_server_stops(client: TestClient) -> None:
    with running(client) as (_, task_id), client.stream("GET", f"/tasks/{task_id}/events") as answer:
        events = []
        for event in events_of(answer):
            events.append(event)
            if len(events) == 1:
                assert client.portal
                client.portal.call(client.app_state["stopping"].set)
    assert events[-1] == {"event": "goodbye", "data": {"reason": "The server is stopping."}}


def test_the_events_of_a_finished_task_are_one(client: TestClient) -> None:
    task_id = submit(client, quick)
    drain(client)
    events = list(events_of(client.get(f"/tasks/{task_id}/events")))
    assert [event["event"] for event in events] == ["done"]


def test_a_client_that_has_seen_the_end_is_told_by_204_to_stay_away(client: TestClient) -> None:
    task_id = submit(client, quick)
    drain(client)
    (done,) = events_of(client.get(f"/tasks/{task_id}/events"))
    answer = client.get(f"/tasks/{task_id}/events", headers={"Last-Event-ID": done["id"]})
    assert answer.status_code == 204
    assert answer.content == b""


@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("DELETE", ""), ("GET", "/events")])
def test_an_unknown_task_is_a_404_on_every_path(client: TestClient, method: str, path: str) -> None:
    answer = client.request(method, f"/tasks/nope{path}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


class TutorialManager:
    """What tutorials call a task manager."""

    def __init__(self) -> None:
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def start(self, task_id: str, work: Any) -> None:
        self.tasks[task_id] = asyncio.create_task(work)

    def status(self, task_id: str) -> dict[str, bool]:
        task = self.tasks[task_id]
        return {"done": task.done(), "cancelled": task.cancelled()}

    def cancel(self, task_id: str) -> bool:
        self.tasks[task_id].cancel()
        return True


@pytest.mark.anyio
async def test_trap_a_second_task_under_the_same_id_lets_the_first_vanish_half_done() -> None:
    destroyed: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: destroyed.append(context["message"]))
    ended: list[str] = []

    async def work() -> None:
        await asyncio.get_running_loop().create_future()  # as a client does that waits for an answer
        ended.append("first")

    async def other() -> None: ...

    manager = TutorialManager()
    manager.start("report", work())
    await asyncio.sleep(0)
    manager.start("report", other())
    await manager.tasks["report"]
    gc.collect()
    assert destroyed == ["Task was destroyed but it is pending!"]
    assert not ended


@pytest.mark.anyio
async def test_trap_a_failed_task_looks_like_one_that_succeeded_and_the_log_is_empty(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def succeeds() -> None: ...

    async def fails() -> None:
        raise ValueError

    manager = TutorialManager()
    manager.start("good", succeeds())
    manager.start("bad", fails())
    await asyncio.wait(manager.tasks.values())
    assert manager.status("good") == manager.status("bad") == {"done": True, "cancelled": False}
    assert manager.cancel("good")
    assert not caplog.records
    manager.tasks["bad"].exception()  # or the garbage collector complains


@pytest.mark.anyio
async def test_trap_finished_tasks_are_kept_for_ever() -> None:
    async def work() -> None: ...

    manager = TutorialManager()
    for number in range(500):
        manager.start(str(number), work())
        await manager.tasks[str(number)]
    assert len(manager.tasks) == 500


def test_trap_what_runs_when_the_process_stops_is_gone_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    ended: list[str] = []

    async def work() -> None:
        await asyncio.Event().wait()
        ended.append("work")

    async def serve() -> None:
        manager = TutorialManager()
        manager.start("report", work())
        await asyncio.sleep(0)

    asyncio.run(serve())
    assert not ended
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_what_runs_when_the_service_stops_is_cancelled_and_logged(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    gate = Gate()
    with TestClient(create_app(settings.model_copy(update={"shutdown_grace": 0.05}))) as client:
        ids = [submit(client, gate), submit(client, quick)]
        assert gate.begun.wait(SECONDS)
    assert gate.stopped.is_set()
    lost = [vars(record)["fields"]["task"] for record in caplog.records if "shutdown" in record.message]
    assert sorted(lost) == sorted(ids)


def test_what_can_finish_in_the_grace_period_finishes(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    ended: list[str] = []

    def work(progress: Progress) -> BaseModel:
        threading.Event().wait(0.1)
        ended.append("work")
        return REPORT

    with TestClient(create_app(settings.model_copy(update={"shutdown_grace": SECONDS}))) as client:
        for _ in range(2):
            submit(client, work)
    assert ended == ["work", "work"]
    assert not [record for record in caplog.records if "shutdown" in record.message]
