from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, update

from app.database.models import Account, WebSession
from app.database.session import SessionMaker, open_database
from app.security.web_sessions import WebSessions
from app.settings import SecuritySettings

pytestmark = pytest.mark.anyio

ADA, BOB = (Account(id=name, username=name, password_hash="none", scopes="") for name in ("ada", "bob"))


@pytest.fixture
async def sessions() -> AsyncIterator[SessionMaker]:
    async with open_database("sqlite+aiosqlite://") as sessions:
        async with sessions.begin() as session:
            session.add_all([await session.merge(account) for account in (ADA, BOB)])
        yield sessions


@pytest.fixture
def logins(sessions: SessionMaker) -> WebSessions:
    return WebSessions(sessions, SecuritySettings(max_logins_per_account=2))


async def rows(sessions: SessionMaker) -> list[str]:
    async with sessions() as session:
        return list(await session.scalars(select(WebSession.id_hash)))


async def test_the_table_holds_nothing_that_logs_in(sessions: SessionMaker, logins: WebSessions) -> None:
    session_id = await logins.begin(ADA)
    [kept] = await rows(sessions)
    assert session_id not in kept
    found = await logins.find_user(session_id)
    assert found and (found.id, found.name) == ("ada", "ada")
    assert await logins.find_user(kept) is None


async def test_a_login_sweeps_what_has_expired(sessions: SessionMaker, logins: WebSessions) -> None:
    await logins.begin(ADA)
    async with sessions.begin() as session:
        await session.execute(update(WebSession).values(expires_at=datetime.now(UTC) - timedelta(seconds=1)))
    await logins.begin(BOB)
    assert len(await rows(sessions)) == 1


async def test_the_limit_is_one_of_each_account(sessions: SessionMaker, logins: WebSessions) -> None:
    of_bob = await logins.begin(BOB)
    of_ada = [await logins.begin(ADA) for _ in range(3)]
    found = [await logins.find_user(each) for each in (of_bob, *of_ada)]
    assert [user and user.name for user in found] == ["bob", None, "ada", "ada"]
    assert len(await rows(sessions)) == 3
