"""How much room an owner of files has, in a transaction in which nobody else takes it."""

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.models import StoredFile
from app.database.room import ensure_room
from app.errors import InsufficientStorage
from app.settings import FileSettings

NO_ROOM = "There is no room left in your quota."


async def room_for_a_file(
    session: AsyncSession, owner: str | None, least: int, most: int, limits: FileSettings
) -> int:
    """`most` bytes, or what the quota leaves. Raises `InsufficientStorage` where that is below `least`, or
    where there are as many files as may be. It comes first in its transaction, which then adds the file."""
    await ensure_room(session, StoredFile, limits.max_files)
    # Where `owner` is None SQLAlchemy writes IS NULL.
    query = select(func.count(), func.coalesce(func.sum(StoredFile.size), 0)).where(
        StoredFile.owner_id == owner
    )
    count, used = (await session.execute(query)).one()
    quota = limits.anonymous_quota if owner is None else limits.quota
    if count >= limits.max_files_per_user or used + max(least, 0) > quota:
        raise InsufficientStorage(NO_ROOM)
    return min(most, quota - int(used))  # Postgres adds up to a Decimal
