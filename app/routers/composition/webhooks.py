"""Webhooks that are sent, and described

A service that tells others when something happens calls addresses that they gave it. Here a subscriber
registers a URL and gets every announcement, by `app/jobs/webhooks.py`: signed by the rules of Standard
Webhooks, in order, again with growing intervals, and within limits.

OpenAPI describes such requests, so that subscribers can generate their end, too. A *callback* is sent because
of one request, to an address in it: `{$request.body#/url}` in the path of its route says where. A *webhook*
is sent to whoever has subscribed. Both are routes that describe and are never called. The callback here
asks the address whether it wants the rest, and nothing else is sent until it has returned the challenge;
or else everybody could turn the service against a third party.

An address may not lead into the network of the service: `app/egress.py` looks at the very address that it
connects to. Subscriptions are kept in memory,
for each process, and a restart forgets them. Everybody may subscribe and announce here; in a service of
yours, ask who it is before.

## The trap

Who sends to an address from outside sends to `169.254.169.254`, too, which hands out the keys of a cloud
machine. A check at the time of subscribing does not help: the next look-up may answer differently, a redirect
leads elsewhere, and `100.64.0.1` or an IPv4 address inside an IPv6 one count as neither private nor loopback.

`callbacks=router.routes` leaves out, without a word, what comes from a router inside that router. And a
callback without responses of its own promises FastAPI's 422, which no subscriber sends.

## What is proven

- A subscriber that returns the challenge gets the events, signed, and one that does not gets nothing.
- What failed is sent again with the same id and another time, a bounded number of times.
- A subscriber that answers 410 gets nothing more.
- A burst that fills a queue is refused, queued for nobody, and ends no subscription.
- A redirect is not followed, and of an answer no more than a kilobyte is read.
- No address inside the network is connected to, whatever its name or notation.
- A URL with a password, a fragment or without TLS is refused.
- A host is asked so many times a minute, whoever asks and deletes.
- A full table refuses subscriptions, and one that has ended makes room.
- The document describes the callback and the webhook as they are sent.

## Read more

`callbacks=`, `FastAPI(webhooks=)`, `openapi_extra=`, `httpx2.AsyncBaseTransport`, `socket.getaddrinfo`.
[Callbacks](https://fastapi.tiangolo.com/advanced/openapi-callbacks/) and
[webhooks](https://fastapi.tiangolo.com/advanced/openapi-webhooks/) in the FastAPI documentation,
[Standard Webhooks](https://www.standardwebhooks.com).
"""

from base64 import b64encode
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Request, Response
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, HttpUrl
from pydantic_core import PydanticCustomError

from app.dependencies import WebhooksDep
from app.jobs.subscriptions import Challenge, Delivery, Event, Status, Subscription, VerificationEvent
from app.openapi import operation_id

EXAMPLE_TIME = "2030-01-31T12:00:00Z"
STANDARD = {"url": "https://www.standardwebhooks.com", "description": "How messages are signed"}

router = APIRouter(prefix="/composition/webhooks", tags=["composition"])


class SignatureHeaders(BaseModel):
    webhook_id: Annotated[str, Field(description="the same when the message is sent again")]
    webhook_timestamp: Annotated[int, Field(description="seconds; of this attempt")]
    webhook_signature: Annotated[str, Field(description="`v1,` and the HMAC-SHA256 of id, time and body")]


Signed = Annotated[SignatureHeaders, Header()]

# What a subscriber may answer. Without it the document would promise FastAPI's own 422.
OUTBOUND: dict[int | str, dict[str, Any]] = {
    410: {"description": "Not wanted any more: the subscription ends"},
    "4XX": {"description": "Sent again, a few times"},
    "5XX": {"description": "Sent again, a few times"},
}
to_subscriber = APIRouter(tags=["composition"], responses=OUTBOUND, generate_unique_id_function=operation_id)


@to_subscriber.post("{$request.body#/url}", response_description="The same challenge")
async def verify_subscription(event: VerificationEvent, headers: Signed) -> Challenge:
    """Sent first, to ask whether the address wants the events: it returns the challenge."""
    return event.data


class Announcement(BaseModel):
    text: Annotated[str, Field(min_length=1, max_length=500)]
    level: Literal["info", "urgent"] = "info"


class AnnouncementEvent(Event):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": "announcement.published",
                    "timestamp": EXAMPLE_TIME,
                    "data": {"text": "Tea is ready.", "level": "info"},
                }
            ]
        }
    )

    type: Literal["announcement.published"]
    data: Announcement


webhooks = APIRouter(tags=["composition"], responses=OUTBOUND, generate_unique_id_function=operation_id)


@webhooks.post(
    "announcement.published",
    status_code=204,
    response_description="Taken; any 2xx will do, and no body is read",
    openapi_extra={"externalDocs": STANDARD},  # there is no parameter for it
)
async def receive_announcement(event: AnnouncementEvent, headers: Signed) -> None:
    """Sent to every active subscription when something is announced."""


def without_secrets(url: HttpUrl) -> HttpUrl:
    if url.username or url.password or url.fragment:
        raise PydanticCustomError("subscriber_url", "Give a URL without a password and without a fragment")
    return url


class SubscriptionRequest(BaseModel):
    url: Annotated[
        HttpUrl, AfterValidator(without_secrets), Field(examples=["https://subscriber.example/hooks"])
    ]


class SubscriptionState(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    url: str
    status: Annotated[Status, Field(description="active when the address has returned the challenge")]
    deliveries: Annotated[list[Delivery], Field(description="the newest, oldest first")]


class SubscriptionCreated(SubscriptionState):
    secret: Annotated[str, Field(description="the key of the signatures; it is not shown again")]


@router.post("/subscriptions", status_code=201, callbacks=to_subscriber.routes)
async def subscribe(
    wanted: SubscriptionRequest, sender: WebhooksDep, request: Request, response: Response
) -> SubscriptionCreated:
    """Subscribes a URL to the announcements, and sends it a challenge."""
    subscription = await sender.subscribe(str(wanted.url))
    response.headers["Location"] = request.url_for("show_subscription", subscription_id=subscription.id).path
    response.headers["Cache-Control"] = "no-store"
    state = SubscriptionState.model_validate(subscription)
    return SubscriptionCreated(**dict(state), secret=f"whsec_{b64encode(subscription.key).decode()}")


async def find_subscription(subscription_id: str, sender: WebhooksDep) -> Subscription:
    return sender.get(subscription_id)


SubscriptionDep = Annotated[Subscription, Depends(find_subscription)]


@router.get("/subscriptions/{subscription_id}")
async def show_subscription(subscription: SubscriptionDep) -> SubscriptionState:
    """The state of a subscription and what became of its newest messages."""
    return SubscriptionState.model_validate(subscription)


@router.delete("/subscriptions/{subscription_id}", status_code=204)
async def unsubscribe(subscription: SubscriptionDep, sender: WebhooksDep) -> None:
    """Ends a subscription; what waits is not sent."""
    sender.remove(subscription)


class Announced(BaseModel):
    subscribers: int


@router.post("/announcements", status_code=202)
async def announce(announcement: Announcement, sender: WebhooksDep) -> Announced:
    """Sends an announcement to all active subscriptions, after the answer."""
    event = AnnouncementEvent(type="announcement.published", timestamp=datetime.now(UTC), data=announcement)
    return Announced(subscribers=sender.publish(event))
