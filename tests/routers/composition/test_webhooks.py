import base64
import json
import socket
from collections.abc import Iterator
from ipaddress import ip_address

import httpx2
import pytest
from fastapi import APIRouter, FastAPI
from fastapi.testclient import TestClient

from app.settings import Settings, WebhookSettings
from app.webhooks import verify
from tests.subscriber import (
    BASE,
    Subscriber,
    announce,
    resolver,
    sender,
    settled,
    subscribe,
    subscriber,
)


@pytest.fixture
def server() -> Iterator[Subscriber]:
    with subscriber() as server:
        yield server


@pytest.fixture
def settings(settings: Settings, server: Subscriber) -> Settings:
    limits = WebhookSettings(
        allowed_hosts=(server.host,),
        max_subscriptions=2,
        queue_size=2,
        attempts=3,
        retry_delay=0.001,
        log_size=4,
        subscriptions_per_host=4,
    )
    return settings.model_copy(update={"webhooks": limits})


def test_a_subscriber_that_returns_the_challenge_gets_the_events_signed_and_one_that_does_not_gets_nothing(
    client: TestClient, server: Subscriber
) -> None:
    subscription = subscribe(client, server.url)
    key = base64.b64decode(subscription["secret"].removeprefix("whsec_"))
    assert settled(client, subscription)["status"] == "active"
    server.replies = [(200, {}, body) for body in (b'{"challenge": "guess"}', b"", b"x")]
    silent = subscribe(client, f"{server.url}/silent")
    assert settled(client, silent)["status"] == "ended"
    assert announce(client) == 1
    event = server.wait_for(5)
    assert settled(client, subscription)["deliveries"][1]["status"] == "delivered"
    assert event.path == "/hooks"
    assert event.json["type"] == "announcement.published"
    assert event.json["data"] == {"text": "Tea is ready.", "level": "info"}
    for received in (server.received[0], event):
        signed = (received.body, received.id, received.timestamp, received.signature)
        assert verify(*signed, [key])
        assert not verify(*signed, [base64.b64decode(silent["secret"].removeprefix("whsec_"))])


def test_what_failed_is_sent_again_with_the_same_id_and_another_time_a_bounded_number_of_times(
    client: TestClient, server: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(1_000, 2_000))
    monkeypatch.setattr("app.jobs.webhooks.time.time", lambda: next(clock))
    subscription = subscribe(client, server.url)
    settled(client, subscription)
    server.replies = [(500, {}, b""), (404, {}, b"")]
    announce(client)
    server.wait_for(4)
    [_, delivery] = settled(client, subscription)["deliveries"]
    assert (delivery["status"], delivery["attempts"], delivery["code"]) == ("delivered", 3, 204)
    again = server.received[1:]
    assert {(each.id, each.body) for each in again} == {(delivery["id"], again[0].body)}
    assert len({each.timestamp for each in again}) == len({each.signature for each in again}) == 3
    server.replies = [(503, {}, b"")] * 3
    announce(client)
    state = settled(client, subscription)
    assert (state["status"], state["deliveries"][2]["attempts"]) == ("ended", 3)
    assert announce(client) == 0 and len(server.received) == 7


def test_a_subscriber_that_answers_410_gets_nothing_more(client: TestClient, server: Subscriber) -> None:
    subscription = subscribe(client, server.url)
    settled(client, subscription)
    server.replies = [(410, {}, b"")]
    assert announce(client) == 1
    state = settled(client, subscription)
    assert (state["status"], state["deliveries"][1]["attempts"], announce(client)) == ("ended", 1, 0)


def test_a_burst_that_fills_a_queue_is_refused_queued_for_nobody_and_ends_no_subscription(
    client: TestClient, server: Subscriber
) -> None:
    with subscriber() as other:
        allowed = (server.host, other.host)
        sender(client)._settings = sender(client)._settings.model_copy(update={"allowed_hosts": allowed})
        slow, quick = subscribe(client, server.url), subscribe(client, other.url)
        assert [settled(client, each)["status"] for each in (slow, quick)] == ["active", "active"]
        server.answering.clear()
        for number in range(3):
            assert announce(client, f"{number}") == 2
            other.wait_for(number + 2)
            settled(client, quick)
            server.wait_for(2)
        refused = client.post(f"{BASE}/announcements", json={"text": "3"})
        assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
        server.answering.set()
        for subscription, received in ((slow, server.received), (quick, other.received)):
            assert settled(client, subscription)["status"] == "active"
            texts = [each.json["data"]["text"] for each in received[1:]]
            assert texts == ["0", "1", "2"]
        assert announce(client) == 2


def test_a_redirect_is_not_followed_and_of_an_answer_no_more_than_a_kilobyte_is_read(
    client: TestClient, server: Subscriber
) -> None:
    server.replies = [(307, {"location": f"{server.url}/inside"}, b"")]
    server.padding = b" " * 1_000  # still JSON, with the right challenge
    subscription = subscribe(client, server.url)
    [delivery] = settled(client, subscription)["deliveries"]
    assert (delivery["status"], delivery["attempts"], delivery["code"]) == ("failed", 3, 200)
    assert {each.path for each in server.received} == {"/hooks"}


def test_no_address_inside_the_network_is_connected_to_whatever_its_name_or_notation(
    client: TestClient, server: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_up = socket.getaddrinfo
    inside = resolver({"name.example": ["127.0.0.1"]})
    monkeypatch.setattr(
        socket,
        "getaddrinfo",
        lambda host, *rest, **options: (inside if host == "name.example" else look_up)(
            host, *rest, **options
        ),
    )
    for host in ("127.0.0.1", "0x7f.1", "0177.0.0.1", "[::ffff:7f00:1]", "localhost", "name.example"):
        subscription = subscribe(client, f"https://{host}:{server.server_port}/")
        [delivery] = settled(client, subscription)["deliveries"]
        assert (delivery["status"], delivery["code"]) == ("failed", None)
        client.delete(subscription["location"])
    assert server.received == []


REFUSED = [
    *(
        "http://subscriber.example/",
        "ftp://subscriber.example/",
        "/hooks",
        "https://",
        "",
        "https://a/\ud800",
    ),
    *("https://me:secret@subscriber.example/", "https://subscriber.example/#part", "https://xn--a/"),
    *("https://[::1", "https://a.example:99999/", f"https://a.example/{'x' * 3_000}"),
]


def test_a_url_with_a_password_a_fragment_or_without_tls_is_refused(client: TestClient) -> None:
    for url in REFUSED:
        body = json.dumps({"url": url}).encode()
        kind = {"content-type": "application/json"}
        refused = client.post(f"{BASE}/subscriptions", content=body, headers=kind)
        assert refused.status_code in (400, 422)
        assert refused.headers["content-type"] == "application/problem+json"
        assert "secret" not in refused.text


def test_a_full_table_refuses_subscriptions_and_one_that_has_ended_makes_room(
    client: TestClient, server: Subscriber
) -> None:
    first, second = subscribe(client, server.url), subscribe(client, server.url)
    assert [settled(client, each)["status"] for each in (first, second)] == ["active", "active"]
    assert client.post(f"{BASE}/subscriptions", json={"url": server.url}).status_code == 507
    server.replies = [(410, {}, b"")]
    announce(client)
    assert {settled(client, each)["status"] for each in (first, second)} == {"active", "ended"}
    third = subscribe(client, server.url)
    settled(client, third)
    assert [client.delete(third["location"]).status_code for _ in range(2)] == [204, 404]
    assert [client.get(each["location"]).status_code for each in (first, second)].count(404) == 1


def test_a_host_is_asked_so_many_times_a_minute_whoever_asks_and_deletes(
    client: TestClient, server: Subscriber
) -> None:
    for path in ("a", "b", "c", "d"):
        subscription = subscribe(client, f"{server.url}/{path}")
        settled(client, subscription)
        client.delete(subscription["location"])
    for host in ("127.0.0.1", "127.0.0.1.", "0x7f.1"):
        url = f"https://{host}:{server.server_port}/"
        refused = client.post(f"{BASE}/subscriptions", json={"url": url})
        assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["content-type"] == "application/problem+json"
    assert len(server.received) == 4
    assert subscribe(client, f"https://127.0.0.2:{server.server_port}/")["status"] == "pending"


def test_the_document_describes_the_callback_and_the_webhook_as_they_are_sent(
    client: TestClient, app: FastAPI, server: Subscriber
) -> None:
    document = app.openapi()
    operation = document["paths"][f"{BASE}/subscriptions"]["post"]
    callback = operation["callbacks"]["verify_subscription"]["{$request.body#/url}"]["post"]
    webhook = document["webhooks"]["announcement.published"]["post"]
    settled(client, subscribe(client, server.url))
    announce(client)
    for described, received in ((callback, server.wait_for(1)), (webhook, server.wait_for(2))):
        [(kind, media)] = described["requestBody"]["content"].items()
        schema = document["components"]["schemas"][media["schema"]["$ref"].rpartition("/")[2]]
        assert received.headers["content-type"] == kind
        assert sorted(schema["required"]) == sorted(received.json) == ["data", "timestamp", "type"]
        assert received.json["type"] == schema["properties"]["type"]["const"]
        assert all(parameter["name"] in received.headers for parameter in described["parameters"])
        assert "422" not in described["responses"]


def test_trap_a_callback_of_an_inner_router_is_left_out() -> None:
    inner, outer = APIRouter(), APIRouter()
    inner.add_api_route("{$request.body#/url}", lambda: None, methods=["POST"], name="called_back")
    outer.include_router(inner)
    for router, documented in ((inner, ["called_back"]), (outer, [])):
        app = FastAPI()
        app.post("/", callbacks=router.routes)(lambda: None)
        assert list(app.openapi()["paths"]["/"]["post"]["callbacks"]) == documented


def test_trap_a_webhook_without_responses_promises_the_422_of_fastapi() -> None:
    async def receive(event: dict[str, str]) -> None: ...

    app = FastAPI()
    app.webhooks.add_api_route("happened", receive, methods=["POST"])
    assert "422" in app.openapi()["webhooks"]["happened"]["post"]["responses"]


def test_trap_a_name_that_was_public_when_it_was_checked_leads_inside_when_it_is_called(
    server: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = iter(["1.1.1.1", "127.0.0.1"])
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda host, port, *_, **__: resolver({host: [next(answers)]})(host, port)
    )
    [found] = socket.getaddrinfo("name.example", server.server_port)
    assert ip_address(found[4][0]).is_global
    url = f"http://name.example:{server.server_port}/"
    with httpx2.Client(trust_env=False) as client:
        client.post(url, json={"data": {}})
    assert len(server.received) == 1
