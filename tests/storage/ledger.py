"""What the tests of `Files` share: one with its own database and folder, and looks into both."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import select, update

from app.database.models import Account, StoredFile
from app.database.session import SessionMaker, open_database
from app.settings import Settings
from app.storage.disk import open_disk
from app.storage.files import Files
from tests.contract.storages import chunks

TEXT = b"a line of text\n" * 10_000
ADA, BOB = "a" * 32, "b" * 32


@asynccontextmanager
async def opened(settings: Settings, **limits: Any) -> AsyncIterator[Files]:
    """As at work, but nobody sweeps."""
    settings = settings.model_copy(update={"files": settings.files.model_copy(update=limits)})
    async with open_database(settings.sqlalchemy_url) as sessions, open_disk(settings.uploads_dir) as disk:
        async with sessions.begin() as session:
            for user in (ADA, BOB):
                if not await session.get(Account, user):
                    session.add(Account(id=user, username=user, password_hash="", scopes=""))
        yield Files(sessions, disk, settings)


def sessions_of(files: Files) -> SessionMaker:
    return files._sessions


async def rows(files: Files) -> dict[str, str]:
    """The state of each file."""
    async with sessions_of(files)() as session:
        return {file.id: file.state for file in await session.scalars(select(StoredFile))}


async def change(files: Files, *file_ids: str, **values: Any) -> None:
    async with sessions_of(files).begin() as session:
        await session.execute(update(StoredFile).where(StoredFile.id.in_(file_ids)).values(**values))


def names(settings: Settings) -> set[str]:
    return set(os.listdir(settings.uploads_dir)) - {".lock"}


async def receive(files: Files, owner: str | None = None, content: bytes = TEXT) -> StoredFile:
    return await files.receive(owner, "a.txt", len(content), chunks(content))


def ago(seconds: float) -> datetime:
    return datetime.now(UTC) - timedelta(seconds=seconds)
