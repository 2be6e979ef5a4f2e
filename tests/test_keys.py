"""The keys that sign."""

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from pydantic import SecretStr

from app.keys import open_keys
from app.settings import SecuritySettings, Settings

FIRST, SECOND = "f" * 32, "s" * 32


def given(settings: Settings, *keys: str) -> Settings:
    return settings.model_copy(
        update={"security": SecuritySettings(signing_keys=tuple(SecretStr(key) for key in keys))}
    )


def test_the_key_made_at_the_first_start_is_kept_and_only_its_owner_reads_it(settings: Settings) -> None:
    keys = open_keys(settings)
    assert open_keys(settings) == keys
    kept = settings.data_dir / "signing.key"
    assert list(settings.data_dir.iterdir()) == [kept]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_several_processes_that_start_together_have_one_key(settings: Settings) -> None:
    with ThreadPoolExecutor(8) as threads:
        keys = list(threads.map(lambda _: open_keys(settings), range(32)))
    assert len({each.keys for each in keys}) == 1


def test_a_file_that_is_no_key_stops_the_start(settings: Settings) -> None:
    open_keys(settings)
    (settings.data_dir / "signing.key").write_bytes(b"")
    with pytest.raises(ValueError, match=r"signing\.key is not a key"):
        open_keys(settings)


def test_given_keys_are_used_in_their_order_and_none_is_written(settings: Settings) -> None:
    both = open_keys(given(settings, FIRST, SECOND)).for_purpose("tokens")
    assert both[1:] == open_keys(given(settings, SECOND)).for_purpose("tokens")
    assert not settings.data_dir.exists()


def test_the_key_of_one_purpose_is_not_that_of_another(settings: Settings) -> None:
    keys = open_keys(given(settings, FIRST))
    assert keys.for_purpose("tokens") != keys.for_purpose("sessions")
    assert {len(key) for key in keys.for_purpose("tokens")} == {32}


def test_keys_are_not_shown_by_their_object(settings: Settings) -> None:
    assert FIRST not in repr(open_keys(given(settings, FIRST)))
