"""The chat of the usual tutorials, as they print it, for the tests to run into its traps."""

from fastapi import FastAPI, WebSocket, WebSocketDisconnect, WebSocketException


class ConnectionManager:
    def __init__(self) -> None:
        self.active_connections: list[WebSocket] = []

    async def connect(self, websocket: WebSocket) -> None:
        await websocket.accept()
        self.active_connections.append(websocket)

    def disconnect(self, websocket: WebSocket) -> None:
        self.active_connections.remove(websocket)

    async def broadcast(self, message: str) -> None:
        for connection in self.active_connections:
            await connection.send_text(message)


def create_tutorial() -> FastAPI:
    app = FastAPI()
    manager = ConnectionManager()

    @app.websocket("/ws")
    async def echo(websocket: WebSocket) -> None:
        await websocket.accept()
        while True:
            data = await websocket.receive_text()
            await websocket.send_text(f"Message text was: {data}")

    @app.websocket("/chat")
    async def chat(websocket: WebSocket) -> None:
        await manager.connect(websocket)
        try:
            while True:
                data = await websocket.receive_text()
                await manager.broadcast(f"User said: {data}")
        except WebSocketDisconnect:
            manager.disconnect(websocket)

    @app.websocket("/members")
    async def members(websocket: WebSocket) -> None:
        raise WebSocketException(code=1008, reason="Members only")

    return app


app = create_tutorial()
