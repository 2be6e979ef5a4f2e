"""A body that is signed

A signature covers bytes, so it is checked over `await request.body()`; these bytes stay available beside the
parsed model. `POST /validation/webhook` takes messages as [Standard Webhooks](https://www.standardwebhooks.com)
signs them: with the id of the message and the time of the attempt (`app/webhooks.py`). The check is a
dependency that gives the endpoint the id, so that an endpoint which has an id has a message that was checked.

Whoever saw a message can send it again. So one that is too old is refused, and one that came before changes
nothing: its id and what it asks for are written in one transaction. It is answered with 200 all the same, or
an honest sender that missed the first answer would never stop. Use this for whatever calls without a login.

The key is made for this purpose from the keys of the service. Where a provider gives one (`whsec_…`, the rest
is base64), make it a setting.

## The trap

Verifying `json.dumps(await request.json())` refuses honest messages: nobody writes JSON as the sender did.
A signature alone is good for ever, for it does not say when. FastAPI parses the JSON, not the model, before
any dependency runs: keep `max_body_size` small.

## What is proven

- A message with a good signature is taken, once.
- A message that was changed, is not signed, or is too old is refused before the model looks at it.
- So many ids of messages are remembered, and no more.
- A message that was not valid has not been taken.

## Read more

`Request.body()`, `hmac.compare_digest`, `Annotated[SignatureHeaders, Header()]`, `max_body_size=`.
[Using the request directly](https://fastapi.tiangolo.com/advanced/using-request-directly/) in the FastAPI
documentation, [Standard
Webhooks](https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md).
"""

from time import time
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Request
from pydantic import BaseModel, Field, JsonValue
from sqlalchemy import delete
from sqlalchemy.exc import IntegrityError

from app.database.models import ReceivedWebhook
from app.dependencies import KeysDep, SessionDep, SettingsDep
from app.errors import Forbidden
from app.webhooks import verify

MAX_WEBHOOK_SIZE = 65_536

router = APIRouter(tags=["validation"])


class SignatureHeaders(BaseModel):
    webhook_id: Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,64}$")]
    webhook_timestamp: Annotated[int, Field(ge=0, le=2**53)]
    webhook_signature: Annotated[str, Field(max_length=1_000)]


async def verified_id(
    signed: Annotated[SignatureHeaders, Header()], request: Request, keys: KeysDep, settings: SettingsDep
) -> str:
    """The id of a message whose signature holds and whose time is near to now."""
    if abs(time() - signed.webhook_timestamp) > settings.webhooks.tolerance:
        raise Forbidden("The message is too old, or its time has not come yet.")
    body = await request.body()
    for_webhooks = keys.for_purpose("webhooks")
    if not verify(body, signed.webhook_id, signed.webhook_timestamp, signed.webhook_signature, for_webhooks):
        raise Forbidden("The signature does not fit the message.")
    return signed.webhook_id


class Event(BaseModel):
    type: Annotated[str, Field(max_length=100, examples=["user.created"])]
    data: dict[str, JsonValue]


class Receipt(BaseModel):
    type: str
    first_time: bool


@router.post("/validation/webhook", max_body_size=MAX_WEBHOOK_SIZE)
async def receive_webhook(
    event: Event, id: Annotated[str, Depends(verified_id)], session: SessionDep, settings: SettingsDep
) -> Receipt:
    """Takes a signed message. One that is sent again is taken too, or the sender would never stop."""
    received = ReceivedWebhook(message_id=id)
    session.add(received)
    try:
        await session.flush()
    except IntegrityError:
        await session.rollback()
        return Receipt(type=event.type, first_time=False)
    # What the message asks for is done here: in one transaction with its id it is done once, or not at all.
    oldest = received.number - settings.webhooks.remembered_ids
    await session.execute(delete(ReceivedWebhook).where(ReceivedWebhook.number <= oldest))
    return Receipt(type=event.type, first_time=True)
