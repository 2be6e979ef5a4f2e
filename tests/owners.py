"""Users with an account, for tests about whose files these are."""

from typing import cast

from fastapi.testclient import TestClient

from app.database.models import Account
from app.lifespan import State


def log_in(client: TestClient, name: str) -> dict[str, str]:
    """The headers of a user who has an account from now on. It has no password, which would take its time."""
    state = cast(State, client.app_state)

    async def register() -> Account:
        account = Account(id=f"id-of-{name}", username=name, password_hash="", scopes="me")
        async with state["sessions"].begin() as session:
            await session.merge(account)
        return account

    assert client.portal is not None
    token = state["access_tokens"].issue(client.portal.call(register), "me")
    return {"Authorization": f"Bearer {token}"}
