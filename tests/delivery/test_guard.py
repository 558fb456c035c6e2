"""Which addresses a callback may reach, and that nothing else is ever connected to."""

import ipaddress
import socket

import httpcore
import pytest
import trio

from lightipn.delivery.guard import AddressRules, GuardedBackend, RefusedAddressError, parse_networks
from lightipn.errors import RequestError

PUBLIC = "93.184.216.34"
NOTHING_ALLOWED = AddressRules()

REFUSED = {
    "this network": "0.0.0.0",
    "this network, another host": "0.1.2.3",
    "private 10": "10.0.0.1",
    "private 172.16": "172.16.0.1",
    "private 172.31": "172.31.255.255",
    "private 192.168": "192.168.1.1",
    "carrier-grade NAT": "100.64.0.1",
    "carrier-grade NAT, last": "100.127.255.255",
    "loopback": "127.0.0.1",
    "loopback, another": "127.255.0.9",
    "link-local": "169.254.0.1",
    "cloud metadata": "169.254.169.254",
    "IETF protocols": "192.0.0.1",
    "documentation 1": "192.0.2.1",
    "documentation 2": "198.51.100.1",
    "documentation 3": "203.0.113.1",
    "6to4 relay": "192.88.99.1",
    "benchmarks": "198.18.0.1",
    "multicast": "224.0.0.1",
    "multicast, last": "239.255.255.255",
    "reserved": "240.0.0.1",
    "broadcast": "255.255.255.255",
    "v6 unspecified": "::",
    "v6 loopback": "::1",
    "v4-compatible": "::7f00:1",
    "v4-mapped loopback": "::ffff:127.0.0.1",
    "v4-mapped metadata": "::ffff:169.254.169.254",
    "v4-mapped public": f"::ffff:{PUBLIC}",
    "v4-translated loopback": "::ffff:0:7f00:1",
    "NAT64": "64:ff9b::7f00:1",
    "NAT64, local": "64:ff9b:1::7f00:1",
    "discard": "100::1",
    "Teredo": "2001:0:4136:e378:8000:63bf:3fff:fdd2",
    "ORCHID": "2001:20::1",
    "v6 benchmarks": "2001:2::1",
    "6to4": "2002:7f00:1::1",
    "v6 documentation": "2001:db8::1",
    "v6 documentation, newer": "3fff::1",
    "unique local fc": "fc00::1",
    "unique local fd": "fd12:3456::1",
    "v6 link-local": "fe80::1",
    "v6 site-local": "fec0::1",
    "v6 multicast": "ff02::1",
    "v6 global multicast": "ff0e::1",
}
PERMITTED = {
    "v4": PUBLIC,
    "below 10": "9.255.255.255",
    "above 10": "11.0.0.0",
    "below CGNAT": "100.63.255.255",
    "above CGNAT": "100.128.0.0",
    "below 172.16": "172.15.255.255",
    "above 172.31": "172.32.0.0",
    "below multicast": "223.255.255.255",
    "v6": "2606:2800:220:1:248:1893:25c8:1946",
    "v6, beside 6to4": "2003::1",
}


def cases(table: dict[str, str]) -> list[object]:
    """Return a table as named parameters."""
    return [pytest.param(value, id=name) for name, value in table.items()]


@pytest.mark.parametrize("address", cases(REFUSED))
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    """No callback reaches an address that is not public, in whatever disguise."""
    assert not NOTHING_ALLOWED.permits(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", cases(PERMITTED))
def test_public_addresses_are_permitted(address: str) -> None:
    """Public addresses are reached, up to the very edge of each refused range."""
    assert NOTHING_ALLOWED.permits(ipaddress.ip_address(address))


@pytest.mark.parametrize(
    ("address", "is_permitted"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("10.2.0.1", False),
        ("fd00::5", True),
        ("fd01::5", False),
        ("127.0.0.1", False),
        (PUBLIC, True),
    ],
)
def test_operator_allows_networks(address: str, is_permitted: bool) -> None:
    """What the operator allows is reached, its v4-mapped spelling too, and nothing beside it."""
    rules = AddressRules(parse_networks(["10.1.0.0/16", "fd00::/16"]))
    assert rules.permits(ipaddress.ip_address(address)) is is_permitted


def test_texts_that_are_no_networks_are_errors() -> None:
    """A network with host bits, or no network at all, is refused."""
    for text in ("10.0.0.1/8", "shop.example", ""):
        with pytest.raises(ValueError, match=r"does not appear|host bits"):
            parse_networks([text])


# --- URLs --------------------------------------------------------------------------------------------------------


def refusal_of(url: str, rules: AddressRules = NOTHING_ALLOWED) -> str:
    """Return why a URL is refused; empty if it is taken."""
    try:
        rules.check_url(url)
    except RequestError as error:
        refusal = error
    else:
        return ""
    assert (refusal.code, refusal.status_hint) == ("bad-url", 400)
    return str(refusal)


@pytest.mark.parametrize(
    "url",
    [
        "http://shop.example/",
        "https://shop.example",
        "https://shop.example:8443/ipn?order=7&x=%20",
        "HTTPS://SHOP.EXAMPLE/",
        f"http://{PUBLIC}/",
        "http://[2606:2800:220:1:248:1893:25c8:1946]:8080/",
        "http://xn--bcher-kva.example/",
        "http://shop.example./",
        "http://localhost.example/",
        "http://shop.example/" + "a" * (2048 - 20),
    ],
)
def test_urls_of_shops_are_taken(url: str) -> None:
    """Any http or https URL to a name or a public address may be registered."""
    assert refusal_of(url) == ""


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "0177.0.0.1",
        "017700000001",
        "127.1",
        "127.0.1",
        "0",
        "0.0.0.0",
        "localhost",
        "LOCALHOST",
        "localhost.",
        "localhost..",
        "shop.localhost",
        "127.0.0.1.",
        "2130706433.",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[fe80::1%25eth0]",
        "[fe80::1%eth0]",
        "169.254.169.254",
        "10.0.0.8",
    ],
)
def test_literals_that_are_not_public_are_refused_at_once(host: str) -> None:
    """A literal address in any spelling is judged when it is registered, and the error names the way out."""
    assert "allow_networks" in refusal_of(f"http://{host}/x")
    assert "allow_networks" in refusal_of(f"https://{host}:8443/x")


def test_literal_inside_allowed_networks_is_taken() -> None:
    """What the operator allows may be registered as a literal, and as ``localhost``."""
    rules = AddressRules(parse_networks(["127.0.0.0/8"]))
    for host in ("127.0.0.1", "localhost", "2130706433"):
        assert refusal_of(f"http://{host}:8080/", rules) == ""
    assert "allow_networks" in refusal_of("http://10.0.0.1/", rules)


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        pytest.param("", "scheme", id="empty"),
        pytest.param("shop.example/ipn", "scheme", id="no scheme"),
        pytest.param("//shop.example/ipn", "scheme", id="relative"),
        pytest.param("ftp://shop.example/", "scheme", id="ftp"),
        pytest.param("file:///etc/passwd", "scheme", id="file"),
        pytest.param("javascript:alert(1)", "scheme", id="javascript"),
        pytest.param("gopher://shop.example/", "scheme", id="gopher"),
        pytest.param("http:///path", "no host", id="no host"),
        pytest.param("http://:80/", "no host", id="port alone"),
        pytest.param("http://./", "no host", id="dot"),
        pytest.param("http://user:secret@shop.example/", "credentials", id="credentials"),
        pytest.param("http://user@shop.example/", "credentials", id="user"),
        pytest.param("http://@shop.example/", "credentials", id="empty user"),
        pytest.param("http://shop.example@127.0.0.1/", "credentials", id="name as user"),
        pytest.param("http://shop.example/#part", "fragment", id="fragment"),
        pytest.param("http://shop.example/" + "a" * (2049 - 20), "2049 characters", id="2049 characters"),
        pytest.param("http://shop.example/a b", "blanks", id="blank"),
        pytest.param(" http://shop.example/", "blanks", id="leading blank"),
        pytest.param("http://shop.example/\r\nHost: evil", "blanks", id="CR LF"),
        pytest.param("http://shop.example/\t", "blanks", id="tab"),
        pytest.param("http://shop.example/\x00", "blanks", id="NUL"),
        pytest.param("http://shop.example/\x7f", "blanks", id="DEL"),
        pytest.param("http://bücher.example/", "blanks", id="non-ASCII host"),
        pytest.param("http://shop.example/\u202e", "blanks", id="non-ASCII path"),
        pytest.param("http://shop.example:0/", "port 0", id="port 0"),
        pytest.param("http://shop.example:70000/", "cannot be read", id="port 70000"),
        pytest.param("http://shop.example:-1/", "cannot be read", id="port -1"),
        pytest.param("http://shop.example:x/", "cannot be read", id="port x"),
        pytest.param("http://[::1/", "cannot be read", id="open bracket"),
        pytest.param("http://[shop]/", "cannot be read", id="name in brackets"),
    ],
)
def test_urls_that_cannot_be_called_are_refused(url: str, reason: str) -> None:
    """A URL that could not be called safely is refused when it is registered, with the reason."""
    assert reason in refusal_of(url)


def test_refusal_is_one_printable_line() -> None:
    """Whatever the URL, the reason is fit for a header and a log."""
    for url in ("http://localhost\x1b/", "http://user:hunter2@shop.example/", "http://" + "ä" * 100):
        reason = refusal_of(url)
        assert reason
        assert reason.isprintable()
        assert "hunter2" not in reason


# --- the connection ----------------------------------------------------------------------------------------------


class Resolving(GuardedBackend):
    """A guard whose names resolve to what a test says: one list of records for each lookup."""

    def __init__(self, rules: AddressRules, *lookups: list[str]) -> None:
        super().__init__(rules)
        self.lookups = list(lookups)
        self.asked: list[tuple[str, int]] = []

    async def _resolve(self, host: str, port: int) -> list[str]:
        await trio.lowlevel.checkpoint()
        self.asked.append((host, port))
        return self.lookups.pop(0)


LOOPBACK = AddressRules(parse_networks(["127.0.0.0/24"]))


async def listening(address: str) -> tuple[trio.SocketListener, int]:
    """Listen on a free port of one address."""
    listener = trio.socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    await listener.bind((address, 0))
    listener.listen()
    return trio.SocketListener(listener), int(listener.getsockname()[1])


@pytest.mark.parametrize(
    "records",
    [
        pytest.param([PUBLIC, "127.0.0.1"], id="public first"),
        pytest.param(["127.0.0.1", PUBLIC], id="private first"),
        pytest.param([PUBLIC, "::1"], id="v4 public, v6 loopback"),
        pytest.param([PUBLIC, "fe80::1%eth0"], id="scope"),
        pytest.param(["169.254.169.254"], id="metadata alone"),
        pytest.param(["::ffff:10.0.0.1"], id="mapped"),
    ],
)
async def test_one_bad_record_refuses_the_host(records: list[str]) -> None:
    """A name with any record that is not public is refused before anything is connected."""
    backend = Resolving(NOTHING_ALLOWED, records)
    with pytest.raises(RefusedAddressError):
        await backend.connect_tcp("rebind.example", 80)


async def test_connection_goes_to_the_address_that_was_checked() -> None:
    """The name is resolved once; what another lookup would say does not matter."""
    checked, port = await listening("127.0.0.1")
    async with checked:
        backend = Resolving(LOOPBACK, ["127.0.0.1"], ["127.9.9.9"])
        stream = await backend.connect_tcp("rebind.example", port, timeout=5.0)
        server_side = await checked.accept()
        async with server_side:
            assert stream.get_extra_info("server_addr") == ("127.0.0.1", port)
            await stream.aclose()
        assert backend.asked == [("rebind.example", port)]


async def test_next_record_is_tried_where_one_does_not_answer() -> None:
    """A host with several addresses is reached as long as one of them answers."""
    listener, port = await listening("127.0.0.2")
    async with listener:
        backend = Resolving(LOOPBACK, ["127.0.0.1", "127.0.0.2"])
        stream = await backend.connect_tcp("shop.example", port, timeout=5.0)
        assert stream.get_extra_info("server_addr") == ("127.0.0.2", port)
        await stream.aclose()


async def test_error_comes_from_the_last_record() -> None:
    """Where no record answers, the caller gets the connection's error."""
    listener, port = await listening("127.0.0.2")
    await listener.aclose()
    backend = Resolving(LOOPBACK, ["127.0.0.1", "127.0.0.2"])
    with pytest.raises(httpcore.ConnectError):
        await backend.connect_tcp("shop.example", port, timeout=5.0)


async def test_literal_needs_no_name_server() -> None:
    """A literal in a spelling of the C library resolves to its address, and is checked like any other."""
    with pytest.raises(RefusedAddressError, match=r"127\.0\.0\.1"):
        await GuardedBackend(NOTHING_ALLOWED).connect_tcp("2130706433", 80)
    with pytest.raises(RefusedAddressError, match=r"127\.0\.0\.1"):
        await GuardedBackend(NOTHING_ALLOWED).connect_tcp("0x7f.1", 80)
