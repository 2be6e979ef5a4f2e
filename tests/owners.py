"""Users with an account, for tests about whose files these are."""

import hashlib
import json
from base64 import b64encode
from typing import cast

from fastapi.testclient import TestClient
from itsdangerous import TimestampSigner

from app.database.models import Account
from app.lifespan import State
from app.security.session_cookie import COOKIE


def log_in(client: TestClient, name: str) -> dict[str, str]:
    """The headers of a user who has an account from now on."""
    state = cast(State, client.app_state)
    token = state["access_tokens"].issue(register(client, name), "me")
    return {"Authorization": f"Bearer {token}"}


def session_of(client: TestClient, name: str) -> dict[str, str]:
    """The same for the browser of a user, with its cookie."""
    state = cast(State, client.app_state)
    assert client.portal is not None
    session_id = client.portal.call(state["web_sessions"].begin, register(client, name))
    content = b64encode(json.dumps({"id": session_id}).encode())
    newest = state["keys"].for_purpose("session")[0]
    cookie = TimestampSigner(newest, digest_method=hashlib.sha256).sign(content).decode()
    return {"Cookie": f"{COOKIE}={cookie}"}


def register(client: TestClient, name: str) -> Account:
    """It has no password, which would take its time."""
    account = Account(id=f"id-of-{name}", username=name, password_hash="", scopes="me")

    async def add() -> None:
        async with cast(State, client.app_state)["sessions"].begin() as session:
            await session.merge(account)

    assert client.portal is not None
    client.portal.call(add)
    return account
