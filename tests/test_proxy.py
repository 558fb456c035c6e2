"""SOCKS5, byte by byte: what is said to the proxy, what is made of its answers, and where reading stops."""

import itertools
import re
from collections.abc import Iterable

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair

from lightipn.proxy import ProxyAddress, ProxyError, open_tunnel, parse_proxy
from tests.socks_server import SocksRequest, open_socks_server

PROXY = ProxyAddress(host="127.0.0.1", port=9050)
WITH_LOGIN = ProxyAddress(host="127.0.0.1", port=9050, user="alice", password="hunter2")
ONION = "2gzyxa5ihm7nsggfxnu52rck2vv4rvmdlkiu3zzui5du4xyclen53wid.onion"
NO_LOGIN = b"\5\0"
GRANTED = b"\5\0\0\1\0\0\0\0\0\0"
CODE = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")


class ScriptedStream:
    """A stream whose other end has said everything already, and then closes.

    Args:
        said: what comes back.
        part_bytes: at most so many come at a time.
    """

    def __init__(self, said: bytes, *, part_bytes: int = 1 << 16) -> None:
        self.sent: list[bytes] = []
        self.left = said
        self._part_bytes = part_bytes

    async def send_all(self, data: bytes) -> None:
        """Keep what is sent."""
        await trio.lowlevel.checkpoint()
        self.sent.append(bytes(data))

    async def receive_some(self, max_bytes: int) -> bytes:
        """Return what comes next."""
        await trio.lowlevel.checkpoint()
        assert max_bytes > 0
        cut = min(max_bytes, self._part_bytes)
        part, self.left = self.left[:cut], self.left[cut:]
        return part


async def said_for(
    host: str, port: int = 443, *, proxy: ProxyAddress = PROXY, isolation: str = "", answers: bytes = NO_LOGIN + GRANTED
) -> list[bytes]:
    """Open a tunnel and return what the proxy was told, message by message."""
    stream = ScriptedStream(answers)
    await open_tunnel(stream, host, port, proxy=proxy, isolation=isolation)
    return stream.sent


async def trouble_with(answers: bytes, *, proxy: ProxyAddress = PROXY, host: str = "shop.example") -> str:
    """Fail to open a tunnel through a proxy that says this, and return the error's code."""
    with pytest.raises(ProxyError) as caught:
        await open_tunnel(ScriptedStream(answers), host, 80, proxy=proxy)
    assert str(caught.value) == caught.value.code
    return caught.value.code


# --- the address -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("socks5://127.0.0.1:9050", PROXY, id="address"),
        pytest.param("socks5h://127.0.0.1:9050", PROXY, id="socks5h"),
        pytest.param(" SOCKS5://127.0.0.1:9050/ ", PROXY, id="as pasted"),
        pytest.param("socks5://tor:9050", ProxyAddress(host="tor", port=9050), id="name"),
        pytest.param("socks5://[::1]:1", ProxyAddress(host="::1", port=1), id="IPv6"),
        pytest.param("socks5://alice:hunter2@127.0.0.1:9050", WITH_LOGIN, id="login"),
        pytest.param(
            "socks5://al%40ice:a%3Ab%25@[::1]:65535",
            ProxyAddress(host="::1", port=65535, user="al@ice", password="a:b%"),
            id="percent-encoded login",
        ),
        pytest.param(
            f"socks5://{'u' * 255}:{'p' * 255}@tor:1",
            ProxyAddress(host="tor", port=1, user="u" * 255, password="p" * 255),
            id="longest login",
        ),
    ],
)
def test_proxy_address_is_read(text: str, expected: ProxyAddress) -> None:
    """A proxy is named by a URL with or without a login; IPv6 stands in brackets, both spellings mean the same."""
    assert parse_proxy(text) == expected


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param("", "want", id="empty"),
        pytest.param("127.0.0.1:9050", "want", id="no scheme"),
        pytest.param("socks4://127.0.0.1:9050", "want", id="SOCKS4"),
        pytest.param("http://127.0.0.1:8118", "want", id="HTTP proxy"),
        pytest.param("socks5://127.0.0.1", "no port", id="no port"),
        pytest.param("socks5://127.0.0.1:0", "no port", id="port 0"),
        pytest.param("socks5://127.0.0.1:65536", "want", id="port 65536"),
        pytest.param("socks5://127.0.0.1:tor", "want", id="port is a word"),
        pytest.param("socks5://:9050", "no name and no address", id="no host"),
        pytest.param("socks5://a..b:9050", "no name and no address", id="empty label"),
        pytest.param("socks5://b\u00fccher:9050", "no name and no address", id="non-ASCII host"),
        pytest.param("socks5://a b:9050", "no name and no address", id="blank"),
        pytest.param("socks5://[tor]:9050", "want", id="name in brackets"),
        pytest.param("socks5://[127.0.0.1]:9050", "want", id="IPv4 in brackets"),
        pytest.param("socks5://::1:9050", "want", id="IPv6 without brackets"),
        pytest.param("socks5://[::1:9050", "want", id="open bracket"),
        pytest.param("socks5://tor:9050/path", "want", id="path"),
        pytest.param("socks5://tor:9050?x=1", "want", id="query"),
        pytest.param("socks5://tor:9050#x", "want", id="fragment"),
        pytest.param("socks5://alice@tor:9050", "user and password", id="user alone"),
        pytest.param("socks5://:hunter2@tor:9050", "user and password", id="password alone"),
        pytest.param("socks5://@tor:9050", "user and password", id="empty login"),
        pytest.param(f"socks5://{'u' * 256}:hunter2@tor:9050", "1 to 255 bytes", id="long user"),
        pytest.param(f"socks5://alice:{'%C3%A4' * 128}@tor:9050", "1 to 255 bytes", id="long password"),
        pytest.param("socks5://alice:hunter2@tor", "no port", id="login, no port"),
        pytest.param("socks5://alice:hunter2@tor:x", "want", id="login, bad port"),
        pytest.param("socks5://alice:hunter2@[tor]:9050", "want", id="login, bad host"),
        pytest.param("alice:hunter2@tor:9050", "want", id="login, no scheme"),
    ],
)
def test_texts_that_name_no_proxy_are_errors(text: str, reason: str) -> None:
    """Anything else is refused with what was wanted, and without the password."""
    with pytest.raises(ValueError, match=reason) as caught:
        parse_proxy(text)
    assert "want socks5://[user:password@]host:port" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_password_is_not_shown() -> None:
    """Whoever prints or logs a proxy's address does not print its password."""
    assert "hunter2" not in f"{WITH_LOGIN} {WITH_LOGIN!r}"
    assert WITH_LOGIN.password == "hunter2"


# --- what is said ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("host", "destination"),
    [
        pytest.param("shop.example", b"\3\x0cshop.example", id="name"),
        pytest.param(ONION, b"\3\x3e" + ONION.encode(), id="onion"),
        pytest.param("under_score.example", b"\3\x13under_score.example", id="underscore"),
        pytest.param("localhost", b"\3\x09localhost", id="localhost"),
        pytest.param("93.184.216.34", b"\1\x5d\xb8\xd8\x22", id="IPv4"),
        pytest.param("2606:2800::1946", b"\4\x26\x06\x28\x00" + bytes(10) + b"\x19\x46", id="IPv6"),
    ],
)
async def test_names_go_unresolved_and_addresses_as_addresses(host: str, destination: bytes) -> None:
    """A name is sent as it is, for the proxy to resolve; an address is sent as its bytes."""
    assert await said_for(host) == [b"\5\1\0", b"\5\1\0" + destination + b"\x01\xbb"]


async def test_login_is_sent_where_the_proxy_asks() -> None:
    """The configured user and password are sent where the proxy chooses them, and only there."""
    wanted = await said_for("shop.example", proxy=WITH_LOGIN, answers=b"\5\2\1\0" + GRANTED)
    assert wanted[:2] == [b"\5\2\0\2", b"\1\5alice\7hunter2"]
    unwanted = await said_for("shop.example", proxy=WITH_LOGIN)
    assert (unwanted[0], len(unwanted)) == (b"\5\2\0\2", 2)


async def login_sent(isolation: str, proxy: ProxyAddress = PROXY) -> tuple[str, str]:
    """Return the user and password that a proxy sees."""
    sent = await said_for("shop.example", proxy=proxy, isolation=isolation, answers=b"\5\2\1\0" + GRANTED)
    user, password = sent[1][2 : 2 + sent[1][1]], sent[1][3 + sent[1][1] :]
    return user.decode(), password.decode()


async def test_isolation_gives_each_text_a_login_of_its_own() -> None:
    """Connections with different texts log in as different users, and with the same text always as the same."""
    texts = ["a.example", "b.example", "A.example", "ä", "x" * 1000]
    logins = [await login_sent(text) for text in texts]
    assert len({user for user, _ in logins}) == len(texts)
    assert [await login_sent(text) for text in texts] == logins
    assert logins[0] == ("b8e7453371a024daae06f3164492c0afcde134c7747c155b3d83c20de341e855", "lightipn")


async def test_configured_login_goes_before_isolation() -> None:
    """A proxy with a login of its own gets that one, whatever the isolation."""
    assert await login_sent("a.example", WITH_LOGIN) == ("alice", "hunter2")


# --- where reading stops -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("part_bytes", [1, 3, 1 << 16])
@pytest.mark.parametrize(
    "bound",
    [
        pytest.param(b"\1\x7f\0\0\1", id="IPv4"),
        pytest.param(b"\4" + bytes(15) + b"\1", id="IPv6"),
        pytest.param(b"\3\x09localhost", id="name"),
        pytest.param(b"\3\0", id="empty name"),
        pytest.param(b"\3\xff" + b"x" * 255, id="longest name"),
    ],
)
async def test_nothing_behind_the_answer_is_read(bound: bytes, part_bytes: int) -> None:
    """Whatever the form of the proxy's answer, and however it is cut, the far end's first byte stays in the stream."""
    stream = ScriptedStream(b"\5\0\5\0\0" + bound + b"\x23\x28" + b"\x16\x03\x01 hello", part_bytes=part_bytes)
    await open_tunnel(stream, "shop.example", 443, proxy=PROXY)
    assert stream.left == b"\x16\x03\x01 hello"


async def test_far_end_that_speaks_first_is_heard() -> None:
    """Through a real socket and proxy, bytes go both ways, and what the far end says at once is not lost."""

    async def greet(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.send_all(b"welcome")
            assert await stream.receive_some(100) == b"hello"

    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery, open_socks_server({ONION: listener.socket.getsockname()[1]}) as socks:
        nursery.start_soon(trio.serve_listeners, greet, [listener])
        async with await trio.open_tcp_stream("127.0.0.1", socks.port) as stream:
            await open_tunnel(stream, ONION, 50002, proxy=socks.address, isolation="x")
            await stream.send_all(b"hello")
            assert b"".join([bytes(part) async for part in stream]) == b"welcome"
        nursery.cancel_scope.cancel()
    (request,) = socks.requests
    user = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert request == SocksRequest(host=ONION, port=50002, is_name=True, user=user, password="lightipn")


# --- trouble -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (1, "proxy-failed"),
        (2, "proxy-forbids"),
        (3, "proxy-network-unreachable"),
        (4, "proxy-host-unreachable"),
        (5, "proxy-connection-refused"),
        (6, "proxy-timed-out"),
        (7, "proxy-refused"),
        (8, "proxy-refused"),
        (9, "proxy-refused"),
        (0xF0, "proxy-refused"),
        (0xFF, "proxy-refused"),
    ],
)
async def test_each_refusal_has_a_code(reply: int, code: str) -> None:
    """What the proxy could not do is named in a word of ours."""
    assert await trouble_with(NO_LOGIN + bytes([5, reply, 0, 1]) + bytes(6)) == code


@pytest.mark.parametrize(
    ("answers", "code"),
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", "proxy-not-socks5", id="HTTP"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", "proxy-not-socks5", id="SSH"),
        pytest.param(bytes(100), "proxy-not-socks5", id="zeros"),
        pytest.param(b"\xff" * 100, "proxy-not-socks5", id="ones"),
        pytest.param(b"\0\x5a" + bytes(6), "proxy-not-socks5", id="SOCKS4"),
        pytest.param(NO_LOGIN + b"\4\0\0\1" + bytes(6), "proxy-not-socks5", id="version of the reply"),
        pytest.param(NO_LOGIN + b"\5\0\7\1" + bytes(6), "proxy-not-socks5", id="reserved byte"),
        pytest.param(NO_LOGIN + b"\5\0\0\2" + bytes(6), "proxy-not-socks5", id="kind of address"),
        pytest.param(b"\5\xff", "proxy-login-refused", id="no method"),
        pytest.param(b"\5\2", "proxy-login-refused", id="a login that was not offered"),
        pytest.param(b"\5\1", "proxy-login-refused", id="GSSAPI"),
    ],
)
async def test_answers_that_are_no_socks5_are_errors(answers: bytes, code: str) -> None:
    """A port that is no SOCKS5 proxy, or breaks the protocol, ends in an error at once."""
    assert await trouble_with(answers) == code


async def test_refused_login_is_an_error() -> None:
    """A wrong password has a code of its own, so has an answer that is none."""
    assert await trouble_with(b"\5\2\1\1", proxy=WITH_LOGIN) == "proxy-login-refused"
    assert await trouble_with(b"\5\2\5\0", proxy=WITH_LOGIN) == "proxy-not-socks5"


def prefixes(data: bytes) -> Iterable[bytes]:
    """Return everything that the data begins with, but itself."""
    return itertools.accumulate([b""] + [data[at : at + 1] for at in range(len(data) - 1)])


@pytest.mark.parametrize("answers", list(prefixes(b"\5\2\1\0" + GRANTED)), ids=len)
async def test_proxy_that_closes_is_an_error(answers: bytes) -> None:
    """Wherever in its answers the proxy closes the connection, the tunnel is not open."""
    assert await trouble_with(answers, proxy=WITH_LOGIN) == "proxy-closed"


async def test_broken_connection_is_an_error() -> None:
    """A connection that breaks, instead of ending, is the same to the caller."""
    near, far = memory_stream_pair()
    await far.aclose()
    with pytest.raises(ProxyError, match=r"^proxy-closed$"):
        await open_tunnel(near, "shop.example", 80, proxy=PROXY)


@pytest.mark.parametrize(
    "host", ["", "a..b", "-", "x" * 64, "a." * 127 + "a", "a b", "1.2.3.4.5", "a%2e", "ä", "[::1]"]
)
async def test_hosts_that_no_proxy_understands_are_errors(host: str) -> None:
    """What is neither a name nor an address is an error, before anything is said to the proxy."""
    stream = ScriptedStream(NO_LOGIN + GRANTED)
    with pytest.raises(ProxyError, match=r"^bad-host-name$"):
        await open_tunnel(stream, host, 80, proxy=PROXY)
    assert stream.sent == []


@pytest.mark.parametrize("answers", [b"", NO_LOGIN, NO_LOGIN + GRANTED[:-1]], ids=["greeting", "request", "last byte"])
async def test_silent_proxy_costs_the_callers_time_limit(answers: bytes, autojump_clock: MockClock) -> None:
    """A proxy that accepts and then says nothing holds its caller for the caller's own limit, and no longer."""
    near, far = memory_stream_pair()
    if answers:
        await far.send_all(answers)
    with pytest.raises(trio.TooSlowError):
        with trio.fail_after(30):
            await open_tunnel(near, "shop.example", 80, proxy=PROXY)
    assert trio.current_time() == pytest.approx(30)


def test_errors_are_os_errors() -> None:
    """Who catches what a direct connection fails with catches what a proxy fails with."""
    error = ProxyError("proxy-failed")
    assert isinstance(error, OSError)
    assert (error.code, str(error)) == ("proxy-failed", "proxy-failed")


@given(
    head=st.sampled_from([b"", b"\5", NO_LOGIN, b"\5\2", b"\5\2\1\0", NO_LOGIN + b"\5\0\0", b"\5\2\1\0\5\0\0\3"]),
    tail=st.binary(max_size=600),
    part_bytes=st.integers(1, 300),
    proxy=st.sampled_from([PROXY, WITH_LOGIN]),
)
async def test_any_bytes_end_in_a_tunnel_or_an_error(
    head: bytes, tail: bytes, part_bytes: int, proxy: ProxyAddress
) -> None:
    """Whatever a proxy says, the outcome is a tunnel or a ProxyError with a code, after a few hundred bytes at most."""
    stream = ScriptedStream(head + tail, part_bytes=part_bytes)
    code = ""
    try:
        await open_tunnel(stream, "shop.example", 80, proxy=proxy)
    except ProxyError as error:
        code = error.code
    assert not code or CODE.fullmatch(code)
    assert len(head + tail) - len(stream.left) <= 2 + 2 + 5 + 255 + 2
