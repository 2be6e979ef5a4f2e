"""Says at start, once, what the processes of a service do not share.

With `--workers 4` nothing fails that one could see: who follows the feed in one process just never hears of
what is published in another. None is told how many there are; but each tries for a lock on a file of the data
folder, and the first that comes too late speaks up. The system frees a lock when its process ends, however it
ends; the process that takes its place says it again.
"""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from app.settings import Settings

logger = logging.getLogger(__name__)

NEVER_SHARED = (
    "the channels of /ws and /chat, the live feed, tasks, mail that waits, webhook subscriptions, "
    "limits by address and by user, and the counts of wrong passwords"
)


@contextmanager
def telling_what_is_not_shared(settings: Settings) -> Iterator[None]:
    """Processes on other machines, or with another data folder, do not know of each other."""
    with ExitStack() as held:
        folder = settings.data_dir
        if not _take(folder / "process-1.lock", held) and _take(folder / "process-2.lock", held):
            logger.warning("More than one process serves. Not shared: %s.", "; ".join(_not_shared(settings)))
        yield


def _not_shared(settings: Settings) -> Iterator[str]:
    if not settings.redis_url.get_secret_value():
        yield "rooms and who is in them (APP_REDIS_URL shares them)"
    if settings.telemetry.level != "off" and not settings.telemetry.otlp:
        yield "metrics and traces (APP_TELEMETRY__OTLP=true sends all to one collector)"
    yield f"{NEVER_SHARED} (run one process where that matters)"


def _take(path: Path, held: ExitStack) -> bool:
    """False only if another process has it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        held.callback(os.close, lock)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        # A folder that cannot be written, or a file system without locks: no reason not to start.
        return True
    return True
