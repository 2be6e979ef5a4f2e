"""A streamed answer that does not promise what it cannot keep."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing

from fastapi.responses import StreamingResponse
from starlette.types import Send

from app.errors import AppError


class PromptStream(StreamingResponse):
    """Its head waits for the first piece, so that what fails before it is an error and not a torn 200.

    However it ends, the generator is closed at once, and with it what it holds open.
    """

    def __init__(
        self, pieces: AsyncGenerator[bytes], headers: Mapping[str, str], media_type: str | None = None
    ) -> None:
        super().__init__(pieces, headers=headers, media_type=media_type)
        self.pieces = pieces

    async def stream_response(self, send: Send) -> None:
        async with aclosing(self.pieces) as pieces:
            piece = await anext(pieces, None)
            await send(
                {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
            )
            while piece is not None:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
                try:
                    piece = await anext(pieces, None)
                except AppError:
                    # Too late to tell. Without the end of the answer the server closes the connection.
                    return
        await send({"type": "http.response.body", "body": b"", "more_body": False})
