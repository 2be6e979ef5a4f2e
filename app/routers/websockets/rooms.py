"""Rooms that lose nothing

`WS /rooms/{room}` is a room for people who are logged in: who is here, what was said before, what is said.
Use it for chats, boards, games: whatever many see at once, and must not miss a piece of. The same rooms
without a socket are on `websockets/rooms_http`, the ways to log in a socket on `websockets/guarded`.

All is JSON, told apart by `type`; `app/realtime/messages.py` has the models, `/asyncapi.json` the document.

| you send | you get |
|---|---|
| | `welcome` with who you are and who is here, then `joined`, also for yourself |
| `{"type": "say", "ref": "a1", "text": "Hello"}` | `accepted` with `ref` and id; the `message`, as all |
| the same `ref` again | the same id: it is not said twice |
| too much in one room, or by you | `refused`, `busy`: send it again, with its `ref` |
| what is no message | `invalid`, with where and why; nothing is lost |
| `{"type": "ping"}` | `pong`. Browsers cannot see the pings of the protocol |

An id stands for a place in the history. Who comes back says `?after=` with the last one it saw, and gets
the rest, each message once, before the live ones. If some are forgotten (`APP_ROOMS__HISTORY`), a `gap` says
so. Two sockets of one user are two connections with one identity. Order is kept for each sender; a client
that is refused sends one message at a time to keep it. Whoever is logged in may enter every room: who may is
yours to decide, before `hub.visit`.

`app/realtime/hub.py` has the rooms, over one process or many: `app/realtime/backplane.py` says what is behind
them, in memory or, with `APP_REDIS_URL`, in Redis Streams. When Redis is away, all are told
`service: degraded`; nothing can be said, nobody is cut off, and what was said comes when it is back. A
process that is killed says no goodbye; the others see by its silence that its members are gone.

[Two clients in one page](../../rooms) let you try it. It is made of `static/room-client.js`, a module to copy
as it is: it gets a ticket for each connection, comes back after a random pause that grows, with the last id
it saw, and sends one message at a time, again with its `ref` until it is accepted.

Close codes are those of `websockets/echo`, and 4401 when the credential ends, 4408 after
`APP_ROOMS__IDLE_SECONDS` without a word, not even a `ping`. 1012, 1013 and 4401 mean: come back, with the
last id.

## The trap

A room in a variable of one process: with `--workers 4` three of four members never hear of it. Redis pub/sub
instead forgets whatever is sent while one is away for a second, and without `retry` it hears nothing ever
after. History and live messages from two sources lose what is said between the two. And what is sent again,
because its answer was lost, is said twice.

## What is proven

- Everybody in a room gets a message once and its sender is told its id.
- Those who come and go are told to the others and two sockets of one user are two connections.
- A client that comes back gets what it missed once and in order.
- A message said while the history is sent comes once.
- What is forgotten is told as a gap.
- A message that is sent again is said once.
- What is no message is answered and loses nothing.
- A room in which too much is said refuses the message and not the client.
- A user with many sockets may say no more than with one and come only so often.
- When Redis is away all are told and nothing can be said but nobody is cut off.
- A client that says nothing for too long is closed with 4408.
- A client that only sends pings is not closed.
- A credential that ends closes its socket with 4401.
- A client without a credential is refused before the handshake.
- A room that is full and a user with too many connections are refused.

## Read more

`Annotated[Say | Ping, Field(discriminator="type")]`, `TypeAdapter.validate_json`, `asyncio.timeout`.
[WebSockets](https://fastapi.tiangolo.com/advanced/websockets/) in the FastAPI documentation,
[Redis Streams](https://redis.io/docs/latest/develop/data-types/streams/).
"""

from fastapi import APIRouter, Request, WebSocket
from fastapi.responses import HTMLResponse
from pydantic import TypeAdapter, ValidationError
from starlette.status import WS_1013_TRY_AGAIN_LATER

from app.asyncapi import messages
from app.dependencies import ConnectionsDep, HubDep, SettingsDep, SocketUserDep, TemplatesDep
from app.errors import TooManyRequests, field_errors
from app.realtime.backplane import RoomBusy, Unavailable
from app.realtime.connection import WS_4401_CREDENTIAL_ENDED, Connection
from app.realtime.hub import Visit
from app.realtime.local_rooms import Event
from app.realtime.messages import (
    MAX_TEXT_LENGTH,
    Accepted,
    After,
    Gap,
    Invalid,
    Joined,
    Left,
    Message,
    Ping,
    Pong,
    Received,
    Refused,
    RoomName,
    Say,
    Sent,
    Service,
    Welcome,
)

RECEIVED: TypeAdapter[Say | Ping] = TypeAdapter(Received)

router = APIRouter(tags=["websockets"])


class SocketOutlet:
    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.drained = connection.drained

    def put(self, event: Event) -> bool:
        return self._connection.put(event.text)


@router.websocket("/rooms/{room}")
@messages(
    receives={"say": Say, "ping": Ping},
    sends={
        "welcome": Welcome,
        "message": Message,
        "accepted": Accepted,
        "refused": Refused,
        "joined": Joined,
        "left": Left,
        "gap": Gap,
        "service": Service,
        "pong": Pong,
        "invalid": Invalid,
    },
)
async def talk(
    websocket: WebSocket,
    room: RoomName,
    user: SocketUserDep,
    hub: HubDep,
    connections: ConnectionsDep,
    settings: SettingsDep,
    after: After = None,
) -> None:
    """One connection in a room."""
    async with hub.visit(room, user) as visit, connections.connect(websocket) as connection:
        connection.close_at(user.expires_at, WS_4401_CREDENTIAL_ENDED, "The credential has ended")
        outlet = SocketOutlet(connection)
        try:
            await visit.follow(outlet, after)
        except Unavailable:
            connection.close(WS_1013_TRY_AGAIN_LATER, "The history cannot be read")
        async for text in connection.messages(settings.rooms.idle_seconds):
            outlet.put(Event(await answer(visit, text)))


async def answer(visit: Visit, text: str) -> Sent:
    try:
        received = RECEIVED.validate_json(text)
    except ValidationError as exc:
        return Invalid(errors=field_errors(exc.errors()))
    if isinstance(received, Ping):
        return Pong()
    try:
        return Accepted(ref=received.ref, id=await visit.post(received.ref, received.text))
    except (RoomBusy, TooManyRequests):
        return Refused(ref=received.ref, reason="busy")
    except Unavailable:
        return Refused(ref=received.ref, reason="unavailable")


@router.get("/rooms", response_class=HTMLResponse)
def show_rooms(request: Request, templates: TemplatesDep) -> HTMLResponse:
    """A page with two clients, whose lines can be cut."""
    return templates.TemplateResponse(request, "rooms.html", {"max_text_length": MAX_TEXT_LENGTH})
