"""A subscription, what is sent to it, and what became of that."""

import asyncio
import secrets
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

import httpx2
from pydantic import AwareDatetime, BaseModel, Field, ValidationError

MAX_ANSWER_SIZE = 1_024
"""Bytes of an answer that are read, and only of the answer to a challenge."""

Status = Literal["pending", "active", "ended"]


class Event(BaseModel):
    """What every message has, as Standard Webhooks recommends. Without defaults: what is always sent is
    documented as required."""

    type: str
    timestamp: AwareDatetime


class Challenge(BaseModel):
    challenge: str


class VerificationEvent(Event):
    """The first message of a subscription."""

    type: Literal["subscription.verification"]
    data: Challenge


class Delivery(BaseModel):
    """One message to one subscriber."""

    id: str = Field(description="the `webhook-id` of the message")
    type: str
    status: Literal["waiting", "delivered", "failed"]
    attempts: int
    code: int | None = Field(description="status of the last answer; null when there was none")


@dataclass(eq=False)
class Subscription:
    url: str
    key: bytes = field(repr=False)
    waiting: asyncio.Queue[tuple[Delivery, bytes]]
    deliveries: deque[Delivery]
    challenge: str = field(repr=False, default_factory=lambda: secrets.token_urlsafe(24))
    id: str = field(default_factory=lambda: secrets.token_hex(16))
    status: Status = "pending"
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def post(self, event: Event) -> None:
        """Raises `asyncio.QueueFull`."""
        delivery = Delivery(
            id=f"msg_{secrets.token_hex(16)}", type=event.type, status="waiting", attempts=0, code=None
        )
        self.waiting.put_nowait((delivery, event.model_dump_json().encode()))
        self.deliveries.append(delivery)
        self.idle.clear()

    async def consents(self, answer: httpx2.Response) -> bool:
        """Whether the subscriber has returned the challenge."""
        body = b""
        async for chunk in answer.aiter_raw(MAX_ANSWER_SIZE):
            body += chunk
            if len(body) > MAX_ANSWER_SIZE:
                return False
        try:
            return Challenge.model_validate_json(body).challenge == self.challenge
        except ValidationError:
            return False
