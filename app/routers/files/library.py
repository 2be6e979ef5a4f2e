"""Whose file it is: a list in pages, and deletion

`GET /files` lists the files of whoever asks, the newest first, in pages of at most 100; `DELETE /files/{id}`
deletes one. A file belongs to the account whose access token or session brought it
(`app/security/file_owner.py`). One that was brought without either belongs to nobody: whoever knows its id
may read and delete it, it stands in no list, and it goes after `APP_FILES__ANONYMOUS_SECONDS`.

All files without an owner share one quota, `APP_FILES__ANONYMOUS_QUOTA`: first come, first served. One of
them has `APP_FILES__ANONYMOUS_MAX_SIZE` at most, but twenty of these fill it, and then nobody without an
account can send any until some go. Accounts have each their own quota and feel nothing of that. Where it
matters, set `APP_FILES__ANONYMOUS=false`, which asks everybody who they are.

The file of somebody else is 404, as one that does not exist. A 403 would tell that there is one. Ids are 128
random bits, so nobody counts them up.

A page ends with a cursor, `next`: it says after which file the next page begins, by time and id. So what
comes and goes in between moves nothing, and the last page is as quick to find as the first, for the database
goes there by an index. The same address stands in the `Link` header, where clients look that know nothing of
our JSON. A cursor is no secret and no permission: it only says where to begin in one's own list.

Deletion marks the row, then deletes the bytes, then the row. Whatever stops it in between, the sweep ends it
(`app/storage/files.py`), and nobody reads a file that is marked. The room in the quota is free at the end.

## The trap

`OFFSET` and `LIMIT`. A file that arrives while somebody turns the page moves all others by one, so one is
seen twice; one that is deleted hides another. The database walks over all rows that it skips. An order by
time alone loses files of the same moment at the border of two pages.

`session.get(StoredFile, file_id)` without the owner in the query. Then ids are permissions for everybody who
sees one, in a log or a forwarded link, and a check that comes later is forgotten in one endpoint.

## What is proven

- A list has the files of whoever asks and of nobody else.
- Pages have every file once while files come and go.
- Files of the same moment are not lost between pages.
- The Link header leads from page to page.
- A page has a limit and an ill formed cursor is refused.
- A deleted file is gone with its bytes and its room.
- The file of somebody else is 404 to read and to delete.
- A file without an owner is for whoever knows its id.
- A file without an owner may be shorter than that of an account.
- The quota without an owner is first come, first served and takes nothing from accounts.
- A bad credential is refused and not passed over.
- With a cookie only our own pages may delete.
- Without a credential there is no list.
- Where everybody must say who they are nothing is without an owner.

## Read more

`select(...).where(tuple_(created_at, id) < cursor).order_by(...).limit(...)`, `Query(pattern=...)`.
[Query parameters](https://fastapi.tiangolo.com/tutorial/query-params-str-validations/) in the FastAPI
documentation, [Web Linking](https://www.rfc-editor.org/rfc/rfc8288) in RFC 8288.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.database.models import StoredFile
from app.dependencies import FilesDep, OwnerDep
from app.errors import Unauthorized
from app.security.file_owner import ANONYMOUS_TOO
from app.security.handshake import CHALLENGE

MAX_PAGE_SIZE = 100
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

router = APIRouter(prefix="/files", tags=["files"])


def in_utc(moment: datetime) -> datetime:
    """SQLite keeps no zone."""
    return moment.replace(tzinfo=UTC)


class FileInfo(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    filename: str
    size: int
    content_type: str
    sha256: str
    created_at: Annotated[datetime, AfterValidator(in_utc)]


class FilePage(BaseModel):
    files: list[FileInfo]
    next: Annotated[str | None, Field(description="`after` of the next page; null on the last one")]


async def account(owner: OwnerDep) -> str:
    """The id of an account: who has none has no list."""
    if owner is None:
        raise Unauthorized(headers=CHALLENGE)
    return owner


@router.get("")
async def list_files(
    owner: Annotated[str, Depends(account)],
    files: FilesDep,
    request: Request,
    response: Response,
    after: Annotated[
        str | None, Query(pattern=r"^[0-9]{1,17}-[0-9a-f]{32}$", description="`next` of the page before")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=MAX_PAGE_SIZE)] = 20,
) -> FilePage:
    """Your files, the newest first."""
    response.headers["Cache-Control"] = "no-store"
    # One more than is shown, to know whether there is a next page.
    rows = await files.page(owner, read_cursor(after) if after else None, limit + 1)
    shown = rows[:limit]
    cursor = write_cursor(shown[-1]) if len(rows) > limit else None
    if cursor:
        target = request.url.include_query_params(after=cursor)
        response.headers["Link"] = f'<{target.path}?{target.query}>; rel="next"'
    return FilePage(files=[FileInfo.model_validate(row) for row in shown], next=cursor)


@router.delete("/{file_id}", status_code=204, openapi_extra=ANONYMOUS_TOO)
async def delete_file(file_id: str, owner: OwnerDep, files: FilesDep) -> None:
    """Deletes a file of yours, or one without an owner."""
    await files.delete(file_id, owner)


def write_cursor(file: StoredFile) -> str:
    microseconds = (in_utc(file.created_at) - EPOCH) // timedelta(microseconds=1)
    return f"{microseconds}-{file.id}"


def read_cursor(cursor: str) -> tuple[datetime, str]:
    microseconds, file_id = cursor.split("-")
    return EPOCH + timedelta(microseconds=int(microseconds)), file_id
