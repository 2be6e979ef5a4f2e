"""Server-sent events that resume

`GET /streaming/events` sends numbered events, one every `interval` seconds, over plain HTTP. Use
server-sent events when only the server speaks: progress, notifications, a feed. Here is one stream a
request; for many clients of one source see `streaming/feed`. A browser's `EventSource` reconnects by itself
and says in `Last-Event-ID` what it saw last, so it misses nothing and sees nothing twice. It reconnects
after the end as well; only a 204 stops it. So the last event has an id too, and who has seen it is answered
204.

The endpoint is a generator with `response_class=EventSourceResponse`; each `yield` is one event. FastAPI
sends a comment every 15 seconds of silence, so that proxies keep the connection, and turns off caching and
proxy buffering. A slow reader holds the generator back: it is never more than a few events ahead.

`POST /streaming/answers` streams as well, an answer word by word, as language models give it. A browser
reads it with `fetch`, for `EventSource` sends `GET` alone. What fails half-way cannot become a status any
more; it is told as a `failed` event, with the request id and without the exception's text. Who leaves stops
the source too, and whatever it costs: it is opened, and closed, by a dependency.

What can be refused must be refused in a dependency: the generator's first line runs after the response has
begun, with status 200, and can only cut it. The refusals need the handlers of `app/errors.py`: without them
a `BadRequest` is a 500, and FastAPI's own 422 repeats the input, or is a 500 too, for half a surrogate pair.

## The trap

uvicorn waits for open connections *before* it ends the lifespan. A stream that waits for its next event,
and for nothing else, keeps the server alive after SIGTERM until it is killed. This one also waits for
`stopping`, which `app/shutdown.py` sets at the signal, and says goodbye.

A client that stands still never takes the goodbye: the generator waits at its `yield`, and the server for
the generator, without a limit. `app/middleware/stalled_sockets.py` aborts such a connection. Where that is
not copied too, `uvicorn --timeout-graceful-shutdown 5` ends the wait, for those who do read as well.

The `finally` of the generator runs when the client leaves, if the generator is waiting for something; if it
waits at a `yield`, for a client that reads slowly, it runs when the garbage collector comes by. What must
be closed belongs in a dependency.

`data="hello"` arrives in quotation marks, for `data` is JSON; `raw_data` is sent as it is, but for its line
breaks, which all become one kind. An event that is called `error` ends in the `onerror` of `EventSource`,
like a lost connection. And `EventSourceResponse` is a mark for the route: who returns one has to write the
bytes.

## What is proven

- The events are numbered and the last one says that the stream is complete.
- A client that reconnects gets what follows the last event it saw.
- A client that has seen the last event is told by 204 to stay away.
- A malformed or future last event id is refused before the stream begins.
- More events than one stream may send are refused.
- A silent stream is kept alive by comments.
- A slow reader holds the generator back.
- An answer to a POST is streamed word by word.
- A failure in mid-stream is an event without the text of the exception.
- When the client leaves the source of the words is stopped.
- An answer that is being given ends with a farewell when the service stops.
- An open stream is ended with a farewell when the server stops.
- When the client leaves the generator is cleaned up.

## Read more

`fastapi.sse.EventSourceResponse`, `ServerSentEvent(data=, raw_data=, event=, id=, retry=, comment=)`.
[Server-sent events](https://fastapi.tiangolo.com/tutorial/server-sent-events/) in the FastAPI
documentation, [the wire format](https://html.spec.whatwg.org/multipage/server-sent-events.html) at WHATWG.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import aclosing
from typing import Annotated

from fastapi import APIRouter, Depends, Header, HTTPException, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field

from app.dependencies import SettingsDep, StoppingDep
from app.errors import BadRequest
from app.middleware.request_id import request_id

RETRY_MILLISECONDS = 2_000
WORD_SECONDS = 0.02

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
                yield _goodbye()
                return
        yield ServerSentEvent(data={"events": feed.last}, event="complete", id=str(feed.last + 1))
    finally:
        # Also when the client leaves: the generator is cancelled where it waits.
        logger.info("event stream closed")


class Question(BaseModel):
    text: Annotated[str, Field(min_length=1, max_length=500, examples=["What is the time?"])]


class Done(BaseModel):
    words: int


class Failure(BaseModel):
    detail: str
    request_id: str


Answerer = Callable[[str], AsyncGenerator[str]]


async def get_answerer() -> Answerer:
    """In the place of a language model: says the words of the question, one after another."""
    return repeat


async def repeat(text: str) -> AsyncGenerator[str]:
    for word in text.split():
        await asyncio.sleep(WORD_SECONDS)
        yield word


# Not in the stream itself: one that waits at its `yield` for a slow client is closed by nobody when the
# client leaves, until the garbage collector finds it.
async def open_answer(
    question: Question, answerer: Annotated[Answerer, Depends(get_answerer)]
) -> AsyncIterator[AsyncIterator[str]]:
    async with aclosing(answerer(question.text)) as words:
        yield words


@router.post("/answers", response_class=EventSourceResponse)
async def answer(
    words: Annotated[AsyncIterator[str], Depends(open_answer)], stopping: StoppingDep
) -> AsyncIterable[ServerSentEvent]:
    """`word` events, then `done`; or `failed`, or `goodbye` when the server stops first."""
    count = 0
    try:
        async for word in words:
            count += 1
            yield ServerSentEvent(raw_data=word, event="word")
            if stopping.is_set():
                yield _goodbye()
                return
        yield ServerSentEvent(data=Done(words=count), event="done")
    except Exception:
        logger.exception("an answer failed")
        detail = "The answer is not whole."
        yield ServerSentEvent(data=Failure(detail=detail, request_id=request_id.get()), event="failed")


def _goodbye() -> ServerSentEvent:
    return ServerSentEvent(data={"reason": "The server is stopping."}, event="goodbye")


async def _stops_within(stopping: asyncio.Event, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            return await stopping.wait()
    except TimeoutError:
        return False
