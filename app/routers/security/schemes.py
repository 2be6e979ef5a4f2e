"""API keys, Bearer and Basic

The classes of `fastapi.security` read a credential from the request, and describe in the OpenAPI document
where it goes: that is the Authorize button of `/docs`. **None of them verifies anything.** That is our part.

| class | what it takes for a credential | what it leaves to you |
|---|---|---|
| `APIKeyHeader`, `APIKeyQuery`, `APIKeyCookie` | any text that is not empty | whether it is a key |
| `HTTPBearer` | any text after `Bearer` | the token: signature, expiry, audience |
| `HTTPBasic` | ASCII with a colon, in Base64 | name and password |
| `HTTPDigest` | any text after `Digest` | all of RFC 7616; take Basic over https instead |
| `OAuth2AuthorizationCodeBearer` | any text after `Bearer`, or none | the token; its URLs are for the docs |
| `OAuth2`, `OpenIdConnect` | the whole header, of any scheme | the scheme too; their URLs are for the docs |

Use a key for programs and a session for people. A key here is `secrets.token_urlsafe(32)`. The settings hold
only its SHA-256 (`APP_SECURITY__API_KEYS={"ci": "…"}`): who reads them cannot call. A fast hash is enough,
for nobody guesses 256 random bits. None is configured by default, and then nobody gets in. A password can
be guessed: those of the accounts that Basic takes here are hashed slowly, by Argon2 in threads, few at a
time, and whoever guesses gets 429 (`app/security/accounts.py`).

With `auto_error=False` a class returns `None` where there is no credential. So one route may accept several,
or none. Say so in the document by `openapi_extra={"security": [{}]}`. The same dependency guards a socket:
before `accept` a 401 reaches the client as such. A browser cannot send `Authorization` with a socket, and
sends cookies whoever opened it: so the origin is checked as well. A key in the query is for callers that
can do nothing else: it stays in histories, bookmarks and the logs of proxies. Ours logs the path alone.

## The trap

`Depends(APIKeyHeader(name="X-API-Key"))` alone lets every text in. `key == KEY` stops at the first letter
that differs, and tells by its time how many were right; `secrets.compare_digest(key, KEY)` raises
`TypeError` for `é`, a 500 for whoever sends one: compare bytes, or digests. Two classes with
`auto_error=True` demand both credentials, while the document says either. With `auto_error=False` a malformed
Basic header is a 401 all the same. Two objects of one class have one name in the document, where the second
replaces the first: give each a `scheme_name`. The access log of uvicorn writes the query, with its keys. And
Starlette's `AuthenticationMiddleware` with `@requires` guards a route that the document shows as open.

## What is proven

- A missing and an empty and a wrong key are the same 401 with a challenge.
- A key is taken from a header or as a bearer token or from the query or a cookie.
- Without a configured key nobody gets in.
- A key beyond ASCII is refused like any other.
- The settings take a digest and no key.
- A wrong key is refused where none is needed.
- A socket without a key is denied with 401 before the handshake.
- A page of a foreign origin opens no socket by a cookie.
- A key in the query is not in the log.
- The document names each way in and where none is needed.
- Basic takes the name and password of an account.
- After too many wrong passwords an address is refused and no other.
- A password beyond ASCII and a malformed header are a 401.

## Read more

`APIKeyHeader(name=, scheme_name=, description=, auto_error=)`, `HTTPBearer(bearerFormat=)`,
`HTTPBasic(realm=)`, `make_not_authenticated_error`, `secrets.compare_digest`.
[Security](https://fastapi.tiangolo.com/reference/security/) and
[HTTP Basic](https://fastapi.tiangolo.com/advanced/security/http-basic-auth/) in the FastAPI documentation.
"""

from hashlib import sha256
from secrets import compare_digest
from typing import Annotated

from fastapi import APIRouter, Depends, HTTPException, WebSocket
from fastapi.requests import HTTPConnection
from fastapi.security import (
    APIKeyCookie,
    APIKeyHeader,
    APIKeyQuery,
    HTTPAuthorizationCredentials,
    HTTPBasic,
    HTTPBasicCredentials,
    HTTPBearer,
)
from pydantic import BaseModel, Field

from app.asyncapi import messages
from app.dependencies import AccountsDep, ConnectionsDep, SettingsDep
from app.realtime.origins import check_origin
from app.security.oauth_errors import OAuthError
from app.security.throttle import network_of

router = APIRouter(prefix="/security", tags=["security"])


class KeyInHeader(APIKeyHeader):
    def make_not_authenticated_error(self) -> HTTPException:
        """A 401 has to name what would do (RFC 9110, section 11.6.1). `APIKey` is FastAPI's own word."""
        challenges = 'Bearer realm="keys", APIKey realm="keys"'
        return HTTPException(401, "A valid API key is needed.", {"WWW-Authenticate": challenges})


in_header = KeyInHeader(
    name="X-API-Key",
    scheme_name="KeyInHeader",
    description="The usual place of a key.",
    auto_error=False,
)
as_token = HTTPBearer(
    bearerFormat="opaque",
    scheme_name="KeyAsBearer",
    description="For clients that know only tokens.",
    auto_error=False,
)
in_query = APIKeyQuery(
    name="api_key",
    scheme_name="KeyInQuery",
    description="For callers that cannot set a header. It stays in histories and logs.",
    auto_error=False,
)
in_cookie = APIKeyCookie(
    name="api_key",
    scheme_name="KeyInCookie",
    description="For the sockets of a browser.",
    auto_error=False,
)
password = HTTPBasic(realm="accounts", scheme_name="Password", description="Name and password of an account.")


class Caller(BaseModel):
    name: str | None


async def find_caller(
    settings: SettingsDep,
    header: Annotated[str | None, Depends(in_header)],
    token: Annotated[HTTPAuthorizationCredentials | None, Depends(as_token)],
    query: Annotated[str | None, Depends(in_query)],
    cookie: Annotated[str | None, Depends(in_cookie)],
) -> str | None:
    """Whose key this is, the header's before the cookie's; None without any. Raises for a wrong one."""
    key = header or (token and token.credentials) or query or cookie
    if key is None:
        return None
    digest = sha256(key.encode()).digest()
    found = None
    for name, known in settings.security.api_keys.items():
        if compare_digest(digest, bytes.fromhex(known)):
            found = name  # no `break`: the time would tell which of them it was
    if found is None:
        raise in_header.make_not_authenticated_error()
    return found


MaybeCallerDep = Annotated[str | None, Depends(find_caller)]


async def get_caller(caller: MaybeCallerDep) -> str:
    if caller is None:
        raise in_header.make_not_authenticated_error()
    return caller


CallerDep = Annotated[str, Depends(get_caller)]


@router.get("/caller")
async def read_caller(caller: CallerDep) -> Caller:
    """Whose key was sent: in `X-API-Key`, as `Authorization: Bearer`, in `?api_key=` or in a cookie."""
    return Caller(name=caller)


@router.get("/visitor", openapi_extra={"security": [{}]})
async def read_visitor(caller: MaybeCallerDep) -> Caller:
    """The same, but nobody needs a key; a wrong one is refused and not taken for none."""
    return Caller(name=caller)


@router.websocket("/socket", dependencies=[Depends(check_origin)])
@messages(receives={"text": str}, sends={"named": Annotated[str, Field(pattern=": ")]})
async def greet_caller(websocket: WebSocket, caller: CallerDep, connections: ConnectionsDep) -> None:
    """Answers each text with the name of the caller."""
    async with connections.connect(websocket) as connection:
        async for text in connection.messages():
            connection.send(f"{caller}: {text}")


async def get_account_name(
    connection: HTTPConnection,
    given: Annotated[HTTPBasicCredentials, Depends(password)],
    accounts: AccountsDep,
) -> str:
    try:
        account = await accounts.authenticate(given.username, given.password, network_of(connection))
    except OAuthError:
        raise password.make_not_authenticated_error() from None
    return account.username


@router.get("/account")
async def read_account(name: Annotated[str, Depends(get_account_name)]) -> Caller:
    """Whose name and password were sent by HTTP Basic. `POST /security/oauth2/accounts` makes an account."""
    return Caller(name=name)
