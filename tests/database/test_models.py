import asyncio
from datetime import datetime

from sqlalchemy import select

from app.database.models import StoredFile
from app.database.session import open_database
from app.settings import Settings


def test_trap_a_time_with_a_zone_comes_back_from_sqlite_without_one(new_settings: Settings) -> None:
    async def written_and_read() -> tuple[datetime, datetime]:
        file = StoredFile(id="1", state="ready", filename="a.txt", size=1)
        async with open_database(new_settings.sqlalchemy_url) as sessions:
            async with sessions.begin() as session:
                session.add(file)
            async with sessions() as session:
                return file.created_at, (await session.scalars(select(StoredFile.created_at))).one()

    written, read = asyncio.run(written_and_read())
    assert str(written.tzinfo) == "UTC" and read.tzinfo is None
    assert written.replace(tzinfo=None) == read
