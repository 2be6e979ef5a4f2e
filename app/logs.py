"""Logging that cannot stop the service: JSON lines through a bounded queue, written by a thread.

A write to stdout blocks when its reader stops; on the event loop that freezes every request.
"""

import json
import logging
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from queue import Empty, SimpleQueue
from typing import Any, TextIO

import orjson
from opentelemetry.trace import format_trace_id, get_current_span

from app.middleware.request_id import request_id
from app.settings import Settings

BATCH_SECONDS = 0.1
CLOSE_SECONDS = 1.0

SERVER_NOISE = (
    '%s - "WebSocket %s"',  # uvicorn's own record of a socket, with its query string
    "ASGI callable returned without completing handshake.",  # said of every socket that was refused
    *("< ", "> "),  # at `--log-level debug` each header and frame of a socket, with tokens and tickets
)

MEMBERS = ("time", "level", "logger", "message", "request_id", "trace_id")
"""What a line has by itself, and no field of a caller replaces. A trace id is there where a trace is."""

LINES_DROPPED = {"level": "WARNING", "logger": "app.logs", "message": "lines dropped"}
LINE_LOST = {"level": "ERROR", "logger": "app.logs", "message": "line lost"}


class LogWriter:
    """Writes lines of JSON in a thread. When `size` of them wait, more are dropped, counted, and reported.

    All but printable ASCII is escaped, so that no line can be forged.
    """

    def __init__(self, stream: TextIO, size: int) -> None:
        self._dropped = 0
        self._counting = threading.Lock()
        self._stream = stream
        self._size = size
        # A SimpleQueue takes a tenth of the time of a bounded Queue; a few lines above `size` do no harm.
        self._queue: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        self._closing = threading.Event()
        # A daemon, for a reader that stopped for good must not keep the process alive.
        self._thread = threading.Thread(target=self._write_all, name="log-writer", daemon=True)
        self._thread.start()

    def write(self, level: str, logger: str, message: str, /, **fields: object) -> None:
        """Takes a line and does not wait. It is made into text later: hand over nothing that will change."""
        if self._queue.qsize() >= self._size:
            self._count(1)
            return
        line = {
            "time": datetime.now(UTC),
            "level": level,
            "logger": logger,
            "message": message,
            "request_id": request_id.get(),
            **fields,
        }
        span = get_current_span().get_span_context()
        if span.is_valid:
            line["trace_id"] = format_trace_id(span.trace_id)
        self._queue.put(line)

    def close(self) -> None:
        """Writes what waits, for at most a second."""
        self._closing.set()
        self._queue.put(None)
        self._thread.join(CLOSE_SECONDS)

    def _count(self, dropped: int) -> None:
        with self._counting:
            self._dropped += dropped

    def _write_all(self) -> None:
        reported = 0
        more = True
        while more:
            batch = [self._queue.get()]
            # One wake-up and one write for many lines: a wake-up a line costs more than the line.
            self._closing.wait(BATCH_SECONDS)
            with suppress(Empty):
                while len(batch) < self._size:
                    batch.append(self._queue.get_nowait())
            more = None not in batch
            lines = [_text(line) for line in batch if line is not None]
            dropped = self._dropped
            if dropped > reported:
                lines.append(
                    _text({"time": datetime.now(UTC), **LINES_DROPPED, "dropped": dropped - reported})
                )
            try:
                self._stream.write("".join(lines))
                self._stream.flush()
                reported = dropped
            except (OSError, ValueError):  # the reader has gone, or the stream was closed
                self._count(len(lines))


def _text(line: dict[str, Any]) -> str:
    try:
        text = orjson.dumps(line, default=_shown, option=orjson.OPT_APPEND_NEWLINE).decode()
        # orjson is ten times faster than json, but leaves DEL and what is not ASCII as it is.
        if text.isascii() and "\x7f" not in text:
            return text
    except TypeError:
        pass  # half of a surrogate pair, a number of more than 64 bits
    try:
        return json.dumps(line, default=_shown) + "\n"
    except Exception as exc:
        # An object that cannot be shown must not end the thread, and with it the log.
        return _text({"time": line["time"], **LINE_LOST, "error": type(exc).__name__})


def _shown(value: object) -> str:
    match value:
        case datetime():
            return value.isoformat()
        case BaseException():
            return "".join(traceback.format_exception(value))
        case _:
            return str(value)


class QueueingHandler(logging.Handler):
    """Hands the records of `logging` to the writer, with those of `extra={"fields": {...}}`."""

    def __init__(self, writer: LogWriter) -> None:
        super().__init__()
        self.writer = writer
        self.apps = 0
        self.undo = ExitStack()

    def emit(self, record: logging.LogRecord) -> None:
        # Here and not in the thread: the arguments may have changed by then.
        try:
            message = record.getMessage()
        except Exception:
            message = f"{record.msg} (its arguments do not fit)"
        given = getattr(record, "fields", None)
        fields: dict[str, object] = {}
        if isinstance(given, Mapping):
            fields = {f"field_{name}" if name in MEMBERS else str(name): given[name] for name in given}
        if record.exc_info and record.exc_info[1]:
            fields["traceback"] = record.exc_info[1]
        self.writer.write(record.levelname, record.name, message, **fields)


@contextmanager
def logging_to_queue(settings: Settings) -> Iterator[LogWriter]:
    """Sends every log line of the process, uvicorn's too, through one `LogWriter` to stdout.

    Further apps in the same process join the first one's log; it ends with the last of them. uvicorn's own
    access log is turned off, for it has no request id and prints the query string.
    """
    root = logging.getLogger()
    handler = next((each for each in root.handlers if isinstance(each, QueueingHandler)), None)
    if handler is None:
        handler = QueueingHandler(LogWriter(sys.stdout, settings.log_queue_size))
        handler.undo.callback(handler.writer.close)
        for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
            propagate = name != "uvicorn.access"
            handler.undo.enter_context(_handed_up(logging.getLogger(name), propagate=propagate))
        handler.undo.callback(root.setLevel, root.level)
        handler.undo.callback(root.removeHandler, handler)
        root.setLevel(settings.log_level)
        root.addHandler(handler)
    handler.apps += 1
    try:
        yield handler.writer
    finally:
        handler.apps -= 1
        if handler.apps == 0:
            handler.undo.close()


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
