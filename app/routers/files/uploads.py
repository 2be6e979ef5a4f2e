"""Receiving a file

`POST /upload/` takes one file of at most 10 MiB (`APP_MAX_UPLOAD_SIZE`) in the form field `file`, keeps it
under an id that the server makes, and answers 201 with `Location: /files/{id}`. That is the route named
`download`, of `files/downloads`; a service that has none leaves the header out. Text, PDF, PNG, JPEG and GIF
are accepted; to accept fewer, see `app/storage/content.py`.

The form is parsed while it arrives (`app/storage/form_file.py`) and goes straight to the storage: no copy
in memory or in a temporary file, whatever its size. For that the endpoint takes the `Request` and no
`UploadFile`, and says in `openapi_extra` what FastAPI cannot know. It asks in this order:

1. Who is it? Before a byte of the body is read, so a client that waits for `100 Continue` sends none.
2. Is the declared length too much? That is `max_body_size` of the router (`settings.max_upload_body_size`),
   which also counts what arrives. Its 413 takes the place of every other answer, so of the 401 to a bad token
   too; `app/middleware/problems.py` makes problem+json of it.
3. Is it a form whose first part is the file, and is its name one that is accepted?
4. Is there room in the quota, and on the disk?
5. Then come the bytes, checked and hashed on the way. They are a file that can be read when all of them are
   on the disk and the form has ended with them.

What is refused leaves nothing. `app/middleware/lingering_close.py` lets a client that is still sending read
why, and `app/middleware/body_deadline.py` ends a body that is too slow: the one stands outermost, the other
innermost.

The lifespan opens three things: `open_database` of `app/database/session.py`, `open_storage` of
`app/storage/engines.py`, a disk or S3, and with both of them `open_files` of `app/storage/sweeping.py`.

A file belongs to the account that sent it, and is 404 to everybody else. Without a credential it is for
whoever knows its id; all these together have one quota, and a day. `APP_FILES__ANONYMOUS=false` refuses them.

`POST /upload/spooled` does the same by `UploadFile`, done right. It is simpler, and enough for small files
of clients that you know: FastAPI spools the form to a temporary file before it asks who it is, so a 401 or
507 comes after the whole body, and the file is written twice. Starlette's parser needs
`app/middleware/form_charset.py` before it.

## The trap

`open(f"uploads/{file.filename}", "wb")`. The name is what the client says: `../app/main.py` replaces
your program, and the second `cv.pdf` the first. `file.filename.endswith(".png")` and
`file.content_type` are also what the client says, so `evil.png` may be a web page.
`len(await file.read()) > limit` is asked when all of it was received, and in memory. And
`shutil.copyfileobj` in an `async def` stops every other request while the disk works.

## What is proven

- An upload answers 201 with the place, the size and the SHA-256 of the file.
- The path with and without a slash is the same.
- A service that sends no files answers 201 without a place.
- The bytes are stored while the body arrives.
- Who is refused is refused before a byte of the body is read.
- A declared length over the limit is 413 whoever asks.
- A client that waits for 100 Continue and is refused sends nothing.
- A refusal can be read by a client that still sends.
- The file belongs to the account that sent it.
- A name that is not accepted is refused before the file arrives.
- A file without room in the quota is 507.
- The name is cleaned for display and never becomes a path.
- Two files of one name are two files.
- The content decides and must agree with the extension.
- A file over the limit leaves nothing.
- A body over the limit is refused while it arrives, declared or chunked.
- A form of anything but one file is refused.
- A body that does not arrive in time is 408.
- An upload that is cancelled leaves a whole file or nothing.
- A row that the database refuses leaves no file.
- A full disk is 507 and leaves nothing.
- Uploads leave room on the disk for the rest of the service.
- The event loop never touches the file.
- The file is readable by the service alone.
- The document offers a file to choose.

## Read more

`Request.stream()`, `openapi_extra=`, `UploadFile`, `form_limits={"max_files": 1, "max_fields": 0}`,
`app.include_router(router, max_body_size=...)`.
[Request files](https://fastapi.tiangolo.com/tutorial/request-files/) and
[the request directly](https://fastapi.tiangolo.com/advanced/using-request-directly/) in the FastAPI
documentation, [RFC 7578](https://www.rfc-editor.org/rfc/rfc7578),
[Unrestricted file upload](https://owasp.org/www-community/vulnerabilities/Unrestricted_File_Upload) at OWASP.
"""

from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

from fastapi import APIRouter, Request, Response, UploadFile
from pydantic import BaseModel
from starlette.routing import NoMatchFound

from app.database.models import StoredFile
from app.dependencies import FilesDep, OwnerDep
from app.security.file_owner import ANONYMOUS_TOO
from app.storage.form_file import open_form_file
from app.storage.names import display_name

CHUNK_SIZE = 256 * 1024

FILE_SCHEMA = {"type": "string", "contentMediaType": "application/octet-stream"}
FORM_SCHEMA = {
    "type": "object",
    "required": ["file"],
    "properties": {"file": FILE_SCHEMA},
    "additionalProperties": False,
}
FORM: dict[str, Any] = {"required": True, "content": {"multipart/form-data": {"schema": FORM_SCHEMA}}}
"""What FastAPI writes for an `UploadFile`, and that there is no other field."""

router = APIRouter(tags=["files"])


class Uploaded(BaseModel):
    id: str
    filename: str
    size: int
    content_type: str
    sha256: str


@router.post("/upload/", status_code=201, openapi_extra={**ANONYMOUS_TOO, "requestBody": FORM})
@router.post("/upload", status_code=201, include_in_schema=False)
async def upload(request: Request, response: Response, owner: OwnerDep, files: FilesDep) -> Uploaded:
    """Keeps one txt, pdf, png, jpg, jpeg or gif while it arrives; its type is told from its content."""
    file = await open_form_file(request.headers.get("content-type", ""), request.stream())
    declared = request.headers.get("content-length", "")
    length = int(declared) if declared.isdecimal() else None
    stored = await files.receive(owner, display_name(file.filename), length, file.chunks)
    return uploaded(stored, request, response)


@router.post(
    "/upload/spooled",
    status_code=201,
    form_limits={"max_files": 1, "max_fields": 0},
    openapi_extra=ANONYMOUS_TOO,
)
async def upload_spooled(
    file: UploadFile, request: Request, response: Response, owner: OwnerDep, files: FilesDep
) -> Uploaded:
    """The same by `UploadFile`: the whole file is in memory or on a disk before the endpoint begins."""
    stored = await files.receive(owner, display_name(file.filename or ""), file.size, chunks_of(file))
    return uploaded(stored, request, response)


async def chunks_of(file: UploadFile) -> AsyncIterator[bytes]:
    """Each is read in a thread, where the file is too large to be in memory."""
    while chunk := await file.read(CHUNK_SIZE):
        yield chunk


def uploaded(stored: StoredFile, request: Request, response: Response) -> Uploaded:
    # A file that is stored is not answered by an error.
    with suppress(NoMatchFound):
        response.headers["Location"] = request.url_for("download", file_id=stored.id).path
    return Uploaded.model_validate(stored, from_attributes=True)
