"""Names in hostile spellings of Unicode. `tests/routers/files/test_uploads.py` has the usual ones."""

import unicodedata

import pytest

from app.storage import names
from app.storage.names import MAX_NAME_BYTES, display_name


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("e\u200b\u0301.txt", "é.txt"),
        ("e\u202e\u200b\u0323\u0301.txt", "ẹ́.txt"),
        ("a \u200b b.txt", "a b.txt"),
        ("\u1100\u200b\u1161\u200d\u11a8.txt", "각.txt"),
        ("\u2000\u212a\u2001.txt", "K .txt"),
        ("x " + "y" * 250 + ".txt", "y" * 250 + ".txt"),
        ("o" * 600 + "/" + "a.txt", "a.txt"),
        ("e\u0301" * 100 + ".txt", "é" * 100 + ".txt"),
    ],
)
def test_what_is_shown_is_normal_and_showing_it_again_changes_nothing(name: str, shown: str) -> None:
    assert display_name(name) == shown
    assert unicodedata.is_normalized("NFC", shown)
    assert display_name(shown) == shown


def test_no_normal_form_has_what_is_taken_out() -> None:
    """So the name is made normal last, and once."""
    printable = [c for c in map(chr, range(0x110000)) if c.isprintable()]
    for form in ("NFC", "NFD"):
        changed = [normal for c in printable if (normal := unicodedata.normalize(form, c)) != c]
        assert all(normal.isprintable() and not {"/", "\\", " "} & {*normal} for normal in changed)


def test_a_long_name_is_cut_before_it_is_made_normal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sorting marks takes the square of their number."""
    lengths: list[int] = []

    class Counted:
        @staticmethod
        def normalize(form: str, name: str) -> str:
            lengths.append(len(name))
            return unicodedata.normalize("NFC", name)

    monkeypatch.setattr(names, "unicodedata", Counted)
    assert len(display_name("\u0301\u0316" * 4_096 + ".txt").encode()) <= MAX_NAME_BYTES
    assert sum(lengths) <= 4 * MAX_NAME_BYTES
