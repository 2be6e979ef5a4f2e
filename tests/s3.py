"""A real S3 server (moto) on a free port, with a bucket, which a test may stop."""

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import httpx2
from pydantic import SecretStr

from app.settings import S3Settings, Settings

# In a process of its own, so that it can be killed, and its warnings are not our errors.
PROGRAM = """
import sys
from moto.moto_server.threaded_moto_server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""

NOWHERE = "http://127.0.0.1:1"
"""An endpoint where nobody listens."""


class S3Server:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout
        self.endpoint = f"http://127.0.0.1:{int(self._process.stdout.readline())}"
        # One for all calls: each new one reads the certificates of the system.
        self._client = httpx2.Client()

    def bucket(self) -> "Bucket":
        """A new one."""
        return Bucket(self.endpoint, self._client)

    def stop(self) -> None:
        """As by kill -9."""
        self._client.close()
        self._process.kill()
        self._process.communicate()


class Bucket:
    """One that is looked into past the service."""

    def __init__(self, endpoint: str, client: httpx2.Client) -> None:
        self._endpoint = endpoint
        self.client = client
        self._name = f"bucket-{uuid.uuid4()}"
        self.url = f"s3://{self._name}/folder"
        self.settings = S3Settings(
            endpoint=endpoint,
            region="us-east-1",
            access_key_id=SecretStr("somebody"),
            secret_access_key=SecretStr("their secret"),
            timeout=2,
        )
        self._call("PUT", "")

    def applied(self, settings: Settings) -> Settings:
        """The same, with this bucket."""
        return settings.model_copy(update={"storage_url": SecretStr(self.url), "s3": self.settings})

    @property
    def paths(self) -> list[str]:
        """Of all objects."""
        keys = self._found("?list-type=2", "Key")
        return [key.removeprefix("folder/") for key in keys if key != "folder/check"]

    @property
    def uploads(self) -> list[str]:
        """Of all multipart uploads that are neither finished nor aborted."""
        return self._found("?uploads", "Key")

    def get(self, path: str) -> bytes:
        return self._call("GET", f"/folder/{path}").content

    def put(self, path: str, body: bytes) -> None:
        self._call("PUT", f"/folder/{path}", body)

    def delete(self, path: str) -> None:
        self._call("DELETE", f"/folder/{path}")

    def _found(self, query: str, tag: str) -> list[str]:
        text = self._call("GET", query).text
        return [part.partition(f"</{tag}>")[0] for part in text.split(f"<{tag}>")[1:]]

    def _call(self, method: str, rest: str, body: bytes = b"") -> httpx2.Response:
        # moto looks whether somebody has signed, and not how.
        headers = {"Authorization": "AWS4-HMAC-SHA256 Credential=somebody/20260101/us-east-1/s3/aws4_request"}
        url = f"{self._endpoint}/{self._name}{rest}"
        answer = self.client.request(method, url, content=body, headers=headers)
        assert answer.is_success, answer.text
        return answer


@contextmanager
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    try:
        yield server
    finally:
        server.stop()
