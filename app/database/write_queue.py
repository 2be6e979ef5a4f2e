"""Who writes to SQLite: one transaction after the other, in the order they came.

SQLite has one writer at a time and no queue. Who waits looks again after a pause, who comes in the right
moment is first, and under load somebody never is. So the transactions of a process wait here, and only the
first of them waits for other processes. Who still waits too long is told to come again.
"""

import asyncio
import logging
import sqlite3

from sqlalchemy import Connection, Engine, ExceptionContext, event
from sqlalchemy.util import await_only

from app.errors import ServiceUnavailable

BUSY_SECONDS = 5
"""So long a transaction waits for others of this process, and then again for those of other processes."""

READING = ("SELECT", "PRAGMA")

logger = logging.getLogger(__name__)


class WriteQueue:
    """A turn begins with the first statement that may write, and ends when the connection is given back."""

    def __init__(self, engine: Engine) -> None:
        self._turn = asyncio.Lock()
        self._writer: object = None
        event.listen(engine, "before_cursor_execute", self._enter)
        event.listen(engine, "checkin", self._leave)
        event.listen(engine, "invalidate", self._leave)
        event.listen(engine, "handle_error", _refuse_when_busy)

    def _enter(self, connection: Connection, _cursor: object, statement: str, *_: object) -> None:
        writer = connection.connection.dbapi_connection
        if writer is not self._writer and not statement.startswith(READING):
            await_only(self._wait_for_turn())
            self._writer = writer

    async def _wait_for_turn(self) -> None:
        try:
            async with asyncio.timeout(BUSY_SECONDS):
                await self._turn.acquire()
        except TimeoutError:
            raise _busy() from None

    def _leave(self, connection: object, *_: object) -> None:
        # After it was invalidated a connection may be None.
        if connection is not None and connection is self._writer:
            self._writer = None
            self._turn.release()


def _refuse_when_busy(context: ExceptionContext) -> None:
    error = context.original_exception
    # The low byte: the rest says in which of its ways it was busy.
    if isinstance(error, sqlite3.OperationalError) and error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY:
        raise _busy()


def _busy() -> ServiceUnavailable:
    logger.warning("A transaction waited too long for others that write to the database.")
    return ServiceUnavailable(headers={"Retry-After": "1"})
