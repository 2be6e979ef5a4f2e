"""Who writes the JSON, and how fast: 100 rows each. `python -m benchmarks.responses`."""

from datetime import UTC, datetime
from typing import Any

from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.responses import Response

from app.routers.responses.json import OrjsonResponse
from benchmarks.in_process import compare

ROWS = 100
NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Row(BaseModel):
    id: int
    name: str
    ratio: float
    at: datetime


def models() -> list[Row]:
    return [Row(id=n, name=f"row {n}", ratio=n / 7, at=NOW) for n in range(ROWS)]


def dicts() -> list[dict[str, Any]]:
    return [{"id": n, "name": f"row {n}", "ratio": n / 7, "at": NOW} for n in range(ROWS)]


app = FastAPI()


@app.get("/models/return-type")
async def models_return_type() -> list[Row]:
    return models()


@app.get("/models/response-class", response_class=OrjsonResponse)
async def models_response_class() -> list[Row]:
    return models()


@app.get("/models/json-response", response_class=JSONResponse)
async def models_json_response() -> list[Row]:
    return models()


@app.get("/dicts/return-type")
async def dicts_return_type() -> list[dict[str, Any]]:
    return dicts()


@app.get("/dicts/untyped", response_model=None)
async def dicts_untyped() -> list[dict[str, Any]]:
    return dicts()


@app.get("/dicts/orjson")
async def dicts_orjson() -> Response:
    return OrjsonResponse(dicts())


if __name__ == "__main__":
    compare(
        app,
        {
            "models, return type": "/models/return-type",
            "models, return type, response_class=orjson": "/models/response-class",
            "models, return type, response_class=json": "/models/json-response",
            "dicts, return type": "/dicts/return-type",
            "dicts, no type": "/dicts/untyped",
            "dicts, return OrjsonResponse(...)": "/dicts/orjson",
        },
        base="models, return type",
    )
