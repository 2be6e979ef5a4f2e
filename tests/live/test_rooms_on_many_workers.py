"""Rooms over several workers and a real Redis. `make soak` is the same, larger."""

from pathlib import Path

import pytest

from tests.guests import Party, kill_a_worker, workers
from tests.redis import redis_server
from tests.test_single_process import SAID

pytestmark = pytest.mark.anyio

GUESTS, SENDERS, MESSAGES, LIMIT = 12, 3, 20, 10.0


async def test_all_hear_all_once_and_in_order_though_a_worker_is_killed_and_know_who_is_left(
    tmp_path: Path,
) -> None:
    with redis_server(tmp_path) as redis, workers(tmp_path, 2, redis.url.get_secret_value()) as server:
        party = Party(server, tmp_path, GUESTS, workers=2)
        server.wait_for(SAID)
        assert server.log.count(SAID) == 1
        await party.arrive(LIMIT)
        await party.talk(SENDERS, MESSAGES, lambda: kill_a_worker(server), LIMIT)
        await party.all_know_who_is_here(LIMIT)
        assert not party.mistakes
        assert party.visits == GUESTS + GUESTS // 2
        await party.leave()
