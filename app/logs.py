"""Logging that cannot stop the service: JSON lines through a bounded queue, written by a thread.

A write to stdout blocks when its reader stops; on the event loop that freezes every request.
"""

import json
import logging
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from queue import Empty, SimpleQueue
from typing import TextIO

import orjson

from app.middleware.request_id import request_id
from app.settings import Settings

BATCH_SECONDS = 0.02
CLOSE_SECONDS = 1.0


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
        text = orjson.dumps(line, default=str).decode()
        # orjson is ten times faster, but leaves DEL and what is not ASCII as it is.
        return text if text.isascii() and "\x7f" not in text else json.dumps(line, default=str)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return f"{_iso_second(int(record.created))}.{int(record.msecs):03d}Z"


@lru_cache(maxsize=8)
def _iso_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


class QueueingHandler(logging.Handler):
    """Takes records without waiting. When `size` of them wait, more are dropped, counted, and reported."""

    def __init__(self, stream: TextIO, size: int) -> None:
        super().__init__()
        self.setFormatter(JsonLines())
        self.dropped = 0
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
        else:
            record.request_id = request_id.get()
            self._queue.put(record)

    def close(self) -> None:
        """Writes what waits, for at most a second."""
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)
        super().close()

    def _write_all(self) -> None:
        more = True
        while more:
            batch = [self._queue.get()]
            if batch[0] is not None:
                # One wake-up and one write for many lines: a wake-up a line costs more than the line.
                time.sleep(BATCH_SECONDS)
            try:
                while True:
                    batch.append(self._queue.get_nowait())
            except Empty:
                pass
            more = None not in batch
            lines = [self.format(record) for record in batch if record is not None]
            if self.dropped:
                dropped, self.dropped = self.dropped, 0
                lines.append(json.dumps({"level": "WARNING", "logger": "app.logs", "dropped": dropped}))
            self._stream.write("".join(f"{line}\n" for line in lines))
            self._stream.flush()


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
    level = root.level
    root.addHandler(handler)
    root.setLevel(settings.log_level)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        server_logger = logging.getLogger(name)
        server_logger.handlers.clear()
        server_logger.propagate = name != "uvicorn.access"
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()
