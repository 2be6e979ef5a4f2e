"""Server-sent events that resume

`GET /streaming/events` sends numbered events, one every `interval` seconds, over plain HTTP. Use server-sent
events when only the server speaks: progress, notifications, a feed. A browser's `EventSource` reconnects
by itself and says in `Last-Event-ID` what it saw last, so it misses nothing and sees nothing twice. It
reconnects after the end as well; only a 204 stops it. So the last event has an id too, and who has seen it
is answered 204.

The endpoint is a generator with `response_class=EventSourceResponse`; each `yield` is one event. FastAPI
sends a comment every 15 seconds of silence, so that proxies keep the connection, and turns off caching
and proxy buffering.

What can be refused must be refused in a dependency: the generator's first line runs after the response
has begun, with status 200, and can only cut it.

## The trap

uvicorn waits for open connections *before* it ends the lifespan. A stream that waits for its next event,
and for nothing else, keeps the server alive after SIGTERM until it is killed. This one also waits for
`stopping`, which `app/shutdown.py` sets at the signal, and says goodbye.

## What is proven

- The events are numbered and the last one says that the stream is complete.
- A client that reconnects gets what follows the last event it saw.
- A client that has seen the last event is told by 204 to stay away.
- A malformed or future last event id is refused before the stream begins.
- More events than one stream may send are refused.
- An open stream is ended with a farewell when the server stops.
- When the client leaves the generator is cleaned up.

## Read more

`fastapi.sse.EventSourceResponse`, `ServerSentEvent(data=, event=, id=, retry=, comment=)`.
[Server-sent events](https://fastapi.tiangolo.com/tutorial/server-sent-events/) in the FastAPI
documentation, [the wire format](https://html.spec.whatwg.org/multipage/server-sent-events.html) at WHATWG.
"""

import asyncio
import logging
from collections.abc import AsyncIterable
from typing import Annotated

from fastapi import APIRouter, Depends, Header, HTTPException, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel

from app.dependencies import SettingsDep, StoppingDep
from app.errors import BadRequest

RETRY_MILLISECONDS = 2_000

router = APIRouter(prefix="/streaming", tags=["streaming"])
logger = logging.getLogger(__name__)


class Tick(BaseModel):
    n: int
    of: int


class Feed(BaseModel):
    """Which events this client is to get."""

    first: int
    last: int


async def get_feed(
    settings: SettingsDep,
    count: Annotated[int, Query(ge=1, description="number of the last event")] = 10,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> Feed:
    if count > settings.stream_max_events:
        raise BadRequest(f"One stream sends at most {settings.stream_max_events} events.")
    if not last_event_id:
        return Feed(first=1, last=count)
    # EventSource sends the id back as it got it; one that we never sent is not ours to guess at.
    if not (last_event_id.isascii() and last_event_id.isdigit() and int(last_event_id) <= count + 1):
        raise BadRequest("Last-Event-ID is not the id of an event of this stream.")
    if int(last_event_id) == count + 1:
        raise HTTPException(204)
    return Feed(first=int(last_event_id) + 1, last=count)


@router.get(
    "/events",
    response_class=EventSourceResponse,
    responses={204: {"description": "The client has seen the last event"}},
)
async def events(
    feed: Annotated[Feed, Depends(get_feed)],
    stopping: StoppingDep,
    interval: Annotated[float, Query(ge=0, le=60, description="seconds between events")] = 0.5,
) -> AsyncIterable[ServerSentEvent]:
    """`tick` events, then `complete`; or `goodbye` when the server stops first."""
    try:
        yield ServerSentEvent(comment="connected", retry=RETRY_MILLISECONDS)
        for n in range(feed.first, feed.last + 1):
            yield ServerSentEvent(data=Tick(n=n, of=feed.last), event="tick", id=str(n))
            if n < feed.last and await _stops_within(stopping, interval):
                yield ServerSentEvent(data={"reason": "The server is stopping."}, event="goodbye")
                return
        yield ServerSentEvent(data={"events": feed.last}, event="complete", id=str(feed.last + 1))
    finally:
        # Also when the client leaves: the generator is cancelled where it waits.
        logger.info("event stream closed")


async def _stops_within(stopping: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await stopping.wait()
    except TimeoutError:
        return False
