"""Headers, cookies, status and redirects

Take `response: Response` as a parameter and set headers, cookies or the status on it; return the data as
usual. FastAPI merges both, and a dependency may do the same for many endpoints. A request header is a
parameter too: `Annotated[str | None, Header()]`, where `user_agent` means `User-Agent`.

Both write to one `Response`, so a status that a dependency or the endpoint sets beats the `status_code` of
the route, and the endpoint, which runs last, has the last word.

A cookie that stands for a person holds a random key; what the key means stays on the server. `HttpOnly`
hides it from scripts, `SameSite` from requests that other sites cause, `Secure` from plain http. The name
prefix `__Host-` makes the browser insist: only over https, for this host alone, for all paths; and
`PlainCookieRoute` reads none whose name only looks like it (`app/security/plain_cookies.py`). Set it by
`POST`, for links, images and prefetching send `GET` without anyone's wish. `GET /set-cookie` is the path of
the tutorials; its cookie stands for nobody, so nothing is won or lost by who causes it.

Early hints are a 103 before the answer, by which a browser fetches the style sheet while the endpoint still
works: `await request.send_early_hints(...)`. A server must offer it. uvicorn does for HTTP/2 alone, and
elsewhere the call does nothing; so the `Link` stands on the answer itself, too.

A `Location` is the path of a route, `request.url_for("read_user", user_id=4).path`. So it has the prefix
under which a proxy serves the app (`--root-path /api`), and the `Host` header, which the client writes, has
no part in it.

## The trap

`set_cookie("user", "alice")` can be read by every script and forged by everybody. Headers set on the
parameter are lost when the endpoint returns a `Response` of its own or raises. `RedirectResponse(url)` is a
307, which makes the browser send a form a second time, to the new address; after a `POST` you want 303. A
`Location` of `f"/users/{id}"` leads out of the prefix, to whatever else the proxy serves there. And
`user_agent: str = Header(None)` promises a text and delivers `None`.

## What is proven

- The cookie is random, HttpOnly, SameSite=lax, and Secure over https.
- A host cookie is set by POST, read by GET and deleted with the attributes it was set with.
- A cookie whose name merely looks like the host cookie is not read.
- A request header that is not sent is null.
- A header set on the response parameter is sent.
- A dependency sets the status and headers of the answer.
- The status of a dependency beats that of the route and the endpoint has the last word.
- Early hints are sent before the answer where the server offers it.
- Without that the hints are on the answer alone.
- The redirect to the documentation is a 307 to a fixed address.
- The redirect after a form is a 303 that is followed by GET.
- A location has the prefix under which a proxy serves the app and no host.
- HEAD has the headers of GET and no body.

## Read more

`response.set_cookie(key, value, max_age=, secure=, httponly=, samesite=)`, `RedirectResponse(url, 303)`,
`await request.send_early_hints(link, *more)`. [Response
headers](https://fastapi.tiangolo.com/advanced/response-headers/),
[cookies](https://fastapi.tiangolo.com/advanced/response-cookies/) and
[status](https://fastapi.tiangolo.com/advanced/response-change-status-code/) in the FastAPI documentation.
"""

import secrets
from html import escape
from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, Cookie, Depends, Form, Header, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, Field

from app.security.plain_cookies import PlainCookieRoute

COOKIE_SECONDS = 3_600
HOST_COOKIE = "__Host-visit"
DOCUMENTATION = "https://fastapi.tiangolo.com/"
MAX_NAME_LENGTH = 100

router = APIRouter(tags=["responses"], route_class=PlainCookieRoute)


class Message(BaseModel):
    message: str


@router.get("/set-cookie")
async def set_cookie(request: Request, response: Response) -> Message:
    """A cookie with a random value; `Secure` when the request came over https."""
    response.set_cookie(
        "user",
        secrets.token_urlsafe(),
        max_age=COOKIE_SECONDS,
        secure=request.url.scheme == "https",
        httponly=True,
        samesite="lax",
    )
    # A cache would give the same cookie to everybody.
    response.headers["Cache-Control"] = "no-store"
    return Message(message="Cookie set")


class UserAgent(BaseModel):
    user_agent: str | None = Field(serialization_alias="User-Agent")


@router.get("/headers")
async def read_headers(user_agent: Annotated[str | None, Header(max_length=1_000)] = None) -> UserAgent:
    """The `User-Agent` of the caller, or null."""
    return UserAgent(user_agent=user_agent)


@router.get("/custom-headers")
async def custom_headers(response: Response) -> Message:
    """Answers with `X-Custom-Header: FastAPI`."""
    response.headers["X-Custom-Header"] = "FastAPI"
    return Message(message="Hello")


@router.get("/redirect", response_class=RedirectResponse, status_code=307)
async def redirect() -> RedirectResponse:
    """To the FastAPI documentation. An address from the request would send people wherever a link says."""
    return RedirectResponse(DOCUMENTATION)


class Visit(BaseModel):
    started: bool


@router.post("/responses/visit", status_code=201)
async def start_visit(response: Response) -> Visit:
    """Sets a cookie that a browser keeps for this host only, and sends over https only."""
    response.set_cookie(
        HOST_COOKIE,
        secrets.token_urlsafe(),
        max_age=COOKIE_SECONDS,
        secure=True,
        httponly=True,
        samesite="lax",
    )
    return Visit(started=True)


@router.get("/responses/visit")
async def read_visit(
    visit: Annotated[str | None, Cookie(alias=HOST_COOKIE, max_length=100)] = None,
) -> Visit:
    """Whether the caller has the cookie."""
    return Visit(started=visit is not None)


@router.delete("/responses/visit", status_code=204, response_class=Response)
async def end_visit(response: Response) -> None:
    """Without the attributes of the cookie a browser would refuse its deletion."""
    response.delete_cookie(HOST_COOKIE, secure=True, httponly=True, samesite="lax")


@router.post("/responses/greeting", response_class=RedirectResponse, status_code=303)
async def greet(
    name: Annotated[str, Form(min_length=1, max_length=MAX_NAME_LENGTH, examples=["Ada"])],
) -> RedirectResponse:
    """Takes a form and sends the browser on to a page that it may reload."""
    # Relative to the path of this request, so it holds behind any prefix and trusts no Host header.
    return RedirectResponse(f"?{urlencode({'name': name})}", status_code=303)


@router.get("/responses/greeting")
async def greeting(
    name: Annotated[str, Query(min_length=1, max_length=MAX_NAME_LENGTH, examples=["Ada"])],
) -> Message:
    """Where the form ends."""
    return Message(message=f"Hello {name}")


async def come_back_later(response: Response, busy: bool = False) -> bool:
    if busy:
        response.status_code = 202
        response.headers["Retry-After"] = "5"
    return busy


@router.get("/responses/report", status_code=200, responses={202: {"model": Message}})
async def report(busy: Annotated[bool, Depends(come_back_later)]) -> Message:
    """200, or 202 with `Retry-After` when `busy`: the dependency decides."""
    return Message(message="in the making" if busy else "done")


@router.get("/responses/hints", response_class=HTMLResponse)
async def hints(request: Request) -> HTMLResponse:
    """A page whose style sheet is announced before the page is there."""
    style = f"{request.scope['root_path']}/static/style.css"
    link = f"<{style}>; rel=preload; as=style"
    await request.send_early_hints(link)
    page = f'<!doctype html><title>Hints</title><link rel="stylesheet" href="{escape(style)}"><p>Here I am.'
    return HTMLResponse(page, headers={"Link": link})
