"""Users of one room of a real server, who come back whenever they are cut off and note what they are told.

There may be hundreds in one process, so each is a reader of raw frames and no more.
"""

import asyncio
import json
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from app.database.models import Account
from app.keys import open_keys
from app.realtime.backplane import key_of
from app.security.access_tokens import AccessTokens
from app.settings import Settings
from tests.frames import Frames
from tests.live.one_connection import CLOSE, PING, PONG, TEXT, frame, handshake
from tests.server import START_SECONDS, Server, serve

PAUSE = 0.05
"""Seconds before a guest tries again."""

HEARTBEAT = "0.3"
"""Three of them after its death a process counts as dead."""


def tokens(folder: Path) -> AccessTokens:
    """Those of a server that has its data in this folder."""
    settings = Settings(data_dir=folder / "data", uploads_dir=folder / "uploads")
    return AccessTokens(open_keys(settings).for_purpose("tokens"), settings.security)


@contextmanager
def workers(folder: Path, number: int, redis_url: str) -> Iterator[Server]:
    """A server with so many workers, all of which are ready."""
    env = {
        "APP_REDIS_URL": redis_url,
        "APP_WS_MAX_CONNECTIONS": "1000",
        "APP_WS_MAX_CONNECTIONS_PER_CLIENT": "1000",
        "APP_WS_MESSAGES_PER_SECOND": "1000",
        "APP_ROOMS__MESSAGES_PER_SECOND": "100000",
        "APP_ROOMS__HISTORY": "10000",
        "APP_ROOMS__HEARTBEAT_SECONDS": HEARTBEAT,
    }
    with serve(folder, env, ["--workers", str(number)]) as server:
        try:
            server.wait_for("Application startup complete", START_SECONDS, times=number)
            yield server
        finally:
            server.stop()  # the workers too, which would outlive a parent that is killed


async def kill_a_worker(server: Server) -> None:
    os.kill(int(server.wait_for(r"Started server process \[(\d+)\]")[1]), signal.SIGKILL)


class Guest:
    def __init__(self, party: "Party", name: str, token: str) -> None:
        self.name = name
        self.visits = 0
        self.worker = ""
        """Something that all connections of one worker have in common."""
        self.connection = ""
        self.here: set[str] = set()
        """The connections that this guest believes to be in the room."""
        self.heard: Counter[str] = Counter()
        """How many messages of each sender, of which each is the next one."""
        self.mistakes: list[str] = []
        self.told: Counter[str] = Counter()
        self.last_id = ""
        self.is_here = asyncio.Event()
        self._party = party
        self._handshake = f"Authorization: Bearer {token}\r\n"
        self._answer: asyncio.Future[str] | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def stay(self) -> None:
        while True:
            with suppress(OSError, asyncio.IncompleteReadError):
                await self._visit()
            self.is_here.clear()
            self.worker = ""
            if self._answer and not self._answer.done():
                self._answer.set_result("cut off")
            await asyncio.sleep(PAUSE)

    async def say(self, number: int) -> None:
        """Until it is accepted, with the same `ref`."""
        said = {"type": "say", "ref": f"{self.name}-{number}", "text": f"{self.name} {number}"}
        while True:
            await self.is_here.wait()
            assert self._writer
            self._answer = asyncio.get_running_loop().create_future()
            self._writer.write(frame(TEXT, json.dumps(said).encode()))
            answer = await self._answer
            if answer == "accepted":
                return
            self._party.repeated[answer] += 1
            await asyncio.sleep(PAUSE)

    async def _visit(self) -> None:
        reader, self._writer = await asyncio.open_connection("127.0.0.1", self._party.port)
        try:
            path = f"/rooms/kitchen?after={self.last_id}" if self.last_id else "/rooms/kitchen"
            self._writer.write(handshake(self._handshake, path).encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            if not head.startswith("HTTP/1.1 101 "):
                return
            # Each worker counts its requests up from a random number.
            worker = head.partition("x-request-id: ")[2][:16]
            if self._party.has_enough(worker):
                return
            self.worker = worker
            frames = Frames()
            while data := await reader.read(262_144):
                for kind, content in frames.feed(data):
                    if kind == TEXT:
                        self._hear(self._party.parsed(content))
                    elif kind == PING:
                        self._writer.write(frame(PONG, content))
                    elif kind == CLOSE:
                        self._party.closed[int.from_bytes(content[:2])] += 1
                        return
        finally:
            self._writer.close()

    def _hear(self, content: dict[str, Any]) -> None:
        kind = content["type"]
        self.told[kind] += 1
        if kind == "message":
            sender, number = content["text"].split()
            if int(number) != self.heard[sender] or key_of(content["id"]) <= key_of(self.last_id):
                self.mistakes.append(f"{content['text']} after {self.heard[sender]}")
            self.heard[sender] += 1
            self.last_id = content["id"]
        elif kind in ("accepted", "refused"):
            if self._answer and not self._answer.done():
                self._answer.set_result(kind)
        elif kind == "welcome":
            self.visits += 1
            self.connection = content["you"]["connection"]
            self.here = {member["connection"] for member in content["here"]}
            self.last_id = self.last_id or content["last_id"]
            self.is_here.set()
        elif kind == "joined":
            self.here.add(content["member"]["connection"])
        elif kind == "left":
            self.here.discard(content["member"]["connection"])
        elif kind != "service":
            self.mistakes.append(kind)


class Party:
    """Guests over all workers of a server, in equal parts."""

    def __init__(self, server: Server, folder: Path, size: int, workers: int) -> None:
        self.port = server.port
        self.repeated: Counter[str] = Counter()
        """How many messages were said again, by the reason."""
        self.closed: Counter[int] = Counter()
        self.parsed = lru_cache(maxsize=1_000)(json.loads)  # all are sent the same
        issued_by = tokens(folder)
        names = [f"guest-{number}" for number in range(size)]
        self.guests = [
            Guest(self, name, issued_by.issue(Account(id=name, username=name), "me")) for name in names
        ]
        self._share: int | None = -(-size // workers)
        self._tasks: list[asyncio.Task[None]] = []

    def has_enough(self, worker: str) -> bool:
        """Whoever it is that accepts most at the beginning, each gets its part."""
        here = [guest for guest in self.guests if guest.worker == worker]
        return self._share is not None and len(here) >= self._share

    async def arrive(self, limit: float) -> None:
        self._tasks = [asyncio.create_task(guest.stay()) for guest in self.guests]
        async with asyncio.timeout(limit):
            for guest in self.guests:
                await guest.is_here.wait()
        self._share = None

    async def talk(
        self, senders: int, messages: int, disturb: Callable[[], Awaitable[None]] | None, limit: float
    ) -> None:
        """So many say so many each, and all hear all of it. `disturb` comes when the half is said."""
        said = 0
        half_said = asyncio.Event()

        async def say_all(guest: Guest) -> None:
            nonlocal said
            first = guest.heard[guest.name]
            for number in range(first, first + messages):
                await guest.say(number)
                said += 1
                if said == senders * messages // 2:
                    half_said.set()

        async def disturb_in_the_middle() -> None:
            await half_said.wait()
            if disturb:
                await disturb()

        wanted = {guest.name: guest.heard[guest.name] + messages for guest in self.guests[:senders]}
        wanted = dict(self.guests[0].heard) | wanted
        async with asyncio.timeout(limit), asyncio.TaskGroup() as group:
            group.create_task(disturb_in_the_middle())
            for guest in self.guests[:senders]:
                group.create_task(say_all(guest))
        await self.until(lambda: all(guest.heard == wanted for guest in self.guests), "all is heard", limit)

    async def all_know_who_is_here(self, limit: float) -> None:
        def they_do() -> bool:
            present = {guest.connection for guest in self.guests}
            return all(guest.is_here.is_set() and guest.here == present for guest in self.guests)

        await self.until(they_do, "all know who is here", limit)

    async def until(self, true: Callable[[], bool], what: str, limit: float) -> None:
        try:
            async with asyncio.timeout(limit):
                while not true():  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"it never came to this: {what}") from None

    async def leave(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def visits(self) -> int:
        return sum(guest.visits for guest in self.guests)

    @property
    def mistakes(self) -> list[str]:
        return [f"{guest.name}: {mistake}" for guest in self.guests for mistake in guest.mistakes]
