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


def test_the_key_made_at_the_first_start_is_kept_and_only_its_owner_reads_it(new_settings: Settings) -> None:
    keys = open_keys(new_settings)
    assert open_keys(new_settings) == keys
    kept = new_settings.data_dir / "signing.key"
    assert list(new_settings.data_dir.iterdir()) == [kept]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_several_processes_that_start_together_have_one_key(new_settings: Settings) -> None:
    with ThreadPoolExecutor(8) as threads:
        keys = list(threads.map(lambda _: open_keys(new_settings), range(32)))
    assert len({each.keys for each in keys}) == 1


def test_a_file_that_is_no_key_stops_the_start(new_settings: Settings) -> None:
    open_keys(new_settings)
    (new_settings.data_dir / "signing.key").write_bytes(b"")
    with pytest.raises(ValueError, match=r"signing\.key is not a key"):
        open_keys(new_settings)


def test_given_keys_are_used_in_their_order_and_none_is_written(new_settings: Settings) -> None:
    both = open_keys(given(new_settings, FIRST, SECOND)).for_purpose("tokens")
    assert both[1:] == open_keys(given(new_settings, SECOND)).for_purpose("tokens")
    assert not new_settings.data_dir.exists()


def test_the_key_of_one_purpose_is_not_that_of_another(new_settings: Settings) -> None:
    keys = open_keys(given(new_settings, FIRST))
    assert keys.for_purpose("tokens") != keys.for_purpose("sessions")
    assert {len(key) for key in keys.for_purpose("tokens")} == {32}


def test_keys_are_not_shown_by_their_object(new_settings: Settings) -> None:
    assert FIRST not in repr(open_keys(given(new_settings, FIRST)))
