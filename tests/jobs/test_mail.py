import logging
import socket
import stat
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any

import anyio
import pytest
from pydantic import SecretStr, ValidationError

from app.errors import InsufficientStorage, ServiceUnavailable
from app.jobs import mail
from app.jobs import outbox as outbox_file
from app.jobs.mail import MAX_LINE_SIZE, Mail, Mailer, open_mailer
from app.middleware.request_id import request_id
from app.routers.background.after_response import notification
from app.settings import Settings
from tests.outbox import outbox
from tests.smtp import serve_smtp

pytestmark = pytest.mark.anyio
SECONDS = 10.0


def to(address: str) -> Mail:
    return notification("noreply@example.com", address)


def with_smtp(settings: Settings, url: str, **changes: object) -> Settings:
    quick = {"mail_retry_delay": 0.01, "mail_timeout": SECONDS}
    return settings.model_copy(update={"smtp_url": SecretStr(url), **quick, **changes})


async def post(mailer: Mailer, *addresses: str) -> None:
    for address in addresses:
        async with mailer.place() as send:
            await send(to(address))


async def drained(mailer: Mailer) -> None:
    with anyio.fail_after(SECONDS):
        await mailer.drained()


async def test_a_place_takes_one_mail(settings: Settings) -> None:
    async with open_mailer(settings) as mailer:
        async with mailer.place() as send:
            await send(to("a@example.com"))
            with pytest.raises(RuntimeError):
                await send(to("b@example.com"))


async def test_places_are_bounded_and_an_unused_one_is_free_again(settings: Settings) -> None:
    mailer = Mailer(settings.model_copy(update={"mail_queue_size": 2}))
    async with mailer.place():
        await post(mailer, "a@example.com")
        with pytest.raises(ServiceUnavailable):
            await post(mailer, "b@example.com")
    await post(mailer, "b@example.com")


async def test_what_waits_and_what_is_held_has_its_room_in_the_outbox(settings: Settings) -> None:
    mailer = Mailer(settings.model_copy(update={"mail_outbox_max_size": 3 * MAX_LINE_SIZE - 1}))
    async with mailer.place():
        await post(mailer, "a@example.com")
        with pytest.raises(InsufficientStorage):
            await post(mailer, "b@example.com")
    await post(mailer, "b@example.com")
    with pytest.raises(InsufficientStorage):
        await post(mailer, "c@example.com")


def test_a_mail_without_end_is_refused_before_it_is_accepted() -> None:
    message = EmailMessage()
    message["To"] = "a@example.com"
    message.set_content("x" * MAX_LINE_SIZE)
    with pytest.raises(ValueError, match="longer"):
        Mail.of(message)


async def test_the_outbox_is_for_its_owner_only(settings: Settings) -> None:
    async with open_mailer(settings) as mailer:
        await post(mailer, "a@example.com")
        await drained(mailer)
    assert stat.S_IMODE((settings.data_dir / "outbox.jsonl").stat().st_mode) == 0o600


async def test_a_text_outside_ascii_is_one_ascii_line(settings: Settings) -> None:
    message = EmailMessage()
    message["To"] = "a@example.com"
    message.set_content("gr\u00fc\u00dfe\u2028", cte="8bit")
    line = Mail.of(message).line("stored")
    assert line.isascii()
    assert len(line.splitlines()) == 1


def test_what_cannot_be_written_down_is_refused_before_it_is_accepted() -> None:
    message = EmailMessage()
    message["To"] = "=?utf-8?q?=ff=e2=80=a8?=@example.com"
    with pytest.raises(UnicodeEncodeError):
        Mail.of(message)


async def test_a_disk_that_refuses_for_a_while_loses_no_mail(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    blocking = settings.data_dir / "outbox.jsonl"
    blocking.mkdir(parents=True)
    refused = anyio.Event()

    def notice(record: logging.LogRecord) -> bool:
        refused.set()
        return True

    caplog.handler.addFilter(notice)
    async with open_mailer(settings.model_copy(update={"mail_retry_delay": 0.01})) as mailer:
        await post(mailer, "a@example.com", "b@example.com")
        with anyio.fail_after(SECONDS):
            await refused.wait()
        blocking.rmdir()
        await drained(mailer)
    assert [line["to"] for line in outbox(settings.data_dir)] == ["a@example.com", "b@example.com"]
    assert set(caplog.messages) == {"the outbox cannot be written"}


async def test_a_disk_that_refuses_at_the_end_is_told_in_the_log(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    (settings.data_dir / "outbox.jsonl").mkdir(parents=True)
    async with open_mailer(settings) as mailer:
        await post(mailer, "a@example.com")
    (record,) = [record for record in caplog.records if record.message == "mails lost at shutdown"]
    assert record.fields == {"mails": 1}  # type: ignore[attr-defined]  # set through `extra`


async def test_an_error_nobody_thought_of_stops_no_writer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    class FailsOnce:
        def __init__(self, then: Callable[..., Any]) -> None:
            self.then = then
            self.calls = 0

        def __call__(self, *args: Any) -> Any:
            self.calls += 1
            if self.calls == 1:
                raise LookupError
            return self.then(*args)

    append, send = FailsOnce(outbox_file.append), FailsOnce(mail.send)
    monkeypatch.setattr(outbox_file, "append", append)
    monkeypatch.setattr(mail, "send", send)
    async with open_mailer(settings.model_copy(update={"mail_retry_delay": 0.01})) as mailer:
        await post(mailer, "a@example.com")
        await drained(mailer)
    with serve_smtp() as smtp:
        async with open_mailer(with_smtp(settings, smtp.url)) as mailer:
            await post(mailer, "b@example.com")
            await drained(mailer)
        assert [message["To"] for message in smtp.messages] == ["b@example.com"]
    assert [line["to"] for line in outbox(settings.data_dir)] == ["a@example.com"]
    assert (append.calls, send.calls) == (2, 2)


async def test_what_waits_is_stored_whatever_became_of_the_writer(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def dies(mailer: Mailer) -> None:
        raise LookupError

    monkeypatch.setattr(Mailer, "write_all", dies)
    with pytest.raises(LookupError):
        async with open_mailer(settings) as mailer:
            await post(mailer, "a@example.com")
    assert [line["to"] for line in outbox(settings.data_dir)] == ["a@example.com"]


async def test_a_refusal_for_good_is_not_tried_again(settings: Settings) -> None:
    with serve_smtp() as smtp:
        smtp.replies = ["554 no such thing"]
        async with open_mailer(with_smtp(settings, smtp.url)) as mailer:
            await post(mailer, "a@example.com", "b@example.com")
            await drained(mailer)
        assert [message["To"] for message in smtp.messages] == ["b@example.com"]
        assert smtp.attempts == 2
    assert [(line["fate"], line["to"]) for line in outbox(settings.data_dir)] == [("failed", "a@example.com")]


async def test_a_server_that_says_nothing_is_given_up_after_the_timeout(settings: Settings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"smtp://127.0.0.1:{silent.getsockname()[1]}"
        hasty = with_smtp(settings, url, mail_timeout=0.05, mail_attempts=2)
        async with open_mailer(hasty) as mailer:
            await post(mailer, "a@example.com")
            await drained(mailer)
    assert [line["fate"] for line in outbox(settings.data_dir)] == ["failed"]


async def test_a_password_is_never_sent_in_clear(settings: Settings) -> None:
    with serve_smtp() as smtp:
        url = smtp.url.replace("//", "//user:hunter2@")
        async with open_mailer(with_smtp(settings, url, mail_attempts=1)) as mailer:
            await post(mailer, "a@example.com")
            await drained(mailer)
        assert not smtp.passwords
        assert not smtp.attempts
    assert [line["fate"] for line in outbox(settings.data_dir)] == ["failed"]


async def test_a_delivery_cut_at_the_end_is_in_the_outbox(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    with serve_smtp() as smtp:
        smtp.replies = ["451 later"] * 100
        patient = with_smtp(settings, smtp.url, mail_attempts=100, mail_retry_delay=SECONDS)
        async with open_mailer(patient) as mailer:
            await post(mailer, "a@example.com", "b@example.com")
            await anyio.to_thread.run_sync(smtp.wait_for_attempts, 1)
    assert [(line["fate"], line["to"]) for line in outbox(settings.data_dir)] == [
        ("unsent", "a@example.com"),
        ("unsent", "b@example.com"),
    ]
    assert "mails left in the outbox at shutdown" in caplog.messages


async def test_the_log_of_a_failed_mail_has_its_request_id_and_no_address(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[str] = []

    def remember(record: logging.LogRecord) -> bool:
        seen.append(request_id.get())
        return True

    caplog.handler.addFilter(remember)
    with serve_smtp() as smtp:
        smtp.replies = ["554 <a@example.com> is unknown"]
        async with open_mailer(with_smtp(settings, smtp.url)) as mailer:
            request_id.set("request-of-a")
            await post(mailer, "a@example.com")
            await drained(mailer)
    assert "request-of-a" in seen
    assert all("a@example.com" not in str(vars(record)) for record in caplog.records)


@pytest.mark.parametrize(
    "url",
    ["http://user:hunter2@host", "smtp://user:hunter2@host:99999", "smtp://user:hun/ter2@host", "smtp://:25"],
)
def test_a_wrong_smtp_url_stops_the_start_and_its_password_is_not_shown(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APP_SMTP_URL", url)
    with pytest.raises(ValidationError, match="smtp_url") as error:
        Settings()
    assert "hun" not in str(error.value)
