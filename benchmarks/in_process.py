"""Requests/s of routes of one app, called without a server: what FastAPI itself does for each.

Rounds are interleaved and each figure is a ratio of the same round, so that a busy machine slows all alike.
"""

import asyncio
import statistics
from collections.abc import Mapping
from time import perf_counter

from fastapi import FastAPI
from starlette.types import Message

ROUNDS = 5
SECONDS = 0.5


async def _requests_per_second(app: FastAPI, path: str) -> float:
    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 200, message

    done = 0
    started = perf_counter()
    while perf_counter() - started < SECONDS:
        scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "headers": []}
        await app(scope, receive, send)
        done += 1
    return done / (perf_counter() - started)


async def _compare(app: FastAPI, paths: Mapping[str, str], base: str) -> None:
    ratios: dict[str, list[float]] = {name: [] for name in paths}
    for _ in range(ROUNDS):
        rates = {name: await _requests_per_second(app, path) for name, path in paths.items()}
        for name, rate in rates.items():
            ratios[name].append(rate / rates[base])
    for name, values in ratios.items():
        print(f"{name:45} {statistics.median(values):.2f}  [{min(values):.2f} to {max(values):.2f}]")


def compare(app: FastAPI, paths: Mapping[str, str], base: str) -> None:
    """Prints the rate of each named path ÷ that of the one called `base`: median, least and most."""
    asyncio.run(_compare(app, paths, base))
