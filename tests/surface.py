"""What there is in FastAPI, what of it this reference uses, and what it leaves out, with the reasons.

The first is read from the installed package, the second from the syntax of `app/` and `tests/`. A release
of FastAPI that brings a name or a parameter fails `tests/test_surface.py` until a page shows it or a reason
stands here. To write a name only so that it is counted is a defect.
"""

import ast
import importlib
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import fastapi
import fastapi.middleware
import fastapi.middleware.asyncexitstack
import fastapi.middleware.cors
import fastapi.middleware.gzip
import fastapi.middleware.httpsredirect
import fastapi.middleware.trustedhost
import fastapi.responses
import fastapi.security
import fastapi.sse
import fastapi.telemetry
import fastapi.testclient
from fastapi import APIRouter, FastAPI

from app.settings import ROOT

LEFT_OUT = {
    "app.build_middleware_stack()": "Starlette calls it at the first request; see middleware/stack",
    "app.lifespan()": "the router's answer to the server; `lifespan=` is on application/lifespan",
    "app.trace()": "a TRACE answers with the headers it got, cookies and tokens too: nobody should serve it",
    "fastapi.middleware.asyncexitstack.AsyncExitStackMiddleware": (
        "FastAPI puts it into every app, for dependencies with `yield`; it has nothing to set"
    ),
}
"""The reason for each name that is not used."""

MODULES = (
    fastapi,
    fastapi.security,
    fastapi.responses,
    fastapi.sse,
    fastapi.telemetry,
    fastapi.testclient,
    fastapi.middleware,
    fastapi.middleware.asyncexitstack,
    fastapi.middleware.cors,
    fastapi.middleware.gzip,
    fastapi.middleware.httpsredirect,
    fastapi.middleware.trustedhost,
)
VERBS = ("get", "put", "post", "delete", "options", "head", "patch", "trace", "api_route", "add_api_route")

# Those that stand together share their parameters: what one of them shows holds for all.
CALLS: dict[str, tuple[Callable[..., Any], ...]] = {
    "FastAPI": (FastAPI,),
    "APIRouter": (APIRouter,),
    "route": tuple(getattr(FastAPI, verb) for verb in VERBS),
    "websocket": (FastAPI.websocket,),
    "include_router": (FastAPI.include_router,),
    "Depends": (fastapi.Depends,),
    "Security": (fastapi.Security,),
    "parameter": (
        fastapi.Query,
        fastapi.Path,
        fastapi.Header,
        fastapi.Cookie,
        fastapi.Body,
        fastapi.Form,
        fastapi.File,
    ),
}
SOURCES = [
    path
    for folder in ("app", "tests")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name not in ("surface.py", "test_surface.py")
]


def names() -> dict[int, str]:
    """The classes and functions of the modules, by their identity: the same one may stand in two modules."""
    found: dict[int, str] = {}
    for module in MODULES:
        for name, thing in vars(module).items():
            home = getattr(thing, "__module__", None) or ""
            if callable(thing) and not name.startswith("_") and home.startswith(("fastapi", "starlette")):
                found.setdefault(id(thing), f"{module.__name__}.{name}")
    return found


def methods() -> dict[str, str]:
    """Those of apps and routers, which are told apart by their names only."""
    return {
        name: f"app.{name}()"
        for owner in (FastAPI, APIRouter)
        for name, _ in inspect.getmembers(owner, callable)
        if not name.startswith("_")
    }


def parameters(function: Callable[..., Any]) -> list[str]:
    return [
        name
        for name, parameter in inspect.signature(function).parameters.items()
        if name != "self" and parameter.kind is not parameter.VAR_KEYWORD
    ]


def surface() -> set[str]:
    """Every public name, method and parameter: `fastapi.File`, `app.host()`, `Depends(scope=)`."""
    called = {
        f"{group}({name}=)"
        for group, functions in CALLS.items()
        for function in functions
        for name in parameters(function)
    }
    return {*names().values(), *methods().values(), *called}


def used() -> set[str]:
    """What of the surface the source of `app/` and `tests/` uses."""
    return set[str]().union(*(used_in(path.read_text()) for path in SOURCES))


def used_in(source: str) -> set[str]:
    """What a module uses. To import a name is not to use it."""
    tree = ast.parse(source)
    things, named, called = imported(tree), names(), methods()
    found = set()
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) if name in things:
                found.add(named.get(id(things[name]), ""))
            case ast.Attribute(attr=name) if name in called:
                found.add(called[name])
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in things:
                found.update(given(node, things[name]))
            case ast.Call(func=ast.Attribute(attr="websocket" | "include_router" | "add_api_route" as name)):
                found.update(given(node, getattr(FastAPI, name)))
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                for decorator in node.decorator_list:
                    match decorator:
                        case ast.Call(func=ast.Attribute(attr=name)) if name in VERBS:
                            found.update(given(decorator, getattr(FastAPI, name)))
    return found - {""}


def imported(tree: ast.Module) -> Mapping[str, Any]:
    """What the names of a module stand for that come from FastAPI, Starlette or this project."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            if node.module.partition(".")[0] in ("fastapi", "starlette", "app"):
                with warnings.catch_warnings(action="ignore"):  # a trap may import what is deprecated
                    module = importlib.import_module(node.module)
                for alias in node.names:
                    found[alias.asname or alias.name] = getattr(module, alias.name, None)
    return found


def given(call: ast.Call, function: Any) -> Iterator[str]:
    """The parameters that a call gives to one of the callables that count, or to a class derived from it."""
    for group, functions in CALLS.items():
        for known in functions:
            if function is known or (inspect.isclass(function) and known in inspect.getmro(function)):
                positional = parameters(known)[: len(call.args)]
                yield from (f"{group}({name}=)" for name in positional)
                yield from (f"{group}({keyword.arg}=)" for keyword in call.keywords if keyword.arg)
                return
