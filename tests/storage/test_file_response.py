import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from app.storage.disk import DiskStorage, open_disk
from app.storage.file_response import StoredFileResponse
from app.storage.pieces import PIECE_SIZE
from tests.asgi import Call, http_scope
from tests.stored_files import open_in, put_file

pytestmark = pytest.mark.anyio

NEWER = {"version": "3.0", "spec_version": "2.4"}
"""Here a server tells by an `OSError` of `send` that the client has left."""


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[DiskStorage]:
    async with open_disk(tmp_path) as storage:
        yield storage


async def test_a_server_that_says_that_the_client_has_left_ends_the_reading(
    storage: DiskStorage, tmp_path: Path
) -> None:
    response = StoredFileResponse(put_file(tmp_path, 3 * PIECE_SIZE), storage)

    class Left(Call):
        async def _send(self, message: object) -> None:
            raise ConnectionResetError

    with suppress(Exception):
        await Left(response, {**http_scope(), "asgi": NEWER}).run()
    with pytest.raises(StopAsyncIteration):
        await anext(response.pieces)


@pytest.mark.parametrize("asgi", [http_scope()["asgi"], NEWER])
async def test_a_disk_that_fails_is_no_client_that_has_left(
    asgi: dict[str, str], storage: DiskStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = put_file(tmp_path, 3 * PIECE_SIZE)

    def broken(*_: int) -> bytes:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    call = Call(StoredFileResponse(file, storage), {**http_scope(), "asgi": asgi})
    with pytest.raises(RuntimeError, match="cannot be read"):
        await call.run()
    assert call.sent == []


async def test_the_parts_of_one_answer_are_read_one_after_the_other(
    storage: DiskStorage, tmp_path: Path
) -> None:
    file = put_file(tmp_path, PIECE_SIZE)
    ranges = [(b"range", b"bytes=0-1,10-11,20-21")]
    call = Call(StoredFileResponse(file, storage), http_scope(headers=ranges))
    await call.run()
    assert len(call.chunks) == 4
    assert call.headers[b"content-length"] == str(len(call.body)).encode()
    assert call.body.startswith(b"--") and call.body.endswith(b"--\r\n")
    assert open_in(tmp_path) == []
