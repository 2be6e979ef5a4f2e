import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from pydantic import SecretStr, ValidationError

from app.main import create_app
from app.settings import Settings, fields_of

ROOT = Path(__file__).parent.parent.parent.parent
SECRET = "hunter2"
CHOICES = ("APP_LOG_LEVEL", "APP_TELEMETRY__LEVEL")


def python(folder: Path, code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Runs code in an empty folder, where only the environment tells Python where the project is."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_setting_has_a_description() -> None:
    assert [name for name, field, _ in fields_of(Settings.model_construct()) if not field.description] == []


def test_importing_the_settings_reads_no_environment(tmp_path: Path) -> None:
    done = python(
        tmp_path,
        "import app.settings, app.errors",
        APP_MAX_BODY_SIZE="many",
        APP_CORS_ORIGINS="not json",
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_BODY_SIZE", "many"),
        ("MAX_BODY_SIZE", "0"),
        ("BODY_TIMEOUT", "-1"),
        ("LOG_LEVEL", "LOUD"),
        ("CORS_ORIGINS", '["*"]'),
        ("CORS_ORIGINS", "http://localhost"),
        ("WS_MAX_CONNECTIONS_PER_CLIENT", "1000000"),
        ("SECURITY__SIGNING_KEYS", '["short"]'),
        ("MAIL_FROM", ""),
        ("MAIL_FROM", "nobody"),
        ("MAIL_FROM", "a\nb@c"),
        ("MAIL_FROM", "Service <noreply@example.com>"),
    ],
)
def test_a_wrong_value_stops_the_start_and_names_the_setting(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"APP_{name}", value)
    with pytest.raises(ValueError, match=name.lower().replace("__", ".")):
        create_app()


def test_a_wrong_value_is_not_repeated_in_the_message() -> None:
    with pytest.raises(ValidationError) as refused:
        Settings.model_validate({"smtp_url": f"smtp://a:{SECRET}@b", "max_body_size": SECRET})
    assert SECRET not in str(refused.value)
    with pytest.raises(ValidationError) as refused:
        Settings(database_url=SecretStr(f"postgresql://a:{SECRET}@b"), ws_max_connections=1)
    assert SECRET not in str(refused.value)


def test_the_app_has_the_settings_it_was_given(settings: Settings) -> None:
    apps = [create_app(settings.model_copy(update={"max_body_size": size})) for size in (10, 20)]
    for app, size in zip(apps, (10, 20), strict=True):
        with TestClient(app) as client:
            shown = {each["name"]: each["value"] for each in client.get("/application/settings").json()}
        assert shown["APP_MAX_BODY_SIZE"] == size


def test_the_settings_cannot_be_changed_after_the_start(settings: Settings) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        settings.__setattr__("max_body_size", 10)


def test_no_text_and_no_path_is_shown(settings: Settings) -> None:
    hidden: dict[str, Any] = {"smtp_url": f"smtp://a:{SECRET}@b.example", "mail_from": f"{SECRET}@b.example"}
    told = Settings(data_dir=settings.data_dir, uploads_dir=settings.uploads_dir, **hidden)
    with TestClient(create_app(told)) as client:
        answer = client.get("/application/settings")
    assert SECRET not in answer.text
    assert str(settings.data_dir) not in answer.text
    names = {each["name"] for each in answer.json()}
    assert {"APP_MAX_BODY_SIZE", "APP_DOCS", *CHOICES} <= names
    for name, _, value in fields_of(told):
        assert (name in names) == isinstance(value, bool | int | float) or name in CHOICES


def test_a_secret_is_not_shown_by_its_object() -> None:
    settings = Settings.model_validate(
        {"smtp_url": f"smtp://a:{SECRET}@b.example", "database_url": f"sqlite+aiosqlite:///{SECRET}"}
    )
    assert SECRET not in repr(settings)
    assert SECRET in settings.sqlalchemy_url


def test_trap_settings_made_once_a_process_ignore_what_a_test_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    @lru_cache
    def get_settings() -> Settings:
        return Settings()

    app = FastAPI()

    @app.get("/")
    async def limit(settings: Annotated[Settings, Depends(get_settings)]) -> int:
        return settings.max_body_size

    client = TestClient(app)
    before = client.get("/").json()
    monkeypatch.setenv("APP_MAX_BODY_SIZE", "77")
    assert client.get("/").json() == before
    assert Settings().max_body_size == 77


def test_trap_settings_read_at_import_break_every_import(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text("from app.settings import Settings\nsettings = Settings()\n")
    done = python(tmp_path, "import sys; sys.path.insert(0, '.'); import module", APP_MAX_BODY_SIZE="many")
    assert done.returncode != 0
