"""The headers by which a request depends on what the client has already (RFC 9110, section 13)."""

from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from starlette.datastructures import Headers

from app.errors import PreconditionFailed


def is_unchanged(headers: Headers, etag: str, changed_at: datetime) -> bool:
    """Whether the client has it, so that the answer is 304. Raises `PreconditionFailed`.

    The order is that of section 13.2.2: a tag beats a date, for two changes may fall into one second.
    """
    if (expected := _list(headers, "if-match")) is not None:
        # Strong comparison: a tag with W/ never matches.
        if not {"*", etag} & expected:
            raise PreconditionFailed
    elif (since := _date(headers, "if-unmodified-since")) and _seconds(changed_at) > since:
        raise PreconditionFailed
    if (known := _list(headers, "if-none-match")) is not None:
        # Weak comparison: some proxies mark the tags that they pass on.
        return bool({"*", etag, f"W/{etag}"} & known)
    since = _date(headers, "if-modified-since")
    return since is not None and _seconds(changed_at) <= since


def ranges_apply(headers: Headers, etag: str, changed_at: datetime) -> bool:
    """False where the client has the beginning of something else: it needs the whole."""
    return headers.get("if-range", etag) in (etag, http_date(changed_at))


def http_date(moment: datetime) -> str:
    return format_datetime(_seconds(moment), usegmt=True)


def _seconds(moment: datetime) -> datetime:
    """All that a date of HTTP can say. SQLite forgets the zone, which is UTC wherever we store one."""
    return moment.replace(microsecond=0, tzinfo=UTC)


def _list(headers: Headers, name: str) -> set[str] | None:
    values = headers.getlist(name)
    return {tag.strip() for value in values for tag in value.split(",")} if values else None


def _date(headers: Headers, name: str) -> datetime | None:
    """None where the header is missing or ill-formed; then it has no meaning."""
    try:
        return parsedate_to_datetime(headers[name]).replace(tzinfo=UTC)
    except (KeyError, ValueError, OverflowError):
        return None
