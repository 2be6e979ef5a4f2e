"""What it costs to tell many: `/chat` and a room beside `broadcast()` of the `websockets` library.

All servers run on uvloop, without pings and, unless a line says so, without compression; ours and the chat of
the tutorials on the same protocol class (`app/websocket_protocol.py`). The library sends messages of the same
length, so there are longer ones to compare with those of a room. Each figure is a ratio of one round: by the
clock, and by the processor time of the server. The clients need a core of their own, in one process: where
the machine does other things as well, the second ratio is the one to read. `python -m benchmarks.realtime`.
"""

import json
import os
import resource
import secrets
import socket
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from app.database.models import Account
from app.keys import open_keys
from app.realtime.messages import Member, Message
from app.security.access_tokens import AccessTokens
from app.settings import Settings
from benchmarks.crowd import SMALL_BUFFER, Broken, Crowd, connect
from benchmarks.load import Started, started
from tests.live.one_connection import TEXT, frame

CLIENTS, ROUNDS, MESSAGES, AT_ONCE = 300, 9, 200, 8
IDLE, IDLE_IN_A_ROOM = 5_000, 50
STALLED_CLIENTS, STALLED_ROUNDS, STALLED_MESSAGES = 100, 7, 500
STALLED_LIMIT = IDLE_SECONDS = 5.0
USUAL = "x" * 100
LARGE = "\N{TEAPOT}" * 4_000
"""What a room takes at most: 12 kB."""

KEY = "a key that is for this benchmark only"
MANY = "1000000"
LIMITS = {
    "APP_SECURITY__SIGNING_KEYS": json.dumps([KEY]),
    "APP_SECURITY__ACCESS_TOKEN_SECONDS": "3600",
    "APP_WS_MAX_CONNECTIONS": MANY,
    "APP_WS_MAX_CONNECTIONS_PER_CLIENT": MANY,
    "APP_WS_MESSAGES_PER_SECOND": MANY,
    "APP_ROOMS__MAX_MEMBERS": MANY,
    "APP_ROOMS__MAX_CONNECTIONS_PER_USER": MANY,
    "APP_ROOMS__VISITS_PER_MINUTE": MANY,
    "APP_ROOMS__MESSAGES_PER_SECOND": MANY,
    "APP_ROOMS__IDLE_SECONDS": "3600",
}
OPTIONS = ["--ws", "app.websocket_protocol:WebSocketProtocol", "--ws-ping-interval", "0", "--port"]
SERVERS = {
    "ours": ["-m", "uvicorn", "app.main:create_app", "--factory", *OPTIONS],
    "tutorial": ["-m", "uvicorn", "tests.live.traps:create_tutorial", "--factory", *OPTIONS],
    "library": ["-m", "benchmarks.library_chat"],
}
COMPRESSED = "Sec-WebSocket-Extensions: permessage-deflate\r\n"


def authorization() -> str:
    settings = Settings.model_validate({"security": {"signing_keys": [KEY], "access_token_seconds": 3_600}})
    tokens = AccessTokens(open_keys(settings).for_purpose("tokens"), settings.security)
    return f"Authorization: Bearer {tokens.issue(Account(id='ada', username='ada'), 'me')}\r\n"


def in_chat(text: str, number: int) -> list[bytes]:
    return [frame(TEXT, text.encode())] * number


def in_chat_as_in_room(text: str, number: int) -> list[bytes]:
    """So that the chat tells what a room would."""
    sender = Member(connection=secrets.token_hex(8), user="ada", name="ada")
    said = [
        Message(id=f"{1_785_000_000_000 + each}-0", sender=sender, text=text, sent_at=datetime.now(UTC))
        for each in range(number)
    ]
    return [frame(TEXT, each.model_dump_json()[len("User said: ") :].encode()) for each in said]


def in_room(text: str, number: int) -> list[bytes]:
    said = [{"type": "say", "ref": secrets.token_hex(8), "text": text} for _ in range(number)]
    return [frame(TEXT, json.dumps(each, ensure_ascii=False).encode()) for each in said]


@dataclass(frozen=True)
class Contestant:
    """A way to tell many, on a server that has started."""

    name: str
    server: Started
    path: str = "/chat"
    headers: str = ""
    frames: Callable[[str, int], list[bytes]] = in_chat

    def crowd(self, size: int, headers: str = "", least_size: int = 0) -> Crowd:
        return Crowd(self.server.port, self.path, self.headers + headers, size, least_size)

    def stalled(self) -> socket.socket:
        return connect(self.server.port, self.path, self.headers, SMALL_BUFFER)

    def processor_seconds(self) -> float:
        fields = Path(f"/proc/{self.server.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def memory(self) -> int:
        """Bytes."""
        return int(Path(f"/proc/{self.server.pid}/statm").read_text().split()[1]) * resource.getpagesize()


def contestants(running: ExitStack, library_compresses: str = "") -> list[Contestant]:
    """Each on a server of its own."""

    def server(name: str) -> Started:
        return running.enter_context(started(SERVERS[name], LIMITS | {"COMPRESSION": library_compresses}))

    return [
        Contestant("library", server("library")),
        Contestant("/chat", server("ours")),
        Contestant("tutorial", server("tutorial")),
        Contestant("library, long", server("library"), frames=in_chat_as_in_room),
        Contestant("/rooms", server("ours"), "/rooms/kitchen", authorization(), in_room),
    ]


def show(name: str, values: Sequence[float], unit: str = "") -> None:
    print(f"{name:58} {statistics.median(values):.2f}{unit} [{min(values):.2f} to {max(values):.2f}]")


def deliveries(rounds: int, compression: str, headers: str) -> None:
    by_clock: dict[str, list[float]] = {}
    by_processor: dict[str, list[float]] = {}
    with ExitStack() as running:
        racing = contestants(running, compression)
        crowds = [running.enter_context(closing(each.crowd(CLIENTS, headers))) for each in racing]
        for _ in range(rounds):
            for each, crowd in zip(racing, crowds, strict=True):
                frames = each.frames(USUAL, MESSAGES)
                used, at = each.processor_seconds(), perf_counter()
                crowd.hear(frames, AT_ONCE)
                seconds, used = perf_counter() - at, each.processor_seconds() - used
                by_clock.setdefault(each.name, []).append(MESSAGES * CLIENTS / seconds)
                by_processor.setdefault(each.name, []).append(MESSAGES * CLIENTS / used)
    kind = "compressed" if headers else "plain"
    for name, values in by_clock.items():
        cost = 1e6 / statistics.median(by_processor[name])
        rate = statistics.median(values)
        print(f"{kind} {name:14} {rate:8.0f} deliveries/s, {cost:4.1f} us of processor each")
    for over, under in (("/chat", "library"), ("tutorial", "library"), ("/rooms", "library, long")):
        for what, rates in (("clock", by_clock), ("processor", by_processor)):
            ratios = [a / b for a, b in zip(rates[over], rates[under], strict=True)]
            show(f"{kind} deliveries by the {what}, {over} / {under}", ratios)


def one_stalled() -> None:
    """One more who does not read: what that costs the others, and what it takes of the server's memory."""
    with ExitStack() as running:
        for each in contestants(running):
            if each.name == "library, long":
                continue
            try:
                show(f"p99 with a stalled client / without, {each.name}", p99_with_a_stalled_client(each))
            except Broken:
                print(f"with a stalled client, {each.name}: nobody hears anything any more")
                continue
            with closing(each.crowd(STALLED_CLIENTS // 10, least_size=len(LARGE))) as crowd:
                crowd.hear(each.frames(LARGE, STALLED_MESSAGES), AT_ONCE)
                memory = each.memory()
                with each.stalled():
                    crowd.hear(each.frames(LARGE, 10 * STALLED_MESSAGES), AT_ONCE)
                    growth = (each.memory() - memory) / 2**20
            sent = 10 * STALLED_MESSAGES * len(LARGE.encode()) / 2**20
            print(f"memory for a stalled client that is sent {sent:.0f} MiB, {each.name}: {growth:.1f} MiB")


def p99_with_a_stalled_client(each: Contestant) -> list[float]:
    """Divided by that without it, in each round."""
    ratios = []
    with closing(each.crowd(STALLED_CLIENTS, least_size=len(LARGE))) as crowd:

        def p99() -> float:
            delays = crowd.hear(each.frames(LARGE, STALLED_MESSAGES), at_once=1, limit=STALLED_LIMIT)
            return statistics.quantiles(delays, n=100)[-1]

        p99()
        for _ in range(STALLED_ROUNDS):
            before = p99()
            with each.stalled():
                disturbed = p99()
            ratios.append(disturbed / statistics.mean((before, p99())))
    return ratios


def idle() -> None:
    for name, command, rooms, headers in (
        ("library", SERVERS["library"], 0, ""),
        ("/chat", SERVERS["ours"], 0, ""),
        ("/chat, compressed", SERVERS["ours"], 0, COMPRESSED),
        ("/rooms", SERVERS["ours"], IDLE // IDLE_IN_A_ROOM, authorization()),
    ):
        with ExitStack() as running:
            each = Contestant(name, running.enter_context(started(command, LIMITS)))
            paths = [f"/rooms/{number}" for number in range(rooms)] or ["/chat"]
            for path in paths:
                running.enter_context(connect(each.server.port, path, headers))
            memory = each.memory()
            for number in range(IDLE):
                running.enter_context(connect(each.server.port, paths[number % len(paths)], headers))
            used = each.processor_seconds()
            time.sleep(IDLE_SECONDS)
            used = each.processor_seconds() - used
            print(
                f"{name:20} {(each.memory() - memory) / IDLE / 2**20:.4f} MiB for each of {IDLE} idle, "
                f"which take {used / IDLE_SECONDS:.1%} of a core"
            )


def main() -> None:
    most_files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    deliveries(ROUNDS, "", "")
    deliveries(ROUNDS // 3, "deflate", COMPRESSED)
    one_stalled()
    idle()


if __name__ == "__main__":
    main()
