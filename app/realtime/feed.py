"""A live feed with a bounded history, which is the only buffer there is.

Whoever follows reads the history at a pace of its own. So a slow reader holds up nobody and costs no
memory; when what it has not read is forgotten, it is told how much. Each event is written once, as the
bytes that all followers are sent.
"""

import asyncio
import re
import secrets
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi.sse import format_sse_event
from pydantic import BaseModel

from app.errors import BadRequest
from app.realtime.places import Places

EVENT_ID = re.compile(r"([0-9a-f]{8})-([0-9]{1,15})")


class Feed:
    def __init__(self, history: int, places: Places) -> None:
        self.places = places
        """Whoever follows takes one."""
        self.last = 0
        """The number of the newest event; they are counted from 1."""
        self.changed = asyncio.Event()
        """Set at the next event, and at the end; then another takes its place."""
        self.closed = False
        # A number alone would mean another event after a restart.
        self._prefix = secrets.token_hex(4)
        self._history: deque[bytes] = deque(maxlen=history)

    def publish(self, event: str, data: BaseModel) -> str:
        """Keeps the event for all who follow, and returns its id. It waits for nobody."""
        self.last += 1
        event_id = self.id_of(self.last)
        self._history.append(format_sse_event(event=event, data_str=data.model_dump_json(), id=event_id))
        self._announce()
        return event_id

    def close(self) -> None:
        self.closed = True
        self._announce()

    @property
    def forgotten(self) -> int:
        """The number of the newest event that is not kept any more."""
        return self.last - len(self._history)

    def __getitem__(self, number: int) -> bytes:
        return self._history[number - self.forgotten - 1]

    def id_of(self, number: int) -> str:
        return f"{self._prefix}-{number}"

    def number_of(self, event_id: str) -> int | None:
        """None for an event from before the last start, of which nothing is known. Raises `BadRequest`."""
        match = EVENT_ID.fullmatch(event_id)
        if match is None or (match[1] == self._prefix and int(match[2]) > self.last):
            raise BadRequest("Last-Event-ID is not the id of an event of this feed.")
        return int(match[2]) if match[1] == self._prefix else None

    def _announce(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()


@asynccontextmanager
async def open_feed(
    history: int, max_followers: int, stopping: asyncio.Event, max_followers_per_client: int = 100
) -> AsyncIterator[Feed]:
    """A feed that is closed as soon as the service is stopping."""
    feed = Feed(history, Places(max_followers, max_followers_per_client))

    async def close_when_stopping() -> None:
        await stopping.wait()
        feed.close()

    closing = asyncio.create_task(close_when_stopping())
    try:
        yield feed
    finally:
        closing.cancel()
