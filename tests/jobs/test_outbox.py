import threading
from pathlib import Path

import anyio
import pytest

from app.errors import InsufficientStorage
from app.jobs import outbox
from app.jobs.outbox import Outbox

pytestmark = pytest.mark.anyio


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "outbox.jsonl"


async def test_it_may_be_filled_to_the_last_byte_and_no_further(path: Path) -> None:
    file = Outbox(path, max_size=5)
    with pytest.raises(InsufficientStorage):
        await file.check_room(6)
    await file.check_room(5)
    await file.append(b"123\n")
    await file.check_room(1)
    with pytest.raises(InsufficientStorage):
        await file.check_room(2)


async def test_what_an_earlier_process_wrote_counts(path: Path) -> None:
    await Outbox(path, max_size=5).append(b"123\n")
    with pytest.raises(InsufficientStorage):
        await Outbox(path, max_size=5).check_room(2)


async def test_a_file_that_was_moved_away_makes_room(path: Path) -> None:
    file = Outbox(path, max_size=5)
    await file.append(b"123\n")
    await anyio.Path(path).rename(path.with_suffix(".old"))
    await file.check_room(5)


async def test_the_size_is_looked_at_in_a_thread_and_only_when_it_seems_full(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def looks(path: Path) -> int:
        threads.append(threading.get_ident())
        return 0

    monkeypatch.setattr(outbox, "size_of", looks)
    file = Outbox(path, max_size=5)
    await file.check_room(4)
    await file.check_room(4)
    assert len(threads) == 1
    assert threads != [threading.get_ident()]


async def test_a_torn_line_spoils_no_other(path: Path) -> None:
    file = Outbox(path, max_size=100)
    await file.append(b'{"n": 1}\n')
    async with await anyio.open_file(path, "ab") as torn:
        await torn.write(b'{"n": 2')
    await file.append(b'{"n": 3}\n')
    assert (await anyio.Path(path).read_bytes()).splitlines() == [b'{"n": 1}', b'{"n": 2', b'{"n": 3}']
