"""Sending a file

`GET /files/{id}` sends what was uploaded, from wherever it lies (`app/storage/engines.py`). `FileResponse`
would do half of that: it reads in a thread and answers `Range`, so an interrupted download goes on where it
stopped, and a player can jump. But it sends files of the disk alone, and only shows its `ETag`: it never
looks at `If-None-Match`.

`StoredFileResponse` is small enough to read. `app/storage/preconditions.py` compares what the client has,
`byte_ranges.py` says which bytes it wants, `prompt_stream.py` sends them. The tag is the SHA-256 of the
content, the same on every machine; who has the file gets 304 and not a byte of it. Its head waits for the
first piece of the file, so that one which is lost is a clear 404. What fails later ends the connection
without the last chunk: no client takes a part for the whole. On the disk each piece opens the file anew: who
reads slowly keeps no descriptor, nor the room of a file that is deleted. `HEAD` comes from
`app/middleware/head.py`.

All uploads are served as if they were hostile. `attachment` saves the file instead of showing it, `nosniff`
keeps the browser from guessing another type, and the policy `default-src 'none'; sandbox` takes scripts
and the site's origin from whatever is opened nevertheless. Serve them from a domain of their own if you can.

`GET /download` sends a zip that is made on the way: of your files, `?file_id=` for each, or of the modules
behind these pages. Python's `ZipFile` writes to anything that has a `write`; what it wrote is sent before
the next piece is read.

## The trap

`FileResponse(f"uploads/{name}")`. A missing file is a `RuntimeError` while the answer is sent: a 500, with
the path in the log. The media type is guessed from the name, and without `filename=` the browser shows
what it gets: an uploaded page runs in your origin, with your users' cookies. And under
`GZipMiddleware` the compressed answer bears the tag of the plain file, so that a resumed download
glues the two together. `Content-Encoding: identity` keeps the middleware off.

`ZipFile(BytesIO())` holds all files in memory before the first byte leaves. And a generator of a
`StreamingResponse` that fails at its first step fails after the head: the client has a 200 already.

## What is proven

- The bytes that come back are those that were sent.
- A range, a suffix, several ranges and one that cannot be met get 206 and 416.
- A range header that is not understood or asks too much gets the whole.
- No request gets more than the whole and the heads of ten parts.
- A client that has the file gets 304 without a body.
- A request that expects something else gets 412.
- A range is honoured only if the tag or the date still matches.
- HEAD has the headers of GET and no body.
- The name is encoded for every language.
- An upload is never shown in the origin of the service.
- An unknown, ill-formed or lost file is 404 without a path.
- The file of an account is 404 for everybody else.
- A download is not compressed, so that it can be resumed.
- A file that turns out shorter never looks whole.
- A file that is deleted while it is sent never looks whole.
- A client that leaves ends the reading.
- A client that takes its bytes slowly holds no file open.
- A slow disk stalls nobody else.
- The archive opens and is the same every time.
- The archive has the files that were asked for, each under a name of its own.
- The archive needs no more memory the longer it gets.
- An archive whose files go meanwhile never looks whole.

## Read more

`StreamingResponse.stream_response`, `FileResponse(path, filename=..., stat_result=...)`.
[Custom responses](https://fastapi.tiangolo.com/advanced/custom-response/#fileresponse) in the FastAPI
documentation, [conditional requests](https://www.rfc-editor.org/rfc/rfc9110#section-13) and
[range requests](https://www.rfc-editor.org/rfc/rfc9110#section-14) in RFC 9110.
"""

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query

from app.database.models import StoredFile
from app.dependencies import FilesDep, OwnerDep
from app.security.file_owner import ANONYMOUS_TOO
from app.storage.archive import Entry, zip_of
from app.storage.file_response import INERT, StoredFileResponse, attachment, read_exactly
from app.storage.prompt_stream import PromptStream
from app.storage.storage import Storage

ROUTERS = Path(__file__).parent.parent
MAX_ARCHIVED = 100

router = APIRouter(tags=["files"])


class Archive(PromptStream):
    media_type = "application/zip"


@router.get(
    "/files/{file_id}",
    status_code=200,  # FastAPI looks for it in the signature of the class, and fails where it is not
    response_class=StoredFileResponse,
    responses={
        206: {"description": "Ranges of it", "content": {"*/*": {"schema": {"type": "string"}}}},
        304: {"description": "The client has it already"},
    },
    openapi_extra=ANONYMOUS_TOO,
)
async def download(file_id: str, files: FilesDep, owner: OwnerDep) -> StoredFileResponse:
    """An uploaded file, whole or in ranges. Conditions on its tag and its date are met."""
    return StoredFileResponse(await files.find(file_id, owner), files.storage)


@router.get("/download", status_code=200, response_class=Archive, openapi_extra=ANONYMOUS_TOO)
async def download_archive(
    files: FilesDep,
    owner: OwnerDep,
    file_id: Annotated[tuple[str, ...], Query(max_length=MAX_ARCHIVED)] = (),
) -> Archive:
    """`downloaded.zip`: the files with these ids, or without one the modules of the pages."""
    chosen = [await files.find(each, owner) for each in dict.fromkeys(file_id)]
    entries = [entry(file, files.storage) for file in chosen] or await to_thread.run_sync(modules)
    headers = {**INERT, "Content-Disposition": attachment("downloaded.zip"), "Cache-Control": "no-store"}
    return Archive(zip_of(entries), headers)


def entry(file: StoredFile, storage: Storage) -> Entry:
    return Entry(file.filename, file.size, read_exactly(storage, file, range(file.size)))


def modules() -> list[Entry]:
    paths = sorted(ROUTERS.rglob("*.py"))
    return [Entry(path.relative_to(ROUTERS).as_posix(), path.stat().st_size, text(path)) for path in paths]


async def text(path: Path) -> AsyncGenerator[bytes]:
    yield await to_thread.run_sync(path.read_bytes)
