"""The limits of `app/jobs/webhooks.py` which its page does not show."""

import time
from collections.abc import Iterator

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
    limits = WebhookSettings(allowed_hosts=(server.host,), senders=1, log_size=2, attempts=1)
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


def test_no_more_requests_are_sent_at_once_than_there_are_senders(
    client: TestClient, server: Subscriber
) -> None:
    server.answering.clear()
    subscriptions = [subscribe(client, server.url) for _ in range(2)]
    server.wait_for(1)
    states = [client.get(each["location"]).json()["deliveries"][0] for each in subscriptions]
    assert len(server.received) == 1 and {state["status"] for state in states} == {"waiting"}
    server.answering.set()
    assert {settled(client, each)["status"] for each in subscriptions} == {"active"}


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
