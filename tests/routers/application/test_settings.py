import json
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
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.dependencies import get_settings
from app.main import create_app
from app.settings import Settings, TelemetrySettings, fields_of

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


def test_a_variable_with_two_underscores_sets_one_setting_of_a_group(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("APP_TELEMETRY", '{"level": "metrics", "kept_traces": 7}')
    monkeypatch.setenv("APP_TELEMETRY__LEVEL", "all")
    telemetry = Settings().telemetry
    assert (telemetry.level, telemetry.kept_traces, telemetry.kept_spans) == ("all", 7, 50)


def test_a_secret_is_read_from_a_file_of_its_name_without_the_line_end(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("APP_SECRETS_DIR", str(tmp_path))
    keys = ["k" * 32, "l" * 32]
    (tmp_path / "APP_DATABASE_URL").write_text(f"sqlite+aiosqlite:///{SECRET}\n")
    (tmp_path / "APP_SECURITY__SIGNING_KEYS").write_text(f"{json.dumps(keys)}\n")
    settings = Settings()
    assert settings.sqlalchemy_url == f"sqlite+aiosqlite:///{SECRET}"
    assert [key.get_secret_value() for key in settings.security.signing_keys] == keys


def test_the_files_that_kubernetes_and_docker_mount_are_read(tmp_path: Path) -> None:
    kubernetes, docker = tmp_path / "kubernetes", tmp_path / "docker"
    version = kubernetes / "..2026_01_01_00_00_00.1"
    version.mkdir(parents=True)
    docker.mkdir()
    (version / "APP_SMTP_URL").write_text("smtp://a:b@mail.example")
    (kubernetes / "..data").symlink_to(version.name)
    (kubernetes / "APP_SMTP_URL").symlink_to("..data/APP_SMTP_URL")
    (docker / "app_smtp_url").write_text("smtp://a:b@mail.example")
    for folder in (kubernetes, docker):
        assert Settings(secrets_dir=folder).smtp_url.get_secret_value() == "smtp://a:b@mail.example"


def test_an_argument_wins_over_the_environment_and_that_over_a_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "APP_MAX_ITEMS").write_text("1")
    assert Settings(secrets_dir=tmp_path).max_items == 1
    monkeypatch.setenv("APP_MAX_ITEMS", "2")
    assert Settings(secrets_dir=tmp_path).max_items == 2
    assert Settings(secrets_dir=tmp_path, max_items=3).max_items == 3


def test_a_folder_of_secrets_that_is_missing_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        Settings(secrets_dir=tmp_path / "none")


def test_no_env_file_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("APP_MAX_ITEMS=1\n")
    (tmp_path / "APP_MAX_USERS").write_text("1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APP_SECRETS_DIR", "")
    assert Settings().max_items > 1
    assert Settings().max_users > 1


def test_trap_the_working_directory_decides_which_env_file_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Theirs(BaseSettings):
        model_config = SettingsConfigDict(env_file=".env")
        database_url: str = "sqlite:///production"

    (tmp_path / ".env").write_text("DATABASE_URL=sqlite:///of_a_test\n")
    before = Theirs().database_url
    monkeypatch.chdir(tmp_path)
    assert (before, Theirs().database_url) == ("sqlite:///production", "sqlite:///of_a_test")


def test_trap_an_overridden_dependency_reaches_no_limit(settings: Settings) -> None:
    small = settings.model_copy(update={"max_body_size": 10})
    overridden = create_app(settings)
    overridden.dependency_overrides[get_settings] = lambda: small
    statuses = []
    for app in (overridden, create_app(small)):
        with TestClient(app) as client:
            shown = {each["name"]: each["value"] for each in client.get("/application/settings").json()}
            assert shown["APP_MAX_BODY_SIZE"] == 10
            statuses.append(client.post("/users", json={"name": "Ada Lovelace"}).status_code)
    assert statuses == [422, 413]


def test_trap_a_copy_is_not_checked() -> None:
    wrong = {"max_items": -1, "cors_origins": ("*",), "mistyped": True}
    copied = Settings().model_copy(update=wrong)
    assert copied.max_items == -1 and copied.cors_origins == ("*",)
    with pytest.raises(ValidationError) as refused:
        Settings.model_validate(wrong)
    assert refused.value.error_count() == 3


def test_trap_a_group_that_is_given_as_an_object_replaces_what_the_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("APP_TELEMETRY__LEVEL", "metrics")
    assert Settings(telemetry=TelemetrySettings(kept_traces=7)).telemetry.level == "off"
    merged = Settings.model_validate({"telemetry": {"kept_traces": 7}}).telemetry
    assert (merged.level, merged.kept_traces) == ("metrics", 7)


def test_trap_a_misspelt_variable_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APP_MAX_BODYSIZE", "10")
    assert Settings().max_body_size == Settings.model_construct().max_body_size


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
