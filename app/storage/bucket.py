"""An S3 bucket, by obstore: with limits of time and memory, and with our errors in the place of its own."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import obstore
from anyio import BrokenResourceError, create_memory_object_stream
from obstore.exceptions import AlreadyExistsError, BaseError, GenericError
from obstore.store import S3Store

from app.errors import Locked, NotFound, ServiceUnavailable
from app.settings import S3Settings
from app.storage.pieces import PIECE_SIZE
from app.storage.threads import ended

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ClientConfig, S3Config

PART_SIZE = 5 * 1024 * 1024
"""The least that S3 takes for a part of a multipart upload."""
PARTS_AT_ONCE = 2
PAGE_SIZE = 1_000
RETRIES = 2
NO_BUCKET, BEHIND_THE_END = "NoSuchBucket", "InvalidRange"
"""Codes of S3 that obstore tells in the text of its errors only."""

logger = logging.getLogger(__name__)


class Unwanted(Exception):
    """Ends an upload so that it is aborted: one that is only cancelled stays in the bucket, half done."""


class Bucket:
    """All methods raise `ServiceUnavailable`; those that need an object there, `NotFound`."""

    def __init__(self, store: S3Store) -> None:
        self._store = store

    async def put(self, path: str, body: bytes) -> None:
        with _answering():
            await obstore.put_async(self._store, path, body)

    async def create(self, path: str, body: bytes) -> None:
        """Of two requests for one path one succeeds, and the other is `Locked`."""
        with _answering():
            await obstore.put_async(self._store, path, body, mode="create")

    async def put_all(self, path: str, pieces: AsyncIterator[bytes]) -> None:
        """Shows the object when `pieces` has ended. What it raises goes on, and then there is no object."""
        first: deque[bytes] = deque()
        size = 0
        async for piece in pieces:
            first.append(piece)
            size += len(piece)
            if size > PART_SIZE:
                await self._put_in_parts(path, first, pieces)
                return
        # One request in the place of three.
        await ended(asyncio.ensure_future(self.put(path, b"".join(first))))

    async def _put_in_parts(self, path: str, first: deque[bytes], rest: AsyncIterator[bytes]) -> None:
        sender, receiver = create_memory_object_stream[bytes](0)
        whole = False

        async def received() -> AsyncIterator[bytes]:
            async for piece in receiver:
                yield piece
            if not whole:
                raise Unwanted

        # obstore takes each piece in a task of its own, where a time limit inside of `rest` would not hold.
        putting = asyncio.ensure_future(
            obstore.put_async(
                self._store,
                path,
                received(),
                use_multipart=True,
                chunk_size=PART_SIZE,
                max_concurrency=PARTS_AT_ONCE,
            )
        )
        putting.add_done_callback(lambda _: receiver.close())
        try:
            while first:
                await sender.send(first.popleft())
            async for piece in rest:
                await sender.send(piece)
            whole = True
        except BrokenResourceError:
            pass  # S3 has ended it, and says why below
        except BaseException:
            sender.close()
            with suppress(Exception):
                await ended(putting)
            raise
        sender.close()
        with _answering():
            await ended(putting)

    async def get(self, path: str, start: int = 0, stop: int | None = None) -> AsyncGenerator[bytes]:
        with _answering(may_be_missing=True):
            try:
                found = await obstore.get_async(
                    self._store, path, options={"range": (start, stop)} if stop is not None else None
                )
            except GenericError as error:
                if BEHIND_THE_END in str(error):
                    return
                raise
            async for piece in found.stream(PIECE_SIZE):
                yield piece

    async def size(self, path: str) -> int:
        with _answering(may_be_missing=True):
            return (await obstore.head_async(self._store, path))["size"]

    async def pages(self, folder: str) -> "AsyncGenerator[Sequence[ObjectMeta]]":
        """Of all that is below it, each of as many objects as S3 tells, or deletes, at once."""
        with _answering():
            async for page in obstore.list(self._store, folder, chunk_size=PAGE_SIZE):
                yield page

    async def copy(self, path: str, to: str) -> None:
        """`Locked` where there is something already."""
        with _answering(may_be_missing=True):
            await obstore.copy_async(self._store, path, to, overwrite=False)

    async def delete(self, paths: Sequence[str]) -> None:
        if paths:
            with _answering():
                await obstore.delete_async(self._store, paths)

    async def sign_put(self, path: str, lifetime: timedelta) -> str:
        with _answering():
            return await obstore.sign_async(self._store, "PUT", path, lifetime)


def open_bucket(url: str, settings: S3Settings) -> Bucket:
    """`url` is `s3://bucket`, or `s3://bucket/folder`. Connects at the first request."""
    place = urlsplit(url)
    config: S3Config = {"copy_if_not_exists": "multipart"}
    if settings.endpoint:
        config["endpoint"] = settings.endpoint
    if settings.region:
        config["region"] = settings.region
    if settings.access_key_id:
        config["access_key_id"] = settings.access_key_id.get_secret_value()
        config["secret_access_key"] = settings.secret_access_key.get_secret_value()
    seconds = timedelta(seconds=settings.timeout)
    # `timeout` is for a whole answer: it would end a long download, however well it goes.
    client: ClientConfig = {"connect_timeout": seconds, "read_timeout": seconds, "timeout": timedelta(days=1)}
    if settings.endpoint.startswith("http://"):
        client["allow_http"] = True
    store = S3Store(
        place.hostname,
        prefix=place.path.strip("/") or None,
        config=config,
        client_options=client,
        retry_config={"max_retries": RETRIES, "retry_timeout": seconds},
    )
    return Bucket(store)


@contextmanager
def _answering(may_be_missing: bool = False) -> Iterator[None]:
    try:
        yield
    except AlreadyExistsError:
        raise Locked from None
    except (BaseError, FileNotFoundError) as error:
        if may_be_missing and isinstance(error, FileNotFoundError) and NO_BUCKET not in str(error):
            raise NotFound from None
        # Its text is for us: it has addresses.
        logger.warning("S3 does not answer: %s", str(error).partition("\n")[0])
        raise ServiceUnavailable("The storage does not answer.") from error
