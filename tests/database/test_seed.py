import asyncio
from contextlib import AsyncExitStack

from sqlalchemy import event, func, select
from sqlalchemy.orm import Session

from app.database.models import Item, User
from app.database.session import open_database
from app.settings import Settings


def test_the_database_gives_the_ids_and_begins_at_1(new_settings: Settings) -> None:
    given: list[int | None] = []

    def note(session: Session, *_: object) -> None:
        given.extend(user.id for user in session.new if isinstance(user, User))

    async def seeded() -> tuple[list[tuple[int, str]], list[tuple[str, int]]]:
        async with open_database(new_settings.sqlalchemy_url) as sessions, sessions() as session:
            users = await session.execute(select(User.id, User.name).order_by(User.id))
            items = await session.execute(select(Item.id, Item.owner_id).order_by(Item.id))
            return [(id, name) for id, name in users], [(id, owner) for id, owner in items]

    event.listen(Session, "before_flush", note)
    try:
        users, items = asyncio.run(seeded())
    finally:
        event.remove(Session, "before_flush", note)
    # A sequence of Postgres does not notice an id that it did not give, and gives it again.
    assert given == [None] * 3
    assert users == [(1, "Ada Lovelace"), (2, "Alan Turing"), (3, "Grace Hopper")]
    assert dict(items) == {"1": 1, "2": 1, "3": 2, "42": 3, "foo": 1, "bar": 2, "baz": 3, "<i>": 3}


def test_of_several_workers_that_start_at_once_one_makes_the_database(new_settings: Settings) -> None:
    async def start(workers: int) -> int | None:
        async with AsyncExitStack() as running:
            databases = [open_database(new_settings.sqlalchemy_url) for _ in range(workers)]
            first, *_ = await asyncio.gather(*map(running.enter_async_context, databases))
            async with first() as session:
                return await session.scalar(select(func.count()).select_from(User))

    assert asyncio.run(start(workers=6)) == 3
