"""Requests to addresses that a client has chosen, which lead nowhere into our own network (SSRF).

Who may name a URL that a server calls may name `http://169.254.169.254/`, a router, a database. A check of
the name is not enough: whoever owns it answers the check with one address and the connection with another.
So the name is resolved once, every address is looked at, and the connection goes to that very address; TLS
and the `Host` header keep the name.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from ipaddress import IPv4Address, IPv6Network, ip_address

import httpcore2
import httpx2

from app.bounded_network import BoundedBackend

GLOBAL_UNICAST = IPv6Network("2000::/3")
TRANSLATED = IPv6Network("64:ff9b::/96")
"""Behind NAT64 every IPv4 address has a second one here, private ones too."""


class AddressRefused(Exception):
    """The URL leads where a client has no business."""


class NameResolver:
    """Looks names up in a few threads of its own: whoever owns a name may let its look-up hang."""

    def __init__(self, threads: int) -> None:
        self._free = asyncio.Semaphore(threads)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="resolver")

    async def look_up(self, name: str, port: int) -> list[str]:
        await self._free.acquire()
        look_up = partial(socket.getaddrinfo, name, port, type=socket.SOCK_STREAM)
        found = asyncio.get_running_loop().run_in_executor(self._threads, look_up)
        # A thread cannot be stopped: it is free when it has ended, not when nobody waits for it any more.
        found.add_done_callback(lambda _: self._free.release())
        return [str(address) for *_, (address, *_) in await asyncio.shield(found)]

    def close(self) -> None:
        self._threads.shutdown(wait=False)


class PublicOnlyTransport(httpx2.AsyncBaseTransport):
    """To public addresses over https, and to the `host:port` of the list whatever they are.

    A transport is for one host: connections are kept by address, on which many hosts may live.
    `look_up` is that of a `NameResolver`.
    """

    def __init__(
        self,
        allowed_hosts: Collection[str],
        tls: ssl.SSLContext,
        look_up: Callable[[str, int], Awaitable[list[str]]],
    ) -> None:
        self._allowed_hosts = allowed_hosts
        self._look_up = look_up
        # No variables of the environment: a proxy would resolve the name again, and connect for us.
        self._inner = httpx2.AsyncHTTPTransport(verify=tls, trust_env=False)
        # In its place, for httpx2 has no parameter for the network below it.
        self._inner._pool = httpcore2.AsyncConnectionPool(
            ssl_context=tls, max_connections=1, keepalive_expiry=5.0, network_backend=BoundedBackend()
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        name = request.url.raw_host.decode("ascii")
        addresses = await self._look_up(name, port_of(request.url))
        if not is_listed(request.url, self._allowed_hosts):
            # All of them: one private address among public ones is an attack, not a choice.
            if request.url.scheme != "https" or not all(map(is_public, addresses)):
                raise AddressRefused
        while True:
            address = addresses.pop(0)
            resolved = httpx2.Request(
                request.method,
                request.url.copy_with(host=address),
                headers=request.headers,
                stream=request.stream,
                extensions={**request.extensions, "sni_hostname": name},
            )
            try:
                return await self._inner.handle_async_request(resolved)
            except httpx2.ConnectError:
                if not addresses:
                    raise

    async def aclose(self) -> None:
        await self._inner.aclose()


def port_of(url: httpx2.URL) -> int:
    return url.port or (443 if url.scheme == "https" else 80)


def is_listed(url: httpx2.URL, hosts: Collection[str]) -> bool:
    return f"{url.host}:{port_of(url)}" in hosts


def is_public(text: str) -> bool:
    """Whether the whole internet knows this address.

    `is_global` alone says so of `fec0::1`, of multicast, and of IPv6 addresses that mean a private IPv4 one.
    """
    address = ip_address(text.partition("%")[0])
    if address.version == 6:
        if address in TRANSLATED:
            address = IPv4Address(int(address) & 0xFFFF_FFFF)
        elif address.ipv4_mapped:
            address = address.ipv4_mapped
        elif address not in GLOBAL_UNICAST or address.sixtofour:
            return False
    return address.is_global and not address.is_multicast
