"""The web pages in a real browser: what it says on its console, whom it calls, and whether it all fits."""

from collections.abc import Iterator

import httpx2
import pytest
from playwright.sync_api import Browser, Page, ViewportSize

from app.catalogue import GROUPS, PAGES
from tests.server import Server

PHONE = ViewportSize(width=390, height=844)
DESK = ViewportSize(width=1280, height=900)


class Tab:
    """A browser tab that notes what went wrong."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.url = url
        self.complaints: list[str] = []
        page.set_default_timeout(10_000)
        page.on(
            "console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._note_foreign(request.url))

    def open(self, path: str) -> None:
        self.page.goto(self.url + path)

    def is_wider_than_its_window(self) -> bool:
        return bool(self.page.evaluate("document.scrollingElement.scrollWidth > innerWidth"))

    def background(self) -> str:
        return str(self.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    def _note_foreign(self, url: str) -> None:
        if not url.startswith((self.url, "data:", f"blob:{self.url}")):
            self.complaints.append(f"request to {url}")


@pytest.fixture(scope="module")
def tab(browser: Browser, live: Server) -> Iterator[Tab]:
    page = browser.new_page()
    yield Tab(page, live.url)
    page.close()


# The longest of each group: all pages are made of the same few elements.
LONGEST = [max(pages, key=lambda page: len(page.module.__doc__ or "")) for pages in GROUPS.values()]


@pytest.mark.parametrize("path", ["/", *(f"/pages/{page.path}" for page in LONGEST)])
def test_a_web_page_fits_a_phone(tab: Tab, path: str) -> None:
    tab.complaints.clear()
    tab.page.set_viewport_size(PHONE)
    tab.open(path)
    assert tab.page.locator("h1").count() == 1
    # Opened, for what is folded has no width.
    tab.page.evaluate("document.querySelectorAll('details').forEach(element => element.open = true)")
    assert not tab.is_wider_than_its_window()
    assert tab.complaints == []


@pytest.mark.parametrize("path", ["/", f"/pages/{PAGES[0].path}"])
def test_a_web_page_fits_a_desk_and_is_dark_in_the_dark(tab: Tab, path: str) -> None:
    tab.complaints.clear()
    tab.page.set_viewport_size(DESK)
    tab.page.emulate_media(color_scheme="light")
    tab.open(path)
    assert not tab.is_wider_than_its_window()
    light = tab.background()
    tab.page.emulate_media(color_scheme="dark")
    assert tab.background() != light
    assert tab.complaints == []


def test_swagger_ui_shows_the_operations_and_calls_them_without_a_foreign_host(tab: Tab) -> None:
    tab.complaints.clear()
    tab.page.set_viewport_size(PHONE)
    tab.open("/docs")
    block = tab.page.locator("#operations-middleware-middleware_sleep")
    block.locator(".opblock-summary-control").click()
    assert tab.page.locator(".opblock-summary-path").count() > len(PAGES)
    badge = tab.page.locator(".version").first  # its text is white, and its box brings the colour behind it
    assert badge.evaluate("each => getComputedStyle(each).backgroundColor") == "rgba(0, 0, 0, 0)"
    assert not tab.is_wider_than_its_window()
    tab.page.set_viewport_size(DESK)
    block.get_by_role("button", name="Try it out").click()
    block.get_by_role("button", name="Execute").click()
    block.locator(".live-responses-table .response-col_status").get_by_text("200").wait_for()
    assert tab.complaints == []


def test_authorize_logs_in_and_each_call_carries_the_token(tab: Tab) -> None:
    tab.complaints.clear()
    tab.page.set_viewport_size(DESK)
    account = {"username": "browser", "password": "correct horse battery staple"}
    assert httpx2.post(f"{tab.url}/security/oauth2/accounts", json=account).status_code in (201, 409)
    tab.open("/docs")
    tab.page.get_by_role("button", name="Authorize").first.click()
    dialog = tab.page.locator(".auth-container", has=tab.page.locator("#oauth_username"))
    assert dialog.locator("input[type=checkbox]:checked").count() == 1  # of `swagger_ui_init_oauth`
    dialog.locator("#oauth_username").fill(account["username"])
    dialog.locator("#oauth_password").fill(account["password"])
    dialog.get_by_role("button", name="Apply given OAuth2 credentials").click()
    tab.page.get_by_role("button", name="Remove authorization").wait_for()
    tab.page.get_by_role("button", name="Close").last.click()
    block = tab.page.locator(".opblock", has=tab.page.locator("[data-path='/security/oauth2/me']"))
    block.locator(".opblock-summary-control").click()
    block.get_by_role("button", name="Try it out").click()
    block.get_by_role("button", name="Execute").click()
    block.locator(".live-responses-table .response-col_status").get_by_text("200").wait_for()
    assert tab.complaints == []


def test_redoc_shows_the_operations_and_finds_one_without_a_foreign_host(tab: Tab) -> None:
    tab.complaints.clear()
    tab.page.set_viewport_size(PHONE)
    tab.open("/redoc")
    tab.page.locator("[data-section-id*='/operation/']").first.wait_for()
    assert tab.page.locator("[data-section-id*='/operation/']").count() > len(PAGES)
    assert not tab.is_wider_than_its_window()
    tab.page.set_viewport_size(DESK)
    tab.page.get_by_placeholder("Search...").fill("sleep")
    tab.page.locator("[data-role='search:results'] [role='menuitem']").first.wait_for()
    assert tab.complaints == []


def test_the_first_tab_key_offers_to_skip_to_the_content(tab: Tab) -> None:
    tab.page.set_viewport_size(DESK)
    tab.open("/")
    tab.page.keyboard.press("Tab")
    skip = tab.page.locator(".skip")
    assert skip.evaluate("element => element === document.activeElement")
    assert skip.evaluate("element => element.getBoundingClientRect().top >= 0")
    tab.page.keyboard.press("Enter")
    assert tab.page.evaluate("document.activeElement.id") == "main"
