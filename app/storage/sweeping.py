"""`Files` of a service, and the task that sweeps them as long as it runs."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from anyio import move_on_after

from app.database.session import SessionMaker
from app.settings import Settings
from app.storage.files import Files
from app.storage.storage import Storage

START_SECONDS = 1.0
STOP_SECONDS = 1.0

logger = logging.getLogger(__name__)


@asynccontextmanager
async def open_files(sessions: SessionMaker, storage: Storage, settings: Settings) -> AsyncIterator[Files]:
    """Sweeps at the start, and again every `APP_FILES__SWEEP_SECONDS`."""
    files = Files(sessions, storage, settings)
    await files.expire_left_over()
    swept = asyncio.Event()
    sweeping = asyncio.create_task(_keep_sweeping(files, settings.files.sweep_seconds, swept))
    try:
        # The start waits for the first sweep, but not for a storage that does not answer.
        with move_on_after(START_SECONDS):
            await swept.wait()
        yield files
    finally:
        sweeping.cancel()
        # It waits for what a thread has begun; but a storage that hangs does not hold the stop.
        await asyncio.wait([sweeping], timeout=STOP_SECONDS)


async def _keep_sweeping(files: Files, seconds: float, swept: asyncio.Event) -> None:
    while True:
        try:
            await files.sweep()
        except Exception:
            # Of the database or the storage, which may be back at the next look.
            logger.exception("Files that have expired are not swept.")
        swept.set()
        await asyncio.sleep(seconds)
