"""The limits of `app/jobs/webhooks.py` which its page does not show."""

import socket
import threading
import time
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any

import pytest
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings, WebhookSettings
from tests.subscriber import LIMIT, Subscriber, announce, settled, subscribe, subscriber


@pytest.fixture
def server() -> Iterator[Subscriber]:
    with subscriber() as server:
        yield server


@pytest.fixture
def settings(settings: Settings, server: Subscriber) -> Settings:
    limits = WebhookSettings(allowed_hosts=(server.host,), resolvers=1, log_size=2, attempts=1)
    return settings.model_copy(update={"webhooks": limits})


def changed(settings: Settings, **limits: object) -> Settings:
    return settings.model_copy(update={"webhooks": settings.webhooks.model_copy(update=limits)})


def test_only_the_newest_deliveries_are_shown(client: TestClient, server: Subscriber) -> None:
    subscription = subscribe(client, server.url)
    settled(client, subscription)
    for number in range(2, 5):
        announce(client)
        newest = server.wait_for(number)
        shown = settled(client, subscription)["deliveries"]
    assert len(shown) == 2 and shown[-1]["id"] == newest.id


def test_an_answer_that_does_not_come_in_time_is_a_failed_attempt(
    settings: Settings, server: Subscriber
) -> None:
    server.answering.clear()
    started = time.monotonic()
    with TestClient(create_app(changed(settings, timeout=0.05))) as client:
        [delivery] = settled(client, subscribe(client, server.url))["deliveries"]
    assert (delivery["status"], delivery["attempts"], delivery["code"]) == ("failed", 1, None)
    assert time.monotonic() - started < LIMIT / 2


def test_subscribers_that_do_not_answer_hold_up_neither_a_new_nor_a_proven_one(
    settings: Settings, server: Subscriber
) -> None:
    with subscriber() as other:
        patient = changed(settings, allowed_hosts=(server.host, other.host), timeout=LIMIT * 2)
        with TestClient(create_app(patient)) as client:
            slow, quick = subscribe(client, server.url), subscribe(client, other.url)
            assert {settled(client, each)["status"] for each in (slow, quick)} == {"active"}
            server.answering.clear()
            announce(client)
            other.wait_for(2)
            settled(client, quick)
            subscribe(client, server.url)
            server.wait_for(3)
            assert settled(client, subscribe(client, other.url))["status"] == "active"
            announce(client)
            settled(client, quick)
            assert client.get(slow["location"]).json()["deliveries"][1]["status"] == "waiting"
            server.answering.set()


@pytest.fixture
def looked_up(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleQueue[str]]:
    """The look-ups of `hanging.example`, which do not end before the test does."""
    look_up, looked_up, ended = socket.getaddrinfo, SimpleQueue[str](), threading.Event()

    def hanging(host: str, *rest: Any, **options: Any) -> Any:
        if host != "hanging.example":
            return look_up(host, *rest, **options)
        looked_up.put(host)
        ended.wait(LIMIT)
        raise socket.gaierror

    monkeypatch.setattr(socket, "getaddrinfo", hanging)
    yield looked_up
    ended.set()


def test_a_name_whose_look_up_hangs_keeps_one_thread_however_often_it_is_tried(
    settings: Settings, looked_up: SimpleQueue[str]
) -> None:
    settled_soon = changed(settings, timeout=0.05, attempts=3, retry_delay=0.001)
    with TestClient(create_app(settled_soon)) as client:
        [delivery] = settled(client, subscribe(client, "https://hanging.example/"))["deliveries"]
    assert (delivery["status"], delivery["attempts"], looked_up.qsize()) == ("failed", 3, 1)


def test_a_name_whose_look_up_hangs_keeps_no_thread_from_a_proven_subscriber(
    settings: Settings, server: Subscriber, looked_up: SimpleQueue[str]
) -> None:
    with TestClient(create_app(changed(settings, timeout=LIMIT))) as client:
        proven = subscribe(client, server.url)
        settled(client, proven)
        stranger = subscribe(client, "https://hanging.example/")
        assert looked_up.get(timeout=LIMIT)
        announce(client)
        assert settled(client, proven)["deliveries"][1]["status"] == "delivered"
        assert client.get(stranger["location"]).json()["status"] == "pending"


def test_what_waits_for_another_attempt_does_not_hold_up_the_stop(
    settings: Settings, server: Subscriber
) -> None:
    patient = changed(settings, retry_delay=3_600.0, attempts=2).model_copy(update={"shutdown_grace": LIMIT})
    server.replies = [(500, {}, b"")]
    with TestClient(create_app(patient)) as client:
        subscribe(client, server.url)
        server.wait_for(1)
        started = time.monotonic()
    assert time.monotonic() - started < LIMIT / 2
