"""Sending a file

`GET /files/{id}` sends what was uploaded. `FileResponse` reads in a thread and answers `Range` requests,
so an interrupted download goes on where it stopped, and a player can jump. Give it `stat_result`: with
that it needs no second look at the file, and you decide what happens when the file is missing.

What it lacks is the other half of caching: it sends an `ETag` but never looks at `If-None-Match`. Here the
tag is the SHA-256 of the content, so it stays the same on every machine, and a client that has the file
gets 304 and not a byte of it. `HEAD` comes from `app/middleware/head.py`: a GET route alone answers it 405.

All uploads are served as if they were hostile. `attachment` saves the file instead of showing it, `nosniff`
keeps the browser from guessing another type, and the policy `default-src 'none'; sandbox` takes scripts
and the site's origin from whatever is opened nevertheless. Serve them from a domain of their own if you can.

`GET /download` sends an archive that is made for the request, of the modules behind these pages.

## The trap

`FileResponse(f"uploads/{name}")`. A missing file is a `RuntimeError` while the answer is sent: a 500, with
the path in the log. The media type is guessed from the name, and without `filename=` the browser shows
what it gets: an uploaded page runs in your origin, with your users' cookies. And under
`GZipMiddleware` the compressed answer bears the tag of the plain file, so that a resumed download
glues the two together. `Content-Encoding: identity` keeps the middleware off.

## What is proven

- The bytes that come back are those that were sent.
- A range, a suffix, several ranges and one that cannot be met get 206 and 416.
- A client that has the file gets 304 without a body.
- A range is honoured only if the tag still matches.
- HEAD has the headers of GET and no body.
- The name is encoded for every language.
- An upload is never shown in the origin of the service.
- An unknown, ill-formed or lost file is 404 without a path.
- A download is not compressed, so that it can be resumed.
- The archive opens and is the same every time.

## Read more

`FileResponse(path, filename=..., stat_result=...)`, `Range`, `If-Range`, `If-None-Match`.
[Custom responses](https://fastapi.tiangolo.com/advanced/custom-response/#fileresponse) in the FastAPI
documentation, [conditional requests](https://www.rfc-editor.org/rfc/rfc9110#section-13) in RFC 9110.
"""

import zipfile
from io import BytesIO
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Response
from fastapi.responses import FileResponse, StreamingResponse

from app.dependencies import FilesDep, OwnerDep

ROUTERS = Path(__file__).parent.parent
EPOCH = (1980, 1, 1, 0, 0, 0)
"""The first moment that a zip can name."""

INERT = {
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": "default-src 'none'; sandbox",
    "Content-Encoding": "identity",
    # The browser may keep the file but asks each time, so that a file that is gone is gone.
    "Cache-Control": "private, no-cache",
}

router = APIRouter(tags=["files"])


class Download(FileResponse):
    media_type = "application/octet-stream"


class Archive(Response):
    media_type = "application/zip"


@router.get("/files/{file_id}", response_class=Download, responses={206: {}, 304: {}, 416: {}})
async def download(
    file_id: str,
    files: FilesDep,
    owner: OwnerDep,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """An uploaded file, whole or in ranges."""
    file = await files.find(file_id, owner)
    etag = f'"{file.sha256}"'
    headers = {**INERT, "ETag": etag}
    if if_none_match is not None and matches(etag, if_none_match):
        return Response(status_code=304, headers=headers)
    return StreamingResponse(
        files.storage.read(file.id, 0, file.size), headers=headers, media_type=file.content_type
    )


def matches(etag: str, if_none_match: str) -> bool:
    """Weak comparison, as RFC 9110 asks of this header: some proxies mark the tags that they pass on."""
    if if_none_match.strip() == "*":
        return True
    return etag in (tag.strip().removeprefix("W/") for tag in if_none_match.split(","))


@router.get("/download", response_class=Archive)
def download_archive() -> Response:
    """`downloaded.zip`: the modules of the pages. A plain `def`, because packing is work for a thread."""
    return Archive(
        pack(ROUTERS),
        headers={"Content-Disposition": 'attachment; filename="downloaded.zip"', "Cache-Control": "no-cache"},
    )


def pack(folder: Path) -> bytes:
    """A zip of the modules in `folder`. Nobody but us adds to them, so it may be made in memory."""
    archive = BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zip_file:
        for path in sorted(folder.rglob("*.py")):
            # Neither the clock nor the umask of the machine belongs in the archive.
            info = zipfile.ZipInfo(path.relative_to(folder).as_posix(), EPOCH)
            info.external_attr = 0o644 << 16
            zip_file.writestr(info, path.read_bytes(), zipfile.ZIP_DEFLATED)
    return archive.getvalue()
