"""Which bytes a `Range` header asks for (RFC 9110, section 14)."""

import re
from itertools import pairwise

from app.errors import RangeNotSatisfiable

MAX_RANGES = 10
MAX_LENGTH = 500
"""Characters of a header. Ten ranges of the largest numbers there are need fewer."""

RANGES = re.compile(r"bytes=(.*)", re.IGNORECASE)
RANGE = re.compile(r"([0-9]*)-([0-9]*)")


def byte_ranges(header: str, size: int) -> list[range] | None:
    """What to send of `size` bytes, or None for all, as where the header is not understood or asks too much.

    No byte is in two of the ranges: what overlaps or touches is joined, so that no request gets more than
    the whole. Raises `RangeNotSatisfiable`.
    """
    match = RANGES.fullmatch(header)
    if not match or len(header) > MAX_LENGTH or not size:
        return None
    specs = [spec.strip(" \t") for spec in match[1].split(",")]
    wanted = [_byte_range(spec, size) for spec in specs if spec]
    if not 0 < len(wanted) <= MAX_RANGES or None in wanted:
        return None
    satisfiable = [each for each in wanted if each]
    if not satisfiable:
        raise RangeNotSatisfiable(headers={"Content-Range": f"bytes */{size}"})
    return _apart(satisfiable)


def _byte_range(spec: str, size: int) -> range | None:
    """Empty where there are no such bytes, None where it is ill-formed."""
    match = RANGE.fullmatch(spec)
    if not match:
        return None
    first, last = match.groups()
    if not first:
        return range(max(0, size - int(last)), size) if last else None
    if last and int(last) < int(first):
        return None
    return range(int(first), min(int(last) + 1, size) if last else size)


def _apart(ranges: list[range]) -> list[range]:
    """In the order of the request, unless some had to be joined."""
    ordered = sorted(ranges, key=lambda each: each.start)
    if all(before.stop < after.start for before, after in pairwise(ordered)):
        return ranges
    joined = ordered[:1]
    for each in ordered[1:]:
        if each.start <= joined[-1].stop:
            joined[-1] = range(joined[-1].start, max(joined[-1].stop, each.stop))
        else:
            joined.append(each)
    return joined
