"""Callbacks through a SOCKS5 proxy: names leave unresolved, neighbours are reached directly, nothing goes around it."""

import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpcore
import pytest
import trio
import trio.testing

from lightipn.delivery import sender as sender_module
from lightipn.delivery.guard import AddressRules, GuardedBackend, parse_networks
from lightipn.delivery.sender import Sender, open_sender
from lightipn.errors import RequestError
from lightipn.outbox.verdict import Answer
from lightipn.proxy import ProxyAddress
from tests.delivery.certificates import self_signed
from tests.delivery.raw_receiver import RawReceiver, answering, open_receiver, read_request, request_to, response
from tests.socks_server import SocksRequest, SocksServer, open_socks_server

PUBLIC = "93.184.216.34"
PUBLIC_6 = "2606:2800:220:1:248:1893:25c8:1946"
ONION = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion"
TIMEOUT_S = 0.15
PROXY = ProxyAddress(host="127.0.0.1", port=9050)
OK = response(b"200 OK", b"ack")


class Watch:
    """What left this machine: lookups, and connections by address and port."""

    def __init__(self) -> None:
        self.lookups: list[str] = []
        self.connections: list[tuple[str, int]] = []


class WatchedNetwork(httpcore.TrioBackend):
    """A way to the network that notes where it leads and never leaves this machine."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch

    async def connect_tcp(self, host: str, port: int, *args: object, **options: object) -> httpcore.AsyncNetworkStream:
        """Connect to this machine only."""
        self._watch.connections.append((host, port))
        if not host.startswith("127."):
            raise httpcore.ConnectError(f"{host} is outside")
        return await super().connect_tcp(host, port, *args, **options)  # type: ignore[arg-type]  # as httpcore passed them


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """Watch every lookup, whoever makes it, and every connection of a sender; names are unknown to this machine."""
    watch = Watch()
    real = socket.getaddrinfo

    def look_up(
        host: str,
        port: object,
        family: int = 0,
        type: int = 0,  # noqa: A002  # as the function that it stands for
        proto: int = 0,
        flags: int = 0,
    ) -> object:
        if flags & socket.AI_NUMERICHOST:
            return real(host, port, family, type, proto, flags)  # Trio reads an address: no lookup
        watch.lookups.append(host)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    class Watched(GuardedBackend):
        def __init__(self, rules: AddressRules, **options: object) -> None:
            super().__init__(rules, **options)  # type: ignore[arg-type]  # as the sender passed them
            self._backend = WatchedNetwork(watch)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(sender_module, "GuardedBackend", Watched)
    return watch


@asynccontextmanager
async def open_proxied_sender(
    proxy: ProxyAddress | None, *, allow_networks: tuple[str, ...] = (), timeout_s: float = 5.0
) -> AsyncIterator[Sender]:
    """Open a sender with this proxy."""
    rules = AddressRules(parse_networks(allow_networks), proxy)
    async with open_sender(rules, timeout_s=timeout_s, max_in_flight=8, proxy=proxy) as sender:
        yield sender


@asynccontextmanager
async def open_shop(
    *hosts: str, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[SocksServer, RawReceiver]]:
    """Open a shop and a proxy that leads these hosts to it."""
    async with open_receiver(answering(OK), context=context) as receiver:
        async with open_socks_server(dict.fromkeys(hosts, receiver.port)) as socks:
            yield socks, receiver


async def send_through(socks: SocksServer, url: str, *, timeout_s: float = 5.0) -> Answer:
    """Make one attempt through a proxy."""
    async with open_proxied_sender(socks.address, timeout_s=timeout_s) as sender:
        return await sender.send(request_to(url))


# --- through the proxy -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "host", "port", "is_name"),
    [
        pytest.param("http://shop.example/ipn", "shop.example", 80, True, id="name"),
        pytest.param("http://SHOP.example:8080/ipn", "shop.example", 8080, True, id="port"),
        pytest.param("http://shop.example./ipn", "shop.example", 80, True, id="absolute name"),
        pytest.param(f"http://{ONION}/ipn", ONION, 80, True, id="onion"),
        pytest.param(f"http://{ONION}.:81/ipn", ONION, 81, True, id="absolute onion"),
        pytest.param(f"http://{PUBLIC}/ipn", PUBLIC, 80, False, id="IPv4"),
        pytest.param("http://1572395042/ipn", PUBLIC, 80, False, id="IPv4 as a number"),
        pytest.param(f"http://[{PUBLIC_6}]:8080/ipn", PUBLIC_6, 8080, False, id="IPv6"),
    ],
)
async def test_callback_goes_through_the_proxy(watch: Watch, url: str, host: str, port: int, is_name: bool) -> None:
    """Names go to the proxy unresolved, public addresses as addresses; nothing is looked up or connected to here."""
    async with open_shop(host) as (socks, receiver):
        answer = await send_through(socks, url)
        assert (answer.status, answer.body, answer.trouble) == (200, b"ack", "")
        (request,) = socks.requests
        assert (request.host, request.port, request.is_name) == (host, port, is_name)
        assert (watch.lookups, watch.connections) == ([], [("127.0.0.1", socks.port)])
        assert (len(receiver.requests), receiver.connections) == (1, 1)


async def test_host_header_keeps_the_name_as_it_was_written(watch: Watch) -> None:
    """The shop sees the host of its URL, port included, and nothing of the proxy."""
    async with open_shop("shop.example") as (socks, receiver):
        await send_through(socks, "http://shop.example:8080/ipn?order=7")
        lines = receiver.requests[0].lower().split(b"\r\n")
        assert lines[0] == b"post /ipn?order=7 http/1.1"
        assert b"host: shop.example:8080" in lines
        assert not [line for line in lines if line.startswith((b"proxy-", b"x-forwarded", b"forwarded", b"via:"))]


async def test_tls_is_with_the_shop_and_not_with_the_proxy(
    watch: Watch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the proxy, SNI and the certificate are those of the name in the URL."""
    context, file = self_signed(tmp_path, ["shop.example"])
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    names: list[str | None] = []
    context.sni_callback = lambda _, name, __: names.append(name)
    async with open_shop("shop.example", "other.example", context=context) as (socks, receiver):
        answer = await send_through(socks, "https://shop.example/ipn")
        assert (answer.status, answer.body, answer.trouble) == (200, b"ack", "")
        other = await send_through(socks, "https://other.example/ipn")
        assert (other.status, other.trouble) == (None, "tls-failed")
        assert names == ["shop.example", "other.example"]
        assert [request.port for request in socks.requests] == [443, 443]
        assert len(receiver.requests) == 1
    assert watch.lookups == []


async def test_each_host_gets_a_circuit_of_its_own(watch: Watch) -> None:
    """Different hosts log in to the proxy as different users, the same host always as the same."""
    hosts = ["a.example", "b.example", ONION, PUBLIC]
    closing = answering(response(b"200 OK", b"ack", b"Connection: close"))
    async with open_receiver(closing) as receiver:
        async with open_socks_server(dict.fromkeys(hosts, receiver.port)) as socks:
            async with open_proxied_sender(socks.address) as sender:
                for host in hosts * 2:
                    await sender.send(request_to(f"http://{host}/"))
                    await sender.send(request_to(f"http://{host}:81/"))
        users = {host: {request.user for request in socks.requests if request.host == host} for host in hosts}
        assert all(len(found) == 1 for found in users.values())
        assert len(set().union(*users.values())) == len(hosts)
        assert len(socks.requests) == 16


async def test_configured_login_is_used_for_every_host(watch: Watch) -> None:
    """A proxy with a login of its own gets that login, whatever the host."""
    async with open_receiver(answering(OK)) as receiver:
        targets = {"a.example": receiver.port, "b.example": receiver.port}
        async with open_socks_server(targets, login=("alice", "hunter2")) as socks:
            for host in targets:
                assert (await send_through(socks, f"http://{host}/")).status == 200
            assert socks.requests == [
                SocksRequest(host=host, port=80, is_name=True, user="alice", password="hunter2") for host in targets
            ]


async def test_attempts_to_one_host_share_a_tunnel(watch: Watch) -> None:
    """Attempts that follow each other use one connection through the proxy, another host never uses it."""

    async def answer_all(stream: trio.abc.Stream) -> None:
        await stream.send_all(OK)
        while await read_request(stream):
            await stream.send_all(OK)

    async with open_receiver(answer_all) as receiver:
        async with open_socks_server({"a.example": receiver.port, "b.example": receiver.port}) as socks:
            async with open_proxied_sender(socks.address) as sender:
                for host in ("a.example", "a.example", "a.example", "b.example"):
                    assert (await sender.send(request_to(f"http://{host}/"))).status == 200
            assert [request.host for request in socks.requests] == ["a.example", "b.example"]


# --- beside the proxy --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "127.1", "localhost", "localhost.", "shop.localhost"])
async def test_allowed_networks_are_reached_directly(watch: Watch, host: str) -> None:
    """What the operator allows is a neighbour: it is reached without the proxy, and without a lookup."""
    async with open_shop(host) as (socks, receiver):
        async with open_proxied_sender(socks.address, allow_networks=("127.0.0.0/8",)) as sender:
            answer = await sender.send(request_to(f"http://{host}:{receiver.port}/"))
        assert (answer.status, answer.trouble) == (200, "")
        assert (watch.lookups, watch.connections) == ([], [("127.0.0.1", receiver.port)])
        assert socks.connections == 0


async def test_allowed_public_network_is_reached_directly(watch: Watch) -> None:
    """An allowed network is direct also where its addresses are public; the address beside it is not."""
    async with open_shop(PUBLIC, "93.184.217.1") as (socks, receiver):
        async with open_proxied_sender(socks.address, allow_networks=("93.184.216.0/24",)) as sender:
            direct = await sender.send(request_to(f"http://{PUBLIC}/"))
            beside = await sender.send(request_to("http://93.184.217.1/"))
        assert (direct.trouble, beside.status) == ("connection-failed", 200)  # the tests' network is this machine only
        assert watch.connections == [(PUBLIC, 80), ("127.0.0.1", socks.port)]
        assert receiver.connections == 1


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "localhost",
        "localhost.",
        "shop.localhost",
        "10.0.0.1",
        "169.254.169.254",
        "[::1]",
        "[::ffff:127.0.0.1]",
        f"[::ffff:{PUBLIC}]",
        "[64:ff9b::7f00:1]",
        "[fd00::1]",
    ],
)
async def test_addresses_are_guarded_with_a_proxy_too(watch: Watch, host: str) -> None:
    """An address that is not public is refused before anything is connected to: the proxy never hears of it."""
    async with open_shop(host) as (socks, receiver):
        answer = await send_through(socks, f"http://{host}:{receiver.port}/")
        assert (answer.status, answer.trouble) == (None, "refused-address")
        assert (watch.lookups, watch.connections) == ([], [])
        assert (socks.connections, receiver.connections) == (0, 0)


# --- onion services ----------------------------------------------------------------------------------------------


def refusal_of(url: str, proxy: ProxyAddress | None) -> str:
    """Return why a URL is refused; empty if it is taken."""
    try:
        AddressRules((), proxy).check_url(url)
    except RequestError as error:
        refusal = error
    else:
        return ""
    assert (refusal.code, refusal.status_hint) == ("bad-url", 400)
    return str(refusal)


@pytest.mark.parametrize("host", [ONION, ONION.upper(), f"{ONION}.", f"www.{ONION}", "x.onion:8080"])
def test_onion_is_taken_only_with_a_proxy(host: str) -> None:
    """Without a proxy an onion service is refused when it is registered, and the error names the way out."""
    assert "[delivery] proxy" in refusal_of(f"http://{host}/ipn", None)
    assert refusal_of(f"http://{host}/ipn", PROXY) == ""


@pytest.mark.parametrize("host", ["onion.example", "onion", "myonion", "x.onion.example", "onion."])
def test_names_that_only_look_like_onions_are_taken(host: str) -> None:
    """Only names below ``onion`` are onion services."""
    assert refusal_of(f"http://{host}/ipn", None) == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "10.0.0.8", "[::1]", "2130706433"])
def test_literals_are_judged_with_a_proxy_too(host: str) -> None:
    """A literal that is not public is refused when it is registered, proxy or not."""
    assert "allow_networks" in refusal_of(f"http://{host}/ipn", PROXY)


@pytest.mark.parametrize("host", [ONION, f"{ONION}.", ONION.upper()])
async def test_onion_without_a_proxy_is_trouble(watch: Watch, host: str) -> None:
    """An attempt at an onion service without a proxy says what is missing; no name server hears of it (RFC 7686)."""
    async with open_proxied_sender(None) as sender:
        answer = await sender.send(request_to(f"http://{host}/ipn"))
    assert (answer.status, answer.trouble) == (None, "onion-needs-proxy")
    assert (watch.lookups, watch.connections) == ([], [])


async def test_watch_sees_what_goes_without_a_proxy(watch: Watch) -> None:
    """Without a proxy a name is looked up here, and the watch of these tests sees it: its silence proves something."""
    async with open_proxied_sender(None) as sender:
        by_name = await sender.send(request_to("http://shop.example/ipn"))
    assert (by_name.trouble, watch.lookups) == ("name-not-found", ["shop.example"])


# --- trouble -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "trouble"),
    [
        pytest.param({"targets": {}}, "proxy-host-unreachable", id="unknown name"),
        pytest.param({"reply": 1}, "proxy-failed", id="failed"),
        pytest.param({"reply": 2}, "proxy-forbids", id="forbidden"),
        pytest.param({"reply": 5}, "proxy-connection-refused", id="refused"),
        pytest.param({"garbage": b"HTTP/1.1 400 Bad Request\r\n\r\n"}, "proxy-not-socks5", id="garbage"),
        pytest.param({"closes_at": "greeting"}, "proxy-closed", id="closed at the greeting"),
        pytest.param({"closes_at": "request"}, "proxy-closed", id="closed at the request"),
        pytest.param({"login": ("bob", "other")}, "proxy-login-refused", id="login"),
    ],
)
async def test_trouble_with_the_proxy_is_told(watch: Watch, change: dict[str, object], trouble: str) -> None:
    """What goes wrong at the proxy is a code in the attempt's row; its connection is closed, nothing goes around it."""
    async with open_shop("shop.example") as (socks, receiver):
        proxy = socks.address
        for name, value in change.items():
            setattr(socks, name, value)
        async with open_proxied_sender(proxy) as sender:
            answer = await sender.send(request_to("http://shop.example/ipn"))
        assert (answer.status, answer.body, answer.trouble) == (None, b"", trouble)
        with trio.fail_after(5):
            await socks.closed_by_client.wait()
        assert (watch.lookups, watch.connections) == ([], [("127.0.0.1", socks.port)])
        assert receiver.connections == 0


async def test_proxy_that_is_down_is_trouble(watch: Watch) -> None:
    """Where nobody listens at the proxy's address, the attempt says so: the shop is not to blame."""
    async with open_socks_server() as socks:
        proxy = socks.address
    async with open_proxied_sender(proxy) as sender:
        answer = await sender.send(request_to("http://shop.example/ipn"))
    assert (answer.status, answer.trouble) == (None, "proxy-unreachable")
    assert (watch.lookups, watch.connections) == ([], [("127.0.0.1", proxy.port)])


async def test_proxy_that_resets_is_trouble(watch: Watch) -> None:
    """A proxy that resets the connection in the middle fails the attempt with the code of one that closes it."""

    async def reset(stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SocketStream)
        await stream.receive_some(100)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        await stream.aclose()

    async with open_receiver(reset, speaks_first=True) as receiver:
        async with open_proxied_sender(ProxyAddress(host="127.0.0.1", port=receiver.port)) as sender:
            answer = await sender.send(request_to("http://shop.example/ipn"))
    assert (answer.status, answer.trouble) == (None, "proxy-closed")


async def test_shop_that_is_down_is_trouble(watch: Watch) -> None:
    """Where nobody listens behind the proxy, the attempt says what the proxy met."""
    async with open_receiver(answering(OK)) as receiver:
        port = receiver.port
    async with open_socks_server({"shop.example": port}) as socks:
        answer = await send_through(socks, "http://shop.example/ipn")
    assert (answer.status, answer.trouble) == (None, "proxy-connection-refused")


@pytest.mark.parametrize("stage", ["greeting", "request"])
async def test_silent_proxy_ends_at_the_time_limit(watch: Watch, stage: str) -> None:
    """A proxy that stops answering costs one time limit, and its connection is closed."""
    async with open_shop("shop.example") as (socks, _):
        socks.hangs_at = stage
        started = trio.current_time()
        answer = await send_through(socks, "http://shop.example/ipn", timeout_s=TIMEOUT_S)
        assert (answer.status, answer.trouble) == (None, "timeout")
        assert TIMEOUT_S <= trio.current_time() - started < TIMEOUT_S + 1
        with trio.fail_after(5):
            await socks.closed_by_client.wait()


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://a..b/",
        "http://" + "a" * 64 + ".example/",
        "http://%31%32%37.0.0.1/",
        f"http://{ONION[:-6]}%2eonion/",
        "http://1.2.3.4.5/",
        "http://-/",
        "ftp://shop.example/",
        "nonsense",
    ],
)
async def test_url_that_cannot_be_called_is_trouble(watch: Watch, url: str) -> None:
    """Whatever stands in the URL, the attempt ends with a code, and the proxy is asked for nothing."""
    async with open_shop() as (socks, _):
        answer = await send_through(socks, url)
        assert answer.status is None
        assert answer.trouble in ("bad-url", "bad-host-name")
        assert (socks.requests, watch.lookups) == ([], [])


async def test_cancelled_attempt_closes_its_tunnel(watch: Watch) -> None:
    """Whoever cancels an attempt that waits for the proxy leaves no connection behind."""
    async with open_shop("shop.example") as (socks, _), open_proxied_sender(socks.address) as sender:
        socks.hangs_at = "request"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.send, request_to("http://shop.example/ipn"))
            with trio.fail_after(5):
                while not socks.requests:
                    await trio.testing.wait_all_tasks_blocked(0.005)
            nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            await socks.closed_by_client.wait()


async def test_failed_attempts_leave_the_pool_free(watch: Watch) -> None:
    """After more failures at the proxy than the pool has places, the next attempt gets through at once."""
    async with open_shop("shop.example") as (socks, _), open_proxied_sender(socks.address) as sender:
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(sender.send, request_to(f"http://gone-{number}.example/"))
        answer = await sender.send(request_to("http://shop.example/ipn"))
        assert (answer.status, answer.trouble) == (200, "")
        with trio.fail_after(5):
            while socks.under_way > 1:
                await trio.testing.wait_all_tasks_blocked(0.005)
        assert socks.connections == 21


async def test_rules_and_sender_follow_one_setting() -> None:
    """A sender whose rules know another proxy is not opened: what is checked and what is reached must not differ."""
    for rules, proxy in ((AddressRules((), PROXY), None), (AddressRules(), PROXY)):
        with pytest.raises(AssertionError):
            async with open_sender(rules, timeout_s=1.0, max_in_flight=1, proxy=proxy):
                pass
