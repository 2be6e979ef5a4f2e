import hashlib
from pathlib import Path

import pytest

from app.jobs import file_report
from app.jobs.file_report import (
    CHUNK_SIZE,
    MAX_WORD_LENGTH,
    FileReport,
    TextCounter,
    TextStatistics,
    report_on,
)
from app.jobs.tasks import Progress


def report(path: Path, content: bytes, is_text: bool = True) -> tuple[FileReport, list[float]]:
    path.write_bytes(content)
    fractions: list[float] = []

    class Recorded(Progress):
        def __init__(self) -> None: ...

        def __call__(self, fraction: float) -> None:
            fractions.append(fraction)

    return report_on(path, is_text, Recorded()), fractions


def statistics(*chunks: bytes) -> TextStatistics:
    counter = TextCounter()
    assert all(counter.add(chunk) for chunk in chunks)
    result = counter.statistics()
    assert result
    return result


def test_digests_are_those_of_the_whole_file_and_progress_grows_to_one(tmp_path: Path) -> None:
    content = bytes(range(256)) * (4 * CHUNK_SIZE // 256)
    result, fractions = report(tmp_path / "file", content, is_text=False)
    assert result.size == len(content)
    assert result.sha256 == hashlib.sha256(content).hexdigest()
    assert result.blake2b == hashlib.blake2b(content).hexdigest()
    assert result.text is None
    assert fractions == [0.25, 0.5, 0.75, 1.0]


def test_an_empty_file_has_a_report(tmp_path: Path) -> None:
    result, _ = report(tmp_path / "file", b"")
    assert (result.size, result.text) == (
        0,
        TextStatistics(lines=0, words=0, characters=0, most_frequent_words=[]),
    )


@pytest.mark.parametrize("content", [b"caf\xe9", b"caf\xc3"])
def test_what_is_not_utf_8_has_digests_and_no_statistics(tmp_path: Path, content: bytes) -> None:
    result, _ = report(tmp_path / "file", content)
    assert result.text is None
    assert result.sha256 == hashlib.sha256(content).hexdigest()


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
