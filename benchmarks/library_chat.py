"""The chat on the server of the `websockets` library alone. `python -m benchmarks.library_chat 8000`."""

import os
import sys

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve


async def main(port: int, compression: str | None) -> None:
    members = set[ServerConnection]()

    async def chat(member: ServerConnection) -> None:
        members.add(member)
        try:
            async for text in member:
                broadcast(members, f"User said: {text!s}")
        finally:
            members.discard(member)

    async with serve(
        chat, "127.0.0.1", port, compression=compression, ping_interval=None, backlog=2_048
    ) as server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), os.environ.get("COMPRESSION") or None))
