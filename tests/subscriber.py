"""A subscriber to webhooks: a real HTTP server on a free port, in threads."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import anyio.lowlevel
from fastapi.testclient import TestClient

from app.jobs.webhooks import WebhookSender

BASE = "/composition/webhooks"
LIMIT = 10.0
"""Seconds for any wait."""


@dataclass(frozen=True)
class Received:
    path: str
    headers: Message
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def id(self) -> str:
        return self.headers["webhook-id"] or ""

    @property
    def timestamp(self) -> int:
        return int(self.headers["webhook-timestamp"] or 0)

    @property
    def signature(self) -> str:
        return self.headers["webhook-signature"] or ""


class Subscriber(ThreadingHTTPServer):
    """Answers with the next of `replies`; without any it returns a challenge, and takes events with 204.

    While `answering` is not set, it does not answer at all.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.host = f"127.0.0.1:{self.server_port}"
        self.replies: list[tuple[int, dict[str, str], bytes]] = []
        self.received: list[Received] = []
        self.padding = b""
        self.answering = threading.Event()
        self.answering.set()
        self._changed = threading.Condition()

    @property
    def url(self) -> str:
        return f"http://{self.host}/hooks"

    def take(self, received: Received) -> tuple[int, dict[str, str], bytes]:
        with self._changed:
            self.received.append(received)
            self._changed.notify_all()
        self.answering.wait(LIMIT)
        if self.replies:
            return self.replies.pop(0)
        if "challenge" in received.json["data"]:
            return 200, {}, json.dumps(received.json["data"]).encode() + self.padding
        return 204, {}, b""

    def wait_for(self, count: int) -> Received:
        """The request of this number, as soon as it has come."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.received) >= count, LIMIT), self.received
            return self.received[count - 1]


class Answer(BaseHTTPRequestHandler):
    server: Subscriber

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        status, headers, content = self.server.take(Received(self.path, self.headers, body))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def subscriber() -> Iterator[Subscriber]:
    with Subscriber() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.answering.set()
            server.shutdown()
            thread.join(LIMIT)


def sender(client: TestClient) -> WebhookSender:
    sender = client.app_state["webhooks"]
    assert isinstance(sender, WebhookSender)
    return sender


def subscribe(client: TestClient, url: str) -> dict[str, Any]:
    """Subscribes, and waits until the challenge is settled."""
    created = client.post(f"{BASE}/subscriptions", json={"url": url})
    assert created.status_code == 201
    assert created.headers["location"] == f"{BASE}/subscriptions/{created.json()['id']}"
    return {**created.json(), "location": created.headers["location"]}


def settled(client: TestClient, subscription: dict[str, Any]) -> dict[str, Any]:
    """The state of a subscription, as soon as nothing waits any more."""

    async def wait() -> None:
        found = sender(client).get(subscription["id"])
        with anyio.fail_after(LIMIT):
            while any(delivery.status == "waiting" for delivery in found.deliveries):
                await anyio.lowlevel.checkpoint()

    assert client.portal
    client.portal.call(wait)
    state = client.get(subscription["location"]).json()
    assert isinstance(state, dict)
    return state


def announce(client: TestClient, text: str = "Tea is ready.") -> int:
    answer = client.post(f"{BASE}/announcements", json={"text": text})
    assert answer.status_code == 202
    subscribers = answer.json()["subscribers"]
    assert isinstance(subscribers, int)
    return subscribers


def resolver(names: dict[str, list[str]]) -> Any:
    def getaddrinfo(host: str, port: int, *_: object, **__: object) -> list[Any]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in names[host]]

    return getaddrinfo
