"""Servers under load, side by side, in interleaved rounds. Every figure is a ratio of one round."""

import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

ROUNDS = 15
SECONDS = 1
START_SECONDS = 20
CONNECTIONS = 32
ROUTES = ("/health", "/items/")
"""A plain JSON route, and one with a class dependency."""


@contextmanager
def served(factory: str, env: Mapping[str, str]) -> Iterator[str]:
    """The address of uvicorn with this factory."""
    with started(["-m", "uvicorn", factory, "--factory", "--port"], env) as server:
        yield f"http://127.0.0.1:{server.port}"


@dataclass
class Started:
    pid: int
    port: int


@contextmanager
def started(command: Sequence[str], env: Mapping[str, str]) -> Iterator[Started]:
    """A server in Python, which is told its port as the last argument. Nobody reads its output, for a reader
    would take part in the race."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [sys.executable, *command, str(port)],
            env={**os.environ, "APP_DATA_DIR": folder, "APP_UPLOADS_DIR": folder, **env},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            for _ in range(START_SECONDS * 10):
                with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                    break
                time.sleep(0.1)
            yield Started(process.pid, port)
        finally:
            process.kill()
            process.wait()


def requests_per_second(url: str) -> float:
    done = subprocess.run(
        ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", url], capture_output=True, text=True, check=True
    )
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    assert rate and "Non-2xx" not in done.stdout, done.stdout
    return float(rate[1])


def compare(
    servers: Mapping[str, tuple[str, Mapping[str, str]]],
    pairs: Sequence[tuple[str, str]],
    routes: Sequence[str] = ROUTES,
) -> None:
    """Starts the servers, each a factory with its environment, and prints the ratios of the pairs."""
    if not shutil.which("wrk"):
        sys.exit("This benchmark needs wrk: apt-get install wrk")
    ratios: dict[str, list[float]] = {}
    with ExitStack() as running:
        urls = {name: running.enter_context(served(*server)) for name, server in servers.items()}
        for url in urls.values():
            requests_per_second(url + routes[0])  # caches, and the server's own lazy beginnings
        for _ in range(ROUNDS):
            for route in routes:
                rates = {name: requests_per_second(url + route) for name, url in urls.items()}
                print(f"{route:10}", *(f"{name} {rate:.0f}/s" for name, rate in rates.items()), sep="  ")
                for over, under in pairs:
                    ratios.setdefault(f"{route:10} {over} / {under}", []).append(rates[over] / rates[under])
    print("\nmedian of the ratios of each round [least to most]")
    for name, values in ratios.items():
        print(f"{name:30} {statistics.median(values):.2f} [{min(values):.2f} to {max(values):.2f}]")
