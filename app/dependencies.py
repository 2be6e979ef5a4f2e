"""The names endpoints use for what the lifespan opened. One alias a thing, and nothing else.

They are `async def` though they await nothing: FastAPI runs a plain `def` in a thread, which costs
more than all they do.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated, cast

from fastapi import Depends, Security
from fastapi.requests import HTTPConnection
from fastapi.templating import Jinja2Templates
from sqlalchemy.ext.asyncio import AsyncSession

from app.jobs.mail import Mailer
from app.jobs.tasks import TaskManager
from app.jobs.webhooks import WebhookSender
from app.keys import SigningKeys
from app.lifespan import State
from app.realtime.connections import ConnectionManager
from app.realtime.feed import Feed
from app.realtime.hub import Hub
from app.security.access_tokens import AccessTokens, AuthenticatedUser
from app.security.accounts import Accounts
from app.security.bearer import current_user
from app.security.file_owner import file_owner
from app.security.handshake import socket_user
from app.security.logins import Logins
from app.security.socket_user import SocketUser
from app.security.tickets import Tickets
from app.security.web_sessions import WebSessions
from app.settings import Settings
from app.storage.files import Files
from app.storage.storage import Storage
from app.telemetry import Telemetry
from app.tus_body import ChecksumPlaces


async def get_state(connection: HTTPConnection) -> State:
    return cast(State, connection.state)


StateDep = Annotated[State, Depends(get_state)]


async def get_settings(state: StateDep) -> Settings:
    return state["settings"]


async def get_keys(state: StateDep) -> SigningKeys:
    return state["keys"]


async def get_telemetry(state: StateDep) -> Telemetry:
    return state["telemetry"]


async def get_access_tokens(state: StateDep) -> AccessTokens:
    return state["access_tokens"]


async def get_accounts(state: StateDep) -> Accounts:
    return state["accounts"]


async def get_logins(state: StateDep) -> Logins:
    return state["logins"]


async def get_web_sessions(state: StateDep) -> WebSessions:
    return state["web_sessions"]


async def get_tickets(state: StateDep) -> Tickets:
    return state["tickets"]


async def get_stopping(state: StateDep) -> asyncio.Event:
    return state["stopping"]


async def get_storage(state: StateDep) -> Storage:
    return state["storage"]


async def get_files(state: StateDep) -> Files:
    return state["files"]


async def get_checksum_places(state: StateDep) -> ChecksumPlaces:
    return state["checksum_places"]


async def get_mailer(state: StateDep) -> Mailer:
    return state["mailer"]


async def get_tasks(state: StateDep) -> TaskManager:
    return state["tasks"]


async def get_webhooks(state: StateDep) -> WebhookSender:
    return state["webhooks"]


async def get_connections(state: StateDep) -> ConnectionManager:
    return state["connections"]


async def get_hub(state: StateDep) -> Hub:
    return state["hub"]


async def get_feed(state: StateDep) -> Feed:
    return state["feed"]


async def get_templates(state: StateDep) -> Jinja2Templates:
    return state["templates"]


async def open_session(state: StateDep) -> AsyncIterator[AsyncSession]:
    """One transaction: committed when the endpoint returns, rolled back when it raises."""
    async with state["sessions"].begin() as session:
        yield session


SettingsDep = Annotated[Settings, Depends(get_settings)]
KeysDep = Annotated[SigningKeys, Depends(get_keys)]
TelemetryDep = Annotated[Telemetry, Depends(get_telemetry)]
AccessTokensDep = Annotated[AccessTokens, Depends(get_access_tokens)]
AccountsDep = Annotated[Accounts, Depends(get_accounts)]
LoginsDep = Annotated[Logins, Depends(get_logins)]
WebSessionsDep = Annotated[WebSessions, Depends(get_web_sessions)]
TicketsDep = Annotated[Tickets, Depends(get_tickets)]
# Any access token will do. For one with scopes: Security(current_user, scopes=[...]).
CurrentUser = Annotated[AuthenticatedUser, Security(current_user)]
# Of a socket or a request, by whatever it brings: access token, ticket or the session of a browser.
SocketUserDep = Annotated[SocketUser, Depends(socket_user)]
# The id of the account whose files these are; None for who does not say.
OwnerDep = Annotated[str | None, Depends(file_owner)]
StoppingDep = Annotated[asyncio.Event, Depends(get_stopping)]
StorageDep = Annotated[Storage, Depends(get_storage)]
FilesDep = Annotated[Files, Depends(get_files)]
ChecksumPlacesDep = Annotated[ChecksumPlaces, Depends(get_checksum_places)]
MailerDep = Annotated[Mailer, Depends(get_mailer)]
TasksDep = Annotated[TaskManager, Depends(get_tasks)]
WebhooksDep = Annotated[WebhookSender, Depends(get_webhooks)]
ConnectionsDep = Annotated[ConnectionManager, Depends(get_connections)]
HubDep = Annotated[Hub, Depends(get_hub)]
FeedDep = Annotated[Feed, Depends(get_feed)]
TemplatesDep = Annotated[Jinja2Templates, Depends(get_templates)]
# Function scope: the commit is done, and the connection back in its pool, before the answer leaves. So it is
# not for streams, where it raises: they begin when it is closed, and open sessions of their own.
SessionDep = Annotated[AsyncSession, Depends(open_session, scope="function")]
