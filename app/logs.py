"""Logging that cannot stop the service: JSON lines through a bounded queue, written by a thread.

A write to stdout blocks when its reader stops; on the event loop that freezes every request.
"""

import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import lru_cache
from queue import Empty, SimpleQueue
from typing import TextIO

import orjson

from app.middleware.request_id import request_id
from app.settings import Settings

BATCH_SECONDS = 0.02
CLOSE_SECONDS = 1.0

SERVER_NOISE = (
    '%s - "WebSocket %s"',  # uvicorn's own record of a socket, with its query string
    "ASGI callable returned without completing handshake.",  # said of every socket that was refused
)


class JsonLines(logging.Formatter):
    """One JSON object a line; all but printable ASCII is escaped, so that no line can be forged."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": self.formatTime(record),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "request_id": getattr(record, "request_id", "-"),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        try:
            text = orjson.dumps(line, default=str).decode()
        except TypeError:  # half of a surrogate pair, a number of more than 64 bits
            return json.dumps(line, default=str)
        # orjson is ten times faster, but leaves DEL and what is not ASCII as it is.
        return text if text.isascii() and "\x7f" not in text else json.dumps(line, default=str)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return f"{_iso_second(int(record.created))}.{int(record.created % 1 * 1000):03d}Z"


@lru_cache(maxsize=8)
def _iso_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class QueueingHandler(logging.Handler):
    """Takes records without waiting. When `size` of them wait, more are dropped, counted, and reported."""

    def __init__(self, stream: TextIO, size: int) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.dropped = 0
        self.lost = 0
        self._stream = stream
        self._size = size
        # A SimpleQueue takes a tenth of the time of a bounded Queue; a few lines above `size` do no harm.
        self._queue: SimpleQueue[logging.LogRecord | None] = SimpleQueue()
        # A daemon, for a reader that stopped for good must not keep the process alive.
        self._thread = threading.Thread(target=self._write_all, name="log-writer", daemon=True)
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        if self._queue.qsize() >= self._size:
            self.dropped += 1
            return
        if record.args:
            # Here and not in the thread: the arguments may have changed by then.
            try:
                record.msg = record.getMessage()
            except Exception:
                record.msg = f"{record.msg} (its arguments do not fit)"
            record.args = None
        record.request_id = request_id.get()
        self._queue.put(record)

    def close(self) -> None:
        """Writes what waits, for at most a second."""
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)
        super().close()

    def _write_all(self) -> None:
        reported = 0
        more = True
        while more:
            batch = [self._queue.get()]
            if batch[0] is not None:
                # One wake-up and one write for many lines: a wake-up a line costs more than the line.
                time.sleep(BATCH_SECONDS)
            with suppress(Empty):
                while len(batch) < self._size:
                    batch.append(self._queue.get_nowait())
            more = None not in batch
            lines = [self._line(record) for record in batch if record is not None]
            # Only ever counted up, each by one thread, so that no drop is forgotten between two threads.
            dropped = self.dropped + self.lost
            if dropped > reported:
                report = {"level": "WARNING", "logger": "app.logs", "dropped": dropped - reported}
                lines.append(json.dumps(report))
            try:
                self._stream.write("".join(f"{line}\n" for line in lines))
                self._stream.flush()
                reported = dropped
            except (OSError, ValueError):  # the reader has gone, or the stream was closed
                self.lost += len(lines)

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record)
        except Exception as exc:
            # An object that cannot be shown must not end this thread, and with it the log.
            message = f"a line was lost: {type(exc).__name__}"
            return json.dumps({"level": "ERROR", "logger": "app.logs", "message": message})


@contextmanager
def logging_to_queue(settings: Settings) -> Iterator[None]:
    """Sends every log line of the process, uvicorn's too, through one `QueueingHandler` to stdout.

    A second app in the same process joins the first one's log. uvicorn's own access log is turned off,
    for it has no request id and prints the query string.
    """
    root = logging.getLogger()
    if any(isinstance(handler, QueueingHandler) for handler in root.handlers):
        yield
        return

    handler = QueueingHandler(sys.stdout, settings.log_queue_size)
    with ExitStack() as stack:
        stack.callback(handler.close)
        for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
            stack.enter_context(_handed_up(logging.getLogger(name), propagate=name != "uvicorn.access"))
        stack.callback(root.setLevel, root.level)
        stack.callback(root.removeHandler, handler)
        root.setLevel(settings.log_level)
        root.addHandler(handler)
        yield


@contextmanager
def _handed_up(logger: logging.Logger, *, propagate: bool) -> Iterator[None]:
    """Takes a logger's own handlers away and gives them back, for what the server says after us."""
    before = logger.handlers, logger.propagate
    logger.handlers, logger.propagate = [], propagate
    logger.addFilter(_is_news)
    try:
        yield
    finally:
        logger.removeFilter(_is_news)
        logger.handlers, logger.propagate = before


def _is_news(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(SERVER_NOISE)
