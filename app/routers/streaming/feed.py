"""A live feed with a bounded history

`POST /streaming/feed` publishes, `GET /streaming/feed` follows: what others publish arrives as server-sent
events. Use it for news, prices, progress of all sorts, where many listen to one source; for one stream a
request, of which nobody else gets a part, see `streaming/sse`. Who loses the connection says in
`Last-Event-ID` what it saw last, and gets what it missed from the history of the last `APP_FEED__HISTORY`
events. Who was away for longer gets a `gap` event that says how much is lost, and should load the whole
state anew.

The history is the `Feed` of `app/realtime/feed.py`, opened in `app/lifespan.py` and kept in
`request.state`. It numbers and keeps the events, has the `Places` of the followers, and is closed when
`app/shutdown.py` sets `stopping` at the signal. Then each follower is sent what is left, and a goodbye, but
one that stands still, or needs more than three seconds for it, is cut without.

The history is the only buffer. A follower has no queue, only a place in the history, so a reader that is
slow, or stands still, costs no memory and delays nobody; it, too, is told of its gap. An id is a random
prefix, made at each start, and a number: after a restart numbers begin again, and `17` would be another
event. The first thing that a new client is sent is an id without data, so that it can come back before it
has seen anything.

Here the stream is made of bytes, by a `StreamingResponse` with a `media_type` of its own
(`app/realtime/event_stream.py`), for an event is written once by `format_sse_event` and not once for each
follower. So the comments that keep a silent connection alive, and the headers that `EventSourceResponse`
would have set, are ours to send.

## The trap

A queue for each follower: without a limit, one reader that stands still fills the memory; with a limit and
`await queue.put()`, it stops the publisher, and with it everybody. A history without a `gap` resumes in
silence after a hole, and so does one whose ids are plain numbers, after a restart. And `format_sse_event`
takes the `event` and the `id` as they are: a line break in them is another event. `ServerSentEvent` refuses
it.

A follower that stands still never takes the goodbye: the stream waits at its `yield`, and the server for the
stream, without a limit. `app/middleware/stalled_sockets.py` aborts such a connection. Where that is not
copied too, `uvicorn --timeout-graceful-shutdown 5` ends the wait, for those who do read as well.

A stream is a connection that stays, and one client opens thousands. Without a limit for each address it takes
all the places, and with as many places as the server has connections (`--limit-concurrency`), it takes the
service. Behind a proxy that the server does not trust (`--forwarded-allow-ips`) all have one address.

The page needs the handlers of `app/errors.py`: without them a refusal is a 500, and FastAPI's own 422
repeats the input, or is a 500 too, for half a surrogate pair.

## What is proven

- A follower gets what is published as it comes.
- A client that comes back gets what it missed and nothing twice.
- A client that has seen nothing yet has an id to come back with.
- A client that was away for too long is told how much is lost.
- An id from before a restart is a gap of unknown size.
- A malformed or future id is refused before the stream begins.
- A reader that stands still costs no memory and is told of its gap.
- An event is written once for all followers.
- A silent stream is kept alive by comments.
- More followers than the settings allow are refused, in all and of one address.
- A server that serves all followers still has room for others.
- Every stream whose client reads ends with a farewell when the service stops.

## Read more

`fastapi.sse.format_sse_event(data_str=, event=, id=, retry=, comment=)`, `StreamingResponse.media_type`.
[Stream data](https://fastapi.tiangolo.com/advanced/stream-data/) in the FastAPI documentation,
[Last-Event-ID](https://html.spec.whatwg.org/multipage/server-sent-events.html#the-last-event-id-header) at
WHATWG.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.sse import format_sse_event
from pydantic import BaseModel, Field

from app.dependencies import FeedDep
from app.realtime.event_stream import PING, PING_SECONDS, EventBytes, Goodbye

RETRY_MILLISECONDS = 2_000

router = APIRouter(prefix="/streaming", tags=["streaming"])


class News(BaseModel):
    text: Annotated[str, Field(min_length=1, max_length=500, examples=["The kettle boils"])]


class Published(BaseModel):
    id: str


class Gap(BaseModel):
    missed: Annotated[int | None, Field(description="null: the service has been restarted")]


@router.post("/feed", status_code=201)
async def publish(news: News, feed: FeedDep) -> Published:
    """Sends the news to all who follow."""
    return Published(id=feed.publish("news", news))


async def take_place(
    feed: FeedDep,
    request: Request,
    response: Response,
    last_event_id: Annotated[str | None, Header(max_length=50)] = None,
) -> AsyncIterator[int | None]:
    """The number of the event after which to begin, None where that is unknown. Ends with the stream."""
    after = feed.number_of(last_event_id) if last_event_id else feed.last
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"
    with feed.places.take(request):
        yield after


@router.get("/feed", response_class=EventBytes)
async def follow(after: Annotated[int | None, Depends(take_place)], feed: FeedDep) -> AsyncIterable[bytes]:
    """`news` events from now on, or from the one after `Last-Event-ID`; `gap` where some are lost."""
    # No id before a gap of unknown size: who is cut off between the two has to be told of it again.
    event_id = None if after is None else feed.id_of(after)
    yield format_sse_event(comment="connected", id=event_id, retry=RETRY_MILLISECONDS)
    if after is None:
        after = feed.forgotten
        yield gap_event(None, feed.id_of(after))
    while True:
        # Taken before the look at the rest: what changes after the look sets this one, and is not missed.
        changed = feed.changed
        if after < feed.forgotten:
            missed, after = feed.forgotten - after, feed.forgotten
            yield gap_event(missed, feed.id_of(after))
        elif after < feed.last:
            after += 1
            yield feed[after]
        elif feed.closed:
            yield Goodbye(reason="The server is stopping.").event()
            return
        elif not await is_set_within(PING_SECONDS, changed):
            yield PING


def gap_event(missed: int | None, event_id: str) -> bytes:
    # With the id of what is lost: who comes back after it is not told of it again.
    return format_sse_event(event="gap", data_str=Gap(missed=missed).model_dump_json(), id=event_id)


async def is_set_within(seconds: float, event: asyncio.Event) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await event.wait()
    except TimeoutError:
        return False
