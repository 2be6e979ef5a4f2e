"""What the service opens at start and closes at the end, in one stack.

Every resource is entered on one `AsyncExitStack`: when the n-th fails to open, the n-1 before it are closed
in reverse order, the exception goes on to the server, and the process exits non-zero.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Protocol, TypedDict

import anyio
from fastapi import FastAPI
from fastapi.templating import Jinja2Templates
from pwdlib import PasswordHash

from app.database.session import SessionMaker, open_database
from app.jobs.mail import Mailer, open_mailer
from app.jobs.tasks import TaskManager, open_tasks
from app.jobs.webhooks import WebhookSender, open_webhooks
from app.keys import SigningKeys, open_keys
from app.logs import LogWriter, logging_to_queue
from app.page_templates import load_templates
from app.realtime.connections import ConnectionManager, open_connections
from app.realtime.feed import Feed, open_feed
from app.realtime.hub import Hub, open_hub
from app.realtime.instruments import observe
from app.security.access_tokens import AccessTokens
from app.security.accounts import Accounts
from app.security.logins import Logins
from app.security.tickets import Tickets
from app.security.web_sessions import WebSessions
from app.settings import Settings
from app.shutdown import stopping_on_signals
from app.single_process import telling_what_is_not_shared
from app.storage.engines import open_storage
from app.storage.files import Files
from app.storage.storage import Storage
from app.storage.sweeping import open_files
from app.telemetry import Telemetry
from app.tus_body import ChecksumPlaces


class State(TypedDict):
    """What `request.state` and `websocket.state` hold. Endpoints reach it through `app.dependencies`."""

    settings: Settings
    log: LogWriter
    telemetry: Telemetry
    stopping: asyncio.Event
    keys: SigningKeys
    access_tokens: AccessTokens
    accounts: Accounts
    logins: Logins
    web_sessions: WebSessions
    tickets: Tickets
    sessions: SessionMaker
    templates: Jinja2Templates
    storage: Storage
    files: Files
    checksum_places: ChecksumPlaces
    mailer: Mailer
    tasks: TaskManager
    webhooks: WebhookSender
    connections: ConnectionManager
    hub: Hub
    feed: Feed


class Lifespan(Protocol):
    def __call__(self, app: FastAPI) -> AbstractAsyncContextManager[State]: ...


def open_state(settings: Settings, telemetry: Telemetry) -> Lifespan:
    """The lifespan of an app with these settings. Two apps of one process share nothing but the log."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[State]:
        async with AsyncExitStack() as stack:
            log = stack.enter_context(logging_to_queue(settings))
            stack.enter_context(telling_what_is_not_shared(settings))
            await stack.enter_async_context(telemetry.exporting())
            keys = open_keys(settings)
            sessions = await stack.enter_async_context(open_database(settings.sqlalchemy_url))
            storage = await stack.enter_async_context(open_storage(settings))
            files = await stack.enter_async_context(open_files(sessions, storage, settings))
            mailer = await stack.enter_async_context(open_mailer(settings))
            tasks = await stack.enter_async_context(open_tasks(settings))
            webhooks = await stack.enter_async_context(open_webhooks(settings.webhooks))
            stack.push_async_callback(finish_jobs, tasks, mailer, webhooks, settings.shutdown_grace)
            hub = await stack.enter_async_context(open_hub(settings))
            # Entered last, so that it is left first: everything above outlives the streams it ends.
            stopping = stack.enter_context(stopping_on_signals())
            connections = await stack.enter_async_context(open_connections(settings, stopping))
            observe(telemetry.meter, connections, hub)
            feed = await stack.enter_async_context(
                open_feed(
                    settings.feed.history,
                    settings.feed.max_followers,
                    stopping,
                    settings.feed.max_followers_per_client,
                )
            )
            yield State(
                settings=settings,
                log=log,
                telemetry=telemetry,
                stopping=stopping,
                keys=keys,
                access_tokens=AccessTokens(keys.for_purpose("tokens"), settings.security),
                accounts=Accounts(sessions, PasswordHash.recommended(), settings.security),
                logins=Logins(sessions, settings.security),
                web_sessions=WebSessions(sessions, settings.security),
                tickets=Tickets(sessions, settings.rooms),
                sessions=sessions,
                templates=load_templates(),
                storage=storage,
                files=files,
                checksum_places=ChecksumPlaces(settings.files.checksums_at_once),
                mailer=mailer,
                tasks=tasks,
                webhooks=webhooks,
                connections=connections,
                hub=hub,
                feed=feed,
            )

    return lifespan


async def finish_jobs(tasks: TaskManager, mailer: Mailer, webhooks: WebhookSender, seconds: float) -> None:
    """One time limit for all that runs beside the requests. What is not done by then, its owner ends."""
    with anyio.move_on_after(seconds):
        await tasks.drained()
        await mailer.drained()
        await webhooks.drained()
