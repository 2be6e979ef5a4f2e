"""The limit of a table, which holds for all who add to it at the same time, in this process and in others."""

from sqlalchemy import func, select, text
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.models import Base
from app.errors import InsufficientStorage


async def ensure_room(session: AsyncSession, table: type[Base], most: int) -> None:
    """Raises where `table` has `most` rows. Else nobody but this transaction adds one until it ends.

    It comes first in its transaction: SQLite does not begin twice.
    """
    if session.get_bind().dialect.name == "sqlite":
        # The driver itself begins at the first write, after the count.
        lock = "BEGIN IMMEDIATE"
    else:
        # Postgres: this lock excludes itself and all writes. Under READ COMMITTED, the default, the count
        # that follows sees what the transaction before it added.
        lock = f"LOCK TABLE {table.__tablename__} IN SHARE ROW EXCLUSIVE MODE"
    await session.execute(text(lock))
    if (await session.scalar(select(func.count()).select_from(table)) or 0) >= most:
        kind = table.__tablename__.removesuffix("s")
        raise InsufficientStorage(f"There is no room for another {kind}.")
