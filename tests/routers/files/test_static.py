import hashlib
from base64 import b64encode
from pathlib import Path

import httpx2
import pytest
from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from fastapi.testclient import TestClient

from app.routers.files.static import STATIC, SiteFiles
from tests.server import Server

OUTSIDE = (
    "../secret.txt",
    "%2e%2e/secret.txt",
    "..%2fsecret.txt",
    "..%5csecret.txt",
    "%2fetc/passwd",
    "a%00",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder to serve, with a secret beside it, a link to that, and hidden files."""
    folder = tmp_path / "static"
    (folder / ".git").mkdir(parents=True)
    (folder / "style.css").write_text("body {}")
    (folder / ".env").write_text("PASSWORD=hunter2")
    (folder / ".git" / "config").write_text("token")
    (tmp_path / "secret.txt").write_text("hunter2")
    (folder / "link.txt").symlink_to(tmp_path / "secret.txt")
    return folder


def served(files: StaticFiles) -> TestClient:
    app = FastAPI()
    app.mount("/static", files)
    return TestClient(app)


def test_a_file_is_served_with_its_type_a_tag_and_a_rule_for_caches(client: TestClient) -> None:
    answer = client.get("/static/style.css")
    assert answer.content == (STATIC / "style.css").read_bytes()
    assert answer.headers["content-type"] == "text/css; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "etag" in answer.headers


def test_a_browser_that_has_the_file_gets_304(client: TestClient) -> None:
    etag = client.get("/static/style.css").headers["etag"]
    answer = client.get("/static/style.css", headers={"If-None-Match": etag})
    assert (answer.status_code, answer.content) == (304, b"")
    assert answer.headers["cache-control"] == "no-cache"


def test_head_has_the_headers_of_get(client: TestClient) -> None:
    head, get = (client.request(method, "/static/style.css").headers for method in ("HEAD", "GET"))
    assert head["content-type"] == get["content-type"]
    assert head["etag"] == get["etag"]


def test_nothing_outside_the_folder_is_served(folder: Path, client: TestClient) -> None:
    for path in (*OUTSIDE, "link.txt", "", "x" * 5_000):
        assert served(SiteFiles(directory=folder)).get(f"/static/{path}").status_code == 404
    for path in ("../README.md", "%2e%2e/README.md", "..%2fapp%2fmain.py"):
        assert client.get(f"/static/{path}").status_code == 404


def test_hidden_files_are_not_served(folder: Path) -> None:
    site = served(SiteFiles(directory=folder))
    assert site.get("/static/style.css").status_code == 200
    for path in (".env", ".git/config", "./.env", "x/../.env"):
        assert site.get(f"/static/{path}").status_code == 404


def test_the_service_starts_in_any_working_directory(live: Server) -> None:
    assert not (Path(f"/proc/{live.process.pid}/cwd") / "static").exists()
    assert httpx2.get(f"{live.url}/static/style.css").content == (STATIC / "style.css").read_bytes()


def test_the_manifest_has_the_digest_of_every_file_that_is_served(client: TestClient) -> None:
    files = client.get("/files/static/manifest").json()
    assert {Path(file["path"]).name for file in files} >= {"style.css"}
    for file in files:
        content = client.get(file["path"]).content
        digest = b64encode(hashlib.sha384(content).digest()).decode()
        assert file == {"path": file["path"], "size": len(content), "integrity": f"sha384-{digest}"}


def test_trap_a_relative_folder_is_looked_for_where_the_program_was_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RuntimeError, match="does not exist"):
        StaticFiles(directory="static")


def test_trap_hidden_files_are_served_and_caches_may_guess(folder: Path) -> None:
    site = served(StaticFiles(directory=folder))
    answer = site.get("/static/.env")
    assert answer.text == "PASSWORD=hunter2"
    assert "cache-control" not in answer.headers


def test_trap_a_followed_link_leads_out_of_the_folder(folder: Path) -> None:
    site = served(StaticFiles(directory=folder, follow_symlink=True))
    assert site.get("/static/link.txt").text == "hunter2"
