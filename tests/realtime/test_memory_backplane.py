import pytest

from app.realtime import memory_backplane
from app.realtime.backplane import Page
from app.realtime.local_rooms import LocalRooms
from app.realtime.memory_backplane import MemoryBackplane
from app.realtime.messages import BEGINNING, Member
from app.settings import RoomSettings

pytestmark = pytest.mark.anyio

ADA = Member(connection="ada-1", user="1", name="Ada")


def backplane(**limits: float) -> MemoryBackplane:
    return MemoryBackplane(RoomSettings.model_validate(limits), LocalRooms())


async def test_who_only_looks_into_rooms_makes_no_other_forgotten() -> None:
    rooms = backplane(max_rooms=2)
    first = await rooms.post("kitchen", ADA, "a1", "Tea?")
    for number in range(10):
        await rooms.open(f"r{number}")
        assert await rooms.history(f"r{number}", BEGINNING, 10) == Page([], True)
        rooms.close(f"r{number}")
    assert [message.id for message in (await rooms.history("kitchen", BEGINNING, 10)).messages] == [first]


async def test_one_room_too_many_forgets_the_one_that_was_used_least_lately_and_says_so() -> None:
    rooms = backplane(max_rooms=2)
    for name in ("open", "old", "new"):
        if name == "open":
            await rooms.open(name)
        await rooms.post(name, ADA, "a1", name)
    assert [len((await rooms.history(name, BEGINNING, 10)).messages) for name in ("open", "old", "new")] == [
        1,
        0,
        1,
    ]
    assert not (await rooms.history("old", BEGINNING, 10)).complete
    came_to_the_empty_room = await rooms.open("old")
    assert (await rooms.history("old", came_to_the_empty_room, 10)).complete
    again = await rooms.post("old", ADA, "a2", "again")
    page = await rooms.history("old", came_to_the_empty_room, 10)
    assert page.complete and [message.id for message in page.messages] == [again]


async def test_rooms_that_are_open_are_never_forgotten() -> None:
    rooms = backplane(max_rooms=1)
    for name in ("one", "two", "three"):
        await rooms.open(name)
        first = await rooms.post(name, ADA, "a1", "x")
        assert await rooms.post(name, ADA, "a1", "x") == first
    for name in ("one", "two", "three"):
        assert len((await rooms.history(name, BEGINNING, 10)).messages) == 1


async def test_a_ref_is_known_after_its_message_is_forgotten() -> None:
    rooms = backplane(history=1)
    first = await rooms.post("kitchen", ADA, "a1", "Tea?")
    await rooms.post("kitchen", ADA, "a2", "Coffee?")
    assert await rooms.post("kitchen", ADA, "a1", "Tea?") == first
    assert [message.text for message in (await rooms.history("kitchen", BEGINNING, 10)).messages] == [
        "Coffee?"
    ]


async def test_ids_grow_when_the_clock_stands_or_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter((2_000, 2_000, 1_000, 3_000))
    monkeypatch.setattr(memory_backplane, "time_ns", lambda: next(clock) * 1_000_000)
    rooms = backplane()
    ids = [await rooms.post("kitchen", ADA, ref, "Tea?") for ref in ("a1", "a2", "a3", "a4")]
    assert ids == ["2000-0", "2000-1", "2000-2", "3000-0"]
