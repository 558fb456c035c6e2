"""Server addresses: every spelling that operators use, and none that leads nowhere."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightipn.electrum.address import ServerAddress, parse_server_address, parse_server_list

ONION = "explorerzydxu5ecjrkwceayqybizmpjjznk5izmitf2modhcusuqlid.onion"

SPELLINGS = [
    pytest.param("ssl://electrum.example:50002", ("electrum.example", 50002, True), id="URL with TLS"),
    pytest.param("tcp://electrum.example:50001", ("electrum.example", 50001, False), id="URL without TLS"),
    pytest.param("ssl://electrum.example:50002/", ("electrum.example", 50002, True), id="trailing slash"),
    pytest.param("electrum.example:50002:s", ("electrum.example", 50002, True), id="Electrum with TLS"),
    pytest.param("electrum.example:50001:t", ("electrum.example", 50001, False), id="Electrum without TLS"),
    pytest.param("  electrum.example:50001:t\n", ("electrum.example", 50001, False), id="blanks around it"),
    pytest.param("ssl://Electrum.EXAMPLE:700", ("electrum.example", 700, True), id="capitals"),
    pytest.param("ssl://[2001:DB8::1]:50002", ("2001:db8::1", 50002, True), id="IPv6 URL"),
    pytest.param("[::1]:50001:t", ("::1", 50001, False), id="IPv6 in Electrum's spelling"),
    pytest.param(f"tcp://{ONION}:110", (ONION, 110, False), id="onion"),
    pytest.param("tcp://127.0.0.1:65535", ("127.0.0.1", 65535, False), id="highest port"),
]

REFUSED = [
    pytest.param("", id="nothing"),
    pytest.param("electrum.example", id="no port"),
    pytest.param("electrum.example:50002", id="neither TLS nor TCP said"),
    pytest.param("http://electrum.example:80", id="another scheme"),
    pytest.param("ssl://electrum.example:0", id="port 0"),
    pytest.param("ssl://electrum.example:65536", id="port too high"),
    pytest.param("ssl://electrum.example:123456", id="port of six digits"),
    pytest.param("ssl://electrum.example:-1", id="negative port"),
    pytest.param("electrum.example:50001:u", id="another letter"),
    pytest.param("ssl://2001:db8::1:50002", id="IPv6 without brackets"),
    pytest.param("ssl://[electrum.example]:50002", id="brackets around a name"),
    pytest.param("ssl://user@electrum.example:50002", id="a user"),
    pytest.param("ssl://elec trum.example:50002", id="blank inside"),
    pytest.param("ssl://électrum.example:50002", id="not ASCII"),
    pytest.param("ssl://electrum.example:50002/path", id="a path"),
    pytest.param(f"ssl://{'a' * 254}:50002", id="name of 254 characters"),
]


FINGERPRINT = bytes(range(200, 232))
FINGERPRINTS = [
    pytest.param(f"ssl://electrum.example:50002#{FINGERPRINT.hex()}", id="URL"),
    pytest.param(f"electrum.example:50002:s#{FINGERPRINT.hex()}", id="Electrum's spelling"),
    pytest.param(f"ssl://electrum.example:50002/#{FINGERPRINT.hex().upper()}\n", id="capitals"),
    pytest.param(f"ssl://electrum.example:50002#{FINGERPRINT.hex(':')}", id="colons, as openssl prints it"),
]
REFUSED_FINGERPRINTS = [
    pytest.param(f"tcp://electrum.example:50001#{FINGERPRINT.hex()}", "needs TLS", id="without TLS"),
    pytest.param("ssl://electrum.example:50002#", "64 hex digits", id="empty"),
    pytest.param(f"ssl://electrum.example:50002#{FINGERPRINT.hex()[:40]}", "64 hex digits", id="SHA-1"),
    pytest.param(f"ssl://electrum.example:50002#{FINGERPRINT.hex()}00", "64 hex digits", id="too long"),
    pytest.param(f"ssl://electrum.example:50002#{'g' * 64}", "64 hex digits", id="no hex"),
    pytest.param(f"ssl://electrum.example:50002##{FINGERPRINT.hex()}", "64 hex digits", id="two signs"),
]


@pytest.mark.parametrize("text", FINGERPRINTS)
def test_fingerprint_is_read(text: str) -> None:
    """The SHA-256 of a certificate may follow a server; it is no part of the server's name."""
    address = parse_server_address(text)
    assert address == ServerAddress("electrum.example", 50002, uses_tls=True, fingerprint=FINGERPRINT)
    assert address.name == "electrum.example:50002:s"


@pytest.mark.parametrize(("text", "reason"), REFUSED_FINGERPRINTS)
def test_other_fingerprints_are_refused(text: str, reason: str) -> None:
    """A fingerprint that would protect nothing is refused, and the reason says what is wanted."""
    with pytest.raises(ValueError, match=reason):
        parse_server_address(text)


@pytest.mark.parametrize(
    ("host", "domain"),
    [
        ("electrum.party.example", "party.example"),
        ("a.b.party.example", "party.example"),
        ("party.example", "party.example"),
        ("localhost", "localhost"),
        (ONION, ONION),
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8::1", "2001:db8::1"),
    ],
)
def test_domain_tells_operators_apart(host: str, domain: str) -> None:
    """Names of one registered domain belong to one party; an address, and an onion service, stand for themselves."""
    assert ServerAddress(host, 50002, uses_tls=True).domain == domain


@pytest.mark.parametrize(("text", "wanted"), SPELLINGS)
def test_operators_spellings_are_read(text: str, wanted: tuple[str, int, bool]) -> None:
    """URLs and Electrum's own spelling are read, hosts in lower case, IPv6 without its brackets."""
    host, port, uses_tls = wanted
    assert parse_server_address(text) == ServerAddress(host, port, uses_tls=uses_tls)


@pytest.mark.parametrize("text", REFUSED)
def test_other_spellings_are_refused(text: str) -> None:
    """What is no server address is refused with a ``ValueError``, which the configuration reports."""
    with pytest.raises(ValueError, match=r"want|host name|port is"):
        parse_server_address(text)


@given(
    host=st.sampled_from(["electrum.example", "10.0.0.1", "::1", "2001:db8::1", ONION]),
    port=st.integers(1, 65535),
    uses_tls=st.booleans(),
)
def test_name_is_read_back(host: str, port: int, uses_tls: bool) -> None:
    """The name of an address is a spelling of that address."""
    address = ServerAddress(host, port, uses_tls)
    assert parse_server_address(address.name) == address


@given(st.text(max_size=60))
def test_any_text_is_an_address_or_refused(text: str) -> None:
    """No text makes the parser fail otherwise than by ``ValueError``."""
    try:
        address = parse_server_address(text)
    except ValueError:
        return
    assert 0 < address.port < 65536


def test_onion_servers_are_told_apart() -> None:
    """Only names that end in ``.onion`` count as onion servers."""
    assert parse_server_address(f"tcp://{ONION}:110").is_onion
    assert not parse_server_address("tcp://onion.example:110").is_onion


def test_shipped_list_prefers_tls() -> None:
    """In the list that ships, TLS wins where a server has both, and comments and blank lines mean nothing."""
    text = "# host\tTCP\tTLS\n\nBoth.example\t50001\t50002\nplain.example\t50001\t-\nsafe.example\t-\t700\n"
    assert parse_server_list(text) == [
        ServerAddress("both.example", 50002, uses_tls=True),
        ServerAddress("plain.example", 50001, uses_tls=False),
        ServerAddress("safe.example", 700, uses_tls=True),
    ]
