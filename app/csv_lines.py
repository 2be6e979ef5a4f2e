"""Lines of CSV (RFC 4180) that a spreadsheet shows as they are, and does not run."""

import csv
import io
from collections.abc import Sequence

FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""To some spreadsheet a formula begins like this: `=HYPERLINK(...)` sends out what stands beside it."""


def csv_line(values: Sequence[str | int | None]) -> str:
    """One line with its end. A text that begins like a formula gets an apostrophe before it."""
    line = io.StringIO()
    csv.writer(line).writerow([_harmless(value) for value in values])
    return line.getvalue()


def _harmless(value: str | int | None) -> str | int | None:
    if isinstance(value, str) and value.startswith(FORMULA_STARTS):
        return f"'{value}"
    return value
