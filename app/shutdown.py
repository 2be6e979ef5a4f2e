"""Tells open streams and sockets that the server is about to stop, while they can still say goodbye.

uvicorn waits for open connections *before* it ends the lifespan, so a stream that waits for the lifespan's
end keeps the server alive for ever. The signal is the only earlier notice there is.
"""

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)

LOOK_SECONDS = 0.25
"""How often those look for the stop that cannot wait for it."""
STILL_SECONDS = 0.5
"""How long a client may stand still, in what it sends or takes, once the service is stopping."""


@contextmanager
def stopping_on_signals() -> Iterator[asyncio.Event]:
    """An event that is set at SIGTERM or SIGINT; the server's own handler runs as before.

    A signal that nobody handles keeps its default action, which ends the process. Outside the main thread
    (TestClient) signals cannot be handled: the event is then set on leaving only.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    handled: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stopping.set)
        handled[number](number, frame)

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if callable(handler):
                handled[number] = handler
                signal.signal(number, stop)
    try:
        yield stopping
    finally:
        stopping.set()
        for caught, handler in handled.items():
            signal.signal(caught, handler)
