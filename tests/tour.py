"""Starts the service and walks every call of its contract, as a transcript that a newcomer can read.

Run it by `make tour`. It fails on the first answer that is not what the contract says.
"""

import gzip
import io
import json
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Origin

from tests.server import Server, serve

TIMEOUT = 10.0
SHOWN = 200
"""Characters of a body that the transcript shows."""

PROBLEM = "application/problem+json"


class Tour:
    """Prints each exchange and checks it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.client = httpx2.Client(base_url=server.url, timeout=TIMEOUT)
        self.calls = 0

    def heading(self, text: str) -> None:
        print(f"\n== {text}\n")

    def call(self, method: str, path: str, status: int = 200, **options: Any) -> httpx2.Response:
        answer = self.client.request(method, path, **options)
        self.calls += 1
        kind = answer.headers.get("content-type", "no body")
        print(f"> {method} {path} {_shown(options)}".rstrip())
        print(f"< {answer.status_code} {kind}")
        if answer.content:
            print(f"  {_shorten(answer.text if _is_text(kind) else f'({len(answer.content)} bytes)')}")
        self.check(answer.status_code == status, f"status {status}")
        self.check("x-request-id" in answer.headers, "a request id")
        self.check("x-process-time" in answer.headers, "a process time")
        if status >= 400:
            self.check(kind == PROBLEM, "problem details")
        return answer

    def json(self, method: str, path: str, expected: object, status: int = 200, **options: Any) -> Any:
        answer = self.call(method, path, status, **options).json()
        self.check(answer == expected, f"exactly {expected}")
        return answer

    def socket(self, path: str) -> ClientConnection:
        self.calls += 1
        print(f"> WS {path}")
        return connect(f"{self.server.ws_url}{path}", open_timeout=TIMEOUT, close_timeout=TIMEOUT)

    def says(self, socket: ClientConnection, text: str) -> None:
        print(f"> {text}")
        socket.send(text)

    def hears(self, name: str, socket: ClientConnection, *expected: str) -> None:
        heard = {str(socket.recv(TIMEOUT)) for _ in expected}
        for text in sorted(heard):
            print(f"< {name}: {text}")
        self.check(heard == set(expected), f"{name} hears {expected}")

    def check(self, holds: bool, what: str) -> None:
        if not holds:
            sys.exit(f"SURPRISE: expected {what}")


def explorer(tour: Tour) -> None:
    tour.heading("The explorer: every page, its code and its tests")
    tour.check("<html" in tour.call("GET", "/").text, "a page")
    catalogue = tour.call("GET", "/catalogue").json()
    tour.check(len(catalogue["groups"]) >= 9, "at least nine groups")
    for group in catalogue["groups"]:
        for page in group["pages"]:
            tour.call("GET", f"/pages/{page['path']}")
    for path in ("/docs", "/redoc", "/openapi.json", "/static/style.css"):
        tour.call("GET", path)


def application(tour: Tour) -> None:
    tour.heading("Is it well?")
    tour.json("GET", "/health", {"status": "ok"})
    tour.call("GET", "/ready")
    tour.call("HEAD", "/health")
    tour.call("GET", "/application/telemetry/work", params={"steps": 2})
    tour.call("GET", "/application/telemetry/metrics", 404)  # telemetry is off unless asked for
    tour.call("GET", "/application/telemetry/traces", 404)


def sockets(tour: Tour) -> None:
    tour.heading("Sockets")
    with tour.socket("/ws") as echo:
        tour.says(echo, "hello")
        tour.hears("echo", echo, "Message text was: hello")
        echo.send(b"\x00")
        try:
            echo.recv(TIMEOUT)
        except ConnectionClosed as closed:
            print(f"< closed with {closed.rcvd and closed.rcvd.code} after a binary frame")
            tour.check(closed.rcvd is not None and closed.rcvd.code == 1003, "close code 1003")
    with tour.socket("/ws/8") as eight:
        with tour.socket("/ws/7") as seven:
            tour.says(seven, "hi")
            tour.hears("7", seven, "You wrote: hi", "Client #7 says: hi")
            tour.hears("8", eight, "Client #7 says: hi")
        tour.hears("8", eight, "Client #7 left the chat")
    evil = Origin("https://evil.example")
    try:
        connect(f"{tour.server.ws_url}/chat", origin=evil, open_timeout=TIMEOUT)
        tour.check(False, "a refusal of a foreign origin")
    except InvalidStatus as refused:
        print(f"> WS /chat from {evil}\n< {refused.response.status_code} before the handshake")
        tour.check(refused.response.status_code == 403, "status 403")
    with tour.socket("/chat") as one, tour.socket("/chat") as other:
        tour.says(one, "hi all")
        tour.hears("one", one, "User said: hi all")
        tour.hears("other", other, "User said: hi all")


def background(tour: Tour) -> None:
    tour.heading("After the response, and beside it")
    sent = {"message": "Notification sent in the background"}
    tour.json("POST", "/send-notification/ada@example.com", sent)
    tour.json(
        "POST", "/notify", {"message": "Notification sent in background"}, params={"email": "ada@example.com"}
    )
    tour.call("POST", "/send-notification/nobody", 422)


def dependencies(tour: Tour) -> None:
    tour.heading("Dependencies")
    tour.json("GET", "/items/", {"q": None, "skip": 0, "limit": 100})
    tour.json("GET", "/items/", {"q": "x", "skip": 5, "limit": 10}, params={"q": "x", "skip": 5, "limit": 10})
    tour.call("GET", "/items/", 422, params={"limit": -1})
    tour.json("GET", "/items/query-or-cookie", {"q_or_cookie": "now"}, params={"q": "now"})
    cookie = {"Cookie": "last_query=before"}
    tour.json("GET", "/items/query-or-cookie", {"q_or_cookie": "before"}, headers=cookie)
    price = tour.call("GET", "/dependencies/prices/tea").json()["price"]
    stale = {"price": price + 1, "instead_of": price + 1}
    tour.call("PUT", "/dependencies/prices/tea", 409, json=stale)
    timeline = tour.call("POST", "/dependencies/timelines", 201).headers["location"]
    tour.check(tour.call("GET", timeline).json()[-1] == "request scope left", "the whole timeline")


def responses(tour: Tour) -> None:
    tour.heading("Responses")
    tour.json("GET", "/responses/orjson", [{"item_id": "Foo"}])
    page = tour.call("GET", "/items/foo").text
    tour.check("<title>Item foo" in page and "Item: foo</h1>" in page, "title and heading of the item")
    tour.check("<i>" not in tour.call("GET", "/items/<i>").text, "an escaped id")
    tour.call("GET", "/items/no-such-item", 404)
    cookie = tour.call("GET", "/set-cookie")
    tour.check(cookie.json() == {"message": "Cookie set"}, "the message")
    tour.check("httponly" in cookie.headers["set-cookie"].lower(), "an HttpOnly cookie")
    tour.client.cookies.clear()
    tour.json("GET", "/headers", {"User-Agent": "tour"}, headers={"User-Agent": "tour"})
    custom = tour.call("GET", "/custom-headers")
    tour.check(custom.json() == {"message": "Hello"}, "the message")
    tour.check(custom.headers["x-custom-header"] == "FastAPI", "the header")
    rows = "/responses/items"
    table = tour.call("GET", rows, headers={"Accept": "application/json;q=0.1, text/csv"})
    tour.check(table.text.startswith("id,name,price_cents"), "the CSV that was asked for")
    tour.call("GET", rows, headers={"Accept": "application/vnd.msgpack"})
    tour.check("text/csv" in tour.call("GET", rows, 406, headers={"Accept": "text/html"}).text, "the offer")
    known = {"fullName": "Ada Lovelace", "language": "en", "newsletter": False}
    tour.json("GET", "/responses/contact/known", known)
    tour.json(
        "PATCH", f"{rows}/42", {"id": "42", "name": "Linker", "price_cents": 5200}, json={"name": "Linker"}
    )
    tour.call("PATCH", f"{rows}/42", 422, json={"name": None})
    tour.check(tour.call("GET", "/items/42/label").text.startswith("Linker"), "the new name on the label")
    redirect = tour.call("GET", "/redirect", 307)
    tour.check(redirect.headers["location"].startswith("https://fastapi.tiangolo.com"), "the FastAPI site")


def graphql(tour: Tour) -> None:
    tour.heading("GraphQL")
    user = {"id": 1, "name": "Ada Lovelace", "email": "ada@example.com"}
    query = {"query": "{ user(id: 1) { id name email } }"}
    tour.json("POST", "/graphql", {"data": {"user": user}}, json=query)
    many = " ".join(f"a{n}: user(id: 1) {{ id }}" for n in range(50))
    tour.check("errors" in tour.call("POST", "/graphql", json={"query": f"{{ {many} }}"}).json(), "a refusal")


def errors(tour: Tour) -> None:
    tour.heading("Errors have one shape")
    unicorn = tour.call("GET", "/unicorns/yolo", 418)
    tour.check(unicorn.json()["detail"] == "Oops! yolo did something wrong", "the detail")
    tour.call("GET", "/errors/crash", 500)
    tour.call("GET", "/no/such/path", 404)
    tour.check("GET" in tour.call("DELETE", "/health", 405).headers["allow"], "the allowed methods")


def validation(tour: Tour) -> None:
    tour.heading("Validation")
    user = {"name": "katherine johnson", "email": "katherine@example.com", "age": 44}
    created = tour.call("POST", "/users", 201, json=user)
    tour.check(created.json()["name"] == "Katherine Johnson", "a title-cased name")
    child = tour.call("POST", "/users", 422, json=user | {"age": 12})
    tour.check("Children must have parental consent" in child.text, "the reason")
    steps = tour.call("GET", "/validation/order").json()
    tour.check(steps[0] == "model wrap, in" and steps[-1] == "model after", "the order of validators")
    card = {"kind": "card", "cardNumber": "4111111111111111"}
    shown = {"kind": "card", "lastDigits": "1111"}
    tour.json("PUT", "/validation/payment", shown, json=card)
    tour.json("QUERY", "/validation/search", ["Punched cards"], json={"words": ["card"]})
    as_json_in_gzip = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    summary = {"count": 2, "mean": 2.0}
    packed = gzip.compress(b"[1.5, 2.5]")
    tour.json("POST", "/validation/measurements", summary, content=packed, headers=as_json_in_gzip)
    bomb = gzip.compress(b"0" * 20_000_000)
    tour.call("POST", "/validation/measurements", 413, content=bomb, headers=as_json_in_gzip)
    unsigned = {"webhook-id": "msg_1", "webhook-timestamp": "0", "webhook-signature": "v1,"}
    tour.call("POST", "/validation/webhook", 403, json={"type": "x", "data": {}}, headers=unsigned)
    tour.call("GET", "/validation/things?limit=5&limit=100", 422)
    company = {"kind": "company", "name": "Acme", "vat": "1"}
    tour.json("POST", "/validation/contact", company, data=company)


def files(tour: Tour) -> None:
    tour.heading("Files, and a task that reads one")
    text = b"one fish two fish\n"
    upload = tour.call("POST", "/upload/", 201, files={"file": ("../../fish.txt", text)})
    stored = upload.json()
    tour.check(stored["filename"] == "fish.txt" and stored["size"] == len(text), "a clean name and the size")
    location = upload.headers["location"]
    whole = tour.call("GET", location)
    tour.check(whole.content == text, "the bytes")
    part = tour.call("GET", location, 206, headers={"Range": "bytes=0-2"})
    tour.check(part.content == b"one", "three bytes")
    tour.call("GET", location, 206, headers={"Range": "bytes=0-0,-1"})
    tour.call("GET", location, 416, headers={"Range": "bytes=99999-"})
    tour.call("GET", location, 412, headers={"If-Match": '"another"'})
    tour.call("GET", location, 304, headers={"If-None-Match": whole.headers["etag"]})
    tour.call("POST", "/upload", 415, files={"file": ("x.png", b"<script>alert(1)</script>")})
    tour.call("POST", "/upload", 413, files={"file": ("big.txt", b"x" * 11_000_000)})
    tour.call("POST", "/upload", 422, files={"file": ("fish.txt", text)}, data={"note": "unasked"})
    tour.call("POST", "/upload", 401, content=text, headers={"Authorization": "Bearer of nothing"})
    tour.call("POST", "/upload/spooled", 201, files={"file": ("fish.txt", text)})
    tour.call("POST", "/files/direct", 409, json={"filename": "fish.txt", "size": len(text)})
    told = {"Tus-Resumable": "1.0.0", "Upload-Length": "8", "Upload-Metadata": "filename ZmlzaC50eHQ="}
    resumable = tour.call("POST", "/files/uploads", 201, headers=told).headers["location"]
    octets = {"Tus-Resumable": "1.0.0", "Content-Type": "application/offset+octet-stream"}
    for offset, chunk in enumerate((b"red ", b"fish")):
        begin = {**octets, "Upload-Offset": str(4 * offset)}
        tour.call("PATCH", resumable, 204, headers=begin, content=chunk)
    tour.call("PATCH", resumable, 409, headers=begin, content=chunk)
    tour.call("HEAD", resumable, headers=octets)
    tour.call("HEAD", resumable, 412)
    tour.check(tour.call("GET", resumable.replace("/uploads", "")).text == "red fish", "both parts")
    tour.check("event: complete" in tour.call("GET", f"{resumable}/events").text, "that it is complete")
    tour.call("GET", f"{resumable}/events", 204, headers={"Last-Event-ID": "complete"})
    tour.call("GET", f"/files/uploads/{'0' * 32}/events", 404)
    tour.call("GET", "/files/uploads")
    download = tour.call("GET", "/download")
    tour.check("downloaded.zip" in download.headers["content-disposition"], "the name")
    tour.check(zipfile.ZipFile(io.BytesIO(download.content)).testzip() is None, "a zip that is whole")
    chosen = tour.call("GET", f"/download?file_id={stored['id']}")
    tour.check(zipfile.ZipFile(io.BytesIO(chosen.content)).namelist() == ["fish.txt"], "a zip of a file")

    task = tour.call("POST", "/tasks", 202, json={"file_id": stored["id"]}).headers["location"]
    events = tour.call("GET", f"{task}/events").text
    tour.check("event:" in events, "progress")
    done = tour.call("GET", task).json()
    tour.check(
        done["status"] == "succeeded" and done["done"] and not done["cancelled"], "a task that succeeded"
    )
    tour.call("DELETE", task, 409)


def streaming(tour: Tour) -> None:
    tour.heading("Streams")
    resumed = tour.call(
        "GET", "/streaming/events", params={"count": 3, "interval": 0}, headers={"Last-Event-ID": "2"}
    )
    tour.check(
        '"n":3' in resumed.text.replace(" ", "") and '"n":2' not in resumed.text, "the third event only"
    )
    rows = [json.loads(line) for line in tour.call("GET", "/streaming/rows").text.splitlines()]
    tour.check(len(rows) > 1, "a row a line")
    answer = tour.call("POST", "/streaming/answers", json={"text": "word by word"})
    tour.check(answer.text.count("event: word") == 3 and "event: done" in answer.text, "three words")
    jsonl = {"Content-Type": "application/jsonl"}
    good, bad = '{"id": "foo", "price_cents": 1}\n', '{"id": "foo"}\n'
    tour.json("PATCH", "/streaming/rows", {"rows": 1}, headers=jsonl, content=good)
    refused = tour.call("PATCH", "/streaming/rows", 422, headers=jsonl, content=good + bad).json()
    tour.check(refused["errors"][0]["loc"][:2] == ["body", 2], "the number of the bad line")
    tour.call("GET", "/streaming/owners/1/rows.csv")
    tour.call("GET", "/streaming/owners/99/rows.csv", 404)
    seen, missed = (
        tour.call("POST", "/streaming/feed", 201, json={"text": text}).json()["id"] for text in ("one", "two")
    )
    headers = {"Last-Event-ID": seen}
    with tour.client.stream("GET", "/streaming/feed", headers=headers) as feed:
        line = next(line for line in feed.iter_lines() if line.startswith("id:") and seen not in line)
    tour.check(line == f"id: {missed}", "the event that was missed")


def composition(tour: Tour) -> None:
    tour.heading("Documents, and requests that the service makes")
    plain = tour.call(
        "GET", "/composition/openapi/temperature", params={"celsius": 37}, headers={"Accept": "text/plain"}
    )
    tour.check(plain.text == "98.6 °F", "plain text")
    own = tour.call("GET", "/composition/openapi/documents/streaming").json()
    tour.check("/streaming/rows" in own["paths"] and "/users" not in own["paths"], "the routes of the group")
    inside = {"url": f"https://{tour.server.host}/hooks"}
    subscription = tour.call("POST", "/composition/webhooks/subscriptions", 201, json=inside)
    tour.json("POST", "/composition/webhooks/announcements", {"subscribers": 0}, 202, json={"text": "Tea"})
    tour.call("DELETE", subscription.headers["location"], 204)
    tour.call("POST", "/composition/webhooks/subscriptions", 400, json={"url": "http://subscriber.example"})


def mounting(tour: Tour) -> None:
    tour.heading("Apps made of apps")
    price = {"cents": 450, "url": "/composition/shop/items/tea"}
    tour.json("GET", "/composition/shop/items/tea", price)
    tour.call("GET", "/composition/shop/items/gold", 404)
    legacy = tour.call("POST", "/composition/legacy/count", content=b"x" * 1_000)
    tour.check(legacy.text.startswith("1000 bytes"), "1000 bytes")
    tour.json("GET", "/composition/report", {"total": "12.50"})
    tour.json("GET", "/composition/report", {"cents": 1250}, headers={"X-API-Version": "2"})
    tour.call("GET", "/composition/report", 422, headers={"X-API-Version": "3"})
    browser = {"Accept": "text/html"}
    tour.check("<html" in tour.call("GET", "/composition/site/about", headers=browser).text, "a page")
    tour.call("GET", "/composition/site/api/ordres", 404, headers=browser)
    tour.json("GET", "/", "Welcome to acme", headers={"Host": "acme.localhost"})


def security(tour: Tour) -> None:
    tour.heading("Accounts and tokens")
    account = {"username": "ada", "password": "correct horse battery staple"}
    tour.call("POST", "/security/oauth2/accounts", 201, json=account)
    login = {"grant_type": "password", **account}
    tour.call("POST", "/security/oauth2/token", 400, data=login | {"password": "wrong password"})
    tokens = tour.call("POST", "/security/oauth2/token", data=login).json()
    bearer = {"Authorization": f"Bearer {tokens['access_token']}"}
    tour.check(tour.call("GET", "/security/oauth2/me", headers=bearer).json()["username"] == "ada", "ada")
    lacking = tour.call("GET", "/security/oauth2/accounts", 403, headers=bearer)
    tour.check('scope="accounts"' in lacking.headers["www-authenticate"], "the scopes that it needs")
    tour.call("GET", "/security/oauth2/me", 401)
    ticket = tour.call("POST", "/rooms/tickets", 201, headers=bearer).json()["ticket"]
    guarded = f"/guarded/ticket?ticket={ticket}"
    with tour.socket(guarded) as socket:
        tour.check(json.loads(socket.recv(TIMEOUT))["name"] == "ada", "a socket of ada")
        tour.says(socket, '{"type": "say", "text": "hello"}')
        tour.hears("ada", socket, '{"type":"said","name":"ada","text":"hello"}')
    try:
        tour.socket(guarded)
        tour.check(False, "a refusal of a ticket that was used")
    except InvalidStatus as refused:
        print(f"< {refused.response.status_code} before the handshake")
        tour.check(refused.response.status_code == 401, "status 401")
    used = {"grant_type": "refresh_token", "refresh_token": tokens["refresh_token"]}
    tour.call("POST", "/security/oauth2/refresh", data=used)
    tour.call("POST", "/security/oauth2/refresh", 400, data=used)
    rooms(tour, bearer)
    tour.call("GET", "/security/caller", 401)
    tour.json("GET", "/security/visitor", {"name": None})
    tour.json("GET", "/security/account", {"name": "ada"}, auth=tuple(account.values()))

    form = tour.call("GET", "/security/session")
    # By hand, for a client keeps it over https only.
    cookie = {"Cookie": form.headers["set-cookie"].partition(";")[0]}
    token = {"csrf_token": form.text.partition('name="csrf_token" value="')[2].partition('"')[0]}
    began = tour.call("POST", "/security/session/login", 303, data=account | token, headers=cookie)
    cookie = {"Cookie": began.headers["set-cookie"].partition(";")[0]}
    tour.json("GET", "/security/session/member", {"username": "ada", "notes": []}, headers=cookie)
    tour.call("POST", "/security/session/logout", 403, data=token, headers=cookie)


def rooms(tour: Tour, bearer: dict[str, str]) -> None:
    tour.heading("A room: a ticket opens a socket, and who comes back misses nothing")
    tour.call("GET", "/rooms", 200)
    path = "/rooms/kitchen?after=0-0&ticket="
    for _ in range(2):
        ticket = tour.call("POST", "/rooms/tickets", 201, headers=bearer).json()["ticket"]
        with tour.socket(path + ticket) as ada:
            tour.says(ada, json.dumps({"type": "say", "ref": "a1", "text": "The kettle boils"}))
            heard = [json.loads(ada.recv(TIMEOUT))["type"] for _ in range(4)]
            print(f"< {', '.join(heard)}")
            tour.check(sorted(heard) == ["accepted", "joined", "message", "welcome"], "each of them once")
    try:
        tour.socket(path + ticket)
        tour.check(False, "a refusal of a used ticket")
    except InvalidStatus as refused:
        print(f"< {refused.response.status_code} before the handshake, for the ticket is used")
        tour.check(refused.response.status_code == 401, "401")

    sent = {"ref": "b1", "text": "Said without a socket"}
    ids = [
        tour.call("POST", "/rooms/kitchen/messages", 201, json=sent, headers=bearer).json()["id"]
        for _ in range(2)
    ]
    tour.check(ids[0] == ids[1], "one message, though it was posted twice")
    headers = bearer | {"Last-Event-ID": "0-0"}
    with tour.client.stream("GET", "/rooms/kitchen/events", headers=headers) as events:
        print("> GET /rooms/kitchen/events")
        print("<", next(line for line in events.iter_lines() if line == f"id: {ids[0]}"))
    tour.call("POST", "/rooms/kitchen/messages", 401, json=sent)


def stop(tour: Tour) -> None:
    tour.heading("The end")
    with tour.socket("/ws") as open_socket:
        seconds = tour.server.stop()
        try:
            open_socket.recv(TIMEOUT)
        except ConnectionClosed as closed:
            code = closed.rcvd and closed.rcvd.code
    print(f"SIGTERM: the socket is closed with {code}, the server exits after {seconds:.1f} s")
    tour.check(code in (1001, 1012), "close code 1001 or 1012")
    tour.check(seconds <= 2, "an exit within two seconds")
    tracebacks = tour.server.log.count("Traceback")
    tour.check(tracebacks == 1 and '"traceback"' in tour.server.log, "one traceback, that of /errors/crash")


STOPS: tuple[Callable[[Tour], None], ...] = (
    explorer,
    application,
    sockets,
    background,
    dependencies,
    responses,
    graphql,
    errors,
    validation,
    files,
    streaming,
    security,
    composition,
    mounting,
    stop,
)


def _shown(options: dict[str, Any]) -> str:
    return " ".join(f"{name}={_shorten(str(value))}" for name, value in options.items())


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[:SHOWN]}…"


def _is_text(kind: str) -> bool:
    return kind.startswith("text/") or "json" in kind


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, serve(Path(folder)) as server:
        tour = Tour(server)
        for visit in STOPS:
            visit(tour)
    print(f"\n{tour.calls} calls, no surprise")


if __name__ == "__main__":
    main()
