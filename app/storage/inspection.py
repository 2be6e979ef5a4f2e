"""What is found out about a file while its bytes pass: its length, its digest, and what it is."""

import hashlib

from app.errors import AppError
from app.storage.content import ContentCheck


class Inspection:
    """An `Inspector` that also refuses a file which is longer than `most`, by raising `too_long`."""

    def __init__(self, content: ContentCheck, most: int, too_long: AppError) -> None:
        self._content = content
        self._most = most
        self._too_long = too_long
        self._digest = hashlib.sha256()
        self.size = 0
        self.content_type = ""

    def feed(self, piece: bytes) -> None:
        self.size += len(piece)
        if self.size > self._most:
            raise self._too_long
        self._content.feed(piece)
        self._digest.update(piece)

    def finish(self) -> None:
        self.content_type = self._content.finish()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()
