"""A client of a room in a browser, with a clock, a chance and sockets that are the test's."""

from typing import Any

from playwright.sync_api import Page, Route

from app.settings import ROOT

BEFORE = """
sockets = []; asked = 0; states = []; heard = []; said = [];
answer = () => new Response('{"ticket": "one-use"}');
WebSocket = class extends EventTarget {
  constructor(url) { super(); this.url = String(url); this.sent = []; sockets.push(this); }
  send(text) { this.sent.push(JSON.parse(text)); }
  close(code) { this.closed = code; }
};
last = () => sockets.at(-1);
hear = (type, news) => last().dispatchEvent(
  new MessageEvent("message", {data: JSON.stringify({type, ...news})}));
ada = {connection: "a1", user: "a", name: "ada"};
grace = {connection: "g1", user: "g", name: "grace"};
welcome = (news) => hear("welcome", {you: ada, here: [grace], last_id: "5-0", service: "ok", ...news});
end = (code) => last().dispatchEvent(new CloseEvent("close", {code}));
says = () => last().sent.filter(({type}) => type === "say");
say = (text) => void room.say(text).then((id) => said.push(id), (error) => said.push(error.message));
Math.random = () => luck;
luck = 0.5;
"""

BEGIN = """async () => {
  ({RoomClient, isAfter} = await import("/room-client.js"));
  room = new RoomClient("/rooms/kitchen", async (signal) => { asked++; return answer(signal); });
  room.addEventListener("state", ({detail}) => states.push(detail));
  for (const type of ["message", "joined", "left", "gap", "service"])
    room.addEventListener(type, ({detail}) => heard.push(detail));
  room.connect();
}"""


def serve_client(route: Route) -> None:
    if route.request.url.endswith("/room-client.js"):
        route.fulfill(path=ROOT / "static" / "room-client.js", content_type="text/javascript")
    else:
        route.fulfill(body="<!doctype html>", content_type="text/html")


class Room:
    """A client that has asked for its first socket. Time stands still but in `wait`."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self(BEFORE)
        self(BEGIN)
        self.until("sockets.length === 1")

    def __call__(self, script: str) -> Any:
        return self.page.evaluate(script)

    def until(self, condition: str) -> None:
        """Promises are kept without the clock, but each in its own turn."""
        for _ in range(100):
            if self(condition):
                return
        raise TimeoutError(condition)

    def wait(self, seconds: float) -> None:
        self.page.clock.run_for(round(seconds * 1_000))

    def states(self) -> list[str]:
        return [each["state"] for each in self("states")]
