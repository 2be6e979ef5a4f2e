"""Mail that is sent beside the requests: a bounded queue and one writer.

Without an SMTP server each mail is one JSON line of `outbox.jsonl`. With one, the outbox holds what could not
be delivered, so that nothing which was accepted is lost without a trace. Two limits: a process that is killed
loses what still waits, and a mail is sent twice when the server fails after it took it (same `Message-ID`).

Nothing here empties the outbox. A mail is accepted while there is room in it for that mail and all that wait,
also with an SMTP server, and again when somebody has moved the file away.
"""

import asyncio
import json
import logging
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.message import EmailMessage
from typing import Literal, Self
from urllib.parse import unquote, urlsplit

import aiosmtplib
import anyio

from app.errors import ServiceUnavailable
from app.jobs.outbox import Outbox
from app.middleware.request_id import request_id
from app.settings import Settings

logger = logging.getLogger("app.jobs.mail")

Fate = Literal["stored", "failed", "unsent"]

MAX_LINE_SIZE = 16 * 1024
"""Bytes of one mail in the outbox. Each that is accepted has so much room kept for it."""

MAX_DISK_DELAY = 5.0
"""Seconds between two attempts to write the outbox while the disk refuses."""


@dataclass(frozen=True)
class Mail:
    message: EmailMessage
    text: str
    request_id: str

    @classmethod
    def of(cls, message: EmailMessage) -> Self:
        """Raises when the message cannot be written down: in the request, not in the writer."""
        mail = cls(message, message.as_string(), request_id.get())
        if len(mail.line("stored")) > MAX_LINE_SIZE:
            raise ValueError(f"the mail is longer than {MAX_LINE_SIZE} bytes")
        return mail

    def line(self, fate: Fate) -> bytes:
        """One JSON line, whatever the mail contains: all but printable ASCII is escaped."""
        record = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "fate": fate,
            "request_id": self.request_id,
            "id": self.message["Message-ID"],
            "to": self.message["To"],
            "message": self.text,
        }
        return json.dumps(record).encode() + b"\n"


Post = Callable[[Mail], Awaitable[None]]


class Mailer:
    """Made by `open_mailer`. Used on the event loop only, so nothing is locked."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._outbox = Outbox(settings.data_dir / "outbox.jsonl", settings.mail_outbox_max_size)
        self._mails: deque[Mail] = deque()
        self._places = 0
        self._arrived = asyncio.Event()
        self._drained = asyncio.Event()
        self._drained.set()
        self._writing = anyio.CancelScope()

    @asynccontextmanager
    async def place(self) -> AsyncIterator[Post]:
        """Room for one mail, as the function that takes it. Raises when there is none: `ServiceUnavailable`
        if too many wait, `InsufficientStorage` if the outbox may not grow.

        So a request knows before it answers whether its mail will be taken; a place that was not used
        is free again on leaving.
        """
        if len(self._mails) + self._places >= self._settings.mail_queue_size:
            raise ServiceUnavailable("Too many mails wait. Try again later.", {"Retry-After": "1"})
        self._places += 1
        held = True

        # `async`, for BackgroundTasks would call a plain function in another thread.
        async def post(mail: Mail) -> None:
            nonlocal held
            if not held:
                raise RuntimeError("one place, one mail")
            held = False
            self._places -= 1
            self._mails.append(mail)
            self._drained.clear()
            self._arrived.set()

        try:
            # All that wait, and all that have a place like this one, may have to go there.
            await self._outbox.check_room((len(self._mails) + self._places) * MAX_LINE_SIZE)
            yield post
        finally:
            if held:
                self._places -= 1

    async def drained(self) -> None:
        """Returns when no mail waits."""
        await self._drained.wait()

    async def write_all(self) -> None:
        """The one writer, until `stop()`. A mail leaves the queue when it is delivered or on the disk."""
        with self._writing:
            while True:
                await self._arrived.wait()
                if self._settings.smtp_url:
                    mails = [self._mails[0]]
                    if not await self._deliver(mails[0]):
                        await self._store(mails, "failed")
                else:
                    mails = list(self._mails)
                    await self._store(mails, "stored")
                for _ in mails:
                    self._mails.popleft()
                if not self._mails:
                    self._arrived.clear()
                    self._drained.set()

    def stop(self) -> None:
        """A delivery is cut; a write to the disk is finished first."""
        self._writing.cancel()

    async def store_rest(self) -> None:
        """What was not sent in time goes to the outbox; of what the disk refuses, the log tells."""
        if not self._mails:
            return
        fields = {"mails": len(self._mails)}
        try:
            await self._append(self._mails, "unsent" if self._settings.smtp_url else "stored")
        except Exception:
            logger.exception("mails lost at shutdown", extra={"fields": fields})
        else:
            logger.warning("mails left in the outbox at shutdown", extra={"fields": fields})

    async def _deliver(self, mail: Mail) -> bool:
        """Tries as often as the settings say, at growing intervals; a refusal for good ends it at once."""
        request_id.set(mail.request_id)
        attempt = 1
        while True:
            try:
                await send(mail.message, self._settings)
                return True
            except Exception as error:  # whatever it is, one mail does not stop those behind it
                if attempt >= self._settings.mail_attempts or is_final(error):
                    # No text of the error: it may repeat the address.
                    fields = {
                        "id": mail.message["Message-ID"],
                        "attempts": attempt,
                        "error": type(error).__name__,
                    }
                    logger.error("mail not delivered", extra={"fields": fields})
                    return False
            await anyio.sleep(self._settings.mail_retry_delay * 2 ** (attempt - 1))
            attempt += 1

    async def _store(self, mails: Iterable[Mail], fate: Fate) -> None:
        """Tries until the disk takes them. Meanwhile the queue fills, and then requests get 503."""
        delay = self._settings.mail_retry_delay
        while True:
            try:
                return await self._append(mails, fate)
            except Exception:  # of the disk, or of the thread; the lines themselves cannot fail
                logger.exception("the outbox cannot be written")
            await anyio.sleep(delay)
            delay = min(delay * 2, MAX_DISK_DELAY)

    async def _append(self, mails: Iterable[Mail], fate: Fate) -> None:
        await self._outbox.append(b"".join(mail.line(fate) for mail in mails))


async def send(message: EmailMessage, settings: Settings) -> None:
    """One attempt. Raises whatever went wrong, `TimeoutError` after `mail_timeout`."""
    url = urlsplit(settings.smtp_url.get_secret_value())
    with anyio.fail_after(settings.mail_timeout):
        await aiosmtplib.send(
            message,
            hostname=url.hostname,
            port=url.port,
            username=unquote(url.username) if url.username else None,
            password=unquote(url.password) if url.password else None,
            use_tls=url.scheme == "smtps",
            # A password goes over TLS or not at all; without one, TLS is used where the server offers it.
            start_tls=True if url.scheme == "smtp" and url.username else None,
            # By default the name of this host is looked up in the network, for every mail.
            local_hostname=settings.mail_from.rpartition("@")[2],
        )


def is_final(error: Exception) -> bool:
    """Whether the server refused for good (5xx, RFC 5321 section 4.2.1)."""
    errors = error.recipients if isinstance(error, aiosmtplib.SMTPRecipientsRefused) else [error]
    return all(isinstance(each, aiosmtplib.SMTPResponseException) and each.code >= 500 for each in errors)


@asynccontextmanager
async def open_mailer(settings: Settings) -> AsyncIterator[Mailer]:
    """Runs the writer. Leaving stops it at once, so await `drained()` before, with a limit."""
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    mailer = Mailer(settings)
    writer = asyncio.create_task(mailer.write_all())
    try:
        yield mailer
    finally:
        mailer.stop()
        try:
            await writer
        finally:
            await mailer.store_rest()
