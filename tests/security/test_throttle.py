"""The brake on guessing."""

import asyncio
from typing import Any

import pytest
from fastapi.requests import HTTPConnection
from limits import RateLimitItemPerMinute

from app.errors import ServiceUnavailable, TooManyRequests
from app.security.throttle import BUCKETS, Throttle, network_of

LIMIT = RateLimitItemPerMinute(3)


@pytest.mark.anyio
async def test_many_at_once_do_not_pass_together() -> None:
    throttle = Throttle()
    all_counted = asyncio.Event()
    refused = 0

    async def fail() -> None:
        nonlocal refused
        try:
            async with throttle.attempt(LIMIT, "ada"):
                await all_counted.wait()
        except TooManyRequests:
            refused += 1
            if refused == 17:
                all_counted.set()

    async with asyncio.timeout(10):
        await asyncio.gather(*(fail() for _ in range(20)))
    assert refused == 17


@pytest.mark.anyio
async def test_a_failure_counts_and_a_success_does_not() -> None:
    throttle = Throttle()
    for _ in range(10):
        async with throttle.attempt(LIMIT, "ada"):
            pass
    for _ in range(3):
        with pytest.raises(ZeroDivisionError):
            async with throttle.attempt(LIMIT, "ada"):
                raise ZeroDivisionError
    with pytest.raises(TooManyRequests) as refused:
        async with throttle.attempt(LIMIT, "ada"):
            pass
    assert refused.value.headers and 1 <= int(refused.value.headers["Retry-After"]) <= 60


@pytest.mark.anyio
async def test_what_is_counted_stays_counted_unless_the_service_was_too_busy_to_try() -> None:
    throttle = Throttle()
    for counting in (throttle.counted, throttle.attempt):
        for _ in range(10):
            with pytest.raises(ServiceUnavailable):
                async with counting(LIMIT, "ada"):
                    raise ServiceUnavailable
    for _ in range(3):
        async with throttle.counted(LIMIT, "ada"):
            pass
    with pytest.raises(TooManyRequests):
        async with throttle.counted(LIMIT, "ada"):
            pass


@pytest.mark.anyio
async def test_no_number_of_names_fills_the_memory() -> None:
    throttle = Throttle()
    buckets = {throttle._bucket_of(str(name)) for name in range(3 * BUCKETS)}
    assert len(buckets) <= BUCKETS
    # Nobody can choose the names that share a bucket.
    names = [str(name) for name in range(100)]
    assert [throttle._bucket_of(name) for name in names] != [Throttle()._bucket_of(name) for name in names]


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("testclient", "testclient"),
        (None, ""),
    ],
)
def test_an_address_of_ipv6_counts_as_its_network(host: str | None, network: str) -> None:
    scope: dict[str, Any] = {"type": "http", "headers": [], "client": (host, 1) if host else None}
    assert network_of(HTTPConnection(scope)) == network
