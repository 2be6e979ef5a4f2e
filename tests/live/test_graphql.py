"""What hostile queries cost everybody else. The figures on a quiet machine are a tenth of the bounds here."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
import pytest
from graphql import get_introspection_query

from tests.server import Server

HOSTILE = {
    "30,000 aliases": "{ " + " ".join(f"a{n}: user(id: 1) {{ id name }}" for n in range(30_000)) + " }",
    "3,000 aliases": "{ " + " ".join(f"a{n}:user(id:1){{id}}" for n in range(3_000)) + " }",
    "480 times one field": "{ user(id: 1) { " + "id " * 480 + "} }",
    "deep nesting": "{ a" * 20_000,
    "2⁴⁰ fragments": "{ user(id: 1) { ...F0 } } "
    + " ".join(f"fragment F{n} on User {{ ...F{n + 1} ...F{n + 1} }}" for n in range(40))
    + " fragment F40 on User { id }",
    "15 introspections": "{ "
    + " ".join(f"a{n}: __schema {{ types {{ ...FullType }} }}" for n in range(15))
    + " } fragment"
    + get_introspection_query().partition("fragment")[2],
    "a bomb of lists": "{ users(limit: 100) { items(limit: 100) { owner { items(limit: 100) { id } } } } }",
    "a string of 90 kB": '{ user(id: "' + "x" * 90_000 + '") { id } }',
}


@contextmanager
def measuring_others(server: Server) -> Iterator[list[float]]:
    """Meanwhile, another client asks again and again; its times are in the list."""
    seconds: list[float] = []
    done = threading.Event()

    def ask() -> None:
        with httpx2.Client(base_url=server.url) as client:
            while not done.is_set():
                started = time.perf_counter()
                assert client.get("/middleware/timing/sleep?seconds=0").status_code == 200
                seconds.append(time.perf_counter() - started)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seconds
    finally:
        done.set()
        thread.join(10)


@pytest.mark.parametrize("query", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_query_is_refused_at_once_and_holds_nobody_up(live: Server, query: str) -> None:
    fastest = 1.0
    with measuring_others(live) as seconds, httpx2.Client(base_url=live.url) as client:
        for _ in range(3):
            started = time.perf_counter()
            refused = client.post("/graphql", json={"query": query})
            fastest = min(fastest, time.perf_counter() - started)
            assert "data" not in refused.json()
    assert fastest < 0.2
    assert max(seconds, default=0.0) < 1.0


def test_a_query_too_large_is_answered_to_a_client_that_still_sends(live: Server) -> None:
    def body() -> Iterator[bytes]:
        yield b'{"query": "'
        for _ in range(1_000):
            yield b"#" * 10_000

    headers = {"Content-Type": "application/json"}
    refused = httpx2.post(f"{live.url}/graphql", content=body(), headers=headers)
    assert refused.status_code == 413
    assert refused.headers["content-type"] == "application/problem+json"
