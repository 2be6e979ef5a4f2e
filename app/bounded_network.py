"""Connections that read so much of each answer and no more.

A limit of the body does not do: before an answer any number of interim ones (`100 Continue`) may come, which
the client takes in by itself, and they keep the event loop busy for as long as the timeout lets them.
"""

import ssl
from collections.abc import Iterable
from typing import Any

import httpcore2

MAX_RECEIVED_SIZE = 32 * 1024
"""Bytes of an answer that are read, its head and all interim answers included."""


class BoundedBackend(httpcore2.AnyIOBackend):
    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        return BoundedStream(await super().connect_tcp(host, port, timeout, local_address, socket_options))


class BoundedStream(httpcore2.AsyncNetworkStream):
    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream
        self._left = MAX_RECEIVED_SIZE

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        if not self._left:
            raise httpcore2.ReadError("The answer is too long.")
        data = await self._stream.read(min(max_bytes, self._left), timeout)
        self._left -= len(data)
        return data

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._left = MAX_RECEIVED_SIZE  # whoever writes sends a request, and another answer begins
        await self._stream.write(buffer, timeout)

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore2.AsyncNetworkStream:
        return BoundedStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    async def aclose(self) -> None:
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
