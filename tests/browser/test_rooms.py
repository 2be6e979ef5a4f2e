"""Two people, each in a browser of their own, and a service that is started again between their words."""

from pathlib import Path

from playwright.sync_api import Browser, expect

from tests.browser.test_explorer import DESK, PHONE, Tab
from tests.redis import redis_server
from tests.server import Server, serve

HOSTILE = "<img src=x onerror=alert(1)>"
GAP = "Messages may be missing here: the service does not remember them."
AWAY = ("net::ERR_CONNECTION_REFUSED", "WebSocket connection to")
"""What a browser itself says of a service that is not there."""


class Person:
    """A browser of its own, in which one client of the page is used."""

    def __init__(self, browser: Browser, name: str, url: str) -> None:
        page = browser.new_context(viewport=DESK).new_page()
        page.add_init_script("Math.random = () => 0.02")  # pauses are drawn, and drawn short here
        self.tab = Tab(page, url)
        self.tab.open("/rooms")
        self.client = page.get_by_role("region", name=name)
        self.messages = self.client.get_by_role("log").get_by_role("listitem")
        self.unsaid = self.client.locator(".unsaid li")
        self.name = self.client.get_by_label("Name").input_value()

    def enter(self, room: str) -> None:
        self.client.get_by_label("Room").fill(room)
        self.press("Enter")

    def is_shown(self, state: str) -> None:
        expect(self.client.get_by_role("status")).to_contain_text(state)

    def press(self, button: str) -> None:
        self.client.get_by_role("button", name=button, exact=True).click()

    def say(self, *texts: str) -> None:
        field = self.client.get_by_label("Message", exact=True)
        for text in texts:
            field.fill(text)
            field.press("Enter")

    def hears(self, messages: int) -> None:
        """Waits for as many. Unlike `expect`, which asks now and then, this is told."""
        self.messages.nth(messages - 1).wait_for()

    def lose_the_line(self) -> None:
        self.tab.page.route("**/rooms/tickets", lambda route: route.abort("connectionrefused"))
        self.press("Cut the line")
        self.is_shown("waiting")

    def find_the_line(self) -> None:
        self.tab.page.unroute("**/rooms/tickets")

    def complaints(self) -> list[str]:
        return [text for text in self.tab.complaints if not any(words in text for words in AWAY)]


def test_two_pages_come_back_and_miss_nothing_but_what_is_forgotten(browser: Browser, tmp_path: Path) -> None:
    with redis_server(tmp_path) as redis:
        in_redis = {"APP_REDIS_URL": redis.url.get_secret_value()}
        with serve(tmp_path, in_redis) as server:
            people = ada, grace = Person(browser, "Ada", server.url), Person(browser, "Grace", server.url)
            for person in people:
                person.enter("kitchen")
            for person in people:
                person.is_shown("open")
            expect(ada.client.locator(".here")).to_have_text(f"Here: {ada.name}, {grace.name}")
            ada.say(HOSTILE)
            grace.hears(1)
            grace.lose_the_line()
            ada.say("meanwhile")
            ada.hears(2)
            server.stop()

        ada.is_shown("waiting")
        for person in people:
            person.say("one", "two", "three")
        for person in people:
            person.unsaid.nth(2).wait_for()
        grace.find_the_line()

        with serve(tmp_path, in_redis, ["--port", str(server.port)]):
            for person in people:
                person.hears(8)
                expect(person.unsaid).to_have_count(0)
            heard = ada.messages.all_inner_texts()
            assert heard == grace.messages.all_inner_texts()
            assert heard[:2] == [f"{ada.name} {HOSTILE}", f"{ada.name} meanwhile"]
            for person in people:
                said = [text for text in heard[2:] if text.startswith(person.name)]
                assert said == [f"{person.name} {number}" for number in ("one", "two", "three")]

            grace.lose_the_line()
            ada.say("who hears this?")
            ada.hears(9)
            redis.command("FLUSHALL")
            grace.find_the_line()
            grace.hears(9)
            assert grace.messages.nth(8).inner_text() == GAP

    for person in people:
        assert person.messages.locator("img").count() == 0
        assert person.complaints() == []


def test_the_page_renews_its_token_and_fits_a_phone_and_is_dark_in_the_dark(
    browser: Browser, live: Server
) -> None:
    person = Person(browser, "Ada", live.url)
    # As when the access token has ended: the page gets another one.
    person.tab.page.route("**/rooms/tickets", lambda route: route.fulfill(status=401), times=1)
    with person.tab.page.expect_request("**/oauth2/refresh"):
        person.enter("phone")
    person.say("a" * 1_000)
    person.hears(1)
    light = person.tab.background()
    person.tab.page.emulate_media(color_scheme="dark")
    assert person.tab.background() != light
    for window in (DESK, PHONE):
        person.tab.page.set_viewport_size(window)
        assert not person.tab.is_wider_than_its_window()
    person.press("Leave")
    person.is_shown("closed")
    person.client.get_by_label("Password").fill("of somebody else")
    person.press("Enter")
    expect(person.client.get_by_role("alert")).to_have_text("The username or the password is wrong.")
