"""The progress of an upload

`GET /files/uploads/{upload_id}/events` tells as server-sent events how much of a resumable upload is kept.
Use it for a progress bar, also on another device than the one that sends.

- `progress` `{offset, length, percent}`: the present state first, then each change.
- `complete` `{location, size, sha256}`, or `gone` `{reason}` when the upload was ended or refused, or has
  expired: the last event. The location is the route named `download`, of `files/downloads`. A browser's
  `EventSource` connects again after both; it is answered 204 when it has seen `complete`, for that has an id,
  and 404 after `gone`. Either stops it.
- `goodbye` when the service stops, or after ten minutes: connect again, and show your credential anew.

It asks the table and the storage, twice a second, and says what has changed. That looks like waste beside a
message from the request that receives the bytes. But that request may be in another process, on another
machine, and die without a word; what is stored is the only thing all of them share, and the only thing that
is true after a crash. A look costs a query by the primary key and a `stat`, a millisecond of the process; so
where nothing changes each comes twice as late as the one before, up to four seconds. On S3 it is a list
request in the place of the `stat`, up to 7,200 an hour for each follower, which is some cents; and the
progress has steps, for bytes are kept there in parts. A storage that does not answer is asked again.

A stream takes one of the places that sockets have (`APP_WS_MAX_CONNECTIONS`, and those of one address). It
holds no database connection while it waits, so `Files` opens a session for each look.

[A page that uploads a file](../../files/uploads), with a progress bar, pause and resume, lets you try it: its
template is `app/templates/uploads.html`. It is made of `static/resumable-upload.js`, a module without a
dependency, to copy as it is. `fetch` reads the events there, for `EventSource` cannot send an access token.

## The trap

Progress in a dictionary of the process is unknown to every other worker, and lost with this one: one
request in two finds nothing, and a restart shows nothing where nearly all is kept. And the bytes that a
request has received, like those that a browser says it has sent (`xhr.upload.onprogress`), are under way:
when the disk is full they are nowhere. A bar that counts them is at 100 % and then falls back.

## What is proven

- The events tell what is kept and end with the digest and the place.
- Another process sees the same progress.
- Bytes of a request that breaks off are counted as far as they are kept.
- Who connects again is told the present state first.
- Nothing is said while nothing changes.
- Looks become rarer while nothing changes.
- An upload that is ended or has expired is gone.
- An empty file is complete.
- A client that has seen the end is told by 204 to stay away.
- An unknown upload or that of somebody else is a 404 before the stream begins.
- A stream ends with a goodbye when the service stops.
- A stream ends with a goodbye after a while.
- A storage that does not answer for a while does not end the stream.
- Streams take the places of sockets and give them back.
- A stream that waits holds no database connection.
- A silent stream is kept alive by comments.
- The page says nothing in line.

## Read more

`response_class=EventSourceResponse`, `fastapi.sse.ServerSentEvent`, `asyncio.timeout`. [Server-sent
events](https://fastapi.tiangolo.com/tutorial/server-sent-events/) in the FastAPI documentation, [resumable
uploads](https://tus.io/protocols/resumable-upload) at tus.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import suppress
from typing import Annotated

from fastapi import APIRouter, Depends, Header, HTTPException, Request
from fastapi.responses import HTMLResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, Field

from app.database.models import StoredFile
from app.dependencies import ConnectionsDep, FilesDep, OwnerDep, TemplatesDep
from app.errors import NotFound, ServiceUnavailable
from app.realtime.event_stream import Goodbye
from app.security.file_owner import ANONYMOUS_TOO
from app.storage.files import READY, RESUMABLE, Files

LOOK_SECONDS = 0.5
LONGEST_LOOK_SECONDS = 4.0
STREAM_SECONDS = 600.0
"""A credential is good for a while, and is looked at when a stream begins."""
COMPLETE = "complete"

router = APIRouter(prefix="/files/uploads", tags=["files"])


class Progress(BaseModel):
    offset: Annotated[int, Field(description="bytes that are kept")]
    length: int
    percent: int


class Complete(BaseModel):
    location: str
    size: int
    sha256: str


class Gone(BaseModel):
    reason: str = "The upload was ended or refused, or has expired."


class Follower:
    """One stream about an upload, until it is sent away."""

    def __init__(self, request: Request, files: Files, upload_id: str, owner: str | None) -> None:
        self._request = request
        self._files = files
        self._upload_id = upload_id
        self._owner = owner
        self._goodbye = asyncio.Event()

    async def find(self) -> StoredFile:
        return await self._files.find(self._upload_id, self._owner, RESUMABLE, READY)

    async def look(self) -> Progress | Complete:
        """What is stored. Raises `NotFound`."""
        file = await self.find()
        if file.state == READY:
            location = self._request.url_for("download", file_id=file.id).path
            return Complete(location=location, size=file.size, sha256=file.sha256)
        offset = await self._files.storage.offset(file.id)
        percent = 100 * offset // file.size if file.size else 100
        return Progress(offset=offset, length=file.size, percent=percent)

    def say_goodbye(self) -> None:
        self._goodbye.set()

    async def stays(self, seconds: float) -> bool:
        """False when it is sent away in this time."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._goodbye.wait()
        return not self._goodbye.is_set()


# A dependency, for in the stream it would be too late to refuse; and its end is the end of the stream.
async def follow_upload(
    upload_id: str,
    owner: OwnerDep,
    files: FilesDep,
    connections: ConnectionsDep,
    request: Request,
    last_event_id: Annotated[str | None, Header(max_length=20)] = None,
) -> AsyncIterator[Follower]:
    follower = Follower(request, files, upload_id, owner)
    if (await follower.find()).state == READY and last_event_id == COMPLETE:
        raise HTTPException(204)
    with connections.admit(request, follower):
        end = asyncio.get_running_loop().call_later(STREAM_SECONDS, follower.say_goodbye)
        try:
            yield follower
        finally:
            end.cancel()


@router.get(
    "/{upload_id}/events",
    response_class=EventSourceResponse,
    responses={204: {"description": "The client has seen the end"}},
    openapi_extra=ANONYMOUS_TOO,
)
async def upload_events(
    follower: Annotated[Follower, Depends(follow_upload)],
) -> AsyncIterable[ServerSentEvent]:
    """`progress` events, then `complete` or `gone`; or `goodbye`."""
    told: Progress | None = None
    seconds = LOOK_SECONDS
    while True:
        seconds = min(2 * seconds, LONGEST_LOOK_SECONDS)
        try:
            state = await follower.look()
        except NotFound:
            yield ServerSentEvent(event="gone", data=Gone())
            return
        except ServiceUnavailable:
            pass  # an `EventSource` that is refused once comes never again
        else:
            if isinstance(state, Complete):
                yield ServerSentEvent(event=COMPLETE, id=COMPLETE, data=state)
                return
            if state != told:
                yield ServerSentEvent(event="progress", data=state)
                told, seconds = state, LOOK_SECONDS
        if not await follower.stays(seconds):
            yield ServerSentEvent(event="goodbye", data=Goodbye(reason="Connect again."))
            return


@router.get("", response_class=HTMLResponse)
def show_uploads(request: Request, templates: TemplatesDep) -> HTMLResponse:
    """A page that uploads a file."""
    return templates.TemplateResponse(request, "uploads.html")
