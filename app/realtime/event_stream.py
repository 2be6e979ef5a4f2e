"""What streams of events have in common that are made of bytes, each event written once for all."""

from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from pydantic import BaseModel

PING_SECONDS = 15.0
"""Proxies close a connection on which nothing is sent for a minute or so."""
PING = format_sse_event(comment="ping")


class EventBytes(StreamingResponse):
    media_type = "text/event-stream"


class Goodbye(BaseModel):
    """The last event."""

    reason: str

    def event(self) -> bytes:
        return format_sse_event(event="goodbye", data_str=self.model_dump_json())
