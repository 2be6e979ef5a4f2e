"""The same rooms without a socket

`GET /rooms/{room}/events` tells as server-sent events what `websockets/rooms` tells on a socket, and
`POST /rooms/{room}/messages` says something. Use it where sockets do not get through, for programs that
only listen, for scripts that say one thing. Both see the same messages under the same ids: who saw the last
one on a socket goes on here.

- A follower is in the room as a socket is: the others see it come and go, and it counts among the members,
  the connections of its user, and those of its address. Who only posts is not.
- Events are named by their `type`, and their data is what a socket is sent. Only messages have an `id`, so
  `Last-Event-ID` is always a place in the history. A client that cannot send the header says `?after=`; where
  there are both, the header is newer.
- The first line has an id and no data, so that a browser which is cut off before the first message comes back
  to the right place.
- The last event is `goodbye`: the service stops, the credential ends, the history cannot be read, or more
  than `APP_ROOMS__STREAM_QUEUE_SIZE` events wait for a slow reader. The follower is out of the room then,
  however long it reads what is under way. What waits is dropped. Come back with the last id: what was dropped
  is in the history, and where that does not reach so far, a `gap` says so.
- `ref` is your own id of a message. Send what was not answered again with the same one: it is said once, and
  you get the same id. 429 and 503 say in `Retry-After` when.

All that can be refused is refused before the stream begins, for it is done in a dependency. That has the
visit, too: it ends with the stream, and when the client leaves, wherever the generator waits. An event is
written once for all streams (`Event.sse` of `app/realtime/local_rooms.py`), and what comes together is sent
together, but in small pieces: a piece is a copy, of which each slow follower has its own.

## The trap

`EventSource` cannot set headers. It has the cookie, or a ticket in its URL, and to that URL it comes back by
itself, with a ticket that is used. So a page with tickets comes back by a new `EventSource`, with a new
ticket and `?after=`. Nor does it see a status: anything but 200 ends it for good, as `readyState` 2.

A queue without a limit grows as long as one follower stands still. With an id on every event, the last one
that was seen may be of those that nobody keeps, and no history knows where to go on. A database session in a
dependency of a stream is held as long as the stream: after some fifteen followers the pool is empty.

A browser sends the cookie along with a POST of any page, and no CORS rule stops one that is sent as
`text/plain`. Here the page must say its origin (`app/security/handshake.py`), and the body must be JSON.

## What is proven

- A socket and a stream see the same message under the same id.
- What was seen on a socket is resumed on a stream and the other way round.
- Only messages have an id and the first line has one to come back with.
- The header wins over the query.
- A follower is in the room until it leaves.
- What is refused is an HTTP answer before the stream begins.
- A message that is posted again is said once.
- Too much is answered with 429 and an engine that is away with 503, both with Retry-After.
- A stream ends with a farewell when its credential ends.
- A stream ends with a farewell when the service stops.
- A follower that reads too slowly finds its stream ended and delays nobody.
- An ended stream is sent what is under way and its goodbye.
- An ended stream has left the room though it is not read.
- What waits for slow followers is copied in small pieces only.
- A long history comes in pieces that fit.
- A history that cannot be read ends the stream.
- An event is written once for all streams.
- A silent stream is kept alive by comments.
- With a cookie only our own pages may post.
- Streams hold no database connection.
- On the wire a stream and a socket hear what is posted.

## Read more

`StreamingResponse.media_type`, `Header()`, `format_sse_event(id=, retry=, comment=)`, `asyncio.Queue.join`.
[Stream data](https://fastapi.tiangolo.com/advanced/stream-data/) in the FastAPI documentation,
[EventSource](https://html.spec.whatwg.org/multipage/server-sent-events.html#the-eventsource-interface) at
WHATWG.
"""

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import AsyncExitStack
from time import time
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.sse import format_sse_event
from pydantic import BaseModel

from app.dependencies import ConnectionsDep, HubDep, SettingsDep, SocketUserDep
from app.errors import ServiceUnavailable, TooManyRequests
from app.realtime.backplane import RoomBusy, Unavailable
from app.realtime.connection import Traffic
from app.realtime.event_stream import PING, PING_SECONDS, EventBytes, Goodbye
from app.realtime.hub import Visit
from app.realtime.local_rooms import Event
from app.realtime.messages import After, MessageId, NewMessage, RoomName

RETRY_SECONDS = 2
PIECE_SIZE = 64 * 1024
"""Bytes after which no further event is added to what is sent at once."""

router = APIRouter(prefix="/rooms", tags=["websockets"])
logger = logging.getLogger(__name__)


class Posted(BaseModel):
    id: MessageId


class StreamOutlet:
    """What a follower is still to be sent. Nobody waits for it, and it has a limit."""

    def __init__(self, size: int, first: bytes, traffic: Traffic) -> None:
        self._size = size
        self._traffic = traffic
        self._first = first
        self._waiting: asyncio.Queue[bytes] = asyncio.Queue(size)
        self.ended = asyncio.Event()

    def put(self, event: Event) -> bool:
        if not self.ended.is_set() and self._waiting.qsize() >= self._size:
            self._traffic.too_slow += 1
            self.end("The stream was read too slowly.")
        if self.ended.is_set():
            return False
        self._waiting.put_nowait(event.sse)
        return True

    async def drained(self) -> None:
        await self._waiting.join()

    def end(self, reason: str) -> None:
        """Drops what waits: the goodbye comes after what is under way, and to the rest the client comes back,
        for it has the id of the last message that it was sent. The first call counts."""
        if not self.ended.is_set():
            self.ended.set()
            while not self._waiting.empty():
                self._waiting.get_nowait()
                self._waiting.task_done()
            self._waiting.put_nowait(Goodbye(reason=reason).event())

    def say_goodbye(self) -> None:
        self.end("The service restarts, connect again.")

    async def chunks(self) -> AsyncIterator[bytes]:
        yield self._first
        while not (self.ended.is_set() and self._waiting.empty()):
            try:
                async with asyncio.timeout(PING_SECONDS):
                    events = [await self._waiting.get()]
            except TimeoutError:
                yield PING
                continue
            size = len(events[0])
            while size < PIECE_SIZE and not self._waiting.empty():
                events.append(self._waiting.get_nowait())
                size += len(events[-1])
            yield b"".join(events)  # of one event it is no copy
            for _ in events:  # sent by now, as far as the server knows
                self._waiting.task_done()


async def open_stream(
    room: RoomName,
    user: SocketUserDep,
    hub: HubDep,
    connections: ConnectionsDep,
    settings: SettingsDep,
    request: Request,
    response: Response,
    after: After = None,
    last_event_id: Annotated[MessageId | None, Header()] = None,
) -> AsyncIterator[StreamOutlet]:
    """A visit that ends when the stream does, or before: a slow reader is sent the goodbye late."""
    response.headers["Cache-Control"] = "no-cache"
    response.headers["X-Accel-Buffering"] = "no"
    async with AsyncExitStack() as place:
        visit = await place.enter_async_context(hub.visit(room, user))
        seen = last_event_id or after
        connected = format_sse_event(
            comment="connected", id=seen or visit.last_id, retry=RETRY_SECONDS * 1_000
        )
        outlet = StreamOutlet(settings.rooms.stream_queue_size, connected, connections.traffic)
        with connections.admit(request, outlet):
            # Beside the stream, for the history waits until what was sent of it is read.
            telling = asyncio.create_task(tell(visit, outlet, seen))
            leaving = asyncio.create_task(leave(outlet, telling, place))
            seconds = max(0, user.expires_at - time())
            end = asyncio.get_running_loop().call_later(seconds, outlet.end, "The credential has ended.")
            try:
                yield outlet
            finally:
                end.cancel()
                leaving.cancel()
                telling.cancel()


async def tell(visit: Visit, outlet: StreamOutlet, after: str | None) -> None:
    try:
        await visit.follow(outlet, after)
    except Unavailable:
        outlet.end("The history cannot be read.")
    except Exception:
        logger.exception("a stream of a room failed")
        outlet.end("The service has failed.")


async def leave(outlet: StreamOutlet, telling: asyncio.Task[None], place: AsyncExitStack) -> None:
    await outlet.ended.wait()
    telling.cancel()  # or who is only coming would come after having left
    await place.aclose()


@router.get("/{room}/events", response_class=EventBytes)
async def follow(outlet: Annotated[StreamOutlet, Depends(open_stream)]) -> AsyncIterable[bytes]:
    """What happens in the room, from now on or from after `Last-Event-ID`."""
    async for chunk in outlet.chunks():
        yield chunk


@router.post("/{room}/messages", status_code=201)
async def post(room: RoomName, message: NewMessage, user: SocketUserDep, hub: HubDep) -> Posted:
    """Says something in the room, once for each `ref`."""
    retry = {"Retry-After": str(RETRY_SECONDS)}
    try:
        return Posted(id=await hub.post(room, user, message.ref, message.text))
    except RoomBusy:
        raise TooManyRequests("Too much is said in this room. Try again later.", retry) from None
    except Unavailable:
        raise ServiceUnavailable("The message may not be kept. Send it again, with its ref.", retry) from None
