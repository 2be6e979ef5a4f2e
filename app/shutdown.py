"""Tells open streams and sockets that the server is about to stop, while they can still say goodbye.

uvicorn waits for open connections *before* it ends the lifespan, so a stream that waits for the lifespan's
end keeps the server alive for ever. The signal is the only earlier notice there is.
"""

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def stopping_on_signals() -> Iterator[asyncio.Event]:
    """An event that is set at SIGTERM or SIGINT; the server's own handler runs as before.

    Outside the main thread (TestClient) signals cannot be handled: the event is then set on leaving only.
    """
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    previous: dict[signal.Signals, Any] = {}

    def stop(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(stopping.set)
        handler = previous[signal.Signals(number)]
        if callable(handler):
            handler(number, frame)

    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.getsignal(number) for number in SIGNALS}
        for number in SIGNALS:
            signal.signal(number, stop)
    try:
        yield stopping
    finally:
        stopping.set()
        for number, handler in previous.items():
            signal.signal(number, handler)
