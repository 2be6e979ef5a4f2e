"""What the sockets and the rooms of a process count, as metrics.

They are plain numbers, read when somebody asks for the metrics, in whichever thread. A delivery costs nothing
more for it.
"""

from collections.abc import Callable, Iterable

from opentelemetry.metrics import CallbackOptions, Meter, Observation

from app.realtime.connections import ConnectionManager
from app.realtime.hub import Hub

Read = Callable[[], float]


def observe(meter: Meter, connections: ConnectionManager, hub: Hub) -> None:
    """Once an app: to a name that it knows a meter takes no second reading."""
    traffic, rooms, counts = connections.traffic, hub.local, hub.local.counts
    levels: list[tuple[str, str, str, Read]] = [
        ("app.sockets.open", "{socket}", "Open sockets", lambda: connections.count),
        (
            "app.connections.streams",
            "{stream}",
            "Open streams of rooms and about uploads",
            lambda: connections.stream_count,
        ),
        ("app.rooms.open", "{room}", "Rooms that somebody of this process is in", lambda: len(rooms.rooms)),
    ]
    totals: list[tuple[str, str, str, Read]] = [
        ("app.sockets.deliveries", "{message}", "Messages to one socket each", lambda: traffic.delivered),
        ("app.sockets.queued", "{message}", "Those of them that had to wait", lambda: traffic.queued),
        ("app.connections.too_slow", "{connection}", "Ended as too slow", lambda: traffic.too_slow),
        ("app.rooms.messages", "{message}", "Messages in rooms that were open here", lambda: counts.messages),
        ("app.rooms.gaps", "{gap}", "Times that messages could not be told here", lambda: counts.gaps),
    ]
    for name, unit, description, read in levels:
        meter.create_observable_up_down_counter(name, [observing(read)], unit, description)
    for name, unit, description, read in totals:
        meter.create_observable_counter(name, [observing(read)], unit, description)
    lag = observing(lambda: counts.lag_seconds)
    meter.create_observable_gauge("app.rooms.lag", [lag], "s", "Age of the newest message when it came here")
    degraded = observing(lambda: int(rooms.is_degraded))
    meter.create_observable_gauge("app.rooms.degraded", [degraded], "", "1 while the engine does not answer")


def observing(read: Read) -> Callable[[CallbackOptions], Iterable[Observation]]:
    return lambda _: [Observation(read())]
