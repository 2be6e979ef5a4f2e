"""What strangers send, on the real server: no 5xx, nothing half-written, nothing outside, no memory."""

import gzip
import http.client
import os
import select
import signal
import socket
import sqlite3
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import chain, repeat
from pathlib import Path
from time import monotonic

import pytest

from tests.s3 import Bucket, S3Server
from tests.samples import PNG_START, TEXT, image, pdf, png, png_chunk
from tests.server import Server, serve

LIMIT = 10 * 1024 * 1024
MEGABYTE = b"x" * 2**20
TYPE = b"multipart/form-data; boundary=b"
END = b"\r\n--b--\r\n"
HTML = b"<!doctype html><script>alert(1)</script>"


@dataclass
class Target:
    """A server, and what lies where its files are."""

    server: Server
    folder: Path
    bucket: Bucket | None
    known: set[str] = field(default_factory=set)

    def stored(self) -> set[str]:
        """All there is, files and what is left of others."""
        if self.bucket:
            return {*self.bucket.paths, *self.bucket.uploads}
        return set(os.listdir(self.folder / "uploads")) - {".gitkeep", ".lock"}

    def rows(self) -> set[tuple[str, str]]:
        with closing(sqlite3.connect(self.folder / "data" / "app.sqlite3")) as database:
            return set(database.execute("SELECT id, state FROM files"))

    def added(self) -> set[str]:
        """What can be read since the last time: who left may be found out about in the middle of the next
        test. That nothing else stays is looked at in the end; only then a bucket is asked, which is slow."""
        before = self.known
        files = set() if self.bucket else {name for name in self.stored() if not name.startswith(".")}
        self.known = files | {file_id for file_id, state in self.rows() if state == "ready"}
        return self.known - before

    def wait_until_nothing_is_added(self) -> None:
        """Who has left, or broken the protocol, is not told when all is undone. The row goes last."""
        end = monotonic() + 10
        while len(self.rows()) > len(self.known) and monotonic() < end:
            pass

    def read(self, name: str) -> bytes:
        return self.bucket.get(name) if self.bucket else (self.folder / "uploads" / name).read_bytes()

    def outside(self) -> set[Path]:
        return {path for path in self.folder.rglob("*") if path.parent.name not in ("uploads", "data")}


@contextmanager
def served(folder: Path, bucket: Bucket | None = None) -> Iterator[Target]:
    (folder / "uploads").mkdir()
    (folder / "uploads" / ".gitkeep").touch()
    env = {"APP_LOG_LEVEL": "WARNING"} | (environment(bucket) if bucket else {})
    with serve(folder, env, ["--no-access-log"]) as server:
        yield Target(server, folder, bucket)


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with served(tmp_path_factory.mktemp("hostile")) as target:
        yield target


@pytest.fixture(scope="module")
def on_s3(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> Iterator[Target]:
    with served(tmp_path_factory.mktemp("hostile_on_s3"), s3.bucket()) as target:
        yield target


@pytest.fixture(params=["disk", "on_s3"])
def target(request: pytest.FixtureRequest) -> Target:
    found: Target = request.getfixturevalue(request.param)
    return found


def cases(names: Iterable[str], on_s3: Sequence[str]) -> pytest.MarkDecorator:
    """All on the disk; on S3, where each takes longer, one of each kind that the storage sees."""
    chosen = [("disk", name) for name in names] + [("on_s3", name) for name in on_s3]
    return pytest.mark.parametrize(("target", "case"), chosen, indirect=["target"])


def environment(bucket: Bucket) -> dict[str, str]:
    s3 = bucket.settings
    return {
        "APP_STORAGE_URL": bucket.url,
        "APP_S3__ENDPOINT": s3.endpoint,
        "APP_S3__REGION": s3.region,
        "APP_S3__ACCESS_KEY_ID": s3.access_key_id.get_secret_value(),
        "APP_S3__SECRET_ACCESS_KEY": s3.secret_access_key.get_secret_value(),
    }


def part(name: bytes = b"a.txt", field: bytes = b"file", headers: bytes = b"") -> bytes:
    disposition = b'Content-Disposition: form-data; name="%b"; filename="%b"\r\n' % (field, name)
    return b"--b\r\n" + disposition + headers + b"\r\n"


def form(name: bytes = b"a.txt", content: bytes = TEXT, **options: bytes) -> bytes:
    return part(name, **options) + content + END


def head(*fields: bytes, type: bytes = TYPE) -> bytes:
    lines = [b"POST /upload/ HTTP/1.1", b"Host: localhost", b"Connection: close", b"Content-Type: " + type]
    return b"\r\n".join([*lines, *fields]) + b"\r\n\r\n"


def declared(body: bytes, type: bytes = TYPE) -> list[bytes]:
    return [head(b"Content-Length: %d" % len(body), type=type), body]


def chunked(pieces: Iterable[bytes], type: bytes = TYPE) -> Iterator[bytes]:
    yield head(b"Transfer-Encoding: chunked", type=type)
    for piece in pieces:
        yield b"%x\r\n" % len(piece) + piece + b"\r\n"
    yield b"0\r\n\r\n"


def send(server: Server, pieces: Iterable[bytes], leave: bool = False) -> int | None:
    """The status, or None if there is no answer. Stops sending when one comes, as a good client does."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
                if select.select([connection], [], [], 0)[0]:
                    break
            if leave:
                connection.shutdown(socket.SHUT_WR)
        except ConnectionError:
            pass  # the answer may be there all the same
        answer = connection.recv(2**16)
    return int(answer.split(maxsplit=2)[1]) if answer else None


NAMES = {
    "parent": b"../a.txt",
    "grandparent": b"../../../../../../etc/cron.d/a.txt",
    "absolute": b"/tmp/hostile-upload.txt",
    "database": b"../data/app.sqlite3.txt",
    "backslashes": rb"..\\..\\a.txt",
    "drive": rb"C:\\Windows\\a.txt",
    "encoded": b"..%2f..%2fa.txt",
    "folder in it": b"no/such/folder/a.txt",
    "device": b"/proc/self/mem.txt",
    "NUL": b"a\0.txt",
    "NUL before another extension": b"a.php\0.txt",
    "line feed": b"a\nb.txt",
    "escape": b"\x1b[2Ja.txt",
    "300 characters": b"x" * 300 + b".txt",
    "4000 bytes": "ü".encode() * 2_000 + b".txt",
    "right to left": "\u202etxt.exe.txt".encode(),
    "decomposed": "u\u0308.txt".encode(),
    "not UTF-8": b"\xff\xfe\xfd.txt",
    "emoji": "🙂.txt".encode(),
    "reserved": b"CON.txt",
    "option": b"-rf.txt",
    "markup": b"<svg onload=alert(1)>.txt",
    "formula": b"=cmd|' /C calc'!A0.txt",
    "template": b"{{7*7}}${7*7}.txt",
    "spaces": b"   .txt.txt   ",
}
NAMES_WITHOUT_TYPE = {
    "dot": b".",
    "dots": b"..",
    "extension only": b".txt",
    "extension without dot": b"txt",
    "NUL at the end": b"a.txt\0.php",
    "two extensions": b"shell.txt.php",
    "point at the end": b"a.txt.",
    "slash at the end": b"a.txt/",
    "stream": b"a.txt::$DATA",
    "own id": b"0" * 32,
    "lock": b".lock",
}
CONTENTS = {
    "page as png": (b"a.png", HTML),
    "page as pdf": (b"a.pdf", HTML),
    "svg as png": (b"a.png", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"),
    "program as txt": (b"a.txt", b"MZ\x90\0\3\0\0\0"),
    "zip as pdf": (b"a.pdf", b"PK\3\4" + bytes(100)),
    "png as jpg": (b"a.jpg", image("PNG")),
    "jpg as gif": (b"a.gif", image("JPEG")),
    "signature and page": (b"a.png", PNG_START + HTML),
    "gif and script": (b"a.gif", b"GIF89a=1;alert(1)//"),
    "jpeg and php": (b"a.jpg", b"\xff\xd8\xff\xe0<?php system($_GET[0]); ?>"),
    "png and zip": (b"a.png", png() + b"PK\3\4" + bytes(100)),
    "pdf and page": (b"a.pdf", pdf() + HTML),
    "cut png": (b"a.png", image("PNG")[:-5]),
    "cut jpeg": (b"a.jpg", image("JPEG")[:-5]),
    "cut gif": (b"a.gif", image("GIF")[:-5]),
    "cut pdf": (b"a.pdf", pdf()[:-20]),
    "empty pdf": (b"a.pdf", b""),
    "empty png": (b"a.png", b""),
    "bomb": (b"a.png", png(width=60_000, height=60_000)),
    "largest bomb": (b"a.png", png(width=2**31 - 1, height=2**31 - 1)),
    "text in UTF-16": (b"a.txt", "text".encode("utf-16")),
    "escapes in text": (b"a.txt", b"\x1b]0;title\x07"),
}
BODIES: dict[str, tuple[Callable[[], Iterable[bytes]], Sequence[int | None]]] = {
    "empty": (lambda: declared(b""), [400, 422]),
    "empty name": (lambda: declared(form(b"")), [415, 422]),
    "no body": (lambda: [head()], [400, 422]),
    "JSON": (lambda: declared(b'{"file": "a.txt"}', b"application/json"), [422]),
    "bare bytes": (lambda: declared(b"\x80\x81\xff", b"application/octet-stream"), [422]),
    "form": (lambda: declared(b"file=a.txt", b"application/x-www-form-urlencoded"), [422]),
    "large form": (lambda: declared(b"file=" + MEGABYTE, b"application/x-www-form-urlencoded"), [422]),
    "gzip": (lambda: declared(gzip.compress(form())), [400, 422]),
    "no boundary": (lambda: declared(form(), b"multipart/form-data"), [400]),
    "empty boundary": (lambda: declared(form(), b"multipart/form-data; boundary="), [400]),
    "wrong boundary": (lambda: declared(form(), b"multipart/form-data; boundary=c"), [400]),
    "long boundary": (lambda: declared(form(), b"multipart/form-data; boundary=" + b"b" * 5_000), [400]),
    "no last boundary": (lambda: declared(part() + TEXT), [400, 422]),
    "no end of headers": (lambda: declared(b"--b\r\nContent-Disposition: form-data"), [400, 422]),
    "no disposition": (lambda: declared(b"--b\r\n\r\n" + TEXT + END), [400]),
    "no field name": (lambda: declared(b"--b\r\nContent-Disposition: form-data\r\n\r\n" + TEXT + END), [400]),
    "another field": (lambda: declared(form(field=b"other")), [422]),
    "text for the file": (
        lambda: declared(b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\nx' + END),
        [400],
    ),
    "two files": (lambda: declared(part() + TEXT + b"\r\n" + form()), [400]),
    "long header": (lambda: declared(form(headers=b"X: " + b"x" * 100_000 + b"\r\n")), [400]),
    "many headers": (lambda: declared(form(headers=b"X: x\r\n" * 10_000)), [400]),
    "headers without end": (lambda: chunked(chain([b"--b\r\nX: "], repeat(MEGABYTE, 20))), [400]),
    "surrogate": (lambda: declared(form(rb"\\ud800half.txt"), TYPE + b"; charset=unicode_escape"), [415]),
    "strange coding": (lambda: declared(form(), TYPE + b"; charset=punycode"), [415]),
    "no coding": (lambda: declared(form(), TYPE + b"; charset=zlib"), [415]),
    "preamble": (lambda: declared(b"hello\r\n" + form()), [400]),
    "epilogue": (lambda: declared(form() + b"x"), [400]),
    "epilogue without end": (lambda: chunked(chain([form()], repeat(MEGABYTE, 20))), [400]),
    "preamble without end": (lambda: chunked(repeat(MEGABYTE, 20)), [400]),
    "text after the file": (
        lambda: declared(
            part() + TEXT + b'\r\n--b\r\nContent-Disposition: form-data; name="x"\r\n\r\n' + END
        ),
        [400],
    ),
    "half of the last boundary": (lambda: declared(form()[:-3]), [400]),
    "lines like the boundary": (lambda: declared(form(content=b"\r\n--bX" * 200_000)), [400]),
    "second name": (lambda: declared(form(b'a.exe"; filename="a.txt"; filename*="b.exe')), [201]),
    "in base64": (lambda: declared(form(headers=b"Content-Transfer-Encoding: base64\r\n")), [415]),
    "two lengths": (
        lambda: [head(b"Content-Length: 5", b"Content-Length: 500"), form()],
        [400],
    ),
    "length and chunks": (lambda: [head(b"Content-Length: 5", b"Transfer-Encoding: chunked"), form()], [400]),
    "no length": (lambda: [head(b"Content-Length: ten"), form()], [400]),
    "negative length": (lambda: [head(b"Content-Length: -1"), form()], [400]),
    "length too small": (lambda: [head(b"Content-Length: 20"), form()], [400, 422]),
    "length too large, then gone": (lambda: [head(b"Content-Length: 9999"), form()], [None]),
    "gone in the middle": (lambda: [head(b"Content-Length: 9999"), part(), TEXT], [None]),
    "gone after the head": (lambda: [head(b"Content-Length: 9999")], [None]),
    "broken chunk": (lambda: [head(b"Transfer-Encoding: chunked"), b"zz\r\n" + form()], [400]),
    "file over the limit": (lambda: declared(form(content=b"x" * (LIMIT + 1))), [413]),
    "declared over the limit": (lambda: [head(b"Content-Length: %d" % 2**40)], [413]),
    "chunked over the limit": (lambda: chunked(chain([part()], repeat(MEGABYTE, 12))), [413]),
}
HEAVY: dict[str, tuple[Callable[[], Iterable[bytes]], int]] = {
    "999 files of 1 MB": (
        lambda: chunked(part(b"%d.txt" % n) + MEGABYTE + b"\r\n" for n in range(999)),
        400,
    ),
    "999 texts of 1 MB": (
        lambda: chunked(
            b'--b\r\nContent-Disposition: form-data; name="f%d"\r\n\r\n' % n + MEGABYTE + b"\r\n"
            for n in range(999)
        ),
        422,
    ),
    "one text of 1 GB": (
        lambda: chunked(chain([b"file="], repeat(MEGABYTE, 1_000)), b"application/x-www-form-urlencoded"),
        422,
    ),
    "profiles that inflate": (
        lambda: declared(form(b"a.png", png(*[inflating(b"iCCP", b"p\0\0")] * 3_000))),
        201,
    ),
    "texts that inflate": (
        lambda: declared(form(b"a.png", png(*[inflating(b"zTXt", b"k\0\0")] * 60))),
        201,
    ),
    "an image that inflates": (lambda: declared(form(b"a.png", inflating_image())), 415),
}


def inflating(name: bytes, head: bytes) -> bytes:
    return png_chunk(name, head + zlib.compress(bytes(2**20)))


def inflating_image() -> bytes:
    """400 million pixels in half a megabyte."""
    size = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 0, 0, 0, 0)
    data = zlib.compress(bytes(2**20)) * 400
    return PNG_START + png_chunk(b"IHDR", size) + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")


@cases(NAMES, on_s3=["parent", "NUL"])
def test_a_hostile_name_is_only_a_name(target: Target, case: str) -> None:
    outside = target.outside()
    assert send(target.server, declared(form(NAMES[case]))) == 201
    (added,) = target.added()
    assert target.read(added) == TEXT
    assert target.outside() == outside
    assert not Path("/tmp/hostile-upload.txt").exists()  # noqa: S108 - where the hostile name points


@cases(NAMES_WITHOUT_TYPE, on_s3=["dots"])
def test_a_name_without_an_accepted_extension_is_415(target: Target, case: str) -> None:
    assert send(target.server, declared(form(NAMES_WITHOUT_TYPE[case]))) == 415
    assert not target.added()


@cases(CONTENTS, on_s3=["page as png", "cut png", "empty png"])
def test_content_that_is_not_what_the_name_says_is_415(target: Target, case: str) -> None:
    name, content = CONTENTS[case]
    headers = b"Content-Type: image/png\r\n"
    assert send(target.server, declared(form(name, content, headers=headers))) == 415
    assert not target.added()


@cases(
    BODIES,
    on_s3=[
        "no body",
        "no last boundary",
        "two files",
        "epilogue without end",
        "text after the file",
        "second name",
        "gone in the middle",
        "gone after the head",
        "broken chunk",
        "file over the limit",
        "chunked over the limit",
    ],
)
def test_a_hostile_body_is_refused(target: Target, case: str) -> None:
    pieces, expected = BODIES[case]
    status = send(target.server, pieces(), leave=None in expected)
    assert status in expected
    if status != 201:
        target.wait_until_nothing_is_added()
    assert len(target.added()) == (status == 201)


def peak_memory(server: Server) -> int:
    """The most memory the process ever had, in bytes: what comes and goes within a request counts, too."""
    for line in Path(f"/proc/{server.process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("this system does not tell")


def test_heavy_bodies_cost_no_memory(target: Target) -> None:
    for name in (b"a.png", b"a.txt"):
        content = image("PNG") if name == b"a.png" else b"x" * LIMIT
        assert send(target.server, declared(form(name, content))) == 201
    before = peak_memory(target.server)
    statuses = {name: send(target.server, pieces()) for name, (pieces, _) in HEAVY.items()}
    assert statuses == {name: status for name, (_, status) in HEAVY.items()}
    assert peak_memory(target.server) - before <= 32 * 2**20


def test_a_plain_client_reads_the_413_while_it_sends_30_mb(target: Target) -> None:
    client = http.client.HTTPConnection("127.0.0.1", target.server.port, timeout=20)
    client.request("POST", "/upload/", b"x" * 30 * 2**20, {"Content-Type": TYPE.decode()})
    answer = client.getresponse()
    assert answer.status == 413
    assert answer.headers["content-type"] == "application/problem+json"
    client.close()


def test_after_all_that_the_table_names_what_is_stored_and_nothing_else(target: Target) -> None:
    assert target.rows() == {(file_id, "ready") for file_id in target.stored()}
    assert (target.folder / "uploads" / ".gitkeep").exists()


def test_after_all_that_the_log_has_no_traceback(target: Target) -> None:
    assert send(target.server, declared(form())) == 201
    assert "Traceback" not in target.server.log


def test_a_server_killed_in_the_middle_of_an_upload_shows_no_file(target: Target) -> None:
    before = target.stored()
    with socket.create_connection(("127.0.0.1", target.server.port), timeout=20) as connection:
        connection.sendall(head(b"Content-Length: 5000000") + part() + MEGABYTE * 3)
        target.server.stop(signal.SIGKILL)
    added = target.stored() - before
    assert not [name for name in added if not name.startswith(".")]
