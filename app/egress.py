"""Requests to addresses that a client has chosen, which lead nowhere into our own network (SSRF).

Who may name a URL that a server calls may name `http://169.254.169.254/`, a router, a database. A check of
the name is not enough: whoever owns it answers the check with one address and the connection with another.
So the name is resolved once, every address is looked at, and the connection goes to that very address; TLS
and the `Host` header keep the name.
"""

import socket
import ssl
from collections.abc import Collection
from ipaddress import IPv4Address, IPv6Network, ip_address

import anyio
import anyio.to_thread
import httpx2

GLOBAL_UNICAST = IPv6Network("2000::/3")
TRANSLATED = IPv6Network("64:ff9b::/96")
"""Behind NAT64 every IPv4 address has a second one here, private ones too."""


class AddressRefused(Exception):
    """The URL leads where a client has no business."""


class PublicOnlyTransport(httpx2.AsyncBaseTransport):
    """To public addresses over https, and to the `host:port` of the list whatever they are.

    A transport is for one host: connections are kept by address, on which many hosts may live.
    `resolvers` limits the threads that look names up, for they cannot be stopped.
    """

    def __init__(
        self, allowed_hosts: Collection[str], tls: ssl.SSLContext, resolvers: anyio.CapacityLimiter
    ) -> None:
        self._allowed_hosts = allowed_hosts
        self._resolvers = resolvers
        # No variables of the environment: a proxy would resolve the name again, and connect for us.
        limits = httpx2.Limits(max_connections=1)
        self._inner = httpx2.AsyncHTTPTransport(verify=tls, trust_env=False, limits=limits)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        name = request.url.raw_host.decode("ascii")
        addresses = await self._resolve(name, port_of(request.url))
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

    async def _resolve(self, name: str, port: int) -> list[str]:
        found = await anyio.to_thread.run_sync(
            lambda: socket.getaddrinfo(name, port, type=socket.SOCK_STREAM),
            abandon_on_cancel=True,
            limiter=self._resolvers,
        )
        return [str(address) for *_, (address, *_) in found]


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
