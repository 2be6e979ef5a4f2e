"""What a broadcast costs, counted: turns of the event loop, tasks, and how often a message is encoded."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from secrets import token_hex
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp
from websockets.frames import Frame

from app.realtime.messages import Message
from app.realtime.text import PUT, Text, put_of
from tests.live.one_connection import COMPRESSED, TEXT, connected, handshake
from tests.members import House, open_house
from tests.sockets import LIMIT, Peer

pytestmark = pytest.mark.anyio

MANY = 20


class PeerOfOurServer(Peer):
    """On a server that takes texts at once, unless the peer is behind."""

    is_behind = False

    def __init__(self, app: ASGIApp, path: str, state: Any, headers: Any = ()) -> None:
        super().__init__(app, path, state, headers)
        self.frames: list[bytes] = []
        self._scope["extensions"][PUT] = {"put": self._put}

    def _put(self, text: Text) -> bool:
        if self._gone:
            raise OSError
        if not self.is_behind:
            self.frames.append(text.frame)
        return not self.is_behind


def counted(monkeypatch: pytest.MonkeyPatch, owner: type, method: str) -> list[object]:
    """Those whose method was called."""
    called: list[object] = []
    whole = getattr(owner, method)

    def count(self: object, *args: Any, **options: Any) -> Any:
        called.append(self)
        return whole(self, *args, **options)

    monkeypatch.setattr(owner, method, count)
    return called


@pytest.fixture
async def house(app: FastAPI) -> AsyncIterator[House]:
    async with open_house(app) as house:
        yield house


@pytest.fixture
async def chatting(house: House) -> AsyncIterator[list[PeerOfOurServer]]:
    async with AsyncExitStack() as stack:
        peers = [PeerOfOurServer(house.app, "/chat", house.state) for _ in range(MANY)]
        for peer in peers:
            await stack.enter_async_context(peer)
        yield peers


async def test_when_nobody_is_slow_a_broadcast_costs_no_task_and_no_turn_of_the_loop(
    house: House, chatting: list[PeerOfOurServer]
) -> None:
    connections, before = house.state["connections"], asyncio.all_tasks()
    connections.channel("chat").broadcast("hello")
    # Nothing was awaited, so nobody else had a turn.
    assert {len(peer.frames) for peer in chatting} == {1}
    assert asyncio.all_tasks() == before
    assert (connections.traffic.delivered, connections.traffic.queued) == (MANY, 0)


async def test_one_that_is_behind_costs_one_task_and_the_others_nothing(
    house: House, chatting: list[PeerOfOurServer]
) -> None:
    connections, before = house.state["connections"], asyncio.all_tasks()
    slow, *others = chatting
    slow.is_behind = True
    for text in ("one", "two"):
        connections.channel("chat").broadcast(text)
    slow.is_behind = False
    connections.channel("chat").broadcast("three")
    assert {len(peer.frames) for peer in others} == {3}
    assert len(asyncio.all_tasks() - before) == 1
    assert connections.traffic.queued == 3
    assert [await slow.text() for _ in range(3)] == ["one", "two", "three"]  # in their order


async def test_one_that_has_left_costs_the_others_nothing(
    house: House, chatting: list[PeerOfOurServer]
) -> None:
    chatting[0].leave()
    house.state["connections"].channel("chat").broadcast("hello")
    assert [len(peer.frames) for peer in chatting] == [0] + [1] * (MANY - 1)


async def test_a_message_is_encoded_once_for_all(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async with AsyncExitStack() as stack:
        headers = [("authorization", f"Bearer {house.token('bob')}")]
        peers = [PeerOfOurServer(house.app, "/rooms/kitchen", house.state, headers) for _ in range(MANY)]
        for peer in peers:
            await stack.enter_async_context(peer)
        ada = await house.join("kitchen", "ada")
        before = [len(peer.frames) for peer in peers]
        dumps = counted(monkeypatch, Message, "model_dump_json")
        frames = counted(monkeypatch, Frame, "serialize")
        ada.say("hello")
        await ada.next_of("accepted")
        assert [len(peer.frames) for peer in peers] == [number + 1 for number in before]
        assert len({id(peer.frames[-1]) for peer in peers}) == len(dumps) == len(frames) == 1


@pytest.mark.parametrize("extension", ["", "Sec-WebSocket-Extensions: permessage-deflate\r\n"])
async def test_our_server_takes_texts_at_once_until_its_peer_is_behind(extension: str) -> None:
    async with connected(head=handshake(extension)) as wire:
        if extension:
            await wire.read_until(b"\r\n\r\n")
        put = put_of(wire.protocol.scope)
        assert put
        assert put(Text("hello"))
        sent = await wire.loop.sock_recv(wire.peer, 100)
        assert sent == b"\x81\x05hello" if not extension else sent[0] == TEXT | COMPRESSED
        async with asyncio.timeout(LIMIT):
            while put(Text(token_hex(10_000))):  # noqa: ASYNC110
                await asyncio.sleep(0)
            wire.peer.close()
            while not wire.protocol.transport.is_closing():  # noqa: ASYNC110
                await asyncio.sleep(0)
        with pytest.raises(OSError):
            put(Text("hello"))
