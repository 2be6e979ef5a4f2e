import asyncio

import pytest
from sqlalchemy import func, select
from sqlalchemy.exc import OperationalError

from app.database.models import User
from app.database.room import ensure_room
from app.database.session import SessionMaker, open_database
from app.errors import InsufficientStorage
from app.settings import Settings

SEEDED = 3
MOST = 10


async def add_user(sessions: SessionMaker, number: int) -> bool:
    """False where there was no room."""
    try:
        async with sessions.begin() as session:
            await ensure_room(session, User, MOST)
            session.add(User(name="Some One", email=f"{number}@example.com"))
    except InsufficientStorage as refused:
        assert refused.detail == "There is no room for another user."
        return False
    return True


async def count_users(sessions: SessionMaker) -> int:
    async with sessions() as session:
        return await session.scalar(select(func.count()).select_from(User)) or 0


def test_a_table_never_has_more_rows_than_it_may_though_two_processes_fill_it_at_once(
    settings: Settings,
) -> None:
    async def fill() -> tuple[list[bool], int]:
        url = settings.sqlalchemy_url
        async with open_database(url) as one, open_database(url) as other, asyncio.timeout(20):
            added = await asyncio.gather(*(add_user((one, other)[n % 2], n) for n in range(40)))
            return added, await count_users(one)

    added, count = asyncio.run(fill())
    assert count == MOST
    assert added.count(True) == MOST - SEEDED


def test_who_rolls_back_gives_the_room_free(settings: Settings) -> None:
    async def fill() -> int:
        async with open_database(settings.sqlalchemy_url) as sessions, asyncio.timeout(20):
            for number in range(MOST):
                with pytest.raises(ZeroDivisionError):
                    async with sessions.begin() as session:
                        await ensure_room(session, User, SEEDED + 1)
                        session.add(User(name="Some One", email=f"{number}@example.com"))
                        await session.flush()
                        raise ZeroDivisionError
            return await count_users(sessions)

    assert asyncio.run(fill()) == SEEDED


def test_a_transaction_that_wrote_before_it_asked_is_refused(settings: Settings) -> None:
    async def ask_late() -> None:
        async with open_database(settings.sqlalchemy_url) as sessions, sessions.begin() as session:
            session.add(User(name="Some One", email="one@example.com"))
            await session.flush()
            await ensure_room(session, User, MOST)

    with pytest.raises(OperationalError):
        asyncio.run(ask_late())
