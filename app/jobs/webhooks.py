"""Events that are sent to the URLs of subscribers: signed, in order, again if need be, and with limits.

Each subscription has its own queue and its own task, so that one which is slow or dead holds up no other;
names are looked up in few threads, those of proven subscribers apart from those of strangers.
The first message asks whether somebody there wants the rest: whoever answers with its challenge does, and
another is called `attempts` times at most. So many subscriptions of a host are made in a minute, counted by
its name, for many hosts share an address. A subscription that cannot be delivered to has ended.
While the queue of one is full, nothing is published: a subscriber misses nothing and is ended by nobody
else, but one that answers slowly slows down who publishes.

All of it lives in the process: a restart forgets the subscriptions, and each worker process has its own.
"""

import asyncio
import logging
import secrets
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial

import httpx2
from limits import RateLimitItemPerMinute

from app.egress import NameResolver, PublicOnlyTransport, is_listed
from app.errors import BadRequest, InsufficientStorage, NotFound, ServiceUnavailable
from app.jobs.subscriptions import Challenge, Delivery, Event, Status, Subscription, VerificationEvent
from app.security.throttle import Throttle
from app.settings import WebhookSettings
from app.webhooks import sign

logger = logging.getLogger("app.jobs.webhooks")

MAX_RETRY_DELAY = 3_600.0
GONE = 410


class WebhookSender:
    """Made by `open_webhooks`. Used on the event loop only, so nothing is locked."""

    def __init__(self, settings: WebhookSettings) -> None:
        self._settings = settings
        self._subscriptions: dict[str, Subscription] = {}
        self._tasks: dict[Subscription, asyncio.Task[None]] = {}
        self._throttle = Throttle()
        self._by_host = RateLimitItemPerMinute(settings.subscriptions_per_host, namespace="host")
        self._tls: asyncio.Task[ssl.SSLContext] | None = None
        # Strangers whose names take long to look up keep no thread from a subscriber that has consented.
        self._resolvers: dict[Status, NameResolver] = {
            "pending": NameResolver(settings.resolvers),
            "active": NameResolver(settings.resolvers),
        }

    async def subscribe(self, url: str) -> Subscription:
        """Asks the URL for its consent, beside the request."""
        try:
            parsed = httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise BadRequest("This is not a URL.") from error
        if parsed.scheme != "https" and not is_listed(parsed, self._settings.allowed_hosts):
            raise BadRequest("Use an https URL.")
        # Counted by the host, not in the subscription: who deletes that may not call the host once more.
        async with self._throttle.counted(self._by_host, parsed.host.rstrip(".")):
            return self._add(url)

    def get(self, subscription_id: str) -> Subscription:
        if subscription_id not in self._subscriptions:
            raise NotFound("There is no such subscription.")
        return self._subscriptions[subscription_id]

    def remove(self, subscription: Subscription) -> None:
        del self._subscriptions[subscription.id]
        self._stop(subscription)

    def publish(self, event: Event) -> int:
        """Queues the event for all active subscriptions, or for none; their number."""
        active = [each for each in self._subscriptions.values() if each.status == "active"]
        # Whoever publishes waits, for a burst is not the fault of the subscriber whose queue it fills.
        if any(each.waiting.full() for each in active):
            raise ServiceUnavailable("Too many events wait. Try again later.", {"Retry-After": "1"})
        for subscription in active:
            subscription.post(event)
        return len(active)

    async def drained(self) -> None:
        """Returns when nothing can be sent at once. What waits for another attempt would take too long."""
        for subscription in list(self._tasks):
            await subscription.idle.wait()

    async def close(self) -> None:
        """Stops at once; the log tells how many subscribers miss something."""
        if cut := sum(subscription.deliveries[-1].status == "waiting" for subscription in self._tasks):
            logger.warning("webhooks lost at shutdown", extra={"fields": {"subscriptions": cut}})
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for resolver in self._resolvers.values():
            resolver.close()

    def _add(self, url: str) -> Subscription:
        if len(self._subscriptions) >= self._settings.max_subscriptions:
            self._forget_one_that_ended()
        subscription = Subscription(
            url,
            secrets.token_bytes(32),
            asyncio.Queue(self._settings.queue_size),
            deque(maxlen=self._settings.log_size),
        )
        subscription.post(
            VerificationEvent(
                type="subscription.verification",
                timestamp=datetime.now(UTC),
                data=Challenge(challenge=subscription.challenge),
            )
        )
        self._subscriptions[subscription.id] = subscription
        task = asyncio.create_task(self._serve(subscription))
        self._tasks[subscription] = task
        task.add_done_callback(partial(self._finished, subscription))
        return subscription

    def _forget_one_that_ended(self) -> None:
        for subscription in self._subscriptions.values():
            if subscription.status == "ended":
                return self.remove(subscription)
        raise InsufficientStorage("There is no room for another subscription.")

    def _end(self, subscription: Subscription) -> None:
        subscription.status = "ended"
        for delivery in subscription.deliveries:
            if delivery.status == "waiting":
                delivery.status = "failed"
        subscription.idle.set()

    def _stop(self, subscription: Subscription) -> None:
        self._end(subscription)
        if subscription in self._tasks:
            self._tasks[subscription].cancel()

    def _finished(self, subscription: Subscription, task: asyncio.Task[None]) -> None:
        del self._tasks[subscription]
        if not task.cancelled() and (error := task.exception()):
            logger.error("webhook task failed", exc_info=error)
            self._end(subscription)

    async def _serve(self, subscription: Subscription) -> None:
        """Delivers what is posted, one after the other, until one cannot be delivered."""
        # It reads some hundred certificates: once, in a thread, and not before it is needed.
        if self._tls is None:
            context = asyncio.to_thread(httpx2.create_ssl_context, trust_env=False)
            self._tls = asyncio.create_task(context)
        tls = await asyncio.shield(self._tls)
        # Without a client around it, which would keep cookies of the subscriber and log its URL.
        look_up = partial(self._look_up, subscription)
        async with PublicOnlyTransport(self._settings.allowed_hosts, tls, look_up) as transport:
            while True:
                delivery, body = await subscription.waiting.get()
                if not await self._deliver(transport, subscription, delivery, body):
                    fields = {"id": subscription.id, "attempts": delivery.attempts, "code": delivery.code}
                    logger.warning("webhook not delivered", extra={"fields": fields})
                    return self._end(subscription)
                delivery.status, subscription.status = "delivered", "active"
                if subscription.waiting.empty():
                    subscription.idle.set()

    async def _look_up(self, subscription: Subscription, name: str, port: int) -> list[str]:
        return await self._resolvers[subscription.status].look_up(name, port)

    async def _deliver(
        self, transport: PublicOnlyTransport, subscription: Subscription, delivery: Delivery, body: bytes
    ) -> bool:
        delay = self._settings.retry_delay
        while True:
            delivery.attempts += 1
            try:
                async with asyncio.timeout(self._settings.timeout):
                    if await self._attempt(transport, subscription, delivery, body):
                        return True
            except Exception as error:  # of the network, or of whoever answers: any counts as an attempt
                delivery.code = None
                fields = {"id": subscription.id, "error": type(error).__name__}
                logger.info("webhook attempt failed", extra={"fields": fields})
            if delivery.code == GONE or delivery.attempts >= self._settings.attempts:
                return False
            subscription.idle.set()
            await asyncio.sleep(delay)
            subscription.idle.clear()
            delay = min(delay * 2, MAX_RETRY_DELAY)

    async def _attempt(
        self, transport: PublicOnlyTransport, subscription: Subscription, delivery: Delivery, body: bytes
    ) -> bool:
        now = int(time.time())
        headers = {
            "content-type": "application/json",
            "user-agent": "fastapi-reference",
            "webhook-id": delivery.id,
            "webhook-timestamp": str(now),
            "webhook-signature": sign(body, delivery.id, now, subscription.key),
        }
        request = httpx2.Request("POST", subscription.url, headers=headers, content=body)
        answer = await transport.handle_async_request(request)  # follows no redirect
        try:
            delivery.code = answer.status_code
            if not answer.is_success:
                return False
            return subscription.status == "active" or await subscription.consents(answer)
        finally:
            await answer.aclose()


@asynccontextmanager
async def open_webhooks(settings: WebhookSettings) -> AsyncIterator[WebhookSender]:
    """Leaving stops it at once, so await `drained()` before, with a limit."""
    sender = WebhookSender(settings)
    try:
        yield sender
    finally:
        await sender.close()
