"""Members of rooms in this process: sockets that speak the messages of a room."""

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, cast

from fastapi import FastAPI

from app.database.models import Account
from app.lifespan import State
from tests.sockets import Peer


class Member:
    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.received: list[dict[str, Any]] = []

    def say(self, text: str, ref: str = "a1") -> None:
        self.send({"type": "say", "ref": ref, "text": text})

    def send(self, content: object) -> None:
        self.peer.send(json.dumps(content))

    async def next(self) -> dict[str, Any]:
        self.received.append(json.loads(await self.peer.text()))
        return self.received[-1]

    async def next_of(self, kind: str) -> dict[str, Any]:
        """The next of this type; those before it stay in `received`."""
        while (content := await self.next())["type"] != kind:
            pass
        return content


class House:
    def __init__(self, app: FastAPI, state: State, peers: AsyncExitStack) -> None:
        self.app = app
        self.state = state
        self._peers = peers

    def token(self, name: str) -> str:
        """An access token. It is not looked up, so the account need not exist."""
        return self.state["access_tokens"].issue(Account(id=f"id-of-{name}", username=name), "me")

    async def knock(self, room: str, name: str = "", after: str | None = None) -> Peer:
        """A socket that wants to come in: its `answer` is that of the service."""
        headers = [("authorization", f"Bearer {self.token(name)}")] if name else []
        query = f"after={after}" if after else ""
        peer = Peer(self.app, f"/rooms/{room}", self.state, headers, query=query)
        return await self._peers.enter_async_context(peer)

    async def join(self, room: str, name: str, after: str | None = None) -> Member:
        """A member who has read its welcome, `received[0]`."""
        peer = await self.knock(room, name, after)
        assert peer.answer["type"] == "websocket.accept", peer.answer
        member = Member(peer)
        assert (await member.next())["type"] == "welcome"
        return member


@asynccontextmanager
async def open_house(app: FastAPI) -> AsyncIterator[House]:
    async with app.router.lifespan_context(app) as state, AsyncExitStack() as peers:
        yield House(app, cast(State, state), peers)
