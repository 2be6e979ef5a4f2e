"""What happens to mail and tasks when the server is stopped, and to everybody else when the queue is full."""

import json
import random
import signal
import time
from pathlib import Path
from typing import Any

import httpx2

from tests.outbox import outbox
from tests.server import Server, serve
from tests.smtp import serve_smtp

ADDRESSES = [f"user{number}@example.com" for number in range(8)]
QUEUE_SIZE = 10


def lines_of(server: Server, message: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.lines if f'"{message}"' in line]


def assert_no_traceback(server: Server) -> None:
    assert not [line for line in server.lines if "raceback" in line]


def long_text() -> bytes:
    """About seven megabytes, on which one task works for some tenths of a second."""
    words = [str(number) for number in range(100_000)]
    random.Random(1).shuffle(words)  # noqa: S311  # not a secret
    return " ".join(words).encode() * 12


def send_mail(server: Server) -> None:
    with httpx2.Client(base_url=server.url) as client:
        for address in ADDRESSES:
            assert client.post("/notify", params={"email": address}).status_code == 200


def test_mail_that_waits_at_sigterm_is_delivered_first(tmp_path: Path) -> None:
    with serve_smtp() as smtp:
        env = {"APP_SMTP_URL": smtp.url, "APP_SHUTDOWN_GRACE": "10"}
        smtp.accepting.clear()
        with serve(tmp_path, env) as server:
            send_mail(server)
            server.process.send_signal(signal.SIGTERM)
            server.wait_for("Waiting for application shutdown")
            assert not smtp.messages
            smtp.accepting.set()
            server.process.wait(10)
            assert [message["To"] for message in smtp.messages] == ADDRESSES
            assert not outbox(tmp_path / "data")
            assert_no_traceback(server)


def test_a_full_queue_slows_no_def_route_and_all_of_it_has_an_end_at_sigterm(tmp_path: Path) -> None:
    with serve_smtp() as smtp:
        env = {
            "APP_SMTP_URL": smtp.url,
            "APP_SHUTDOWN_GRACE": "0.2",
            "APP_TASK_WORKERS": "1",
            "APP_TASK_QUEUE_SIZE": str(QUEUE_SIZE),
        }
        smtp.accepting.clear()
        with serve(tmp_path, env) as server, httpx2.Client(base_url=server.url, timeout=30) as client:
            send_mail(server)
            files = {"file": ("long.txt", long_text(), "text/plain")}
            order = {"file_id": client.post("/upload/", files=files).json()["id"]}
            accepted = [client.post("/tasks", json=order) for _ in range(QUEUE_SIZE + 1)]
            assert {answer.status_code for answer in accepted} == {202}
            paths = [answer.headers["location"] for answer in accepted]
            assert client.post("/tasks", json=order).status_code == 503

            started = time.monotonic()
            assert client.get("/download").status_code == 200  # a `def` endpoint
            assert time.monotonic() - started < 5
            assert client.get(paths[-1]).json()["status"] == "queued"

            with client.stream("GET", f"{paths[-1]}/events") as answer:
                lines = answer.iter_lines()
                assert next(lines) == "event: progress"
                server.stop()
                assert "event: goodbye" in list(lines)

            cancelled = lines_of(server, "task cancelled at shutdown")
            assert {f"/tasks/{line['task']}" for line in cancelled} <= set(paths)
            assert paths[-1] in {f"/tasks/{line['task']}" for line in cancelled}
            assert [(line["fate"], line["to"]) for line in outbox(tmp_path / "data")] == [
                ("unsent", address) for address in ADDRESSES
            ]
            (left,) = lines_of(server, "mails left in the outbox at shutdown")
            assert left["mails"] == len(ADDRESSES)
            assert_no_traceback(server)
            assert "graceful shutdown exceeded" not in server.log
        smtp.accepting.set()
        assert not smtp.messages
