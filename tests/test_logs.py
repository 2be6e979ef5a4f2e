import io
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from app.logs import LogWriter, QueueingHandler, logging_to_queue
from app.middleware.request_id import request_id
from app.settings import Settings

LIMIT = 10.0


class Output(io.StringIO):
    """A stream whose reader can stop, and leave."""

    def __init__(self) -> None:
        super().__init__()
        self.reader_is_there = threading.Event()
        self.reader_is_there.set()
        self.reader_has_left = False
        self.written = threading.Event()

    def write(self, text: str) -> int:
        self.written.set()
        assert self.reader_is_there.wait(LIMIT)
        if self.reader_has_left:
            raise BrokenPipeError
        return super().write(text)

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.getvalue().splitlines()]


@contextmanager
def logger_to(output: Output, size: int = 1_000) -> Iterator[logging.Logger]:
    """A logger of its own: that of pytest, above all others, cannot show some of these records."""
    writer = LogWriter(output, size)
    logger = logging.Logger("tests.logs", logging.INFO)
    logger.addHandler(QueueingHandler(writer))
    try:
        yield logger
    finally:
        writer.close()


def test_a_record_is_one_json_line_with_the_request_id() -> None:
    output = Output()
    request_id.set("the-id-1")
    with logger_to(output) as logger:
        logger.info("%s of %d", "one", 2, extra={"fields": {"path": "/x"}})
    [line] = output.lines
    assert datetime.now(UTC) - datetime.fromisoformat(line.pop("time")) < timedelta(minutes=1)
    assert line == {
        "level": "INFO",
        "logger": "tests.logs",
        "message": "one of 2",
        "request_id": "the-id-1",
        "path": "/x",
    }


@pytest.mark.parametrize(
    "text",
    [
        'x\n{"level": "INFO", "message": "forged"}',
        "x\r\nINFO forged",
        "\x1b[2J\x1b]0;title\x07",
        "\x7f\x80\x9b2J",
        "\u2028\u202e forged",
        "\ud800",
        "\x00",
    ],
)
def test_no_line_can_be_forged_and_no_terminal_told_what_to_do(text: str) -> None:
    output = Output()
    with logger_to(output) as logger:
        logger.info(text, extra={"fields": {"path": text, "other": {"k": text}}})
    raw = output.getvalue()
    assert raw.count("\n") == 1
    assert raw.strip("\n").isprintable() and raw.isascii()
    assert output.lines[0]["path"] == text


def test_a_traceback_is_in_the_line() -> None:
    output = Output()
    with logger_to(output) as logger:
        try:
            raise RuntimeError("boom")
        except RuntimeError:
            logger.exception("failed")
    assert output.getvalue().count("\n") == 1
    assert "RuntimeError: boom" in output.lines[0]["traceback"]


def test_a_stopped_reader_blocks_nobody_and_what_is_dropped_is_counted() -> None:
    output = Output()
    with logger_to(output, size=10) as logger:
        output.reader_is_there.clear()
        logger.info("first")
        assert output.written.wait(LIMIT)  # the thread is stuck in its write
        for number in range(100):
            logger.info("line %d", number)
        output.reader_is_there.set()
    kept = [line for line in output.lines if "dropped" not in line]
    dropped = sum(line.get("dropped", 0) for line in output.lines)
    assert 10 <= len(kept) <= 12
    assert len(kept) + dropped == 101


def test_a_reader_that_left_does_not_end_the_log() -> None:
    output = Output()
    with logger_to(output) as logger:
        output.reader_has_left = True
        output.written.clear()
        logger.info("into the void")
        assert output.written.wait(LIMIT)
        output.reader_has_left = False
        output.written.clear()
        logger.info("somebody there?")
        assert output.written.wait(LIMIT)
    assert [line["message"] for line in output.lines] == ["somebody there?", "lines dropped"]
    assert output.lines[1]["dropped"] == 1


class Unshowable:
    def __str__(self) -> str:
        raise LookupError("secret")


def test_a_record_that_cannot_be_shown_does_not_end_the_log() -> None:
    output = Output()
    with logger_to(output) as logger:
        logger.info("%d", "no number")
        logger.info("%s", Unshowable())
        logger.info("field", extra={"fields": {"x": Unshowable()}})
        logger.info("big", extra={"fields": {"x": 2**70}})
        logger.info("after")
    messages = [line["message"] for line in output.lines]
    assert messages == [
        "%d (its arguments do not fit)",
        "%s (its arguments do not fit)",
        "line lost",
        "big",
        "after",
    ]
    assert output.lines[2]["error"] == "LookupError"


def test_fields_of_any_kind_stop_no_call_and_forge_no_member() -> None:
    output = Output()
    with logger_to(output) as logger:
        logger.info("true", extra={"fields": {"message": "false", "level": "ERROR", 1: 2}})
        logger.info("odd", extra={"fields": 5})
    first, second = output.lines
    assert (first["message"], first["level"]) == ("true", "INFO")
    assert (first["field_message"], first["field_level"], first["1"]) == ("false", "ERROR", 2)
    assert second["message"] == "odd"


def test_the_log_ends_with_the_last_of_its_apps(settings: Settings) -> None:
    root = logging.getLogger()
    before = list(root.handlers)
    first, second = ExitStack(), ExitStack()
    assert first.enter_context(logging_to_queue(settings)) is second.enter_context(logging_to_queue(settings))
    first.close()
    assert [type(each) for each in root.handlers if each not in before] == [QueueingHandler]
    second.close()
    assert root.handlers == before


def test_a_record_says_what_its_arguments_were_when_it_was_made() -> None:
    output = Output()
    with logger_to(output) as logger:
        changing = ["before"]
        logger.info("%s", changing)
        changing[0] = "after"
    assert output.lines[0]["message"] == "['before']"


def test_the_loggers_of_the_server_join_and_are_left_as_they_were(settings: Settings) -> None:
    root, server, access = (logging.getLogger(name) for name in ("", "uvicorn.error", "uvicorn.access"))
    before = [(each.level, list(each.handlers), each.propagate) for each in (root, server, access)]
    with logging_to_queue(settings):
        [handler] = [each for each in root.handlers if isinstance(each, QueueingHandler)]
        assert server.propagate and not server.handlers
        assert not access.propagate and not access.handlers
        with logging_to_queue(settings):  # a second app
            assert [each for each in root.handlers if isinstance(each, QueueingHandler)] == [handler]
        assert handler in root.handlers
    assert [(each.level, list(each.handlers), each.propagate) for each in (root, server, access)] == before


def test_trap_a_plain_format_lets_a_client_write_lines_of_its_own() -> None:
    output = io.StringIO()
    handler = logging.StreamHandler(output)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    handler.handle(logging.makeLogRecord({"levelname": "INFO", "msg": "GET /x\nINFO GET /admin 200"}))
    assert output.getvalue().splitlines() == ["INFO GET /x", "INFO GET /admin 200"]


def test_what_the_server_says_of_the_urls_headers_and_frames_of_sockets_is_not_logged(
    settings: Settings, capsys: pytest.CaptureFixture[str]
) -> None:
    server = logging.getLogger("uvicorn.error")
    with logging_to_queue(settings.model_copy(update={"log_level": "DEBUG"})):
        server.info('%s - "WebSocket %s" [accepted]', "192.0.2.1:1", "/ws?ticket=secret")
        server.info('%s - "WebSocket %s" 403', "192.0.2.1:1", "/ws?ticket=secret")
        server.debug("< GET %s HTTP/1.1", "/ws?ticket=secret")
        server.debug("< %s: %s", "authorization", "Bearer secret")
        server.debug("< %s", 'TEXT \'{"token": "secret"}\'')
        server.info("connection open")
    logged = capsys.readouterr().out
    assert "connection open" in logged and "secret" not in logged
