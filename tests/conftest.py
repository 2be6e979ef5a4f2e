"""Fixtures for all tests: an app with its own folders, a client for it, and a real server."""

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from app.main import create_app
from app.settings import Settings
from tests.s3 import Bucket, S3Server, s3_server
from tests.server import Server, serve


@pytest.fixture(scope="session")
def seeded_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder as the first start leaves it: a copy of it saves each test most of its start."""
    folder = tmp_path_factory.mktemp("seeded")
    settings = Settings(data_dir=folder / "data", uploads_dir=folder / "uploads")
    with TestClient(create_app(settings)):
        pass
    return settings.data_dir


@pytest.fixture(scope="session")
def usual_settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    home = tmp_path_factory.mktemp("home")
    return Settings(data_dir=home / "data", uploads_dir=home / "uploads")


@pytest.fixture
def settings(usual_settings: Settings, seeded_data: Path) -> Settings:
    """The same for every test, and their folders as new. A test module overrides this to change limits."""
    for folder in (usual_settings.data_dir, usual_settings.uploads_dir):
        shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(seeded_data, usual_settings.data_dir)
    return usual_settings


@pytest.fixture
def new_settings(tmp_path: Path) -> Settings:
    """Those of a service that was never started."""
    return Settings(data_dir=tmp_path / "new" / "data", uploads_dir=tmp_path / "new" / "uploads")


@pytest.fixture(scope="session")
def spare_apps() -> list[tuple[Settings, FastAPI]]:
    return []


@pytest.fixture
def app(settings: Settings, spare_apps: list[tuple[Settings, FastAPI]]) -> Iterator[FastAPI]:
    """An app with these settings. What it opens is each test's own, but not always the app: FastAPI makes its
    routes ready at the first request, and that takes longer than most tests."""
    spare = next((each for each in spare_apps if each[0] == settings), None)
    if spare:
        spare_apps.remove(spare)
    app = spare[1] if spare else create_app(settings)
    routes = list(app.routes)
    yield app
    # Telemetry is shut down with its app.
    if app.routes == routes and not app.dependency_overrides and settings.telemetry.level == "off":
        spare_apps.append((settings, app))


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


@pytest.fixture(scope="session")
def s3() -> Iterator[S3Server]:
    """One S3 for all tests that do not stop it."""
    with s3_server() as server:
        yield server


@pytest.fixture
def bucket(s3: S3Server) -> Bucket:
    """An empty one."""
    return s3.bucket()


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def pytest_collection_finish() -> None:
    """What is loaded by now stays: the garbage collector need not look at it again and again."""
    gc.freeze()
