"""The forms of `security/sessions` in a real browser, and a page on another port that attacks them.

Another port is another origin of the same site, and shares the cookies: what a sibling subdomain is.
"""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx2
import pytest
from playwright.sync_api import Browser, Page

from app.security.session_cookie import COOKIE
from tests.server import Server

ACCOUNT = {"username": "browser-ada", "password": "correct horse battery"}


class Attack(BaseHTTPRequestHandler):
    target = ""

    def do_GET(self) -> None:
        page = f"<form method=post action={self.target}><input name=csrf_token value=guess><button>".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(page)))
        self.send_header("Set-Cookie", f"\xa0{COOKIE}=tossed; Path=/")  # sent as the byte 0xA0
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing to standard error."""


@pytest.fixture(scope="module")
def forms(live: Server) -> str:
    answer = httpx2.post(f"{live.url}/security/oauth2/accounts", json=ACCOUNT)
    assert answer.status_code == 201
    return f"http://localhost:{live.port}/security/session"


@pytest.fixture(scope="module")
def attack(forms: str) -> Iterator[str]:
    handler = type("AttackOnForms", (Attack,), {"target": f"{forms}/logout"})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://localhost:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def page(browser: Browser) -> Page:
    page = browser.new_page()
    page.set_default_timeout(10_000)
    return page


def test_the_form_logs_in_over_http_on_localhost_and_no_page_of_another_origin_logs_out(
    page: Page, forms: str, attack: str
) -> None:
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(forms)
    page.get_by_label("Name").fill(ACCOUNT["username"])
    page.get_by_label("Password").fill(ACCOUNT["password"])
    page.get_by_role("button", name="Log in").click()
    page.get_by_role("heading", name="Hello browser-ada").wait_for()
    page.get_by_label("Note").fill("<b>bold</b>")
    page.get_by_role("button", name="Keep").click()
    page.get_by_text("<b>bold</b>").wait_for()
    assert complaints == []

    page.goto(attack)
    with page.expect_response("**/logout") as response:
        page.get_by_role("button").click()
    assert response.value.status == 403
    headers = response.value.request.all_headers()
    # Lax brought the cookie along, and the other one whose name begins with a byte that is no prefix.
    assert headers["cookie"].count(COOKIE) == 2
    assert headers["sec-fetch-site"] == "same-site" and headers["origin"] == attack.rstrip("/")

    page.goto(forms)
    page.get_by_role("heading", name="Hello browser-ada").wait_for()
    page.get_by_role("button", name="Log out").click()
    page.get_by_role("heading", name="Nobody is logged in").wait_for()
