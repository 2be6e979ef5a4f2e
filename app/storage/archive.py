"""A zip that is made while it is sent: in memory is one piece of it, however long it is."""

from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from pathlib import PurePath
from typing import NamedTuple
from zipfile import ZIP_DEFLATED, ZipFile

from anyio import to_thread

from app.storage.names import MAX_NAME_BYTES

LARGE = 2**30
"""From this length on an entry is written in the form that has no limit. Older programs read the other."""


class Entry(NamedTuple):
    name: str
    size: int
    """About; it only decides on the form."""
    pieces: AsyncGenerator[bytes]


async def zip_of(entries: Iterable[Entry]) -> AsyncGenerator[bytes]:
    """When reading an entry fails, so does this, before the index: what was sent until then is no zip.

    No entry has a date, so the same entries make the same bytes. Nothing is compressed, for images are
    already; but it has the form of what is, because some programs cannot read plain entries from a stream.
    """
    outlet = Outlet()
    names: set[str] = set()
    with ZipFile(outlet, "w", ZIP_DEFLATED, compresslevel=0) as archive:
        for entry in entries:
            name = unused_name(entry.name, names)
            with archive.open(name, "w", force_zip64=entry.size >= LARGE) as file:
                async with aclosing(entry.pieces) as pieces:
                    async for piece in pieces:
                        # In a thread: the checksum of a piece takes as long as many a request.
                        await to_thread.run_sync(file.write, piece)
                        yield outlet.take()
    yield outlet.take()


class Outlet:
    """The file that the zip is written to. It cannot go back, and forgets what was taken."""

    def __init__(self) -> None:
        self._written: list[bytes] = []

    def write(self, data: bytes) -> int:
        self._written.append(data)
        return len(data)

    def flush(self) -> None: ...

    def close(self) -> None: ...

    def take(self) -> bytes:
        data = b"".join(self._written)
        self._written.clear()
        return data


def unused_name(name: str, used: set[str]) -> str:
    """`name`, or `name (2)` and so on, added to `used`. Some systems take two spellings for one name.

    With the number it is cut to the bytes that a file system takes for a name.
    """
    path = PurePath(name)
    number = 1
    while name.casefold() in used:
        number += 1
        end = f" ({number}){path.suffix}".encode()[:MAX_NAME_BYTES]
        start = path.stem.encode()[: MAX_NAME_BYTES - len(end)]
        name = str(path.with_name((start + end).decode(errors="ignore")))
    used.add(name.casefold())
    return name
