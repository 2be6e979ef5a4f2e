"""Fixtures for all tests: an app with its own folders, a client for it, and a real server."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from tests.server import Server, serve


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Touch nothing outside the test's own folder. A test module overrides this to change limits."""
    return Settings(data_dir=tmp_path / "data", uploads_dir=tmp_path / "uploads")


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """Entered, so that the lifespan runs and all requests share one event loop."""
    with TestClient(app) as client:
        yield client


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One real uvicorn for all tests that neither stop it nor fill its limits."""
    with serve(tmp_path_factory.mktemp("live")) as server:
        yield server


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
