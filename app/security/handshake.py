"""Who opens a socket, or asks for the same by HTTP, by the credential that comes with the handshake.

A browser cannot set headers on a socket: it has its cookie, or a ticket in the URL. A program sends its
access token. Whatever comes, a page of a foreign origin is refused.
"""

from time import time
from typing import Annotated

from fastapi import Depends
from fastapi.requests import HTTPConnection
from fastapi.security import APIKeyQuery

from app.errors import Unauthorized
from app.realtime.origins import check_origin, check_page
from app.security.access_tokens import AccessTokens
from app.security.bearer import bearer
from app.security.oauth_errors import InvalidToken
from app.security.session_cookie import cookie, read_session
from app.security.socket_user import SocketUser
from app.security.tickets import Tickets
from app.security.web_sessions import WebSessions

CHALLENGE = {"WWW-Authenticate": "Bearer"}

ticket_in_query = APIKeyQuery(
    name="ticket",
    scheme_name="Ticket",
    description="Got by `POST /rooms/tickets`, for one socket.",
    auto_error=False,
)


async def socket_user(
    connection: HTTPConnection,
    token: Annotated[str | None, Depends(bearer(auto_error=False))],
    ticket: Annotated[str | None, Depends(ticket_in_query)],
    cookie: Annotated[str | None, Depends(cookie)],
) -> SocketUser:
    """The user of the access token, else of the ticket, else of the session. A bad one is not passed over."""
    await check_origin(connection)
    if token is not None:
        return await user_of_token(connection, token)
    if ticket is not None:
        return await user_of_ticket(connection, ticket)
    if cookie is not None:
        return await user_of_cookie(connection)
    raise Unauthorized(headers=CHALLENGE)


async def user_of_token(connection: HTTPConnection, token: Annotated[str, Depends(bearer())]) -> SocketUser:
    access_tokens: AccessTokens = connection.state["access_tokens"]
    user = access_tokens.read(token)
    # `read` is lenient for a few seconds, in which a socket would be opened and closed again.
    if user.expires_at <= time():
        raise InvalidToken
    return SocketUser(user.id, user.username, user.expires_at)


async def user_of_ticket(connection: HTTPConnection, ticket: str = "") -> SocketUser:
    tickets: Tickets = connection.state["tickets"]
    return await tickets.use(ticket)


async def user_of_cookie(connection: HTTPConnection) -> SocketUser:
    """Whoever is logged in, where the page that asks may use that."""
    await check_page(connection)
    web_sessions: WebSessions = connection.state["web_sessions"]
    session_id = (await read_session(connection)).get("id")
    user = await web_sessions.find_user(session_id) if session_id else None
    if user is None:
        raise Unauthorized("Nobody is logged in here, or no longer.", CHALLENGE)
    return user
