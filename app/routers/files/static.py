"""Static files

The style sheet, scripts and images of this site lie in `static/` and are served under `/static` by one line
in `app/explorer.py`. Starlette's `StaticFiles` does the hard parts: it resolves every path and serves
nothing outside the folder, not by `..`, not by a link; it answers `HEAD`, ranges and, by `ETag`,
304. Use it for files that you wrote; what users sent goes through `/files/{id}`.

Two things are added here, in a subclass. `Cache-Control: no-cache` lets the browser keep a file but ask
each time whether it is still the same. And hidden files are not there: an editor, a checkout or a
secret left in the folder (`.env`, `.git/`) is not for the world.

`GET /files/static/manifest` lists the files with their digests, in the form that the `integrity`
attribute of `<script>` and `<link>` takes: with it a browser runs a copy from elsewhere only if it
is the same.

## The trap

`StaticFiles(directory="static")` looks in the folder where the program was started: under another one
the import fails, or other files are served. Anchor it to `__file__`. Without `Cache-Control`
a browser guesses how long a file stays fresh, a tenth of its age, so that after a deployment old scripts meet
new pages. And `follow_symlink=True` makes a link in the folder a way out of it.

## What is proven

- A file is served with its type, a tag and a rule for caches.
- A browser that has the file gets 304.
- HEAD has the headers of GET.
- Nothing outside the folder is served.
- Hidden files are not served.
- The service starts in any working directory.
- The manifest has the digest of every file that is served.

## Read more

`app.mount("/static", StaticFiles(directory=...), name="static")`; in templates
`url_for("static", path="style.css")`. For a front end that was built by a tool, `app.frontend()`.
[Static files](https://fastapi.tiangolo.com/tutorial/static-files/) in the FastAPI documentation,
[subresource integrity](https://developer.mozilla.org/docs/Web/Security/Subresource_Integrity) at MDN.
"""

import hashlib
import os
from base64 import b64encode
from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import Response
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel
from starlette.types import Scope

from app.settings import ROOT

STATIC = ROOT / "static"

router = APIRouter(prefix="/files/static", tags=["files"])


class SiteFiles(StaticFiles):
    """`StaticFiles` that tells browsers to ask again, and has no hidden files."""

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        if is_hidden(Path(path)):
            return "", None
        return super().lookup_path(path)

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["Cache-Control"] = "no-cache"
        return response


class SiteFile(BaseModel):
    path: str
    size: int
    integrity: str


@router.get("/manifest")
def manifest() -> list[SiteFile]:
    """The files under `/static`. A plain `def`, because reading them is work for a thread."""
    paths = (path.relative_to(STATIC) for path in sorted(STATIC.rglob("*")) if path.is_file())
    return [describe(path) for path in paths if not is_hidden(path)]


def describe(path: Path) -> SiteFile:
    content = (STATIC / path).read_bytes()
    digest = b64encode(hashlib.sha384(content).digest()).decode()
    return SiteFile(path=f"/static/{path.as_posix()}", size=len(content), integrity=f"sha384-{digest}")


def is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
