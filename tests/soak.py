"""Rooms over four workers and a real Redis, with 200 guests and 2,000 messages, and what goes wrong in life.

Three times all is said and heard: in peace, while a worker is killed, and while Redis is. Prints what it saw;
ends with an error if anybody missed a message, heard one twice or out of order, or does not know who is
left. `python -m tests.soak`, or `make soak`.
"""

import asyncio
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from time import perf_counter

import uvloop

from tests.guests import Party, kill_a_worker, workers
from tests.redis import RedisServer, redis_server

WORKERS, GUESTS, SENDERS, MESSAGES = 4, 200, 20, 100
LIMIT = 60.0
REDIS_IS_AWAY_SECONDS = 1.0

Disturb = Callable[[], Awaitable[None]]


async def restart(redis: RedisServer) -> None:
    redis.stop()
    await asyncio.sleep(REDIS_IS_AWAY_SECONDS)
    await asyncio.to_thread(redis.start)


async def run(party: Party, trials: dict[str, Disturb | None]) -> None:
    started = perf_counter()
    await party.arrive(LIMIT)
    await party.all_know_who_is_here(LIMIT)
    print(
        f"{GUESTS} guests, {GUESTS // WORKERS} on each of {WORKERS} workers, {perf_counter() - started:.1f} s"
    )
    for name, disturb in trials.items():
        started = perf_counter()
        visits = party.visits
        party.repeated.clear()
        await party.talk(SENDERS, MESSAGES, disturb, LIMIT)
        seconds = perf_counter() - started
        await party.all_know_who_is_here(LIMIT)
        print(
            f"{name}: {SENDERS * MESSAGES} messages to {GUESTS} in {seconds:.1f} s; "
            f"{party.visits - visits} came back; said again: {dict(party.repeated) or 'nothing'}; "
            f"all know who is here after {perf_counter() - started:.1f} s"
        )
    await party.leave()


def main() -> None:
    with (
        tempfile.TemporaryDirectory() as name,
        redis_server(Path(name), keeps=True) as redis,
        workers(Path(name), WORKERS, redis.url.get_secret_value()) as server,
    ):
        party = Party(server, Path(name), GUESTS, WORKERS)
        trials: dict[str, Disturb | None] = {
            "in peace": None,
            "a worker is killed": lambda: kill_a_worker(server),
            "Redis is killed and started again": lambda: restart(redis),
        }
        uvloop.run(run(party, trials))
        if party.mistakes:
            sys.exit("\n".join(party.mistakes[:20]))
    print("Each guest got each message once, in the order of its sender.")


if __name__ == "__main__":
    os.environ["CI"] = "true"  # a missing redis-server is an error, and no reason to skip
    main()
