"""Uploads past the service

`POST /files/direct` answers with a signed URL of the S3 bucket. The client puts the bytes there, and then
asks `POST /files/direct/{id}/confirm` to make a file of them. The service carries none of them on the way in:
use it for files that would fill its network, and `app/routers/files/uploads.py` for all others, which needs
one request instead of three. Where files lie on a disk (`APP_STORAGE_URL` is empty) it is 409:
`app/storage/engines.py` chooses.

A signed URL is a secret with few limits: whoever has it may put anything there, of any length that S3 takes
in one request (5 GiB), any number of times, for `APP_FILES__DIRECT_SECONDS`. Nothing at that place is
believed, or ever sent to anybody. To confirm is to copy it, within the bucket, to where nobody else can
write, and to read it there once: its length, its SHA-256, its type. The copy is never replaced
(`If-None-Match`), so two requests to confirm see the same bytes, whatever was put in between. Only what
holds becomes a file.

The row comes first, with room in the quota for exactly the length that was said, at most
`APP_FILES__MAX_RESUMABLE_SIZE`, without an owner `APP_FILES__ANONYMOUS_MAX_SIZE`. It expires at twice the
lifetime of the URL, which is the time to confirm. What is put after the file was confirmed, refused or
deleted has no row: the sweep deletes what is that old by its date.

For a browser the bucket needs CORS rules of its own: `AllowedOrigins` as in `APP_CORS_ORIGINS`, and
`AllowedMethods: ["PUT"]`. And for what a killed process has left of a multipart upload, which no listing
shows and which is paid for, a lifecycle rule: `AbortIncompleteMultipartUpload` after a day.

To try it, moto is an S3 that forgets all when it ends. The tests use it, so it is installed:

    .venv/bin/moto_server -p 9000 &
    curl -X PUT --user key:secret --aws-sigv4 aws:amz:us-east-1:s3 localhost:9000/files
    export APP_STORAGE_URL=s3://files APP_S3__ENDPOINT=http://localhost:9000
    export APP_S3__ACCESS_KEY_ID=key APP_S3__SECRET_ACCESS_KEY=secret
    .venv/bin/uvicorn app.main:app &
    printf hello >hello.txt
    curl --json '{"filename": "hello.txt", "size": 5}' localhost:8000/files/direct
    curl -T hello.txt "<url>"                                       # those of the answer
    curl -X POST localhost:8000/files/direct/<id>/confirm
    curl localhost:8000/files/<id>

## The trap

A URL for the place where the file will be read. It is good for minutes after the file was checked, so a
picture becomes a web page when everybody has seen that it is a picture. And a row that is filled in from
what the client says: S3 does not look whether the body has that length, or is an image.

## What is proven

- A file is put past the service and is readable when it is confirmed.
- Nothing is read before it is confirmed.
- What is put again after that changes nothing and is swept.
- Of two confirmations at once neither takes what was put in between.
- A confirmation that is sent again has the same answer.
- A file of another kind or length is refused and nothing is left.
- Too early is 409 and may be tried again.
- A file that is never confirmed goes with its room.
- The quota and the limits hold before there is a URL.
- The upload of somebody else is 404.
- A bucket that is away is 503 and the confirmation may be tried again.
- On a disk it is 409.

## Read more

`obstore.sign_async(store, "PUT", path, expires_in)`, `obstore.copy_async(..., overwrite=False)`.
[Presigned URLs](https://docs.aws.amazon.com/AmazonS3/latest/userguide/using-presigned-url.html),
[conditional writes](https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html) and
[lifecycle rules](https://docs.aws.amazon.com/AmazonS3/latest/userguide/mpu-abort-incomplete-mpu-lifecycle-config.html)
of S3, [obstore](https://developmentseed.org/obstore/latest/).
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.database.models import StoredFile
from app.dependencies import FilesDep, OwnerDep, SettingsDep, StorageDep
from app.errors import Conflict, ContentTooLarge, NotFound, UnsupportedMediaType
from app.routers.files.uploads import Uploaded, uploaded
from app.security.file_owner import ANONYMOUS_TOO
from app.settings import Settings
from app.storage.content import ContentCheck
from app.storage.files import DIRECT, Files
from app.storage.inspection import Inspection
from app.storage.names import display_name
from app.storage.s3 import S3Storage

MAX_PUT_SIZE = 5 * 2**30
"""What S3 takes in one request."""

router = APIRouter(prefix="/files/direct", tags=["files"])


async def direct_storage(storage: StorageDep) -> S3Storage:
    if not isinstance(storage, S3Storage):
        raise Conflict("This storage takes no direct uploads. Use POST /upload/.")
    return storage


DirectStorageDep = Annotated[S3Storage, Depends(direct_storage)]


class NewDirectFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    filename: Annotated[str, Field(min_length=1, max_length=255)]
    size: Annotated[int, Field(strict=True, ge=1, le=MAX_PUT_SIZE, description="bytes, exactly")]


class DirectUpload(BaseModel):
    id: str
    url: str
    method: Literal["PUT"] = "PUT"
    expires_at: datetime


@router.post("", status_code=201, openapi_extra=ANONYMOUS_TOO)
async def begin_direct_upload(
    new: NewDirectFile, files: FilesDep, storage: DirectStorageDep, owner: OwnerDep, settings: SettingsDep
) -> DirectUpload:
    """Where to put the bytes of a txt, pdf, png, jpg, jpeg or gif. Confirm it afterwards."""
    filename = display_name(new.filename)
    ContentCheck(filename, settings.max_image_pixels)  # refuses other extensions
    if new.size > settings.files.most_of(owner, settings.files.max_resumable_size):
        raise ContentTooLarge("The file is longer than is accepted.")
    seconds = settings.files.direct_seconds
    expires_at = datetime.now(UTC) + timedelta(seconds=seconds)
    file = await files.begin(DIRECT, owner, filename, new.size, new.size, 2 * seconds)
    try:
        url = await storage.sign_direct(file.id)
    except BaseException:
        await files.undo(file.id)
        raise
    return DirectUpload(id=file.id, url=url, expires_at=expires_at)


@router.post("/{file_id}/confirm", status_code=201, openapi_extra=ANONYMOUS_TOO)
async def confirm_direct_upload(
    file_id: str,
    files: FilesDep,
    storage: DirectStorageDep,
    owner: OwnerDep,
    settings: SettingsDep,
    request: Request,
    response: Response,
) -> Uploaded:
    """Makes a file of what was put at the URL, if it is what was said."""
    try:
        stored = await confirmed(await files.find(file_id, owner, DIRECT), files, storage, settings)
    except NotFound:
        stored = await files.find(file_id, owner)  # by another request
    return uploaded(stored, request, response)


async def confirmed(file: StoredFile, files: Files, storage: S3Storage, settings: Settings) -> StoredFile:
    content = ContentCheck(file.filename, settings.max_image_pixels)
    inspection = Inspection(content, file.size, ContentTooLarge("The file is longer than was said."))
    try:
        await storage.publish_direct(file.id, inspection)
        if inspection.size < file.size:
            raise Conflict("The file is shorter than was said.")
    except NotFound:
        raise Conflict("Nothing has arrived at the URL yet.") from None
    except (Conflict, ContentTooLarge, UnsupportedMediaType):
        await files.undo(file.id)
        raise
    return await files.settle(file, inspection)
