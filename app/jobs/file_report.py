"""What the tasks page computes of a stored file: digests, and the statistics of a text. It blocks."""

import codecs
import hashlib
import re
from collections import Counter
from collections.abc import AsyncGenerator, Generator
from contextlib import closing
from typing import Annotated

from anyio import from_thread
from anyio.lowlevel import EventLoopToken
from pydantic import BaseModel, Field

from app.jobs.tasks import Progress

# Small, for one interpreter serves all threads: between two chunks the event loop gets its turn. With
# 256 KiB, requests wait several times as long while tasks run, and the tasks are no faster.
CHUNK_SIZE = 16 * 1024
MAX_WORD_LENGTH = 64
MAX_DIFFERENT_WORDS = 50_000
TOP_WORDS = 10

WORD = re.compile(r"\w+")


class WordCount(BaseModel):
    word: str
    count: int


class TextStatistics(BaseModel):
    lines: int
    words: int
    characters: int
    most_frequent_words: Annotated[
        list[WordCount],
        Field(description=f"approximate above {MAX_DIFFERENT_WORDS} different words"),
    ]


class FileReport(BaseModel):
    size: int
    sha256: str
    blake2b: str
    text: Annotated[TextStatistics | None, Field(description="null if it is not UTF-8 text")]


def report_on(
    pieces: AsyncGenerator[bytes], loop: EventLoopToken, size: int, is_text: bool, progress: Progress
) -> FileReport:
    """Takes the file piece by piece, so that its size does not matter to the memory."""
    sha256, blake2b = hashlib.sha256(), hashlib.blake2b()
    counter = TextCounter() if is_text else None
    done = 0
    with closing(chunks_in_thread(pieces, loop)) as chunks:
        for chunk in chunks:
            done += len(chunk)
            progress(done / size)
            sha256.update(chunk)
            blake2b.update(chunk)
            if counter and not counter.add(chunk):
                counter = None
    text = counter.statistics() if counter else None
    return FileReport(size=done, sha256=sha256.hexdigest(), blake2b=blake2b.hexdigest(), text=text)


def chunks_in_thread(pieces: AsyncGenerator[bytes], loop: EventLoopToken) -> Generator[bytes]:
    """What `pieces` gives, which stays on its event loop: the thread waits for each."""

    async def next_piece() -> bytes:
        return await anext(pieces, b"")

    try:
        while piece := from_thread.run(next_piece, token=loop):
            for start in range(0, len(piece), CHUNK_SIZE):
                yield piece[start : start + CHUNK_SIZE]
    finally:
        from_thread.run(pieces.aclose, token=loop)


class TextCounter:
    """Counts in bounded memory: long words are cut, and rare ones dropped when there are too many."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._frequencies: Counter[str] = Counter()
        self._lines = 0
        self._words = 0
        self._characters = 0
        self._open_line = False
        self._open_word = ""

    def add(self, chunk: bytes, final: bool = False) -> bool:
        """Whether it still is text."""
        try:
            text = self._decoder.decode(chunk, final)
        except UnicodeDecodeError:
            return False
        self._characters += len(text)
        self._lines += text.count("\n")
        if text:
            self._open_line = not text.endswith("\n")
        text = self._open_word + text.casefold()
        words = WORD.findall(text)
        # The last word may go on in the next chunk.
        unfinished = not final and WORD.match(text[-1:])
        self._open_word = words.pop()[:MAX_WORD_LENGTH] if unfinished else ""
        if max(map(len, words), default=0) > MAX_WORD_LENGTH:
            words = [word[:MAX_WORD_LENGTH] for word in words]
        self._words += len(words)
        self._frequencies.update(words)
        if len(self._frequencies) > 2 * MAX_DIFFERENT_WORDS:
            self._frequencies = Counter(dict(self._frequencies.most_common(MAX_DIFFERENT_WORDS)))
        return True

    def statistics(self) -> TextStatistics | None:
        if not self.add(b"", final=True):
            return None
        top = self._frequencies.most_common(TOP_WORDS)
        return TextStatistics(
            lines=self._lines + self._open_line,
            words=self._words,
            characters=self._characters,
            most_frequent_words=[WordCount(word=word, count=count) for word, count in top],
        )
