"""What `static/resumable-upload.js` does on its own, in a real browser, with a service that is the test's."""

from typing import Any

import pytest
from playwright.sync_api import Page, Route

from app.settings import ROOT

SIZE, CHUNK = 10, 4
WHOLE = ["POST", "HEAD 0", "PATCH 0", "PATCH 4", "PATCH 8"]
BEFORE = """async () => {
  ({ResumableUpload, Refusal} = await import("/resumable-upload.js"));
  Math.random = () => luck;
  begin = (file, more) => {
    states = []; told = []; outcome = undefined; asked = 0;
    const headers = () => ({Authorization: `Bearer ${++asked}`});
    upload = new ResumableUpload(file, {endpoint: "/files/uploads", chunkSize: 4, headers,
      onprogress: ({offset}) => told.push(offset),
      onstate: (state, {pause, error}) => states.push([state, pause, error?.message])});
    start();
  };
  start = () => void upload.start().then((result) => outcome = result, (error) => outcome = error.message);
  file = (name, lastModified = 1) => new File(["0123456789"], name, {lastModified});
}"""

Answer = tuple[int, str]


class Service:
    """Keeps the lengths of uploads, and refuses what it is told to refuse, in that order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.refusals: list[tuple[str, int | None]] = []
        self.headers: dict[str, str] = {}
        self.seen: list[dict[str, str]] = []
        self.kept: dict[str, int] = {}
        self.partial = 0

    def __call__(self, route: Route) -> None:
        request, path = route.request, route.request.url.removeprefix("http://upload.test")
        if path == "/resumable-upload.js":
            return route.fulfill(path=ROOT / "static" / path[1:], content_type="text/javascript")
        if not path.startswith("/files/"):
            return route.fulfill(body="<!doctype html>", content_type="text/html")
        if path.endswith("/events"):
            return self._tell(route, path.removesuffix("/events"))
        method, offset = request.method, self.kept.get(path, 0)
        self.calls.append(f"{method} {offset}" if method in ("HEAD", "PATCH") else method)
        self.seen.append(request.headers)
        if self.refusals and self.calls[-1].startswith(self.refusals[0][0]):
            _, status = self.refusals.pop(0)
            self.kept[path] = offset + self.partial
            if status is None:
                return route.abort("connectionreset")
            problem = '{"detail": "It is refused."}' if method != "HEAD" else ""
            return route.fulfill(status=status, headers=self.headers, body=problem)
        if method == "POST":
            path = f"/files/uploads/{len(self.kept)}"
            self.kept[path] = 0
            return route.fulfill(status=201, headers={"Location": path})
        if method == "PATCH":
            assert int(request.headers["upload-offset"]) == offset
            self.kept[path] = min(SIZE, offset + CHUNK)
        return route.fulfill(status=204, headers={"Upload-Offset": str(self.kept[path])})

    def _tell(self, route: Route, path: str) -> None:
        if self.kept.get(path) == SIZE:
            events = 'event: progress\ndata: {"offset": 3}\n\nevent: complete\ndata: {"size": 10}\n\n'
        else:
            events = 'event: goodbye\ndata: {"reason": "Connect again."}\n\n'
        route.fulfill(body=events, content_type="text/event-stream")


class Client:
    def __init__(self, page: Page, service: Service) -> None:
        self.page = page
        self.service = service

    def __call__(self, script: str) -> Any:
        return self.page.evaluate(script)

    def begin(self, file: str = "file('fish.txt')") -> None:
        self(f"begin({file})")

    def outcome(self) -> Any:
        return self.page.wait_for_function("outcome").json_value()

    def until(self, state: str) -> list[Any]:
        """What was told with it."""
        self.page.wait_for_function("state => states.at(-1)[0] === state", arg=state)
        news = self("states.at(-1)")
        assert isinstance(news, list)
        return news

    def states(self) -> list[str]:
        return [state for state, *_ in self("states")]


@pytest.fixture(scope="module")
def page(blank_page: Page) -> Page:
    blank_page.route("**/*", Service())
    blank_page.goto("http://upload.test/")
    blank_page.evaluate(BEFORE)
    return blank_page


@pytest.fixture
def client(page: Page) -> Client:
    service = Service()
    page.unroute("**/*")
    page.route("**/*", service)
    page.evaluate("luck = 0; localStorage.clear()")
    return Client(page, service)


def test_a_file_comes_in_chunks_and_each_request_has_the_headers_of_its_moment(client: Client) -> None:
    client.begin("file('Fische, größer.txt')")
    assert client.outcome() == {"size": SIZE}
    assert client.service.calls == WHOLE
    assert client.states() == ["uploading", "complete"]
    assert client("told") == [0, 4, 8, 10]
    first, *_, last = client.service.seen
    assert first["upload-metadata"] == "filename RmlzY2hlLCBncsO2w59lci50eHQ="
    assert (first["upload-length"], first["tus-resumable"]) == (str(SIZE), "1.0.0")
    assert last["content-type"] == "application/offset+octet-stream"
    tokens = [int(each["authorization"].removeprefix("Bearer ")) for each in client.service.seen]
    assert tokens == sorted(set(tokens))
    assert client("localStorage.length") == 0


@pytest.mark.parametrize("status", [408, 409, 423, 503, None])
def test_after_trouble_it_asks_what_is_kept_and_goes_on_there(client: Client, status: int | None) -> None:
    client.service.refusals = [("PATCH 4", status)]
    client.service.partial = 3  # of what was sent with it
    client.begin()
    assert client.outcome() == {"size": SIZE}
    assert client.service.calls == ["POST", "HEAD 0", "PATCH 0", "PATCH 4", "HEAD 7", "PATCH 7"]
    assert client.states() == ["uploading", "waiting", "uploading", "complete"]


def test_pauses_are_drawn_from_a_span_that_doubles_and_come_after_what_the_service_asks(
    client: Client,
) -> None:
    client("luck = 0.002")
    client.service.refusals = [("HEAD", None), ("HEAD", 503), ("HEAD", 503)]
    client.begin()
    client.outcome()
    assert [pause for state, pause, _ in client("states") if state == "waiting"] == [1, 2, 4]
    client.service.refusals = [("POST", 503)]
    client.service.headers = {"Retry-After": "60"}
    client.begin("file('other.txt')")
    assert client.until("waiting") == ["waiting", 60_001, "It is refused."]
    client("dispatchEvent(new Event('online'))")
    assert client.outcome() == {"size": SIZE}


@pytest.mark.parametrize("status", [404, 410])
def test_an_upload_that_is_gone_begins_anew_but_not_for_ever(client: Client, status: int) -> None:
    client.service.refusals = [("PATCH", status)]
    client.begin()
    assert client.outcome() == {"size": SIZE}
    assert client.service.calls == [*WHOLE[:3], *WHOLE]
    client.service.refusals = [("HEAD", status)] * 3
    client.begin()
    assert client.outcome() == f"The service answers {status}."
    assert client.service.calls[len(WHOLE) + 3 :] == ["POST", "HEAD 0"] * 3


@pytest.mark.parametrize("status", [401, 415, 507])
def test_what_no_attempt_would_change_fails_with_the_detail_of_the_problem(
    client: Client, status: int
) -> None:
    client.service.refusals = [("PATCH", status)]
    client.begin()
    assert client.outcome() == "It is refused."
    assert client.states() == ["uploading", "failed"]
    client("outcome = undefined, start()")  # as after a new log-in
    assert client.outcome() == {"size": SIZE}
    assert client.service.calls == [*WHOLE[:3], *WHOLE[1:]]


def test_while_it_is_paused_nothing_is_asked(client: Client) -> None:
    client("luck = 1")
    client.service.refusals = [("PATCH", 503)]
    client.begin()
    client.until("waiting")
    client("upload.pause()")
    assert (
        client("new Promise(done => setTimeout(() => done(upload.state), 600))") == "paused"
    )  # it was to wait 500
    assert client.service.calls == WHOLE[:3]
    client("upload.resume()")
    assert client.outcome() == {"size": SIZE}


def test_a_new_page_goes_on_with_the_same_file_and_with_no_other(client: Client) -> None:
    client.service.refusals = [("PATCH", 400)]
    client.service.partial = 3
    client.begin()
    client.outcome()
    client.begin("file('fish.txt', 2)")  # it was changed
    client.outcome()
    assert client.service.calls[3:] == WHOLE
    client.begin()
    assert client.outcome() == {"size": SIZE}
    assert client.service.calls[3 + len(WHOLE) :] == ["HEAD 3", "PATCH 3", "PATCH 7"]


def test_what_is_given_up_is_deleted_though_it_is_locked_for_a_moment(client: Client) -> None:
    client("luck = 1")
    client.service.refusals = [("PATCH", 503), ("DELETE", 423)]
    client.begin()
    client.until("waiting")
    client("gone = false, upload.abort().then(() => gone = true)")
    client.page.wait_for_function("dispatchEvent(new Event('online')), gone")  # or it would take its time
    assert client.states()[-1] == "aborted"
    assert client.service.calls == [*WHOLE[:3], "DELETE", "DELETE"]
    assert client("localStorage.length") == 0
    assert client("upload.start().catch(error => error.message)") == "The upload is aborted."


def test_a_file_that_cannot_be_read_any_more_is_an_error_and_no_loop(client: Client) -> None:
    client.service.refusals = [("PATCH", None)]
    client("gone = file('fish.txt'), gone.slice = () => ({arrayBuffer: () => Promise.reject(), size: 4})")
    client.begin("gone")
    assert client.outcome() == "The file cannot be read any more. Has it changed?"


@pytest.mark.parametrize("size", ["0", "-1", "0.5", "NaN"])
def test_a_chunk_without_a_byte_is_an_error_and_no_loop(client: Client, size: str) -> None:
    build = f"new ResumableUpload(file('fish.txt'), {{endpoint: '/files/uploads', chunkSize: {size}}})"
    assert client(f"() => {{try {{{build}}} catch (error) {{return error instanceof RangeError}}}}") is True
