"""Files on the disk that were never uploaded, for tests of how they are read."""

import os
from datetime import UTC, datetime
from pathlib import Path

from app.database.models import StoredFile
from app.storage.files import READY

CREATED_AT = datetime(2026, 1, 2, 3, 4, 5, 678_901, UTC)
GET = "GET / HTTP/1.1\r\nHost: testserver\r\n\r\n"


def put_file(folder: Path, size: int, filename: str = "zeros.txt") -> StoredFile:
    """So many zeros, which take no room, and their row."""
    file = StoredFile(
        id=os.urandom(16).hex(),
        state=READY,
        filename=filename,
        content_type="text/plain",
        size=size,
        sha256="0" * 64,
        created_at=CREATED_AT,
    )
    with (folder / file.id).open("wb") as content:
        content.truncate(size)
    return file


def open_in(folder: Path) -> list[str]:
    """The files of the folder that this process has open."""
    descriptors = Path("/proc/self/fd")
    targets = [os.readlink(each) for each in descriptors.iterdir() if each.is_symlink()]
    return [target for target in targets if target.startswith(f"{folder}/") and not target.endswith(".lock")]
