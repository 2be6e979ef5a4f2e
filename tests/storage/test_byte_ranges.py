import pytest

from app.errors import RangeNotSatisfiable
from app.storage.byte_ranges import MAX_RANGES, byte_ranges

SIZE = 10_000


@pytest.mark.parametrize(
    ("header", "sent"),
    [
        # The examples of RFC 9110, section 14.1.2.
        ("bytes=0-499", [(0, 500)]),
        ("bytes=500-999", [(500, 1000)]),
        ("bytes=-500", [(9500, 10_000)]),
        ("bytes=9500-", [(9500, 10_000)]),
        ("bytes=0-0,-1", [(0, 1), (9999, 10_000)]),
        ("bytes= 0-999, 4500-5499, -1000", [(0, 1000), (4500, 5500), (9000, 10_000)]),
        ("bytes=500-600,601-999", [(500, 1000)]),
        ("bytes=500-700,601-999", [(500, 1000)]),
        # Beyond the end, in other spellings, and with parts that are empty.
        ("bytes=9999-20000", [(9999, 10_000)]),
        ("bytes=-20000", [(0, 10_000)]),
        ("bytes=0-" + "9" * 400, [(0, 10_000)]),
        ("bytes=-" + "9" * 400, [(0, 10_000)]),
        ("BYTES=0-1", [(0, 2)]),
        ("bytes=,0-1 ,\t, 5-6,", [(0, 2), (5, 7)]),
        ("bytes=000-001", [(0, 2)]),
        # In the order of the request; one that cannot be met is left out.
        ("bytes=100-199,0-9", [(100, 200), (0, 10)]),
        ("bytes=0-9,10000-", [(0, 10)]),
        ("bytes=-0,5-5", [(5, 6)]),
        # What overlaps is joined.
        ("bytes=5-6,0-10,2-3,20-21", [(0, 11), (20, 22)]),
        ("bytes=" + ",".join(["0-"] * MAX_RANGES), [(0, 10_000)]),
    ],
)
def test_the_bytes_that_are_asked_for(header: str, sent: list[tuple[int, int]]) -> None:
    assert [(each.start, each.stop) for each in byte_ranges(header, SIZE) or ()] == sent


@pytest.mark.parametrize(
    "header",
    [
        *("", "bytes", "bytes=", "bytes=,", "bytes=-", "bytes=--1", "bytes=a-b", "bytes=1", "bytes=1-2-3"),
        *(
            "bytes=0x1-2",
            "bytes=+1-2",
            "bytes=1 -2",
            "bytes=1- 2",
            "bytes=\u0661-\u0662",
            "bytes=1_0-2_0",
            "bytes =0-1",
        ),
        *("bytes=5-4", "bytes=0-1,5-4", "bytes=0-1;2-3", "bytes=0-1, bytes=2-3", "bytes:0-1", "bytes=0-1\n"),
        *("items=0-1", "lines=0-1", "seconds=1-2", "none"),
        "bytes=" + ",".join(f"{n}-{n}" for n in range(0, 2 * MAX_RANGES + 2, 2)),
        "bytes=" + "0-0," * 10_000,
        "bytes=0-" + "9" * 10_000,
    ],
)
def test_all_is_sent_where_the_header_is_not_understood_or_asks_too_much(header: str) -> None:
    assert byte_ranges(header, SIZE) is None


@pytest.mark.parametrize(
    "header", ["bytes=10000-", "bytes=-0", "bytes=10000-10001,99999-", "bytes=" + "9" * 400 + "-"]
)
def test_no_such_bytes(header: str) -> None:
    with pytest.raises(RangeNotSatisfiable) as refused:
        byte_ranges(header, SIZE)
    assert refused.value.headers == {"Content-Range": "bytes */10000"}


def test_an_empty_file_has_no_ranges() -> None:
    assert byte_ranges("bytes=0-", 0) is None
