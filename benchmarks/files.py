"""What it costs to receive and to send files: ours beside a bare ASGI app and the ways of the tutorials.

The bare app writes what it receives to a file as it comes, and does nothing else: it parses no form, checks
no content, has no digest. Its disk and ours are the same; it flushes to it at the end, as we do, and once
more without that. Rounds are interleaved and rotated, and each figure is a ratio of one round. The client
needs a core of its own, and so does the thread that writes: on two cores all three compete.
`python -m benchmarks.files`.
"""

import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from benchmarks.file_client import BLOCK, PDF, TEXT, Kind, Server
from benchmarks.file_servers import RECEIVED
from benchmarks.load import started

SIZE, ROUNDS = 2**30, 7
AT_ONCE, AT_ONCE_SIZE = 8, 2**27
SLOW_SIZE, SLOW_ROUNDS = 2**24, 2
SMALL_SIZE = 2**10
NEW_SERVERS = 3

MANY = str(2**60)
LIMITS = {
    "APP_MAX_UPLOAD_SIZE": str(2 * SIZE),
    "APP_BODY_TIMEOUT": "600",
    "APP_FILES__ANONYMOUS_QUOTA": MANY,
    "APP_FILES__ANONYMOUS_MAX_SIZE": MANY,
    "APP_LOG_LEVEL": "WARNING",
}
UVICORN = ["-m", "uvicorn", "--no-access-log"]
AS_MAKE_RUN = ["--limit-concurrency", "1000", "--http", "app.http_protocol:HttpProtocol"]
SERVERS = {
    "bare": [*UVICORN, "benchmarks.file_servers:bare", "--lifespan", "off", "--port"],
    "tutorial": [*UVICORN, "benchmarks.file_servers:tutorial", "--port"],
    "ours": [*UVICORN, "app.main:create_app", "--factory", *AS_MAKE_RUN, "--port"],
    "undigested": [
        *UVICORN,
        "benchmarks.file_servers:create_without_digest",
        "--factory",
        *AS_MAKE_RUN,
        "--port",
    ],
    "ticking": [*UVICORN, "benchmarks.file_servers:create_ticking", "--factory", *AS_MAKE_RUN, "--port"],
}


def serve(running: ExitStack, name: str, **env: str) -> Server:
    folder = running.enter_context(tempfile.TemporaryDirectory())
    server = Server(
        running.enter_context(started(SERVERS[name], LIMITS | {"APP_UPLOADS_DIR": folder} | env)),
        Path(folder),
    )
    if name in ("ours", "undigested", "ticking"):
        # The threads and the connections of the database are there then, which stay the same.
        at_once(server, AT_ONCE, PDF, SMALL_SIZE)
        server.forget()
    return server


def show(name: str, values: Sequence[float], unit: str = "") -> None:
    print(
        f"{name:66} {statistics.median(values):.2f}{unit} [{min(values):.2f} to {max(values):.2f}]",
        flush=True,
    )


def race(
    contestants: dict[str, Callable[[], float]], bases: Sequence[str], forget: Callable[[], None]
) -> None:
    """Each `ROUNDS` times, each time in another order. Prints the ratios to the bases."""
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for number in range(ROUNDS):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            rates[name].append(contestants[name]())
            forget()
    for name in names:
        print(f"{name:50} {statistics.median(rates[name]) / 1e6:6.0f} MB/s")
    for base in bases:
        for name in names:
            if name not in bases:
                ratios = [a / b for a, b in zip(rates[name], rates[base], strict=True)]
                show(f"{name} / {base}", ratios)


def uploads() -> None:
    with ExitStack() as running:
        names = "bare", "tutorial", "ours", "undigested"
        bare, tutorial, ours, undigested = (serve(running, name) for name in names)

        def forget() -> None:
            for server in (bare, tutorial, ours, undigested):
                server.forget()

        race(
            {
                "bare": lambda: bare.upload("/flushed", PDF, SIZE),
                "bare, not flushed": lambda: bare.upload("/", PDF, SIZE),
                "ours, .pdf": lambda: ours.upload("/upload/", PDF, SIZE),
                "ours, .pdf, without SHA-256": lambda: undigested.upload("/upload/", PDF, SIZE),
                "ours, .txt": lambda: ours.upload("/upload/", TEXT, SIZE),
                "ours by UploadFile, .pdf": lambda: ours.upload("/upload/spooled", PDF, SIZE),
                "UploadFile in chunks, by threads, flushed": lambda: tutorial.upload("/chunks", PDF, SIZE),
                "tutorial, copyfileobj": lambda: tutorial.upload("/copyfileobj", PDF, SIZE),
                "tutorial, await file.read()": lambda: tutorial.upload("/read", PDF, SIZE),
            },
            ["bare", "bare, not flushed"],
            forget,
        )


def downloads() -> None:
    with ExitStack() as running:
        bare, tutorial, ours = (serve(running, name) for name in ("bare", "tutorial", "ours"))
        ours.upload("/upload/", PDF, SIZE)
        (stored,) = ours.folder.glob("[!.]*")
        for server in (bare, tutorial):
            os.link(stored, server.folder / RECEIVED)
        race(
            {
                "bare": lambda: bare.download(f"/{RECEIVED}", SIZE),
                "ours, a download": lambda: ours.download(f"/files/{stored.name}", SIZE),
                "FileResponse": lambda: tutorial.download(f"/{RECEIVED}", SIZE),
            },
            ["bare"],
            lambda: None,
        )


def memory() -> None:
    """Of a new server each time, for what a process has held once it holds for a while."""
    for number, size in ((1, SIZE), (AT_ONCE, AT_ONCE_SIZE)):
        for kind in (PDF, TEXT):
            growths = [memory_growth(number, kind, size) for _ in range(NEW_SERVERS)]
            show(f"memory growth, {number} of {size / BLOCK:.0f} MiB at once, {kind.name}", growths, " MiB")


def memory_growth(number: int, kind: Kind, size: int) -> float:
    with ExitStack() as running:
        ours = serve(running, "ours")
        return ours.memory_growth(lambda: at_once(ours, number, kind, size))


def stalls() -> None:
    """The ticker of a server that has nothing to do shows what the machine adds to all."""
    with ExitStack() as running:
        bare, ours = serve(running, "bare"), serve(running, "ticking")
        works: dict[str, Callable[[], object]] = {
            "of the machine, by an upload to the bare app": lambda: bare.upload("/flushed", PDF, SIZE),
            "1 upload, .pdf": lambda: ours.upload("/upload/", PDF, SIZE),
            "1 upload, .txt": lambda: ours.upload("/upload/", TEXT, SIZE),
            f"{AT_ONCE} uploads at once, .pdf": lambda: at_once(ours, AT_ONCE, PDF, AT_ONCE_SIZE),
            f"{AT_ONCE} uploads at once, .txt": lambda: at_once(ours, AT_ONCE, TEXT, AT_ONCE_SIZE),
        }
        measure_stalls(works, [ours, bare], ROUNDS)
    with ExitStack() as running:
        slow = serve(running, "ticking", SLOW="1")
        measure_stalls(
            {
                "1 upload, slow storage": lambda: slow.upload("/upload/", PDF, SLOW_SIZE),
                f"{AT_ONCE} uploads at once, slow storage": lambda: at_once(slow, AT_ONCE, PDF, SLOW_SIZE),
            },
            [slow],
            SLOW_ROUNDS,
        )


def measure_stalls(works: dict[str, Callable[[], object]], servers: Sequence[Server], rounds: int) -> None:
    """Of the first server."""
    stalls: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            stalls[name].append(servers[0].stall(work))
            for server in servers:
                server.forget()
    for name, values in stalls.items():
        show(f"longest stall, {name}", values, " ms")


def at_once(server: Server, number: int, kind: Kind, size: int) -> None:
    with ThreadPoolExecutor(number) as clients:
        list(clients.map(lambda _: server.upload("/upload/", kind, size), range(number)))


def main() -> None:
    print(f"{ROUNDS} rounds, {SIZE / BLOCK:.0f} MiB; medians [least to most]")
    uploads()
    downloads()
    memory()
    stalls()


if __name__ == "__main__":
    main()
