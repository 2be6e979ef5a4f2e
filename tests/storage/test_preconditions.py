import pytest
from starlette.datastructures import Headers

from app.errors import PreconditionFailed
from app.storage.preconditions import http_date, is_unchanged, ranges_apply
from tests.stored_files import CREATED_AT

TAG = '"0a"'
BEFORE, THEN, AFTER = (f"Fri, 02 Jan 2026 03:04:0{second} GMT" for second in (4, 5, 6))


def headers(*fields: tuple[str, str]) -> Headers:
    return Headers(raw=[(name.encode(), value.encode("latin-1")) for name, value in fields])


def test_a_date_of_http_has_seconds() -> None:
    assert http_date(CREATED_AT) == http_date(CREATED_AT.replace(tzinfo=None)) == THEN


@pytest.mark.parametrize(
    ("fields", "unchanged"),
    [
        ([], False),
        ([("if-none-match", TAG)], True),
        ([("if-none-match", f"W/{TAG}")], True),
        ([("if-none-match", "*")], True),
        ([("if-none-match", f' "x" ,{TAG} ')], True),
        ([("if-none-match", '"x"'), ("if-none-match", TAG)], True),
        ([("if-none-match", '"x"')], False),
        ([("if-none-match", "0a")], False),
        ([("if-none-match", "")], False),
        ([("if-modified-since", THEN)], True),
        ([("if-modified-since", AFTER)], True),
        ([("if-modified-since", BEFORE)], False),
        ([("if-modified-since", "Friday, 02-Jan-26 03:04:05 GMT")], True),
        ([("if-modified-since", "Fri Jan  2 03:04:05 2026")], True),
        ([("if-modified-since", "yesterday")], False),
        ([("if-modified-since", "")], False),
        ([("if-modified-since", "Fri, 99 Jan 2026 03:04:05 GMT")], False),
        ([("if-modified-since", "Fri, 02 Jan 99999999999999999999 03:04:05 GMT")], False),
        ([("if-modified-since", "9" * 5_000)], False),
        # A tag beats a date, whether it matches or not.
        ([("if-none-match", '"x"'), ("if-modified-since", AFTER)], False),
        ([("if-none-match", TAG), ("if-modified-since", BEFORE)], True),
        ([("if-match", TAG)], False),
        ([("if-match", f'"x", {TAG}')], False),
        ([("if-match", "*")], False),
        ([("if-match", TAG), ("if-unmodified-since", BEFORE)], False),
        ([("if-match", TAG), ("if-none-match", TAG)], True),
        ([("if-unmodified-since", THEN)], False),
        ([("if-unmodified-since", "yesterday")], False),
        ([("if-unmodified-since", THEN), ("if-modified-since", THEN)], True),
    ],
)
def test_the_client_has_it_or_not(fields: list[tuple[str, str]], unchanged: bool) -> None:
    assert is_unchanged(headers(*fields), TAG, CREATED_AT) is unchanged


@pytest.mark.parametrize(
    "fields",
    [
        [("if-match", '"x"')],
        [("if-match", "")],
        [("if-match", f"W/{TAG}")],
        [("if-match", '"x"'), ("if-none-match", TAG)],
        [("if-match", '"x"'), ("if-unmodified-since", AFTER)],
        [("if-unmodified-since", BEFORE)],
        [("if-unmodified-since", BEFORE), ("if-none-match", TAG)],
    ],
)
def test_the_client_expects_something_else(fields: list[tuple[str, str]]) -> None:
    with pytest.raises(PreconditionFailed):
        is_unchanged(headers(*fields), TAG, CREATED_AT)


@pytest.mark.parametrize(
    ("given", "apply"),
    [
        (TAG, True),
        (THEN, True),
        ('"x"', False),
        (f"W/{TAG}", False),
        (BEFORE, False),
        (AFTER, False),
        ("", False),
    ],
)
def test_ranges_are_of_what_the_client_has(given: str, apply: bool) -> None:
    assert ranges_apply(headers(("if-range", given)), TAG, CREATED_AT) is apply
    assert ranges_apply(headers(), TAG, CREATED_AT)
