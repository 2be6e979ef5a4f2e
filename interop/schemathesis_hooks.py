"""What schemathesis cannot write by itself: the bytes of a resumable upload."""

from typing import Any

import schemathesis


@schemathesis.serializer("application/offset+octet-stream")
def serialize(_: schemathesis.SerializationContext, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode()
