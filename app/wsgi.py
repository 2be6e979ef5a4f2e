"""A WSGI program in few threads, which no slow client keeps from the others.

`a2wsgi` takes a thread before the body is there: as many clients as there are threads, each with a body that
does not come, would take the program away. Here the body comes first; what bounds those of all other routes
bounds it too. A client that is slow to read its answer does hold a thread, for as long as the server lets
it. So who waits longer than `APP_RESOURCE_WAIT` for a thread gets a 503.
"""

from typing import cast

import anyio
from a2wsgi import WSGIMiddleware
from a2wsgi.wsgi_typing import WSGIApp
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.errors import NotFound, ServiceUnavailable


class WSGIProgram:
    """Needs the `settings` of the service in `scope["state"]`, where the lifespan puts them."""

    def __init__(self, program: WSGIApp, threads: int) -> None:
        self._middleware = WSGIMiddleware(program, workers=threads)
        self._turns = anyio.Semaphore(threads)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise NotFound
        body = await Request(scope, receive).body()
        try:
            with anyio.fail_after(scope["state"]["settings"].resource_wait):
                await self._turns.acquire()
        except TimeoutError:
            raise ServiceUnavailable(headers={"Retry-After": "1"}) from None
        try:
            await self._run(scope, body, send)
        finally:
            self._turns.release()

    def close(self) -> None:
        self._middleware.executor.shutdown(wait=False)

    async def _run(self, scope: Scope, body: bytes, send: Send) -> None:
        """Lets the program run to its end when nobody wants more of it: its thread would wait for ever."""
        wanted = True

        async def receive_whole() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def send_while_wanted(message: Message) -> None:
            nonlocal wanted
            try:
                if wanted:
                    await send(message)
            except OSError:
                wanted = False

        await cast(ASGIApp, self._middleware)(scope, receive_whole, send_while_wanted)
