"""Uploads that go on after a break

An upload that is cut at 900 MB of 1 GB should send the rest and not the whole again. tus 1.0.0 is the
protocol for that, with clients for browsers, phones and programs. Use it for what takes longer than a
connection lasts; a file of a few megabytes is simpler in one form.

- `POST /files/uploads` tells the length and the name, and gets the URL of the upload.
- `PATCH` on that URL sends bytes, and says by `Upload-Offset` where they begin. When the line breaks, what
  arrived is kept.
- `HEAD` asks how much is kept. There the client goes on, after any break, from any process of the service.

After the last byte the whole is looked at like any upload; what is not what its name says is 415, and gone.
Then it is a file, at `/files/{the same id}`. Until then it holds its length of the owner's quota, and expires
`APP_FILES__RESUMABLE_SECONDS` after the last request whose bytes were kept, or, before the first byte,
`APP_FILES__FIRST_BYTE_SECONDS` after the `POST`: see `Upload-Expires`. `Tus-Max-Size` is that of accounts.

The offset is the length of what the storage has, never a number beside it; so a `kill -9` between any two
bytes cannot make the two differ. What the process had not yet passed on goes with it: on a disk a megabyte or
two, on S3 what waits for a part of 5 MiB. The client sends it again. The lock is the storage's as well, so it
holds between workers: on a disk it is `flock`, which the system ends with its process, and the second request
is 423 at once. A bucket has no locks: there the first that puts the next part goes on, and 423 is what the
other gets when it puts its own, or 409 when the file is complete by then; none of its bytes stay.

A client whose network is gone leaves a connection that looks open. After `APP_FILES__SILENCE_SECONDS`
without a byte its request ends, and the lock is free for the same client, who is back long before the system
notices. A proxy must not collect a request before it passes it on (nginx: `proxy_request_buffering off`),
else what it has of a broken one is lost.

A request with `Upload-Checksum` counts as a whole or not at all: when it breaks off, or its checksum is
another, none of it is kept. Its bytes wait in a temporary file, where no quota counts them. So they are 16
MiB at most, else it is 413, and `APP_FILES__CHECKSUMS_AT_ONCE` such requests wait in a process; one more is
503. Nor is anything kept of a `POST` that breaks off, for nobody knows its URL. Of `Upload-Metadata` the
`filename` is kept, cleaned, and no other key.

The engine is `app/storage/resumable.py`, over the storage of all other files. It knows nothing of HTTP: the
headers are in `app/tus.py`, the bodies in `app/tus_body.py`. [A page](../../files/uploads) lets you try it.

## The trap

Opening the file with `"ab"` and trusting the client's order. A `PATCH` whose answer was lost is sent again,
and its bytes are there twice; nobody sees it before the file is opened. Taking the client's offset for a
place to `seek` to leaves a hole of zeros where bytes were lost. And a `dict` of locks is empty in every other
worker, and after every restart.

## What is proven

- An upload in three requests is the file that was sent.
- Bytes that come twice are a 409 and are kept once.
- Whoever appends at the same time gets 423.
- A request that breaks off keeps what arrived.
- A client that falls silent gets 408 and its lock is free.
- A service that stops keeps what arrived.
- An upload whose last request died before its end is completed by HEAD.
- Nobody is told of the last byte before it is known how that ends.
- Bytes count only when they match their checksum.
- More than 16 MiB with a checksum are refused.
- Only so many requests at once wait for their checksum.
- A disk without room for what waits for its checksum is 507.
- Never more is kept than was announced.
- What is not what its name says is 415 and gone.
- Too large or over the quota is refused before the first byte.
- A length or an offset is digits and comes once.
- Metadata that are not well formed are refused.
- An upload of an account is 404 for everybody else.
- An upload expires and each request that brings bytes moves that moment on.
- Until its first byte an upload waits ten minutes.
- A request that is refused with 409 or 423 does not move that moment.
- Who does not say who they are has less than an account.
- An upload that is ended is gone.
- A request whose upload is ended is over too.
- Another version is 412 and every answer says ours.
- A POST may say that it is a PATCH or a DELETE.
- A page of an allowed origin can speak all of tus.
- The bytes may come with the creation.

## Read more

`request.stream()`, `APIRouter(route_class=...)`, `asyncio.timeout`, `contextlib.aclosing`. [Using the request
directly](https://fastapi.tiangolo.com/advanced/using-request-directly/) and [custom route
classes](https://fastapi.tiangolo.com/how-to/custom-request-and-route/) in the FastAPI documentation,
[tus 1.0.0](https://tus.io/protocols/resumable-upload).
"""

from collections.abc import AsyncIterator
from contextlib import aclosing
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Request, Response
from pydantic import BaseModel, Field

from app.database.models import StoredFile
from app.dependencies import ChecksumPlacesDep, FilesDep, OwnerDep, SettingsDep, StoppingDep
from app.errors import UnsupportedMediaType
from app.middleware.body_deadline import has_body
from app.security.file_owner import ANONYMOUS_TOO
from app.storage.files import READY
from app.storage.names import display_name
from app.storage.resumable import ResumableUploads
from app.tus import (
    DIGESTS,
    EXTENSIONS,
    OFFSET_OCTETS,
    VERSION,
    Bytes,
    TusRoute,
    filename_of,
    metadata_of,
    read_checksum,
)
from app.tus_body import arriving

router = APIRouter(prefix="/files/uploads", tags=["files"], route_class=TusRoute)


class Upload(BaseModel):
    id: Annotated[str, Field(description="that of the file, once it is complete")]
    filename: str
    offset: Annotated[int, Field(description="bytes that are kept")]
    length: int
    complete: bool
    expires_at: datetime | None


async def resumable_uploads(files: FilesDep, settings: SettingsDep) -> ResumableUploads:
    return ResumableUploads(files, settings)


async def body(
    request: Request,
    settings: SettingsDep,
    stopping: StoppingDep,
    places: ChecksumPlacesDep,
    upload_checksum: Annotated[
        str | None, Header(max_length=200, examples=["sha1 2jmj7l5rSw0yVb/vlWAYkK/YBwk="])
    ] = None,
) -> AsyncIterator[AsyncIterator[bytes]]:
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != OFFSET_OCTETS and (request.method == "PATCH" or has_body(request.scope)):
        raise UnsupportedMediaType(f"The bytes of an upload are {OFFSET_OCTETS}.")
    chunks = arriving(request, settings.files.silence_seconds, stopping)
    if upload_checksum is not None:
        chunks = places.verified(chunks, read_checksum(upload_checksum))
    async with aclosing(chunks):
        yield chunks


async def version(tus_resumable: Annotated[Literal["1.0.0"], Header()]) -> None:
    """For `/docs`. `TusRoute` has looked at it before."""


UploadsDep = Annotated[ResumableUploads, Depends(resumable_uploads)]
BodyDep = Annotated[AsyncIterator[bytes], Depends(body, scope="function")]
VERSIONED = [Depends(version)]
BODY = {"content": {OFFSET_OCTETS: {"schema": {"type": "string", "format": "binary"}}}}
BYTES = {**ANONYMOUS_TOO, "requestBody": BODY}


def headers(*names: str) -> dict[str, Any]:
    return {"headers": {name: {"schema": {"type": "string"}} for name in ("Tus-Resumable", *names)}}


DESCRIPTION = headers("Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm")
STATE = headers("Upload-Offset", "Upload-Length", "Upload-Metadata", "Upload-Expires")
CREATED = headers("Location", *STATE["headers"])


@router.options("", status_code=204, response_class=Response, responses={204: DESCRIPTION})
async def describe_uploads(response: Response, settings: SettingsDep) -> None:
    """What of tus is spoken here."""
    response.headers["Tus-Version"] = VERSION
    response.headers["Tus-Extension"] = EXTENSIONS
    response.headers["Tus-Max-Size"] = str(settings.files.max_resumable_size)
    response.headers["Tus-Checksum-Algorithm"] = ",".join(DIGESTS)


@router.post("", status_code=201, dependencies=VERSIONED, responses={201: CREATED}, openapi_extra=BYTES)
async def create_upload(
    request: Request,
    response: Response,
    uploads: UploadsDep,
    owner: OwnerDep,
    upload_length: Annotated[Bytes, Header()],
    upload_metadata: Annotated[str, Header(max_length=4_000, examples=["filename bm90ZS50eHQ="])],
    chunks: BodyDep,
) -> Upload:
    """Makes room for a file. Its first bytes may come with this request; an empty file is complete by it."""
    filename = display_name(filename_of(upload_metadata))
    file, offset = await uploads.create(owner, filename, upload_length, chunks)
    response.headers["Location"] = request.url_for("read_upload", upload_id=file.id).path
    return state_of(file, offset, response)


@router.get("/{upload_id}", dependencies=VERSIONED, responses={200: STATE}, openapi_extra=ANONYMOUS_TOO)
async def read_upload(upload_id: str, response: Response, uploads: UploadsDep, owner: OwnerDep) -> Upload:
    """How much is kept. A client of tus asks by `HEAD`, which has the same headers."""
    response.headers["Cache-Control"] = "no-store"
    return state_of(*await uploads.find(upload_id, owner), response)


@router.patch(
    "/{upload_id}",
    status_code=204,
    response_class=Response,
    dependencies=VERSIONED,
    responses={204: STATE},
    openapi_extra=BYTES,
)
async def append_to_upload(
    upload_id: str,
    response: Response,
    uploads: UploadsDep,
    owner: OwnerDep,
    upload_offset: Annotated[Bytes, Header()],
    chunks: BodyDep,
) -> None:
    """Adds bytes. The last of them makes it a file, `/files/{upload_id}`."""
    state_of(*await uploads.append(upload_id, owner, upload_offset, chunks), response)


@router.delete(
    "/{upload_id}",
    status_code=204,
    response_class=Response,
    dependencies=VERSIONED,
    responses={204: headers()},
    openapi_extra=ANONYMOUS_TOO,
)
async def end_upload(upload_id: str, uploads: UploadsDep, owner: OwnerDep) -> None:
    """Gives an upload up. One that is complete is a file, and deleted as such."""
    await uploads.end(upload_id, owner)


def state_of(file: StoredFile, offset: int, response: Response) -> Upload:
    """Says it in the headers, too, for that is where tus looks."""
    response.headers["Upload-Offset"] = str(offset)
    response.headers["Upload-Length"] = str(file.size)
    response.headers["Upload-Metadata"] = metadata_of(file.filename)
    # SQLite keeps no zone: what it gives back is UTC.
    expires_at = file.expires_at and file.expires_at.replace(tzinfo=UTC)
    if expires_at:
        response.headers["Upload-Expires"] = format_datetime(expires_at, usegmt=True)
    return Upload(
        id=file.id,
        filename=file.filename,
        offset=offset,
        length=file.size,
        complete=file.state == READY,
        expires_at=expires_at,
    )
