"""Who is at the other end of a connection that stays open."""

from dataclasses import dataclass


@dataclass(frozen=True)
class SocketUser:
    id: str
    """Of the account."""
    name: str
    expires_at: float
    """When the credential ends, in seconds since 1970. The connection ends with it."""
