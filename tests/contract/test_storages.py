"""What every storage does, on the disk and in S3."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, aclosing, suppress
from threading import get_ident
from typing import Any

import pytest
from anyio import to_thread
from starlette.requests import ClientDisconnect

from app.errors import Conflict, Locked, NotFound, UnsupportedMediaType
from app.settings import Settings
from app.storage.disk import open_disk
from app.storage.engines import open_storage
from app.storage.pieces import PIECE_SIZE
from app.storage.storage import Storage
from tests.contract.storages import BYTES, ID, LIMIT, NOWHERE, OTHER_ID, Seen, chunks, content_of, cut_off

pytestmark = pytest.mark.anyio

Engine = Callable[[], AbstractAsyncContextManager[Storage]]

ENGINES: dict[str, Callable[[pytest.FixtureRequest], AbstractAsyncContextManager[Storage]]] = {
    "disk": lambda request: open_disk(request.getfixturevalue("tmp_path")),
    "s3": lambda request: open_storage(request.getfixturevalue("bucket").applied(Settings())),
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> Engine:
    return lambda: ENGINES[request.param](request)


async def is_absent(storage: Storage, file_id: str = ID) -> bool:
    with pytest.raises(NotFound):
        await content_of(storage, file_id)
    with pytest.raises(NotFound):
        await storage.publish(file_id, Seen())
    return await storage.offset(file_id) == 0


async def test_what_was_saved_is_what_is_read_and_what_the_inspector_saw(engine: Engine) -> None:
    async with engine() as storage:
        for file_id, content in ((ID, BYTES), (OTHER_ID, b""), ("f" * 32, b"x")):
            seen = Seen()
            await storage.save(file_id, chunks(content), seen)
            assert seen.bytes == content
            assert await content_of(storage, file_id) == content


async def test_files_that_come_at_once_are_not_mixed(engine: Engine) -> None:
    contents = {f"{number:032x}": bytes([number]) * 700_000 for number in range(20)}
    async with engine() as storage:
        await asyncio.gather(*(storage.save(each, chunks(contents[each]), Seen()) for each in contents))
        for file_id, content in contents.items():
            assert await content_of(storage, file_id) == content


async def test_any_range_is_read(engine: Engine) -> None:
    end = len(BYTES)
    ranges = [(0, 0), (0, 1), (1, 2), (5, 5), (7, 3), (PIECE_SIZE - 1, PIECE_SIZE + 1), (end - 1, end)]
    ranges += [(end - 1, end + 9), (end, end + 1), (end + 5, end + 9), (3, 2 * PIECE_SIZE + 3)]
    async with engine() as storage:
        await storage.save(ID, chunks(BYTES), Seen())
        for start, stop in ranges:
            assert await content_of(storage, ID, start, stop) == BYTES[start:stop]


async def test_a_reader_may_stop_before_the_end(engine: Engine) -> None:
    async with engine() as storage:
        await storage.save(ID, chunks(BYTES), Seen())
        async with aclosing(storage.read(ID, 0, len(BYTES))) as pieces:
            assert BYTES.startswith(await anext(pieces))
        assert await content_of(storage) == BYTES


REFUSALS: dict[str, tuple[type[Exception], Callable[[Storage], Coroutine[Any, Any, None]]]] = {
    "at the first byte": (
        UnsupportedMediaType,
        lambda storage: storage.save(ID, chunks(b"WRONG" + BYTES), Seen()),
    ),
    "in the middle": (
        UnsupportedMediaType,
        lambda storage: storage.save(ID, chunks(BYTES + b"WRONG"), Seen()),
    ),
    "at the end": (
        UnsupportedMediaType,
        lambda storage: storage.save(ID, chunks(BYTES), Seen(NOWHERE, refuses_at_the_end=True)),
    ),
    "by the client": (ClientDisconnect, lambda storage: storage.save(ID, cut_off(BYTES), Seen())),
    "by its first word": (ClientDisconnect, lambda storage: storage.save(ID, cut_off(b""), Seen())),
}


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_file_that_is_not_to_be_is_told_and_leaves_nothing(engine: Engine, refusal: str) -> None:
    error, save = REFUSALS[refusal]
    async with engine() as storage:
        with pytest.raises(error):
            await save(storage)
        assert await is_absent(storage)
        await storage.save(ID, chunks(b"another"), Seen())
        assert await content_of(storage) == b"another"


async def test_a_wrong_beginning_is_refused_before_the_next_byte_comes(engine: Engine) -> None:
    async def silent() -> AsyncIterator[bytes]:
        yield b"WRONG"
        await asyncio.Event().wait()

    async with engine() as storage:
        with pytest.raises(UnsupportedMediaType):
            await asyncio.wait_for(storage.save(ID, silent(), Seen()), LIMIT)


async def test_an_upload_that_is_cancelled_leaves_nothing(engine: Engine) -> None:
    arrived = asyncio.Event()

    async def silent() -> AsyncIterator[bytes]:
        async for chunk in chunks(BYTES):
            yield chunk
        arrived.set()
        await asyncio.Event().wait()

    async with engine() as storage:
        saving = asyncio.create_task(storage.save(ID, silent(), Seen()))
        await asyncio.wait_for(arrived.wait(), LIMIT)
        saving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(saving, LIMIT)
        assert await is_absent(storage)


async def test_a_file_comes_in_pieces_and_is_read_when_it_is_published(engine: Engine) -> None:
    seen = Seen()
    async with engine() as storage:
        offset = 0
        for stop in (1, 2, 700_000, 700_001, len(BYTES)):
            assert await storage.offset(ID) == offset
            assert await storage.append(ID, offset, chunks(BYTES[offset:stop])) == stop
            offset = stop
            with pytest.raises(NotFound):
                await content_of(storage)
        await storage.publish(ID, seen)
        assert await content_of(storage) == seen.bytes == BYTES


async def test_an_empty_file_is_appended_to_once(engine: Engine) -> None:
    async with engine() as storage:
        assert await storage.append(ID, 0, chunks(b"")) == 0
        await storage.publish(ID, Seen())
        assert await content_of(storage) == b""


async def test_what_arrived_before_the_client_was_gone_is_kept(engine: Engine) -> None:
    async with engine() as storage:
        for stop in (10, 700_000, 1_300_000):
            offset = await storage.offset(ID)
            with pytest.raises(ClientDisconnect):
                await storage.append(ID, offset, cut_off(BYTES[offset:stop]))
            assert await storage.offset(ID) == stop
    async with engine() as storage:
        assert await storage.append(ID, 1_300_000, chunks(BYTES[1_300_000:])) == len(BYTES)
        await storage.publish(ID, Seen())
        assert await content_of(storage) == BYTES


async def test_another_offset_than_the_length_is_a_conflict(engine: Engine) -> None:
    async with engine() as storage:
        for length in (0, 5):
            for offset in {-1, 0, 4, 6, 2**62} - {length}:
                with pytest.raises(Conflict):
                    await storage.append(ID, offset, chunks(b"wrong"))
            assert await storage.offset(ID) == length
            await storage.append(ID, length, chunks(b"right"))
        await storage.publish(ID, Seen())
        assert await content_of(storage) == b"rightright"


async def test_of_two_who_append_at_once_one_is_refused(engine: Engine) -> None:
    second_is_over = asyncio.Event()

    async def waiting() -> AsyncIterator[bytes]:
        yield b"first"
        await asyncio.wait_for(second_is_over.wait(), LIMIT)

    async with engine() as storage:
        await storage.append(ID, 0, chunks(b"both: "))
        first = asyncio.create_task(storage.append(ID, 6, waiting()))
        await asyncio.sleep(0)
        [second] = await asyncio.gather(storage.append(ID, 6, chunks(b"other")), return_exceptions=True)
        second_is_over.set()
        outcomes = [*await asyncio.gather(first, return_exceptions=True), second]
        [refusal] = [outcome for outcome in outcomes if outcome != 11]
        assert isinstance(refusal, (Locked, Conflict))
        await storage.publish(ID, Seen())
        assert await content_of(storage) == (b"both: other" if second == 11 else b"both: first")


async def test_a_refusal_to_publish_leaves_the_file_unfinished(engine: Engine) -> None:
    async with engine() as storage:
        await storage.append(ID, 0, chunks(BYTES + b"WRONG"))
        for inspector in (Seen(), Seen(NOWHERE, refuses_at_the_end=True)):
            with pytest.raises(UnsupportedMediaType):
                await storage.publish(ID, inspector)
        with pytest.raises(NotFound):
            await content_of(storage)
        assert await storage.append(ID, len(BYTES) + 5, chunks(b"!")) == len(BYTES) + 6
        await storage.publish(ID, Seen(NOWHERE))
        assert await content_of(storage) == BYTES + b"WRONG!"


async def test_a_file_is_published_as_often_as_is_asked(engine: Engine) -> None:
    async with engine() as storage:
        await storage.append(ID, 0, chunks(BYTES))
        for _ in range(3):
            seen = Seen()
            await storage.publish(ID, seen)
            assert await content_of(storage) == seen.bytes == BYTES
        assert await storage.offset(ID) == len(BYTES)


async def test_deletion_takes_all_there_is_of_one_file(engine: Engine) -> None:
    async with engine() as storage:
        await storage.delete(ID)
        await storage.save(OTHER_ID, chunks(b"stays"), Seen())
        await storage.save(ID, chunks(b"finished"), Seen())
        await storage.delete(ID)
        assert await is_absent(storage)
        await storage.append(ID, 0, chunks(b"unfinished"))
        await storage.delete(ID)
        await storage.delete(ID)
        assert await is_absent(storage)
        assert await content_of(storage, OTHER_ID) == b"stays"


async def test_who_reads_a_file_that_is_deleted_sees_nothing_else(engine: Engine) -> None:
    async with engine() as storage:
        await storage.save(ID, chunks(BYTES), Seen())
        async with aclosing(storage.read(ID, 0, len(BYTES))) as pieces:
            read = await anext(pieces)
            await storage.delete(ID)
            with suppress(NotFound):
                async for piece in pieces:
                    read += piece
        assert BYTES.startswith(read)


@pytest.mark.parametrize("file_id", ["", "..", "/etc/passwd", "a" * 31, "a" * 33, "A" * 32, f"{'a' * 32}\n"])
async def test_an_id_of_another_form_is_no_file(engine: Engine, file_id: str) -> None:
    async with engine() as storage:
        for call in (
            lambda: storage.save(file_id, chunks(b"x"), Seen()),
            lambda: storage.append(file_id, 0, chunks(b"x")),
            lambda: storage.offset(file_id),
            lambda: storage.publish(file_id, Seen()),
            lambda: content_of(storage, file_id),
            lambda: storage.delete(file_id),
        ):
            with pytest.raises(NotFound):
                await call()


async def test_inspectors_work_in_threads_that_are_not_those_of_the_rest(engine: Engine) -> None:
    threads: set[int] = set()

    class Looking(Seen):
        def feed(self, piece: bytes) -> None:
            threads.add(get_ident())

        def finish(self) -> None:
            threads.add(get_ident())

    shared = to_thread.current_default_thread_limiter()
    shared.total_tokens = 1
    shared.acquire_on_behalf_of_nowait("the rest of the service")
    async with engine() as storage, asyncio.timeout(LIMIT):
        await storage.save(ID, chunks(BYTES), Looking())
        await storage.publish(ID, Looking())
        await storage.append(OTHER_ID, 0, chunks(BYTES))
        await storage.publish(OTHER_ID, Looking())
    assert threads
    assert get_ident() not in threads


async def test_its_threads_end_with_a_storage(engine: Engine) -> None:
    async with engine() as storage:
        await storage.save(ID, chunks(b"x"), Seen())
    with pytest.raises(RuntimeError, match="after shutdown"):
        await storage.save(OTHER_ID, chunks(b"x"), Seen())


async def test_a_storage_that_works_passes_the_check(engine: Engine) -> None:
    async with engine() as storage:
        await asyncio.gather(*(storage.check() for _ in range(5)))
