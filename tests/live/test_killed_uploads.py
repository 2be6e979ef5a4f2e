"""Uploads into a real server that is killed, or whose disk is full: what was answered is there, whole, and of
the rest nothing is left."""

import hashlib
import json
import random
import re
import resource
import secrets
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from tests.server import Server, read_to_end, serve
from tests.tus import OCTETS, TUS, metadata

ROUNDS = 2
UPLOADS, RESUMABLES = 8, 2
"""In flight when the server is killed."""
LIMIT = 10.0


def content_of(chance: random.Random) -> bytes:
    """Text, no two places of which are alike, in at most 3 MB."""
    return chance.randbytes(chance.randrange(1, 1_500_000)).hex().encode()


def form(content: bytes) -> bytes:
    body = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n'
        + content
        + b"\r\n--b--\r\n"
    )
    head = b"POST /upload/ HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\n" % len(
        body
    )
    return head + b"Content-Type: multipart/form-data; boundary=b\r\n\r\n" + body


@dataclass
class Upload:
    content: bytes
    connection: socket.socket
    rest: bytes = b""
    id: str = ""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def begin(server: Server, chance: random.Random, whole: bool) -> Upload:
    """Sends as much as chance will, or all but the last bytes."""
    content = content_of(chance)
    request = form(content)
    point = len(request) - 5 if whole else chance.randrange(len(request))
    return Upload(content, server.connect(request[:point]), request[point:])


def begin_resumable(server: Server, chance: random.Random) -> Upload:
    content = content_of(chance)
    answer = httpx2.post(
        f"{server.url}/files/uploads",
        headers={**TUS, "Upload-Length": str(len(content)), "Upload-Metadata": metadata("a.txt")},
    )
    assert answer.status_code == 201
    upload_id = answer.headers["location"].rpartition("/")[2]
    head = f"PATCH /files/uploads/{upload_id} HTTP/1.1\r\nHost: localhost\r\nTus-Resumable: 1.0.0\r\n"
    head += "Upload-Offset: 0\r\nContent-Type: application/offset+octet-stream\r\n"
    head += f"Content-Length: {len(content)}\r\n\r\n"
    request = head.encode() + content
    sent = request[: chance.randrange(len(head), len(request))]
    return Upload(content, server.connect(sent), id=upload_id)


def answer_to(upload: Upload) -> None:
    """Notes the id, if it came."""
    with upload.connection as connection:
        try:
            answer = read_to_end(connection)
        except ConnectionError:
            return
    head, _, body = answer.partition(b"\r\n\r\n")
    if head.startswith(b"HTTP/1.1 201") and body.endswith(b"}"):
        upload.id = json.loads(body)["id"]


def killed_in_the_middle(server: Server, chance: random.Random) -> tuple[list[Upload], list[Upload]]:
    uploads = [begin(server, chance, whole=number < UPLOADS / 2) for number in range(UPLOADS)]
    resumables = [begin_resumable(server, chance) for _ in range(RESUMABLES)]
    for upload in uploads[: UPLOADS // 2]:
        upload.connection.sendall(upload.rest)
    time.sleep(chance.uniform(0, 0.06))  # nothing is waited for: the moment is part of the chance
    server.stop(signal.SIGKILL)
    for upload in uploads:
        answer_to(upload)
    for upload in resumables:
        upload.connection.close()
    return uploads, resumables


def resume(server: Server, upload: Upload) -> None:
    url = f"{server.url}/files/uploads/{upload.id}"
    offset = int(httpx2.head(url, headers=TUS).headers["upload-offset"])
    if offset < len(upload.content):
        headers = {**OCTETS, "Upload-Offset": str(offset)}
        answer = httpx2.patch(url, headers=headers, content=upload.content[offset:])
        assert answer.status_code == 204


def states(folder: Path) -> dict[str, str]:
    """Each file by its id: what the table says of it, and its digest there."""
    with closing(sqlite3.connect(folder / "data" / "app.sqlite3")) as database:
        return dict(
            database.execute("SELECT id, CASE state WHEN 'ready' THEN sha256 ELSE state END FROM files")
        )


def names(folder: Path) -> set[str]:
    return {path.name for path in (folder / "uploads").iterdir()} - {".lock"}


def swept(folder: Path) -> dict[str, str]:
    deadline = time.monotonic() + LIMIT
    while not all(re.fullmatch("[0-9a-f]{64}", state) for state in states(folder).values()):
        assert time.monotonic() < deadline, states(folder)
        time.sleep(0.02)
    return states(folder)


@dataclass
class Revived:
    server: Server
    folder: Path
    uploads: list[Upload]
    resumables: list[Upload]


@pytest.fixture(scope="module")
def revived(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Revived]:
    """A server over what others left that were killed."""
    seed = secrets.randbelow(10**9)
    print(f"seed {seed}")  # noqa: T201 - shown when it fails
    chance = random.Random(seed)  # noqa: S311
    folder = tmp_path_factory.mktemp("killed")
    uploads: list[Upload] = []
    resumables: list[Upload] = []
    for _ in range(ROUNDS):
        with serve(folder) as server:
            begun = killed_in_the_middle(server, chance)
            uploads += begun[0]
            resumables += begun[1]
    with serve(folder) as server:
        yield Revived(server, folder, uploads, resumables)


def test_a_server_killed_at_any_point_has_each_file_whole_or_not_at_all(revived: Revived) -> None:
    for upload in revived.resumables:
        resume(revived.server, upload)
    files = swept(revived.folder)
    assert names(revived.folder) == set(files)
    everything = [*revived.uploads, *revived.resumables]
    for upload in everything:
        if upload.id:
            answer = httpx2.get(f"{revived.server.url}/files/{upload.id}")
            assert answer.status_code == 200
            assert hashlib.sha256(answer.content).hexdigest() == upload.sha256
    # One whose answer nobody got may be there, but whole.
    assert set(files.values()) <= {upload.sha256 for upload in everything}
    for file_id, digest in files.items():
        assert hashlib.sha256((revived.folder / "uploads" / file_id).read_bytes()).hexdigest() == digest


@contextmanager
def files_of_at_most(server: Server, size: int) -> Iterator[None]:
    """Stands for a full disk: the system refuses to write on, with an error of the same kind."""
    pid = server.process.pid
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
    yield
    resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_507_and_loses_nothing(revived: Revived) -> None:
    before = swept(revived.folder)
    with httpx2.Client(base_url=revived.server.url) as client:

        def upload(content: bytes) -> httpx2.Response:
            return client.post("/upload/", files={"file": ("a.txt", content)})

        first = upload(b"a" * 1_000_000)
        large = b"0123456789" * 500_000
        headers = {**TUS, "Upload-Length": str(len(large)), "Upload-Metadata": metadata("a.txt")}
        resumable = client.post("/files/uploads", headers=headers).headers["location"]
        with files_of_at_most(revived.server, 3_000_000):
            assert upload(large).status_code == 507
            headers = {**OCTETS, "Upload-Offset": "0"}
            assert client.patch(resumable, headers=headers, content=large).status_code == 507
            offset = int(client.head(resumable, headers=TUS).headers["upload-offset"])
            assert 2_000_000 <= offset <= 3_000_000
            second = upload(b"small")
            upload_id = resumable.rpartition("/")[2]
            kept = {upload_id, *(answer.json()["id"] for answer in (first, second))}
            assert set(states(revived.folder)) - set(before) == kept
            assert names(revived.folder) - set(before) == kept - {upload_id} | {f".{upload_id}.part"}
        headers["Upload-Offset"] = str(offset)
        assert client.patch(resumable, headers=headers, content=large[offset:]).status_code == 204
        for place, content in (
            (first.headers["location"], b"a" * 1_000_000),
            (second.headers["location"], b"small"),
            (f"/files/{upload_id}", large),
        ):
            assert client.get(place).content == content
