"""Echo and broadcast

Three sockets that answer what tutorials promise. `/ws` echoes; `/ws/{client_id}` confirms a message to
its sender and tells it to everybody; `/chat` only tells it to everybody. Use this for live updates within
one process.

An endpoint is a loop over `connection.messages()` inside `async with connections.connect(...)`. The
`ConnectionManager` of `app/realtime/connections.py` is in the lifespan state. `send` and `broadcast` never
wait for a peer: what one that reads takes goes to the server at once, and one that is behind gets a bounded
outbox, and a task of its own that empties it (`app/realtime/connection.py`).
The router's dependency `check_origin` runs before the handshake is answered, and so do the limits on
connections: a refusal is an HTTP answer, problem details as everywhere.

| close code | meaning here |
|---|---|
| 1000, 1001, 1006 | the client ended it: properly, by leaving the page, by vanishing |
| 1003 | the client sent a binary frame |
| 1008 | more than `APP_WS_MESSAGES_PER_SECOND`, averaged over ten seconds |
| 1009 | a message over `APP_WS_MAX_MESSAGE_SIZE` |
| 1011 | the service failed; the log says how |
| 1012 | the service restarts: connect again after a random pause |
| 1013 | the client reads too slowly: `APP_WS_QUEUE_SIZE` messages were waiting for it |

## The trap

The tutorials' `ConnectionManager` is a list and a loop of `await connection.send_text(...)`. One client that
does not read stops the loop for everybody. One that crashed throws its error at the *sender*. Only
`WebSocketDisconnect` is caught, so one binary frame (a `KeyError`) leaves a dead connection in the list, and
the room is broken until the restart. Someone who leaves during the loop makes it skip the next. Any web page
can open the socket with the visitor's cookies, for CORS does not apply to sockets. And a client that does
not read keeps the server from stopping: closing waits for the unsent bytes, without a limit.
`app/middleware/stalled_sockets.py` aborts such a connection.

## What is proven

- The echo answers each text.
- The sender gets a confirmation and everybody gets the message.
- The others are told when a client leaves.
- A page of a foreign origin is refused with 403 before the handshake.
- Pages of the own or a listed origin and programs without one are let in.
- A binary frame closes its sender with 1003 and the others talk on.
- A message over the size limit closes with 1009.
- A client over the rate limit is closed with 1008.
- A burst within the rate is answered in full though the outbox is small.
- A socket over the total limit is refused with 503 and over the limit of one address with 429.
- A client that does not read is closed with 1013 and nobody waits for it.
- Everybody present gets each message once although one is removed while it is sent.
- At shutdown every socket is closed with 1012 after what was waiting for it.
- No way of leaving puts a traceback in the log.

## Read more

`WebSocket.accept`, `receive`, `send_text`, `close(code, reason)`, `APIRouter(dependencies=[...])`.
[WebSockets](https://fastapi.tiangolo.com/advanced/websockets/) in the FastAPI documentation,
[close codes](https://www.rfc-editor.org/rfc/rfc6455#section-7.4.1) in RFC 6455.
"""

from typing import Annotated

from fastapi import APIRouter, Depends, Path, WebSocket
from pydantic import BaseModel, Field

from app.asyncapi import messages
from app.dependencies import ConnectionsDep
from app.realtime.origins import check_origin

router = APIRouter(tags=["websockets"])
sockets = APIRouter(dependencies=[Depends(check_origin)])

# What JavaScript can hold exactly; browsers like to use the time in milliseconds as their id.
ClientId = Annotated[int, Path(ge=0, lt=2**53)]

Echo = Annotated[str, Field(pattern="^Message text was: ")]
Confirmation = Annotated[str, Field(pattern="^You wrote: ")]
Told = Annotated[str, Field(pattern=r"^Client #\d+ says: ")]
Left = Annotated[str, Field(pattern=r"^Client #\d+ left the chat$")]
Said = Annotated[str, Field(pattern="^User said: ")]


class OpenSockets(BaseModel):
    open: int


@sockets.websocket("/ws")
@messages(receives={"text": str}, sends={"echo": Echo})
async def echo(websocket: WebSocket, connections: ConnectionsDep) -> None:
    """Answers `x` with `Message text was: x`."""
    async with connections.connect(websocket) as connection:
        async for text in connection.messages():
            connection.send(f"Message text was: {text}")


@sockets.websocket("/ws/{client_id}")
@messages(receives={"text": str}, sends={"confirmation": Confirmation, "told": Told, "left": Left})
async def clients(websocket: WebSocket, client_id: ClientId, connections: ConnectionsDep) -> None:
    """Answers `x` with `You wrote: x`, and tells all on this path who said it, and who left."""
    channel = connections.channel("clients")
    async with connections.connect(websocket) as connection:
        try:
            with channel.join(connection):
                async for text in connection.messages():
                    connection.send(f"You wrote: {text}")
                    channel.broadcast(f"Client #{client_id} says: {text}")
        finally:  # also when this fails: the others must not take it for present
            channel.broadcast(f"Client #{client_id} left the chat")


@sockets.websocket("/chat")
@messages(receives={"text": str}, sends={"said": Said})
async def chat(websocket: WebSocket, connections: ConnectionsDep) -> None:
    """Tells all on this path `User said: x`, the sender too."""
    channel = connections.channel("chat")
    async with connections.connect(websocket) as connection:
        with channel.join(connection):
            async for text in connection.messages():
                channel.broadcast(f"User said: {text}")


@router.get("/websockets/open")
async def count_open(connections: ConnectionsDep) -> OpenSockets:
    """How many sockets are open, on all paths."""
    return OpenSockets(open=connections.count)


router.include_router(sockets)
