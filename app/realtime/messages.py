"""What a room and its members say to each other: JSON in text frames, told apart by `type`.

A message has an id, made of two numbers as those of Redis Streams are. Ids grow, so a client that says
which it saw last is sent those after it. Joining and leaving have none: who comes back is told who is here.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.errors import FieldError

MAX_TEXT_LENGTH = 4_000
"""Characters of one message of a room."""

MAX_MEMBERS = 10
"""Of what a client sends, as a JSON object."""

BEGINNING = "0-0"
"""The id before all others."""

MessageId = Annotated[str, Field(pattern=r"^[0-9]{1,15}-[0-9]{1,15}$", examples=["1785000000000-0"])]

RoomName = Annotated[
    str,
    Path(
        pattern="^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$",
        description="Small letters, digits and hyphens, at most 64.",
        examples=["kitchen"],
    ),
]

After = Annotated[
    MessageId | None,
    Query(description=f"The last id that was seen. `{BEGINNING}`: all that is kept. None: from here on."),
]


class Member(BaseModel):
    """One connection. Two of one user differ in `connection` only."""

    model_config = ConfigDict(frozen=True)

    connection: str
    user: Annotated[str, Field(description="The id of the account")]
    name: str


class FromClient(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _has_few_members(cls, content: Any) -> Any:
        """Pydantic makes an error of each that is unknown: of thousands, that takes longer than all else."""
        if isinstance(content, dict) and len(content) > MAX_MEMBERS:
            raise ValueError("too many members")
        return content


class NewMessage(FromClient):
    """Something for all in the room. One `ref` of one user is one message, however often it is sent."""

    ref: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$", description="The client's own id for it")]
    text: Annotated[str, Field(min_length=1, max_length=MAX_TEXT_LENGTH)]


class Say(NewMessage):
    """The same on a socket."""

    type: Literal["say"]


class Ping(FromClient):
    """For a client that cannot see the pings of the protocol. A browser cannot."""

    type: Literal["ping"]


Received = Annotated[Say | Ping, Field(discriminator="type")]


class Welcome(BaseModel):
    type: Literal["welcome"] = "welcome"
    you: Member
    here: Annotated[list[Member], Field(description="Who was here before you")]
    last_id: Annotated[MessageId, Field(description="What to come back with before the first message")]
    service: Literal["ok", "degraded"]


class Message(BaseModel):
    type: Literal["message"] = "message"
    id: MessageId
    sender: Member
    text: str
    sent_at: datetime


class Accepted(BaseModel):
    """The message with this `ref` is kept, under this id."""

    type: Literal["accepted"] = "accepted"
    ref: str
    id: MessageId


class Refused(BaseModel):
    """The message with this `ref` may not be kept. Send it again, with the same `ref`."""

    type: Literal["refused"] = "refused"
    ref: str
    reason: Annotated[
        Literal["busy", "unavailable"],
        Field(description="Too much is said in this room; or the service is degraded"),
    ]


class Joined(BaseModel):
    """You are told of yourself as well."""

    type: Literal["joined"] = "joined"
    member: Member


class Left(BaseModel):
    type: Literal["left"] = "left"
    member: Member


class Gap(BaseModel):
    """Messages before the next one are forgotten: load what they have changed anew."""

    type: Literal["gap"] = "gap"


class Service(BaseModel):
    """Degraded: nothing can be said, and what others say may come late."""

    type: Literal["service"] = "service"
    state: Literal["ok", "degraded"]


class Pong(BaseModel):
    type: Literal["pong"] = "pong"


class Invalid(BaseModel):
    """What you sent was not understood, and nothing was done. `errors` says where, never what."""

    type: Literal["invalid"] = "invalid"
    errors: list[FieldError]


Sent = Annotated[
    Welcome | Message | Accepted | Refused | Joined | Left | Gap | Service | Pong | Invalid,
    Field(discriminator="type"),
]
