"""Who is at the other end of a socket

`new WebSocket(url)` cannot set a header, so a page of a browser has four ways to say who it is, and a
program has a fifth. Each has an endpoint here, and each is told who it is by the first message.

| way | who can | where it can leak | what else it costs |
|---|---|---|---|
| `/guarded/cookie` | pages of your own site | nowhere, but any page can use it | a check of `Origin` |
| `/guarded/ticket` | pages of all listed origins | logs with URLs, used by then | a request and a row |
| `/guarded/first-message` | everybody | nowhere | strangers are let in and hold places |
| `/guarded/subprotocol` | pages of all listed origins | logs with headers | nothing |
| `/guarded/header` | programs | nowhere, for logs know this header | nothing |

Take the cookie where your pages are on your own site, else the ticket. In your own endpoint
`SocketUserDep` takes cookie, ticket and `Authorization`, of an HTTP route too (`app/security/handshake.py`);
with the cookie a route that changes something demands an `Origin`.

A credential ends, so its socket ends with it: 4401 at that second, whatever goes on. Before that a client may
send `authenticate` with a newer token of the same account; a page that has only the cookie connects again. A
logout ends no socket: what a cookie has opened lives for up to `APP_SECURITY__SESSION_SECONDS`, so let the
page close it.

Before `accept` a refusal is an HTTP answer, 401 or 403, which a program can read. A **browser** shows nothing
of it to the page: `error`, then `close` with 1006, as if the network were down
(`tests/browser/test_guarded.py`). So a page that wants to know asks by `fetch` first: `POST /rooms/tickets`
is such a question.

| close code | meaning here |
|---|---|
| 4401 | the credential ended, or the token is not valid: get a new one and come back |
| 4408 | nobody said who this is within `APP_ROOMS__FIRST_MESSAGE_SECONDS` |
| 1008 | a message that is not understood, another account's token, or too many messages |
| 1013 and others | as in `websockets/echo` |

Tickets are random, and rows of the database (`app/security/tickets.py`): any process takes one, once, within
`APP_ROOMS__TICKET_SECONDS`, and only its hash is kept. This service logs no query, and uvicorn's own lines
about sockets are left out (`app/logs.py`): see to it that your proxy does the same.

## The trap

`/ws?token=` with the access token: uvicorn logs the query of every socket, and what it logs is good for
minutes or hours. A ticket that is only signed can be used again by who reads the log. Without a look at
`Origin` a foreign page reads what is meant for the visitor, for the cookie comes along and CORS does not
apply. `accept(subprotocol=...)` with what the client offered last sends the token back, in a header of the
answer; and without one of those it offered, a browser drops the socket. `WebSocketException(code=4401)`
before `accept` is a 403 without the code. And a token that is looked at once is good for as long as the
socket lives: days.

## What is proven

- Each way says who it is and then answers.
- Without a credential the handshake is answered with 401 and for a foreign origin with 403.
- A cookie without an Origin opens no socket.
- A request may bring what a socket may and with the cookie only from our own pages.
- A ticket opens one socket.
- Of many sockets at once with one ticket one is opened.
- An expired ticket is refused.
- A ticket is taken by another process and by one alone.
- A ticket ends with its account and with the token it was got with.
- Unused tickets are swept and limited in all and for each account.
- No ticket and no token stands in the log of the server.
- A socket that does not say who it is in time is closed with 4408.
- A message before the first or one that is not understood closes with 1008.
- The subprotocol that is answered is never the token.
- A credential that ends closes its socket with 4401 at that moment.
- A newer token keeps the socket open and one of another account closes it.

## Read more

`WebSocket.accept(subprotocol=)`, `websocket.scope["subprotocols"]`, `HTTPConnection` in a dependency.
[Cross-site WebSocket hijacking](https://cheatsheetseries.owasp.org/cheatsheets/WebSocket_Security_Cheat_Sheet.html),
[the close event](https://websockets.spec.whatwg.org/#feedback-from-the-protocol) of a browser,
[dependencies of sockets](https://fastapi.tiangolo.com/advanced/websockets/#using-depends-and-others) in the
FastAPI documentation.
"""

from datetime import UTC, datetime
from time import time
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response, WebSocket
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from starlette.status import WS_1008_POLICY_VIOLATION

from app.asyncapi import messages
from app.dependencies import ConnectionsDep, SettingsDep, TicketsDep
from app.errors import Unauthorized
from app.realtime.connection import WS_4401_CREDENTIAL_ENDED, WS_4408_TOO_LATE, Connection
from app.realtime.origins import check_origin
from app.security.handshake import CHALLENGE, user_of_cookie, user_of_ticket, user_of_token
from app.security.oauth_errors import NO_STORE, InvalidToken
from app.security.socket_user import SocketUser

SUBPROTOCOL = "app.bearer"

router = APIRouter(tags=["websockets"])
sockets = APIRouter(prefix="/guarded", dependencies=[Depends(check_origin)])


class Authenticate(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["authenticate"]
    token: Annotated[str, Field(max_length=4_000)]


class Say(BaseModel):
    model_config = ConfigDict(extra="forbid")

    type: Literal["say"]
    text: Annotated[str, Field(max_length=1_000)]


class You(BaseModel):
    """Who you are, and until when."""

    type: Literal["you"] = "you"
    id: str
    name: str
    until: datetime


class Said(BaseModel):
    type: Literal["said"] = "said"
    name: str
    text: str


FROM_CLIENT: TypeAdapter[Authenticate | Say] = TypeAdapter(
    Annotated[Authenticate | Say, Field(discriminator="type")]
)
RECEIVES = {"authenticate": Authenticate, "say": Say}
SENDS = {"you": You, "said": Said}


class NewTicket(BaseModel):
    ticket: str
    expires_in: int


@router.post("/rooms/tickets", status_code=201)
async def issue_ticket(
    user: Annotated[SocketUser, Depends(user_of_token)], tickets: TicketsDep, response: Response
) -> NewTicket:
    """A ticket for one socket: `?ticket=`. It is good for seconds, and never longer than the token."""
    ticket, expires_in = await tickets.issue(user)
    response.headers.update(NO_STORE)
    return NewTicket(ticket=ticket, expires_in=expires_in)


@sockets.websocket("/cookie")
@messages(receives=RECEIVES, sends=SENDS)
async def guarded_by_cookie(
    websocket: WebSocket, user: Annotated[SocketUser, Depends(user_of_cookie)], connections: ConnectionsDep
) -> None:
    """For who is logged in at `/security/session`."""
    async with connections.connect(websocket) as connection:
        await converse(websocket, connection, user)


@sockets.websocket("/ticket")
@messages(receives=RECEIVES, sends=SENDS)
async def guarded_by_ticket(
    websocket: WebSocket, user: Annotated[SocketUser, Depends(user_of_ticket)], connections: ConnectionsDep
) -> None:
    """For who has a `?ticket=` of `POST /rooms/tickets`."""
    async with connections.connect(websocket) as connection:
        await converse(websocket, connection, user)


@sockets.websocket("/header")
@messages(receives=RECEIVES, sends=SENDS)
async def guarded_by_header(
    websocket: WebSocket, user: Annotated[SocketUser, Depends(user_of_token)], connections: ConnectionsDep
) -> None:
    """For programs, with `Authorization: Bearer`."""
    async with connections.connect(websocket) as connection:
        await converse(websocket, connection, user)


@sockets.websocket("/subprotocol")
@messages(receives=RECEIVES, sends=SENDS)
async def guarded_by_subprotocol(websocket: WebSocket, connections: ConnectionsDep) -> None:
    """For who offers the subprotocols `app.bearer` and an access token."""
    match websocket.scope["subprotocols"]:
        case [str(first), str(token)] if first == SUBPROTOCOL:
            user = await user_of_token(websocket, token)
        case _:
            raise Unauthorized(f"Offer the subprotocols {SUBPROTOCOL} and your access token.", CHALLENGE)
    async with connections.connect(websocket, SUBPROTOCOL) as connection:
        await converse(websocket, connection, user)


@sockets.websocket("/first-message")
@messages(receives=RECEIVES, sends=SENDS)
async def guarded_by_first_message(
    websocket: WebSocket, connections: ConnectionsDep, settings: SettingsDep
) -> None:
    """For everybody; the first message must be `authenticate`."""
    async with connections.connect(websocket) as connection:
        deadline = time() + settings.rooms.first_message_seconds
        connection.close_at(deadline, WS_4408_TOO_LATE, "Nobody said who this is")
        await converse(websocket, connection, None)


async def converse(websocket: WebSocket, connection: Connection, user: SocketUser | None) -> None:
    if user:
        welcome(connection, user)
    async for text in connection.messages():
        try:
            message = FROM_CLIENT.validate_json(text)
            if isinstance(message, Authenticate):
                newer = await user_of_token(websocket, message.token)
                if user and newer.id != user.id:  # what was sent before would get the name of another
                    connection.close(WS_1008_POLICY_VIOLATION, "This token is of another account")
                    return
                user = newer
                welcome(connection, user)
            elif user is None:
                connection.close(WS_1008_POLICY_VIOLATION, "Say who you are first")
            else:
                connection.send(Said(name=user.name, text=message.text).model_dump_json())
        except ValidationError:
            connection.close(WS_1008_POLICY_VIOLATION, "The message is not understood")
        except InvalidToken as refused:
            connection.close(WS_4401_CREDENTIAL_ENDED, refused.detail)


def welcome(connection: Connection, user: SocketUser) -> None:
    """The only place where the end is set, so that nobody is told who he is without one."""
    connection.close_at(user.expires_at, WS_4401_CREDENTIAL_ENDED, "The credential has ended")
    until = datetime.fromtimestamp(user.expires_at, UTC)
    connection.send(You(id=user.id, name=user.name, until=until).model_dump_json())


router.include_router(sockets)
