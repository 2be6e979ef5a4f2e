"""Receiving a file

`POST /upload/` takes one file of at most 10 MB in the form field `file`, keeps it under an id that the
server makes, and answers 201 with `Location: /files/{id}`. Text, PDF, PNG, JPEG and GIF are accepted; to
accept fewer, shorten `DOCUMENTS` and `IMAGES` at the end of `app/storage/content.py`. Use
`UploadFile` like this for files of that size; what is larger is better streamed to its place, because
FastAPI has spooled the whole form to a temporary file before the endpoint begins.

The limits stand in the order in which they bite. `max_body_size` on the router ends the request with 413
while it arrives, with and without `Content-Length`; `app/middleware/lingering_close.py` lets a client that
is still sending read that answer. `form_limits` admits one file and no text field, so
that nothing nobody asked for is kept in memory. The endpoint looks at the size of the file, then at its
content (`app/storage/content.py`), and only then stores it (`app/storage/disk.py`), all in threads.

A file is written before its row in the database is committed. While the commit is on its way nobody takes
the file away: a request that the server cancels there, when its graceful timeout is over, cannot know
whether the row came to be. So there is no row without a file. A file without a row costs room until it is
settled: it bears a mark until its row is committed, and after a restart, when the mark is an hour old, the
next upload asks the database whether the file is to stay. Files without a mark are never touched, also
when an empty database was configured by mistake.

## The trap

`open(f"uploads/{file.filename}", "wb")`. The name is what the client says: `../app/main.py` replaces
your program, and the second `cv.pdf` the first. `file.filename.endswith(".png")` and
`file.content_type` are also what the client says, so `evil.png` may be a web page.
`len(await file.read()) > limit` is asked when all of it was received, and in memory. And
`shutil.copyfileobj` in an `async def` stops every other request while the disk works.

## What is proven

- An upload answers 201 with the place, the size and the SHA-256 of the file.
- The path with and without a slash is the same.
- The name is cleaned for display and never becomes a path.
- Two files of one name are two files.
- The content decides and must agree with the extension.
- A file over the limit is refused before anything is stored.
- A body over the limit is refused while it arrives, declared or chunked.
- More than one file, or a text field, is refused.
- A row that the database refuses leaves no file.
- An upload that is cancelled leaves no row without its file.
- A file that a dead process left in doubt stays if it has a row and goes if not.
- A full disk is 507 and leaves nothing.
- Uploads leave room on the disk for the rest of the service.
- The event loop never touches the file.
- The file is readable by the service alone.

## Read more

`UploadFile`, `APIRouter(form_limits={"max_files": 1, "max_fields": 0})`,
`app.include_router(router, max_body_size=...)`, `anyio.to_thread.run_sync`.
[Request files](https://fastapi.tiangolo.com/tutorial/request-files/) in the FastAPI documentation,
[Unrestricted file upload](https://owasp.org/www-community/vulnerabilities/Unrestricted_File_Upload) at OWASP.
"""

from collections.abc import AsyncIterator

from fastapi import APIRouter, Request, Response, UploadFile
from pydantic import BaseModel

from app.dependencies import FilesDep, OwnerDep
from app.storage.names import display_name

router = APIRouter(
    tags=["files"],
    form_limits={"max_files": 1, "max_fields": 0},
)


class Uploaded(BaseModel):
    id: str
    filename: str
    size: int
    content_type: str
    sha256: str


@router.post("/upload/", status_code=201)
@router.post("/upload", status_code=201, include_in_schema=False)
async def upload(
    file: UploadFile,
    files: FilesDep,
    owner: OwnerDep,
    request: Request,
    response: Response,
) -> Uploaded:
    """Keeps one txt, pdf, png, jpg, jpeg or gif; its type is told from its content."""
    filename = display_name(file.filename or "")
    stored = await files.receive(owner, filename, None, chunks_of(file))
    response.headers["Location"] = request.url_for("download", file_id=stored.id).path
    return Uploaded.model_validate(stored, from_attributes=True)


async def chunks_of(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(2**18):
        yield chunk
