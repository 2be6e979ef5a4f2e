import asyncio
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, suppress
from ipaddress import ip_address

import anyio
import httpx2
import pytest

from app.egress import AddressRefused, NameResolver, PublicOnlyTransport, is_public
from tests.subscriber import LIMIT, Subscriber, resolver, subscriber


@pytest.fixture
def server() -> Iterator[Subscriber]:
    with subscriber() as server:
        yield server


INSIDE = [
    *("127.0.0.1", "10.0.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255"),
    *("::1", "::", "fd00::1", "fe80::1%eth0", "fec0::1", "ff02::1", "::127.0.0.1", "::ffff:10.0.0.1"),
    *("64:ff9b::a00:1", "2002:a00:1::", "2001::1", "2001:db8::1"),
]


async def reach(url: str, *allowed: str) -> int:
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with closing(NameResolver(1)) as resolver:
        async with PublicOnlyTransport(allowed, tls, resolver.look_up) as transport:
            with anyio.fail_after(LIMIT):
                request = httpx2.Request("POST", url, content=b'{"data": {}}')
                answer = await transport.handle_async_request(request)
                await answer.aclose()
                return answer.status_code


@pytest.mark.parametrize("address", INSIDE)
def test_an_address_inside_the_network_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"])
def test_an_address_of_the_internet_is_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.anyio
async def test_without_tls_only_listed_hosts_are_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", resolver({"name.example": ["1.1.1.1"]}))
    with pytest.raises(AddressRefused):
        await reach("http://name.example/")


@pytest.mark.anyio
async def test_one_address_inside_among_those_of_a_name_is_enough_to_refuse(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taking = httpx2.MockTransport(lambda _: httpx2.Response(204))
    monkeypatch.setattr("app.egress.httpx2.AsyncHTTPTransport", lambda **_: taking)
    for addresses in (["1.1.1.1", "10.0.0.1"], ["10.0.0.1", "1.1.1.1"]):
        monkeypatch.setattr(socket, "getaddrinfo", resolver({"name.example": addresses}))
        with pytest.raises(AddressRefused):
            await reach("https://name.example/")


@pytest.mark.anyio
async def test_the_connection_goes_to_the_address_that_was_looked_at_under_the_name_that_was_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        if len(sent) == 1:
            raise httpx2.ConnectError("the first address is down")
        return httpx2.Response(204)

    monkeypatch.setattr("app.egress.httpx2.AsyncHTTPTransport", lambda **_: httpx2.MockTransport(answer))
    monkeypatch.setattr(socket, "getaddrinfo", resolver({"name.example": ["1.1.1.1", "1.0.0.1"]}))
    assert await reach("https://name.example/hooks") == 204
    assert [str(each.url) for each in sent] == ["https://1.1.1.1/hooks", "https://1.0.0.1/hooks"]
    assert {each.headers["host"] for each in sent} == {"name.example"}
    assert {each.extensions["sni_hostname"] for each in sent} == {"name.example"}


@pytest.mark.anyio
async def test_hosts_on_the_list_are_reached_by_http_and_on_private_addresses_at_that_port_only(
    server: Subscriber,
) -> None:
    assert await reach(server.url, server.host) == 204
    for allowed in ("127.0.0.1:1", f"localhost:{server.server_port}"):
        with pytest.raises(AddressRefused):
            await reach(server.url, allowed)


@pytest.mark.anyio
async def test_interim_answers_without_end_are_not_read_without_end() -> None:
    async def continue_for_ever(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while True:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                await writer.drain()

    async with await asyncio.start_server(continue_for_ever, "127.0.0.1", 0) as server:
        host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(httpx2.ReadError):
            await reach(f"http://{host}/", host)


@pytest.mark.parametrize("address", ["100.64.0.1", "64:ff9b::a00:1", "2002:a00:1::"])
def test_trap_addresses_inside_count_as_neither_private_nor_loopback(address: str) -> None:
    found = ip_address(address)
    assert not (found.is_private or found.is_loopback or found.is_link_local)
    assert not is_public(address)
