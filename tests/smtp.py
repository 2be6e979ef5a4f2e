"""A real SMTP server on a free port, in a thread with its own event loop."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes
from email.message import EmailMessage, Message
from email.policy import SMTPUTF8
from typing import Any

from aiosmtpd.handlers import Message as MessageHandler
from aiosmtpd.smtp import SMTP, AuthResult
from anyio.from_thread import start_blocking_portal


class SmtpServer(MessageHandler):
    """Answers the next deliveries with `replies`, one each, then accepts; keeps what it accepted.

    While `accepting` is not set, it does not answer at all.
    """

    def __init__(self) -> None:
        super().__init__()
        self.port = 0
        self.replies: list[str] = []
        self.attempts = 0
        self.messages: list[EmailMessage] = []
        self.passwords: list[Any] = []
        self.accepting = threading.Event()
        self.accepting.set()
        self._changed = threading.Condition()

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self.port}"

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        self.passwords.append(data)
        return AuthResult(success=True)

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:
        self.accepting.wait(10)
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        refusal = self.replies.pop(0) if self.replies else None
        reply = refusal or str(await super().handle_DATA(server, session, envelope))
        with self._changed:
            self.attempts += 1
            self._changed.notify_all()
        return reply

    def handle_message(self, message: Message) -> None:
        self.messages.append(message_from_bytes(message.as_bytes(), policy=SMTPUTF8))

    def wait_for_attempts(self, count: int, timeout: float = 10.0) -> None:
        """Returns when so many mails have come, refused ones too."""
        with self._changed:
            if not self._changed.wait_for(lambda: self.attempts >= count, timeout):
                raise TimeoutError(f"{self.attempts} of {count} attempts")


@contextmanager
def serve_smtp() -> Iterator[SmtpServer]:
    smtp = SmtpServer()

    def connection() -> SMTP:
        # Invites to log in without TLS, as a careless server does, or somebody in the middle.
        return SMTP(smtp, enable_SMTPUTF8=True, auth_require_tls=False, authenticator=smtp.authenticate)

    async def listen() -> asyncio.Server:
        loop = asyncio.get_running_loop()
        return await loop.create_server(connection, "127.0.0.1", 0)

    with start_blocking_portal() as portal:
        server = portal.call(listen)
        smtp.port = server.sockets[0].getsockname()[1]
        try:
            yield smtp
        finally:
            portal.call(server.close)
