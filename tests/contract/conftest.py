from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.redis import RedisServer, redis_server


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def server(shared_server: RedisServer) -> RedisServer:
    """An empty one, which a test may not stop."""
    shared_server.command("FLUSHALL")
    return shared_server


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[RedisServer]:
    """One of its own, which a test may stop: it keeps what it has said yes to."""
    with redis_server(tmp_path, keeps=True) as server:
        yield server
