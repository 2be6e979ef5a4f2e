"""Sessions in a browser, and forms that only our own pages may send

A session cookie says who is logged in, without a word of JavaScript. `SessionMiddleware` keeps a small
dictionary in the cookie itself, **signed but not encrypted**: the browser can read it and cannot change it.
The server keeps nothing, so a visitor costs nothing before the login: here the token of the form, and notes.

What was signed stays good until it expires, whatever the server thinks of it. So a login is more than its
cookie: the `id` stands for a row of the database (`app/security/web_sessions.py`), and a logout deletes the
row. An account has at most `APP_SECURITY__MAX_LOGINS_PER_ACCOUNT`. All else in an old cookie stays good: a
balance in it can be set back, and so can a count of attempts. Such things belong in the database.

A browser sends cookies whoever caused the request. So three locks stand before each form:

1. `SameSite=Lax`: the cookie is not sent with the posts of another **site**. Sibling subdomains are the same.
2. `Origin` and `Sec-Fetch-Site` say which page sent the form. Only our own origin may.
3. A token that only our own page could read: it is in the session and in the form (synchroniser token).

`GET` changes nothing, for links bring the cookie along. The name of the cookie begins with `__Host-`: a
browser takes it over https only, without a `Domain`, for all paths, and from no other host. Chromium takes
it from `http://localhost`, `http://127.0.0.1` and `http://*.localhost` too, so development needs no
certificate. `app/security/session_cookie.py` puts the middleware around the routes of this page alone; it
takes its keys, which `app/keys.py` opens, and its time from `keys` and `settings` in the state that the
lifespan yields. `app/security/plain_cookies.py` reads cookies as browsers do.

The models of the forms inherit the token from `OwnForm`, so that the document shows it: a form that forbids
what it does not know refuses the token too, unless it declares it. `check_token` compares the token before
any model looks at the form: it awaits `request.form()`, which reads the body once and keeps it.

Open [the form](../../security/session) with an account of `POST /security/oauth2/accounts`.

## The trap

A session is not secret: Base64 is no encryption. `session["notes"].append(x)` is lost, for only the
dictionary itself knows that it was changed. A cookie copied before the logout works after it. A session
that keeps its id at the login lets in whoever planted it (session fixation). Over 4,096 bytes the middleware
sends a cookie that browsers drop. `SameSite=Lax` alone takes forms from every subdomain, and `GET /logout`
is called by a link. The prefix `__Host-` does not hold by itself: with the byte `0xA0` before its name a
cookie of a subdomain passes the browser, and Starlette strips the byte. `HTTPSRedirectMiddleware` behind a
proxy whose `X-Forwarded-Proto` is not trusted redirects for ever. And a cookie of `example.com` is not
sent to `www.example.com`: `TrustedHostMiddleware(www_redirect=True)` brings all to one of them.

## What is proven

- The form logs in and shows who it is, and the logout ends it.
- A changed or a foreign cookie is an empty session.
- A login leaves nothing of the session before it.
- A cookie copied before the logout is worth nothing after it.
- A login ends after its time, and the oldest when there are too many.
- A form from another origin is refused, from a sibling subdomain too.
- A form without the token of its session is refused.
- A form may forbid what it does not know if it declares the token.
- GET changes nothing.
- The cookie is bound to this host, hidden from scripts, and deleted as it was set.
- A session never outgrows what a browser keeps.
- Only the routes of this page vary by the cookie.
- A cookie whose name merely looks like ours is not read.
- A new key signs while sessions of the old one are still read.

## Read more

`SessionMiddleware(session_cookie=, max_age=, same_site=, https_only=)`, `APIRouter(route_class=)`,
[cookies](https://datatracker.ietf.org/doc/html/draft-ietf-httpbis-rfc6265bis) as browsers treat them,
[custom routes](https://fastapi.tiangolo.com/how-to/custom-request-and-route/) in the FastAPI documentation.
"""

import json
import secrets
from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from pydantic import BaseModel, ConfigDict, Field, SecretStr

from app.dependencies import AccountsDep, TemplatesDep, WebSessionsDep
from app.errors import Conflict, Forbidden
from app.security.oauth_errors import OAuthError
from app.security.session_cookie import SessionRoute, cookie
from app.security.throttle import network_of
from app.security.web_sessions import WebSessions

MAX_SESSION_SIZE = 2_800
"""Bytes of JSON. Base64, the signature and the attributes make it nearly the 4,096 that a browser keeps."""
MAX_NOTE_LENGTH = 200
MAX_FIELDS = 5
MAX_FIELD_SIZE = 16_000
"""Bytes as they are sent: of a password of 1,000 characters each may be `%F0%9F%90%9D`."""

router = APIRouter(prefix="/security/session", tags=["security"], route_class=SessionRoute)


async def check_origin_of_form(request: Request) -> None:
    """Refuses what a browser sends for another page. A program says nothing of pages."""
    own = f"{request.url.scheme}://{request.headers.get('host', '')}"
    origins = request.headers.getlist("origin")
    sites = request.headers.getlist("sec-fetch-site")
    if any(origin != own for origin in origins) or any(site != "same-origin" for site in sites):
        raise Forbidden("Only our own pages may send this form.")


async def check_token(request: Request) -> None:
    # Limits here as well: those of the router hold only where a model asks for the form.
    form = await request.form(max_files=0, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_SIZE)
    sent = str(form.get("csrf_token", ""))
    known = request.session.get("csrf_token", "")
    if not known or not secrets.compare_digest(sent.encode(errors="replace"), known.encode()):
        raise Forbidden("This form belongs to another session. Load its page again.")


forms = APIRouter(
    route_class=SessionRoute,
    dependencies=[Depends(check_origin_of_form), Depends(check_token)],
    form_limits={"max_files": 0, "max_fields": MAX_FIELDS, "max_part_size": MAX_FIELD_SIZE},
)


class OwnForm(BaseModel):
    """What only our own pages send: the token, which `check_token` has compared."""

    model_config = ConfigDict(extra="forbid")

    csrf_token: Annotated[str, Field(min_length=1, max_length=100)]


class LoginForm(OwnForm):
    username: Annotated[str, Field(min_length=1, max_length=100, examples=["ada"])]
    password: Annotated[SecretStr, Field(min_length=1, max_length=1_000)]


class NoteForm(OwnForm):
    note: Annotated[str, Field(min_length=1, max_length=MAX_NOTE_LENGTH)]


async def find_username(request: Request, web_sessions: WebSessionsDep) -> str | None:
    session_id = request.session.get("id")
    user = await web_sessions.find_user(session_id) if session_id else None
    return user.name if user else None


UsernameDep = Annotated[str | None, Depends(find_username)]


class Member(BaseModel):
    username: str
    notes: list[str]


@router.get("", response_class=HTMLResponse)
def show_session(request: Request, username: UsernameDep, templates: TemplatesDep) -> HTMLResponse:
    """The forms, with the token of this session in each."""
    context = {
        "username": username,
        "notes": request.session.get("notes", []),
        "csrf_token": request.session.setdefault("csrf_token", secrets.token_urlsafe(32)),
        "max_note_length": MAX_NOTE_LENGTH,
    }
    headers = {"Cache-Control": "no-store"}
    return templates.TemplateResponse(request, "session.html", context, headers=headers)


@router.get("/member", dependencies=[Depends(cookie)])
async def read_member(request: Request, username: UsernameDep) -> Member:
    """Who is logged in, and what stands in the session."""
    if username is None:
        raise cookie.make_not_authenticated_error()
    return Member(username=username, notes=request.session.get("notes", []))


async def end_login(request: Request, web_sessions: WebSessions) -> None:
    if "id" in request.session:
        await web_sessions.end(request.session["id"])
    request.session.clear()


def back_to_the_form(request: Request) -> RedirectResponse:
    return RedirectResponse(request.url_for("show_session").path, status_code=303)


@forms.post("/login", response_class=RedirectResponse, status_code=303)
async def begin_session(
    request: Request,
    form: Annotated[LoginForm, Form()],
    accounts: AccountsDep,
    web_sessions: WebSessionsDep,
) -> RedirectResponse:
    """Begins a session that has nothing of the one before."""
    try:
        password = form.password.get_secret_value()
        account = await accounts.authenticate(form.username, password, network_of(request))
    except OAuthError:
        raise Forbidden("The name or the password is wrong.") from None
    await end_login(request, web_sessions)
    request.session["id"] = await web_sessions.begin(account)
    return back_to_the_form(request)


@forms.post("/note", response_class=RedirectResponse, status_code=303)
async def add_note(request: Request, form: Annotated[NoteForm, Form()]) -> RedirectResponse:
    """Keeps a note in the cookie."""
    notes = [*request.session.get("notes", []), form.note]
    if len(json.dumps({**request.session, "notes": notes})) > MAX_SESSION_SIZE:
        raise Conflict("The session is full.")
    request.session["notes"] = notes  # a new list, for `append` to the old one would not be noticed
    return back_to_the_form(request)


@forms.post("/logout", response_class=RedirectResponse, status_code=303)
async def end_session(
    request: Request, form: Annotated[OwnForm, Form()], web_sessions: WebSessionsDep
) -> RedirectResponse:
    """Ends the login for every copy of the cookie, and empties the session."""
    await end_login(request, web_sessions)
    return back_to_the_form(request)


router.include_router(forms)
