"""What is said at start when several processes serve."""

import errno
import fcntl
import logging
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.settings import Settings, TelemetrySettings
from app.single_process import telling_what_is_not_shared

SAID = "More than one process serves"


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "app.single_process"]


def test_the_next_after_one_that_has_ended_is_the_first_again(
    new_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        with telling_what_is_not_shared(new_settings):
            assert told(caplog) == []
    with telling_what_is_not_shared(new_settings), telling_what_is_not_shared(new_settings):
        assert len(told(caplog)) == 1
        assert caplog.records[-1].levelno == logging.WARNING


def test_what_a_setting_shares_is_named_with_it_or_not_at_all(
    new_settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    recording = TelemetrySettings(level="metrics")
    sharing = {
        "redis_url": SecretStr("redis://127.0.0.1"),
        "telemetry": TelemetrySettings(level="all", otlp=True),
    }
    for update, rooms, metrics in (
        ({}, True, False),
        ({"telemetry": recording}, True, True),
        (sharing, False, False),
    ):
        settings = new_settings.model_copy(update=update)
        with telling_what_is_not_shared(settings), telling_what_is_not_shared(settings):
            said = told(caplog)[-1]
            assert ("APP_REDIS_URL" in said) is rooms
            assert ("APP_TELEMETRY__OTLP" in said) is metrics
            assert "/chat" in said and "tasks" in said and "webhook" in said


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EROFS, errno.EOPNOTSUPP])
def test_where_no_lock_can_be_had_it_starts_and_says_nothing(
    new_settings: Settings,
    number: int,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    def fail(*_: Any) -> None:
        raise OSError(number, "no locks here")

    (tmp_path / "file").touch()
    nowhere = new_settings.model_copy(update={"data_dir": tmp_path / "file" / "data"})
    monkeypatch.setattr(fcntl, "flock", fail)
    with ExitStack() as stack:
        for settings in (new_settings, new_settings, nowhere, nowhere):
            stack.enter_context(telling_what_is_not_shared(settings))
    assert told(caplog) == []
