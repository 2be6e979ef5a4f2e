import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import SMTP
from pathlib import Path
from typing import Annotated

import anyio
import httpx2
import pytest
from fastapi import BackgroundTasks, Depends, FastAPI, HTTPException, Request, Response
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient
from pydantic import EmailStr, SecretStr, TypeAdapter
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker
from starlette.background import BackgroundTask
from starlette.middleware.base import RequestResponseEndpoint
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.database.models import User
from app.database.session import SessionMaker, open_database
from app.jobs.mail import Mailer
from app.main import create_app
from app.routers.background.after_response import notification
from app.settings import Settings
from tests.outbox import outbox
from tests.smtp import serve_smtp

SECONDS = 10.0


class NotesTheAnswer:
    def __init__(self, app: ASGIApp, order: list[str]) -> None:
        self.app = app
        self.order = order

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def noting(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                self.order.append("answer")

        await self.app(scope, receive, noting)


def mailer_of(client: TestClient) -> Mailer:
    mailer = client.app_state["mailer"]
    assert isinstance(mailer, Mailer)
    return mailer


def test_the_answer_leaves_before_its_tasks_run() -> None:
    order: list[str] = []
    app = FastAPI()
    app.add_middleware(NotesTheAnswer, order=order)

    @app.get("/")
    async def endpoint(tasks: BackgroundTasks) -> None:
        tasks.add_task(order.append, "task")

    TestClient(app).get("/")
    assert order == ["answer", "task"]


def test_the_answer_leaves_first_also_below_a_function_middleware() -> None:
    """Advice from before Starlette 0.29 says that the task holds the answer back there."""
    order: list[str] = []
    app = FastAPI()

    @app.middleware("http")
    async def below(request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)

    app.add_middleware(NotesTheAnswer, order=order)

    @app.get("/")
    async def endpoint(tasks: BackgroundTasks) -> None:
        tasks.add_task(order.append, "task")

    TestClient(app).get("/")
    assert order == ["answer", "task"]


def test_tasks_run_one_after_the_other_those_of_dependencies_first() -> None:
    order: list[str] = []

    async def slow(name: str) -> None:
        order.append(f"{name} begins")
        await asyncio.sleep(0)
        order.append(f"{name} ends")

    async def dependency(tasks: BackgroundTasks) -> None:
        tasks.add_task(slow, "dependency")

    app = FastAPI()

    @app.get("/", dependencies=[Depends(dependency)])
    async def endpoint(tasks: BackgroundTasks) -> None:
        tasks.add_task(slow, "endpoint")

    TestClient(app).get("/")
    assert order == ["dependency begins", "dependency ends", "endpoint begins", "endpoint ends"]


@pytest.mark.parametrize("path", ["/refuses", "/crashes", "/refuses?number=x"])
def test_no_task_runs_after_an_httpexception_a_422_or_an_unhandled_error(path: str) -> None:
    ran: list[str] = []

    async def dependency(tasks: BackgroundTasks) -> None:
        tasks.add_task(ran.append, "task")

    app = FastAPI(dependencies=[Depends(dependency)])

    @app.get("/refuses")
    async def refuses(number: int = 0) -> None:
        raise HTTPException(400)

    @app.get("/crashes")
    async def crashes() -> None:
        raise ValueError

    assert TestClient(app, raise_server_exceptions=False).get(path).status_code >= 400
    assert not ran


def test_a_task_runs_when_an_error_is_returned_and_not_raised() -> None:
    ran: list[str] = []
    app = FastAPI()

    @app.get("/")
    async def endpoint(tasks: BackgroundTasks) -> JSONResponse:
        tasks.add_task(ran.append, "task")
        return JSONResponse({"detail": "no"}, 400)

    assert TestClient(app).get("/").status_code == 400
    assert ran == ["task"]


def test_function_scope_ends_before_the_tasks_and_request_scope_after_them() -> None:
    order: list[str] = []

    async def function_scope() -> AsyncIterator[None]:
        yield
        order.append("function scope")

    async def request_scope() -> AsyncIterator[None]:
        yield
        order.append("request scope")

    app = FastAPI()
    app.add_middleware(NotesTheAnswer, order=order)

    @app.get("/", dependencies=[Depends(function_scope, scope="function"), Depends(request_scope)])
    async def endpoint(tasks: BackgroundTasks) -> None:
        tasks.add_task(order.append, "task")

    TestClient(app).get("/")
    assert order == ["function scope", "answer", "task", "request scope"]


def order_of_loop_and_task(blocks_the_loop: bool) -> list[str]:
    """What comes first when a task waits for something that only the event loop can do."""
    order: list[str] = []
    app = FastAPI()

    def wait_for(done: threading.Event) -> None:
        done.wait(0.2 if blocks_the_loop else SECONDS)
        order.append("task")

    async def wait_on_the_loop(done: threading.Event) -> None:
        wait_for(done)

    @app.get("/")
    async def endpoint(tasks: BackgroundTasks) -> None:
        done = threading.Event()

        def answer_others() -> None:
            order.append("others")
            done.set()

        async def start() -> None:
            asyncio.get_running_loop().call_soon(answer_others)

        tasks.add_task(start)
        tasks.add_task(wait_on_the_loop if blocks_the_loop else wait_for, done)

    with TestClient(app) as client:
        client.get("/")
    return order


def test_a_def_task_leaves_the_event_loop_free() -> None:
    assert order_of_loop_and_task(blocks_the_loop=False) == ["others", "task"]


def test_trap_an_async_def_task_that_blocks_stops_everybody() -> None:
    assert order_of_loop_and_task(blocks_the_loop=True) == ["task", "others"]


@contextmanager
def no_thread_left(client: TestClient) -> Iterator[None]:
    """Occupies all threads that `def` endpoints, `def` dependencies and `def` tasks share."""
    assert client.portal
    release = threading.Event()
    occupied = threading.Barrier(3)

    async def reduce() -> None:
        anyio.to_thread.current_default_thread_limiter().total_tokens = 2

    def occupy() -> None:
        occupied.wait(SECONDS)
        release.wait(3 * SECONDS)  # longer than anybody waits for what must not wait

    client.portal.call(reduce)
    futures = [client.portal.start_task_soon(anyio.to_thread.run_sync, occupy) for _ in range(2)]
    occupied.wait(SECONDS)
    try:
        yield
    finally:
        release.set()
        for future in futures:
            future.result(SECONDS)


def test_the_mail_does_not_wait_for_a_thread_of_the_endpoints(settings: Settings) -> None:
    with TestClient(create_app(settings)) as client, no_thread_left(client):
        assert client.post("/notify", params={"email": "a@example.com"}).status_code == 200
        assert client.portal
        client.portal.start_task_soon(mailer_of(client).drained).result(SECONDS)
        assert [line["to"] for line in outbox(settings.data_dir)] == ["a@example.com"]


@pytest.mark.anyio
async def test_trap_a_def_endpoint_waits_for_a_def_task() -> None:
    threads = anyio.to_thread.current_default_thread_limiter()
    threads.total_tokens = 1  # forty in a service, and forty slow mails do the same
    begun = anyio.Event()
    release = threading.Event()
    app = FastAPI()

    def slow_mail() -> None:
        anyio.from_thread.run_sync(begun.set)
        release.wait(SECONDS)

    @app.get("/sends")
    async def sends(tasks: BackgroundTasks) -> None:
        tasks.add_task(slow_mail)

    @app.get("/innocent")
    def innocent() -> None: ...

    transport = httpx2.ASGITransport(app=app)
    async with (
        httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client,
        anyio.create_task_group() as group,
    ):
        group.start_soon(client.get, "/sends")
        with anyio.fail_after(SECONDS):
            await begun.wait()
            group.start_soon(client.get, "/innocent")
            while not threads.statistics().tasks_waiting:
                await anyio.lowlevel.checkpoint()
        release.set()


def test_however_many_mails_are_sent_at_once_each_is_one_intact_line_of_the_outbox(
    settings: Settings,
) -> None:
    addresses = [f"user{number}@example.com" for number in range(60)]
    with TestClient(create_app(settings)) as client, ThreadPoolExecutor(12) as threads:
        paths = [f"/send-notification/{address}" for address in addresses]
        answers = list(threads.map(client.post, paths))
    assert {answer.status_code for answer in answers} == {200}
    assert answers[0].json() == {"message": "Notification sent in the background"}
    assert sorted(line["to"] for line in outbox(settings.data_dir)) == sorted(addresses)
    assert {line["fate"] for line in outbox(settings.data_dir)} == {"stored"}


def test_trap_a_log_opened_for_writing_keeps_one_mail_and_a_line_break_forges_another(
    tmp_path: Path,
) -> None:
    log = tmp_path / "log.txt"
    app = FastAPI()

    def write_notification(email: str, message: str) -> None:
        with log.open("w") as file:
            file.write(f"notification for {email}: {message}\n")

    @app.post("/send-notification/{email}")
    async def send_notification(email: str, tasks: BackgroundTasks) -> None:
        tasks.add_task(write_notification, email, "hello")

    client = TestClient(app)
    for path in ("a@example.com", "b@example.com", "x%0Anotification for c@example.com: forged"):
        assert client.post(f"/send-notification/{path}").status_code == 200
    lines = log.read_text().splitlines()
    assert lines == ["notification for x", "notification for c@example.com: forged: hello"]


@pytest.mark.parametrize(
    "email",
    [
        "",
        "nobody",
        "a@b",
        "a@b.c\r\nBcc: all@example.com",
        "a@example.com\r\nBcc: all@example.com",
        "a@example.com\n",
        "a\x00@example.com",
        "a\u202e@example.com",
        "a@example.com, all@example.com",
        "Ada <a@example.com>",
        "jürgen@example.com",
        "=?utf-8?q?=ff=e2=80=a8?=@example.com",
        "=?utf-8?q?all=40example.com=2C_a?=@example.com",
        "=?utf-8?b?YQ==?=@example.com",
        "a=?b@example.com",
        f"{'a' * 300}@example.com",
    ],
)
def test_what_is_not_an_address_is_a_422_and_sends_nothing(settings: Settings, email: str) -> None:
    with TestClient(create_app(settings)) as client:
        answer = client.post("/notify", params={"email": email})
        assert answer.status_code == 422
        assert email not in answer.text or not email
        if email:
            path = "".join(f"%{byte:02X}" for byte in email.encode())
            assert client.post(f"/send-notification/{path}").status_code == 422
    assert not outbox(settings.data_dir)


@pytest.mark.parametrize("address", ["a?=b=@example.com", "o'brien+{tag}@example.com"])
def test_an_address_is_the_only_recipient_and_stays_as_it_is(settings: Settings, address: str) -> None:
    with serve_smtp() as smtp:
        by_smtp = settings.model_copy(update={"smtp_url": SecretStr(smtp.url)})
        with TestClient(create_app(by_smtp)) as client:
            assert client.post("/notify", params={"email": address}).status_code == 200
        (message,) = smtp.messages
    assert (message["X-RcptTo"], message["To"]) == (address, address)


def test_a_domain_outside_ascii_is_sent_as_the_name_it_has_in_the_network(settings: Settings) -> None:
    with TestClient(create_app(settings)) as client:
        assert client.post("/notify", params={"email": "a@bücher.example.com"}).status_code == 200
    assert [line["to"] for line in outbox(settings.data_dir)] == ["a@xn--bcher-kva.example.com"]


def test_trap_an_encoded_word_before_the_at_is_an_address_and_its_header_has_two_recipients() -> None:
    address = TypeAdapter(EmailStr).validate_python("=?utf-8?q?all=40example.com=2C_a?=@example.com")
    message = EmailMessage()
    message["To"] = address
    sent = message_from_bytes(message.as_bytes(), policy=SMTP)
    assert [to.addr_spec for to in sent["To"].addresses] == ["all@example.com", "a@example.com"]


@pytest.mark.parametrize("address", ["a@example.com\r\nBcc: all@example.com", "=?utf-8?q?a?=@example.com"])
def test_a_line_break_or_encoded_word_in_a_header_is_refused_by_the_message_itself(address: str) -> None:
    with pytest.raises(ValueError):
        notification("noreply@example.com", address)


def test_a_full_queue_is_a_503_and_a_refused_request_gives_its_place_back(settings: Settings) -> None:
    small = settings.model_copy(update={"mail_queue_size": 1})
    with TestClient(create_app(small)) as client:
        for _ in range(3):
            assert client.post("/notify", params={"email": "nobody"}).status_code == 422
        assert client.portal
        with client.portal.wrap_async_context_manager(mailer_of(client).place()):
            answer = client.post("/notify", params={"email": "a@example.com"})
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            assert answer.headers["content-type"] == "application/problem+json"
        answer = client.post("/notify", params={"email": "b@example.com"})
        assert answer.json() == {"message": "Notification sent in background"}
    assert [line["to"] for line in outbox(settings.data_dir)] == ["b@example.com"]


def test_a_full_outbox_is_a_507_until_it_is_moved_away(settings: Settings) -> None:
    path = settings.data_dir / "outbox.jsonl"
    with TestClient(create_app(settings.model_copy(update={"mail_outbox_max_size": 100_000}))) as client:
        path.write_bytes(b"x" * 100_000)
        answer = client.post("/notify", params={"email": "a@example.com"})
        assert answer.status_code == 507
        assert answer.headers["content-type"] == "application/problem+json"
        assert client.post("/send-notification/a@example.com").status_code == 507
        path.unlink()
        assert client.post("/notify", params={"email": "b@example.com"}).status_code == 200
    assert [line["to"] for line in outbox(settings.data_dir)] == ["b@example.com"]


def test_with_an_smtp_server_the_mail_is_delivered_after_a_few_attempts_if_need_be(
    settings: Settings,
) -> None:
    with serve_smtp() as smtp:
        smtp.replies = ["451 come back later", "421 closing"]
        by_smtp = settings.model_copy(update={"smtp_url": SecretStr(smtp.url), "mail_retry_delay": 0.01})
        with TestClient(create_app(by_smtp)) as client:
            client.post("/send-notification/b@example.com")
            client.post("/notify", params={"email": "a@example.com"})
        first, second = smtp.messages
        assert smtp.attempts == 4
    assert (first["To"], second["To"]) == ("b@example.com", "a@example.com")
    assert second["From"] == settings.mail_from
    assert second["Message-ID"].endswith("@example.com>")
    assert second.get_content() == "You have a notification.\n"
    assert not outbox(settings.data_dir)


def test_a_mail_that_cannot_be_delivered_is_in_the_outbox_and_once_in_the_log(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with serve_smtp() as smtp:
        smtp.replies = ["451 come back later"] * settings.mail_attempts
        by_smtp = settings.model_copy(update={"smtp_url": SecretStr(smtp.url), "mail_retry_delay": 0.01})
        with TestClient(create_app(by_smtp)) as client:
            client.post("/notify", params={"email": "a@example.com"})
            client.post("/notify", params={"email": "b@example.com"})
        assert [message["To"] for message in smtp.messages] == ["b@example.com"]
    assert [(line["fate"], line["to"]) for line in outbox(settings.data_dir)] == [("failed", "a@example.com")]
    assert caplog.messages.count("mail not delivered") == 1


def test_trap_a_task_that_fails_drops_those_behind_it_after_a_200() -> None:
    ran: list[str] = []
    app = FastAPI()

    def fails() -> None:
        raise OSError("no mail server")

    @app.get("/")
    async def endpoint(tasks: BackgroundTasks) -> str:
        tasks.add_task(ran.append, "first")
        tasks.add_task(fails)
        tasks.add_task(ran.append, "last")
        return "sent"

    answer = TestClient(app, raise_server_exceptions=False).get("/")
    assert (answer.status_code, answer.json()) == (200, "sent")
    assert ran == ["first"]


def test_trap_background_on_the_response_replaces_the_injected_tasks() -> None:
    ran: list[str] = []
    app = FastAPI()

    @app.get("/")
    async def endpoint(tasks: BackgroundTasks) -> JSONResponse:
        tasks.add_task(ran.append, "injected")
        return JSONResponse({}, background=BackgroundTask(ran.append, "on the response"))

    TestClient(app).get("/")
    assert ran == ["on the response"]


def app_that_adds_a_user(sessions: SessionMaker, own_session: bool, used: list[AsyncSession]) -> FastAPI:
    async def open_session() -> AsyncIterator[AsyncSession]:
        async with sessions.begin() as session:
            yield session

    async def add_with(session: AsyncSession) -> None:
        used.append(session)
        session.add(User(name="Late User", email="late@example.com"))
        await session.flush()

    async def add() -> None:
        async with sessions.begin() as session:
            await add_with(session)

    app = FastAPI()

    @app.get("/")
    async def endpoint(
        tasks: BackgroundTasks, session: Annotated[AsyncSession, Depends(open_session, scope="function")]
    ) -> None:
        if own_session:
            tasks.add_task(add)
        else:
            tasks.add_task(add_with, session)

    return app


async def names_after(folder: Path, own_session: bool) -> tuple[list[str], bool]:
    """What the task has left in the database, and whether it has left its session open."""
    used: list[AsyncSession] = []
    async with open_database(f"sqlite+aiosqlite:///{folder / 'app.sqlite3'}") as sessions:
        # Of the usual kind, which open again after they are closed. Ours would raise.
        usual = async_sessionmaker(sessions.kw["bind"])
        app = app_that_adds_a_user(usual, own_session, used)
        transport = httpx2.ASGITransport(app=app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://testserver") as client:
            assert (await client.get("/")).status_code == 200
        async with sessions() as session:
            names = await session.scalars(select(User.name).where(User.email == "late@example.com"))
        left_open = used[0].in_transaction()
        await used[0].close()
        return list(names), left_open


@pytest.mark.anyio
async def test_trap_what_a_task_writes_with_the_session_of_its_request_is_lost(tmp_path: Path) -> None:
    assert await names_after(tmp_path, own_session=False) == ([], True)


@pytest.mark.anyio
async def test_what_a_task_writes_with_its_own_session_stays(tmp_path: Path) -> None:
    assert await names_after(tmp_path, own_session=True) == (["Late User"], False)
