"""What a class costs as a dependency: the thread it runs in. `python -m benchmarks.dependencies`."""

from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query

from app.routers.dependencies.chains import Filter, Limit, Search, Skip, WindowDep
from benchmarks.in_process import compare


class PlainWindow:
    def __init__(self, q: Search = None, skip: Skip = 0, limit: Limit = 100) -> None:
        self.q = q
        self.skip = skip
        self.limit = limit


app = FastAPI()


@app.get("/plain-class")
async def plain_class(window: Annotated[PlainWindow, Depends()]) -> dict[str, Any]:
    return {"q": window.q, "skip": window.skip, "limit": window.limit}


@app.get("/class-method")
async def class_method(window: WindowDep) -> dict[str, Any]:
    return {"q": window.q, "skip": window.skip, "limit": window.limit}


@app.get("/model")
async def model(wanted: Annotated[Filter, Query()]) -> dict[str, Any]:
    return {"q": wanted.q, "skip": wanted.skip, "limit": wanted.limit}


@app.get("/parameters")
async def parameters(q: Search = None, skip: Skip = 0, limit: Limit = 100) -> dict[str, Any]:
    return {"q": q, "skip": skip, "limit": limit}


if __name__ == "__main__":
    compare(
        app,
        {
            "three parameters of the endpoint": "/parameters",
            "async class method: Depends(Window.from_query)": "/class-method",
            "parameter model: Annotated[Filter, Query()]": "/model",
            "plain class: Depends(Window)": "/plain-class",
        },
        base="three parameters of the endpoint",
    )
