"""The routes of a page, each with a command to copy, made from what the OpenAPI document says of it."""

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, FastAPI
from fastapi.routing import iter_route_contexts
from pydantic import BaseModel
from starlette.routing import Mount, Route, WebSocketRoute

PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")
ONE_WORD = re.compile(r"\^(\w+)\$")
SAMPLE_FILE = "docs/screenshot.png"
FORMATS = {
    "email": "ada@example.com",
    "uri": "https://example.com/",
    "date": "2030-01-31",
    "date-time": "2030-01-31T12:00:00Z",
    "uuid": "0b9d0b3a-5c3f-4f7e-9c55-3d8a5f0d1c11",
}
STREAMS = {"text/event-stream", "application/jsonl"}

JSON = dict[str, Any]


class PageRoute(BaseModel):
    method: str
    path: str
    name: str
    summary: str
    command: str


def routes_of(router: APIRouter, document: JSON, base_url: str) -> list[PageRoute]:
    """The routes of a router, sockets and mounts too; their commands are made from its OpenAPI `document`.

    A route that is kept out of the document is another spelling of one that is in it: it is not listed.
    """
    routes = []
    for route in iter_route_contexts(router.routes):
        path, name, methods = route.path or "", route.name or "", set[str]()
        mounted = route.original_route.app if isinstance(route.original_route, Mount) else None
        if isinstance(mounted, FastAPI):
            for inner in routes_of(mounted.router, mounted.openapi(), base_url + path):
                routes.append(inner.model_copy(update={"path": path + inner.path}))
        elif mounted:
            command = shlex.join(["curl", "-i", f"{base_url}{path}/"])
            routes.append(PageRoute(method="MOUNT", path=path, name=name, summary="", command=command))
        if isinstance(route.original_route, WebSocketRoute):
            methods = {"WS"}
        elif isinstance(route.original_route, Route) and route.include_in_schema:
            methods = (route.methods or {"GET"}) - {"HEAD"}
        summary = " ".join((getattr(route.endpoint, "__doc__", None) or "").split("\n\n")[0].split())
        for method in sorted(methods):
            command = (
                socket_command(path, base_url)
                if method == "WS"
                else curl_command(method, path, document, base_url)
            )
            routes.append(PageRoute(method=method, path=path, name=name, summary=summary, command=command))
    return routes


def socket_command(path: str, base_url: str) -> str:
    """A client that sends what one types. It comes with the `websockets` package."""
    url = base_url.replace("http", "ws", 1) + PARAMETER.sub("1", path)
    return shlex.join(["python", "-m", "websockets", url])


def curl_command(method: str, path: str, document: JSON, base_url: str) -> str:
    """A call that the schema accepts. Capitals stand for what cannot be guessed, such as a minted id."""
    operation: JSON = document["paths"].get(path, {}).get(method.lower(), {})
    samples = {
        (parameter["in"], parameter["name"]): sample(parameter, document)
        for parameter in operation.get("parameters", ())
        if parameter["required"] or {"example", "examples"} & {*parameter, *parameter["schema"]}
    }
    url = base_url + PARAMETER.sub(
        lambda match: quote(str(samples.get(("path", match[1]), match[1].upper())), safe=""), path
    )
    if query := {name: value for (place, name), value in samples.items() if place == "query"}:
        url += "?" + urlencode(query, doseq=True)
    headers = {name: value for (place, name), value in samples.items() if place == "header"}
    body = list(_body(operation, document))
    words = ["curl", _output(operation)]
    if method != ("POST" if body else "GET"):
        words += ["-X", method]
    for name, value in headers.items():
        words += ["-H", f"{name}: {value}"]
    return shlex.join([*words, *_credentials(operation, document), *body, url])


def sample(schema: JSON, document: JSON) -> Any:
    """The example the schema gives; else its default; else the plainest value of its type."""
    if "$ref" in schema:
        return sample(document["components"]["schemas"][schema["$ref"].rpartition("/")[2]], document)
    if "schema" in schema and not {"example", "examples"} & schema.keys():
        return sample({**schema["schema"], "name": schema.get("name"), "in": schema.get("in")}, document)
    match schema:
        case {"example": value} | {"const": value} | {"examples": [value, *_]} | {"enum": [value, *_]}:
            return value
        case {"examples": dict(named)}:
            return next(iter(named.values()))["value"]
        case {"default": value} if value is not None:
            return value
        case {"anyOf": [first, *_]} | {"oneOf": [first, *_]} | {"allOf": [first, *_]}:
            return sample({**schema, "anyOf": [], "oneOf": [], "allOf": [], **first}, document)
        case {"type": "object"}:
            return {
                name: sample({**schema["properties"][name], "name": name}, document)
                for name in schema.get("required", ())
            }
        case {"type": "array"}:
            return [sample(schema["items"], document)] if schema.get("minItems") else []
        case {"type": "integer" | "number"}:
            return schema.get("minimum", schema.get("exclusiveMinimum", 0) + 1)
        case {"type": "boolean"}:
            return True
        case {"format": str(form)} if form in FORMATS:
            return FORMATS[form]
        case {"pattern": str(pattern)} if word := ONE_WORD.fullmatch(pattern):
            return word[1]
    name = schema.get("name") or "text"
    secret = name.endswith("_id") or name in ("username", "password")
    guessable = schema.get("in") != "path" and "pattern" not in schema and not secret
    return "text" if guessable else name.upper()


def _credentials(operation: JSON, document: JSON) -> Iterator[str]:
    """Those of the first way in, where none is allowed to be left out."""
    ways = operation.get("security", ())
    if not ways or {} in ways:
        return
    match document["components"]["securitySchemes"][next(iter(ways[0]))]:
        case {"type": "http", "scheme": "basic"}:
            yield from ("-u", "USERNAME:PASSWORD")
        case {"type": "apiKey", "in": "header", "name": name}:
            yield from ("-H", f"{name}: API_KEY")
        case {"type": "oauth2" | "http"}:
            yield from ("-H", "Authorization: Bearer ACCESS_TOKEN")


def _body(operation: JSON, document: JSON) -> Iterator[str]:
    content = operation.get("requestBody", {}).get("content", {})
    if media := content.get("application/json"):
        yield from ("-H", "Content-Type: application/json", "-d", json.dumps(sample(media, document)))
    elif media := content.get("application/jsonl"):
        yield from ("-H", "Content-Type: application/jsonl", "-d", media["example"])
    elif media := content.get("multipart/form-data") or content.get("application/x-www-form-urlencoded"):
        multipart = "multipart/form-data" in content
        for name, value in sample(media, document).items():
            yield from ("-F", f"{name}=@{SAMPLE_FILE}") if multipart else ("-d", urlencode({name: value}))


def _output(operation: JSON) -> str:
    """What curl does with the answer: a stream line by line, a file to disk, else head and body together."""
    kinds = {
        kind
        for status, answer in operation.get("responses", {}).items()
        if status.startswith("2")
        for kind in answer.get("content", ())
    }
    if kinds & STREAMS:
        return "-N"
    if kinds and not any(kind.startswith("text/") or kind == "application/json" for kind in kinds):
        return "-OJ"
    return "-i"
