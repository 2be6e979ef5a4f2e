"""Who writes to SQLite: one transaction after the other, in the order they came.

SQLite has one writer at a time and no queue. Who waits looks again after a pause, who comes in the right
moment is first, and under load somebody never is. So the transactions of a process wait here, and only the
first of them waits for other processes. Who still waits too long is told to come again.
"""

import asyncio
import logging
import sqlite3
import time
from typing import Any, Literal

from sqlalchemy import Connection, Engine, ExceptionContext, event
from sqlalchemy.engine.interfaces import DBAPICursor, ExecuteStyle, ExecutionContext
from sqlalchemy.util import await_only

from app.errors import ServiceUnavailable

BUSY_SECONDS = 5
"""So long a transaction waits for others of this process, and then again for those of other processes."""

LOOK_AGAIN = "PRAGMA busy_timeout = 20"
"""For so many milliseconds SQLite looks by itself. Then `WriteQueue` begins that anew."""

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
        # A session that nobody closed, when the garbage collector has found it.
        event.listen(engine, "detach", self._leave)
        event.listen(engine, "do_execute", _keep_trying)
        event.listen(engine, "do_executemany", _keep_trying)
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
            raise busy() from None

    def _leave(self, connection: object, *_: object) -> None:
        # After it was invalidated a connection may be None.
        if connection is not None and connection is self._writer:
            self._writer = None
            self._turn.release()


def _keep_trying(
    cursor: DBAPICursor, statement: str, parameters: Any, context: ExecutionContext
) -> Literal[True]:
    """The pauses of SQLite between two looks grow to 100 ms: too long for the short moments in which another
    process under load is between two transactions. So they begin anew."""
    at_once = context.execute_style is ExecuteStyle.EXECUTEMANY
    execute = cursor.executemany if at_once else cursor.execute
    give_up_at = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            execute(statement, parameters)
            return True
        except sqlite3.OperationalError as error:
            # What this transaction has read is no longer so: it never can write.
            for_good = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY_SNAPSHOT
            if for_good or not _is_busy(error) or time.monotonic() >= give_up_at:
                raise


def _refuse_when_busy(context: ExceptionContext) -> None:
    if _is_busy(context.original_exception):
        raise busy()


def _is_busy(error: BaseException) -> bool:
    if not isinstance(error, sqlite3.OperationalError):
        return False
    # The low byte: the rest says in which of its ways it was busy. An error of the driver itself has none.
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_OK)
    return code & 0xFF == sqlite3.SQLITE_BUSY


def busy() -> ServiceUnavailable:
    logger.warning("A transaction waited too long for others that use the database.")
    return ServiceUnavailable(headers={"Retry-After": "1"})
