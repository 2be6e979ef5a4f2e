"""A file that is uploaded by a page of a browser, while the service is killed and started again."""

import os
import signal
from hashlib import sha256
from pathlib import Path

import httpx2
import pytest
from playwright.sync_api import Browser, expect

from tests.browser.test_explorer import DESK, PHONE, Tab
from tests.server import Server, serve

SIZE = 30_000_000
HOSTILE = "<img src=x onerror=alert(1)>.txt"
SLOW = 8_000_000
"""Bytes a second."""
DROPPED = """() => {
  const dropped = new DataTransfer();
  dropped.items.add(new File(["fish".repeat(500_000)], "long.txt"));
  return dropped;
}"""
AWAY = ("net::ERR_", "Failed to load resource")
"""How a browser itself says that the service is not there, or refuses."""


class Uploader:
    """A browser of its own that shows the page."""

    def __init__(self, browser: Browser, url: str, query: str = "") -> None:
        self.page = browser.new_context(viewport=DESK).new_page()
        self.page.add_init_script("Math.random = () => 0.1")  # pauses are drawn, and drawn short here
        self.tab = Tab(self.page, url)
        self.tab.open(f"/files/uploads{query}")
        self.state = self.page.get_by_role("status")
        self.bar = self.page.get_by_role("progressbar")
        self.problem = self.page.get_by_role("alert")

    def choose(self, *paths: Path) -> None:
        self.page.get_by_label("Choose a file").set_input_files(list(paths))

    def press(self, button: str) -> None:
        self.page.get_by_role("button", name=button).click()

    def text(self, name: str) -> str:
        return self.page.locator(f".{name}").inner_text()

    def share(self) -> float:
        return float(self.bar.evaluate("bar => bar.value"))

    def until(self, share: float) -> None:
        self.page.wait_for_function("share => document.querySelector('progress').value >= share", arg=share)

    def throttle(self, rate: int) -> None:
        network = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": rate}
        self.page.context.new_cdp_session(self.page).send("Network.emulateNetworkConditions", network)

    def picture(self, folder: Path, name: str) -> None:
        self.page.screenshot(path=folder / f"{name}.png", full_page=True)

    def complaints(self) -> list[str]:
        return [text for text in self.tab.complaints if not any(words in text for words in AWAY)]


def test_an_upload_is_paused_outlives_a_killed_service_and_a_reload_and_arrives_whole(
    browser: Browser, tmp_path: Path
) -> None:
    path = tmp_path / HOSTILE
    path.write_text(os.urandom(SIZE // 2).hex())
    with serve(tmp_path) as server:
        uploader = Uploader(browser, server.url, "?chunk=4000000")
        uploader.throttle(SLOW)
        uploader.choose(path)
        uploader.until(0.05)
        uploader.press("Pause")
        expect(uploader.state).to_contain_text("Paused at")
        paused = uploader.share()
        assert 0.05 <= paused < 1
        uploader.picture(tmp_path, "paused")
        uploader.press("Resume")
        uploader.until(paused + 0.05)
        server.stop(signal.SIGKILL)
        expect(uploader.state).to_contain_text("Waiting")
        uploader.picture(tmp_path, "waiting")

    with serve(tmp_path, args=["--port", str(server.port)]):
        uploader.until(paused + 0.1)  # it came back by itself
        assert uploader.share() < 1
        uploader.tab.open("/files/uploads")
        uploader.choose(path)
        uploader.until(0.01)
        assert uploader.share() > paused  # and did not begin anew
        uploader.throttle(-1)
        expect(uploader.state).to_have_text("Complete")
        digest = sha256(path.read_bytes()).hexdigest()
        expect(uploader.page.get_by_text("They are equal.")).to_be_visible()
        assert (uploader.text("theirs"), uploader.text("ours")) == (digest, digest)
        assert uploader.text("name") == HOSTILE
        assert uploader.page.locator("img").count() == 0
        with uploader.page.expect_download() as download:
            uploader.page.get_by_role("link", name="Download it").click()
        assert sha256(download.value.path().read_bytes()).hexdigest() == digest
        uploader.picture(tmp_path, "complete")
    assert uploader.complaints() == []


def test_the_page_tells_a_problem_and_cancels_and_fits_a_phone_and_is_dark_in_the_dark(
    browser: Browser, live: Server, tmp_path: Path
) -> None:
    uploader = Uploader(browser, live.url, "?chunk=65536")
    page = uploader.page
    page.set_viewport_size(PHONE)
    light = uploader.tab.background()
    page.emulate_media(color_scheme="dark")
    assert uploader.tab.background() != light

    program = tmp_path / f"{'a' * 200}.exe"
    program.write_bytes(b"MZ")
    uploader.choose(program)
    expect(uploader.problem).to_contain_text("Accepted are")
    expect(uploader.state).to_have_text("It stopped")
    uploader.picture(tmp_path, "refused")
    assert not uploader.tab.is_wider_than_its_window()

    uploader.throttle(1_000_000)
    dropped = page.evaluate_handle(DROPPED)
    page.dispatch_event(".drop", "drop", {"dataTransfer": dropped})
    uploader.until(0.1)
    expect(page.locator(".rate")).to_contain_text("/s")
    uploader.picture(tmp_path, "under-way")
    assert not uploader.tab.is_wider_than_its_window()
    (kept,) = page.evaluate("Object.values(localStorage)")
    page.get_by_role("button", name="Cancel").focus()
    with page.expect_response(lambda answer: answer.request.method == "DELETE" and answer.ok):
        page.keyboard.press("Enter")
    expect(uploader.state).to_have_text("Cancelled")
    assert httpx2.get(f"{kept}/events").status_code == 404
    assert page.evaluate("Object.values(localStorage)") == []
    assert uploader.complaints() == []


@pytest.mark.parametrize("chunk", ["-1", "0.5"])
def test_a_chunk_of_no_byte_is_not_taken_from_the_address(
    chunk: str, browser: Browser, live: Server, tmp_path: Path
) -> None:
    uploader = Uploader(browser, live.url, f"?chunk={chunk}")
    path = tmp_path / "note.txt"
    path.write_text("a note")
    uploader.choose(path)
    expect(uploader.state).to_have_text("Complete")
    assert uploader.complaints() == []
