import hashlib
from collections.abc import AsyncGenerator

import pytest
from anyio import to_thread
from anyio.lowlevel import current_token

from app.jobs import file_report
from app.jobs.file_report import (
    CHUNK_SIZE,
    MAX_WORD_LENGTH,
    FileReport,
    TextCounter,
    TextStatistics,
    report_on,
)
from app.jobs.tasks import Progress, Stopped


class Recorded(Progress):
    """Ends the job at the fraction `stops_at`."""

    def __init__(self, stops_at: float = 2.0) -> None:
        self.fractions: list[float] = []
        self.stops_at = stops_at

    def __call__(self, fraction: float) -> None:
        self.fractions.append(fraction)
        if fraction >= self.stops_at:
            raise Stopped


class Stored:
    """The file of a storage, in pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.given = 0
        self.closed = False

    async def read(self) -> AsyncGenerator[bytes]:
        try:
            for piece in self.pieces:
                self.given += 1
                yield piece
        finally:
            self.closed = True


async def report(stored: Stored, progress: Progress, is_text: bool = True) -> FileReport:
    size = sum(map(len, stored.pieces))
    return await to_thread.run_sync(report_on, stored.read(), current_token(), size, is_text, progress)


def statistics(*chunks: bytes) -> TextStatistics:
    counter = TextCounter()
    assert all(counter.add(chunk) for chunk in chunks)
    result = counter.statistics()
    assert result
    return result


@pytest.mark.anyio
async def test_digests_are_those_of_the_whole_file_and_progress_grows_to_one_in_small_steps() -> None:
    content = bytes(range(256)) * (4 * CHUNK_SIZE // 256)
    stored, progress = Stored(content[: 3 * CHUNK_SIZE], content[3 * CHUNK_SIZE :]), Recorded()
    result = await report(stored, progress, is_text=False)
    assert result.size == len(content)
    assert result.sha256 == hashlib.sha256(content).hexdigest()
    assert result.blake2b == hashlib.blake2b(content).hexdigest()
    assert result.text is None
    assert progress.fractions == [0.25, 0.5, 0.75, 1.0]
    assert stored.closed


@pytest.mark.anyio
async def test_an_empty_file_has_a_report() -> None:
    result = await report(Stored(), Recorded())
    assert (result.size, result.text) == (
        0,
        TextStatistics(lines=0, words=0, characters=0, most_frequent_words=[]),
    )


@pytest.mark.anyio
@pytest.mark.parametrize("content", [b"caf\xe9", b"caf\xc3"])
async def test_what_is_not_utf_8_has_digests_and_no_statistics(content: bytes) -> None:
    result = await report(Stored(content), Recorded())
    assert result.text is None
    assert result.sha256 == hashlib.sha256(content).hexdigest()


@pytest.mark.anyio
async def test_a_report_that_is_stopped_reads_no_further_and_lets_the_file_go() -> None:
    stored = Stored(*[bytes(2 * CHUNK_SIZE)] * 10)
    progress = Recorded(stops_at=0.15)
    with pytest.raises(Stopped):
        await report(stored, progress)
    assert (len(progress.fractions), stored.given, stored.closed) == (3, 2, True)


def test_where_the_chunks_are_cut_does_not_matter() -> None:
    content = "Füße, füße!\nIch grüße\r\ndie 3 Füße".encode()
    whole = statistics(content)
    assert (whole.lines, whole.words, whole.characters) == (3, 7, len(content.decode()))
    assert whole.most_frequent_words[0].model_dump() == {"word": "füsse", "count": 3}
    for cut in range(len(content)):
        assert statistics(content[:cut], content[cut:]) == whole
    assert statistics(*(content[n : n + 1] for n in range(len(content)))) == whole


def test_long_words_are_cut_and_counted_once() -> None:
    counter = TextCounter()
    for _ in range(2):
        assert counter.add(b"a" * 1_000_000)
        assert len(counter._open_word) == MAX_WORD_LENGTH
    result = counter.statistics()
    assert result
    assert result.words == 1
    assert len(result.most_frequent_words[0].word) == MAX_WORD_LENGTH


def test_rare_words_are_dropped_when_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_report, "MAX_DIFFERENT_WORDS", 10)
    counter = TextCounter()
    for number in range(100):
        assert counter.add(b"often word%d " % number)
        assert len(counter._frequencies) <= 20
    result = counter.statistics()
    assert result
    assert result.words == 200
    assert result.most_frequent_words[0].model_dump() == {"word": "often", "count": 100}
