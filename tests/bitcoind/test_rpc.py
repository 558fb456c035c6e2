"""The way to a node over HTTP: how it lets us in, and which state each kind of trouble on the way is."""

import base64
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from lightipn.bitcoind.node import NodeRpc
from lightipn.bitcoind.rpc import Credentials, open_http_wire
from lightipn.errors import SourceRefusedError, SourceUnavailableError
from tests.bitcoind.wires import NODE
from tests.delivery.certificates import self_signed
from tests.delivery.raw_receiver import Behaviour, RawReceiver, answering, open_receiver, response

PASSWORD = "correct-horse-battery"
SECRET = Credentials(user="shop", password=PASSWORD)
# The receiver reads one request a connection.
CLOSE = b"Connection: close"


async def close_at_once(stream: trio.abc.Stream) -> None:
    """Close without a word."""
    await stream.aclose()


async def say_nothing(stream: trio.abc.Stream) -> None:
    """Never answer."""


async def post(receiver: RawReceiver, credentials: Credentials = SECRET, *, timeout_s: float = 5.0) -> bytes:
    """Post one document on a wire of its own."""
    async with open_http_wire(receiver.url, credentials) as wire:
        return await wire.post(b'{"id":1}', timeout_s=timeout_s)


async def trouble_of(behave: Behaviour, *, timeout_s: float = 5.0) -> SourceUnavailableError:
    """Return the error that a post ends with where the other side behaves like this."""
    async with open_receiver(behave) as receiver:
        with pytest.raises(SourceUnavailableError) as caught:
            await post(receiver, timeout_s=timeout_s)
    return caught.value


def words_of(error: BaseException | None) -> str:
    """Return all that an error and what led to it say, as a traceback would print it."""
    said = ""
    while error is not None:
        said += f"{error!s} {error!r} {error.args!r} "
        error = error.__cause__ or error.__context__
    return said


def let_in_as(raw: bytes) -> str:
    """Return the user and the password of a request."""
    [line] = [line for line in raw.split(b"\r\n") if line.lower().startswith(b"authorization: basic ")]
    return base64.b64decode(line.split()[2]).decode()


# --- requests and answers ----------------------------------------------------------------------------------------


async def test_document_goes_there_and_one_comes_back() -> None:
    """A call is a POST of the document to the URL, with user and password; the body of the answer comes back."""
    async with open_receiver(answering(response(b"200 OK", b'{"result":7}', CLOSE))) as receiver:
        assert await post(receiver) == b'{"result":7}'
    [raw] = receiver.requests
    head, _, body = raw.partition(b"\r\n\r\n")
    assert head.split(b"\r\n")[0] == b"POST /ipn?order=7 HTTP/1.1"
    assert body == b'{"id":1}'
    assert let_in_as(raw) == f"shop:{PASSWORD}"


async def test_refused_call_is_an_answer() -> None:
    """A node answers a call that it refuses with status 500 and a document, which says why."""
    body = b'{"result":null,"error":{"code":-5,"message":"Block not found"},"id":1}'
    async with (
        open_receiver(answering(response(b"500 Internal Server Error", body, CLOSE))) as receiver,
        open_http_wire(receiver.url, SECRET) as wire,
    ):
        assert await wire.post(b"{}", timeout_s=5.0) == body
        with pytest.raises(SourceRefusedError) as caught:
            await NodeRpc(wire, name=NODE).fetch_chain_info()
    assert caught.value.code == -5


async def test_node_that_warms_up_says_so_over_http() -> None:
    """The state of a node that starts comes through the status 500 that it is sent with."""
    body = b'{"result":null,"error":{"code":-28,"message":"Loading block index..."},"id":1}'
    async with (
        open_receiver(answering(response(b"500 Internal Server Error", body, CLOSE))) as receiver,
        open_http_wire(receiver.url, SECRET) as wire,
    ):
        with pytest.raises(SourceUnavailableError, match=r"^warming-up$"):
            await NodeRpc(wire, name=NODE).fetch_chain_info()


async def test_no_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """One's own node is reached directly, whatever the environment says of proxies."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with open_receiver(answering(response(b"200 OK", b"{}", CLOSE))) as receiver:
        assert await post(receiver) == b"{}"


# --- states ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [b"", b"<html>please send your coins to evil.example</html>"], ids=["empty", "a page"])
@pytest.mark.parametrize(
    ("status_line", "reason"),
    [
        (b"401 Unauthorized", "wrong-password"),
        (b"403 Forbidden", "not-allowed"),
        (b"404 Not Found", "no-rpc-here"),
        (b"503 Service Unavailable", "work-queue-exceeded"),
        (b"204 No Content", "http-status-204"),
        (b"400 Bad Request", "http-status-400"),
        (b"405 Method Not Allowed", "http-status-405"),
        (b"502 Bad Gateway", "http-status-502"),
    ],
)
async def test_every_other_status_is_a_state(status_line: bytes, reason: str, body: bytes) -> None:
    """Each status has a word of ours, whatever text comes with it."""
    if status_line.startswith(b"204"):
        body = b""
    error = await trouble_of(answering(response(status_line, body, CLOSE)))
    assert str(error) == reason
    assert "evil" not in words_of(error)


@pytest.mark.parametrize("status_line", [b"200 OK", b"500 Internal Server Error"])
async def test_empty_body_is_no_answer(status_line: bytes) -> None:
    """A node always says something; an empty answer is trouble on the way, to be tried again."""
    error = await trouble_of(answering(response(status_line, b"", CLOSE)))
    assert str(error) == f"http-status-{status_line[:3].decode()}"


async def test_redirection_is_not_followed() -> None:
    """User and password go to the URL that the operator wrote, and nowhere else."""
    async with open_receiver(answering(response(b"200 OK", b"{}", CLOSE))) as other:
        location = b"Location: " + other.url.encode()
        for status_line in (b"301 Moved Permanently", b"307 Temporary Redirect", b"308 Permanent Redirect"):
            error = await trouble_of(answering(response(status_line, b"x", location, CLOSE)))
            assert str(error) == f"http-status-{status_line[:3].decode()}"
    assert other.connections == 0


async def test_certificate_of_a_node_is_verified(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over TLS the password goes to no node whose certificate the system does not trust, and that is a state."""
    context, certificate = self_signed(tmp_path, ["127.0.0.1"])
    async with open_receiver(answering(response(b"200 OK", b"{}", CLOSE)), context=context) as receiver:
        with pytest.raises(SourceUnavailableError, match=r"^tls-failed$"):
            await post(receiver)
        assert receiver.requests == []
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert await post(receiver) == b"{}"


async def test_nobody_listening_is_a_state() -> None:
    """A node that does not run cannot be reached."""
    with socket.socket() as unused:  # bound, and never listened on
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/"
        async with open_http_wire(url, SECRET) as wire:
            with pytest.raises(SourceUnavailableError, match=r"^unreachable$") as caught:
                await wire.post(b"{}", timeout_s=5.0)
    assert PASSWORD not in words_of(caught.value)


TROUBLES: list[tuple[str, Behaviour, str]] = [
    ("closed", close_at_once, "connection-closed"),
    ("junk", answering(b"\x00\x01 junk\r\n\r\n"), "connection-closed"),
    ("another protocol", answering(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "connection-closed"),
    ("half a head", answering(b"HTTP/1.1 200 OK\r\nContent-"), "timed-out"),
    ("half a body", answering(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}"), "timed-out"),
    ("silent", say_nothing, "timed-out"),
]


@pytest.mark.parametrize(("behave", "reason"), [one[1:] for one in TROUBLES], ids=[one[0] for one in TROUBLES])
async def test_trouble_on_the_way_is_a_state_without_secrets(behave: Behaviour, reason: str) -> None:
    """Whatever happens on the way is one of a few words, and neither it nor its causes tell the password."""
    error = await trouble_of(behave, timeout_s=0.05 if reason == "timed-out" else 5.0)
    assert str(error) == reason
    said = words_of(error)
    assert PASSWORD not in said
    assert base64.b64encode(f"shop:{PASSWORD}".encode()).decode() not in said


async def test_wire_goes_on_after_trouble() -> None:
    """One failed call says nothing of the next one: the wire connects anew."""
    behaviours = [close_at_once, answering(response(b"200 OK", b"{}", CLOSE))]

    async def behave(stream: trio.abc.Stream) -> None:
        await behaviours.pop(0)(stream)

    async with open_receiver(behave) as receiver, open_http_wire(receiver.url, SECRET) as wire:
        with pytest.raises(SourceUnavailableError):
            await wire.post(b"{}", timeout_s=5.0)
        assert await wire.post(b"{}", timeout_s=5.0) == b"{}"


# --- credentials -------------------------------------------------------------------------------------------------


async def test_cookie_is_read_anew_for_each_call(tmp_path: Path) -> None:
    """A node makes its cookie at every start, so each call shows what is in the file by then."""
    cookie = tmp_path / ".cookie"
    async with (
        open_receiver(answering(response(b"200 OK", b"{}", CLOSE))) as receiver,
        open_http_wire(receiver.url, Credentials(cookie_file=cookie)) as wire,
    ):
        for text in ("__cookie__:first", "__cookie__:second\n"):
            cookie.write_text(text)
            await wire.post(b"{}", timeout_s=5.0)
        cookie.unlink()
        with pytest.raises(SourceUnavailableError, match=r"^no-cookie-file: the node does not run"):
            await wire.post(b"{}", timeout_s=5.0)
        cookie.write_text("__cookie__:third")
        await wire.post(b"{}", timeout_s=5.0)
    assert [let_in_as(raw) for raw in receiver.requests] == [
        "__cookie__:first",
        "__cookie__:second",
        "__cookie__:third",
    ]


def make_directory(path: Path) -> None:
    """Put a folder where the cookie should be."""
    path.mkdir()


def make_junk(path: Path) -> None:
    """Put bytes there that are no text."""
    path.write_bytes(b"\xff\xfe:" + PASSWORD.encode())


def make_nothing(path: Path) -> None:
    """Put nothing there."""


def make_empty(path: Path) -> None:
    """Put a file there that is still to be written."""
    path.write_text("")


def make_word(path: Path) -> None:
    """Put a text there that has no password."""
    path.write_text("no colon")


@pytest.mark.parametrize(
    ("make", "state"),
    [
        (make_directory, "cookie-file-unreadable"),
        (make_junk, "cookie-file-unreadable"),
        (make_nothing, "no-cookie-file"),
        (make_empty, "cookie-file-malformed"),
        (make_word, "cookie-file-malformed"),
    ],
)
async def test_cookie_that_cannot_be_used_is_a_state(tmp_path: Path, make: Callable[[Path], None], state: str) -> None:
    """A cookie that is not there is a node that does not run, another thing than a bad one; nothing is sent to it."""
    make(tmp_path / ".cookie")
    async with open_receiver(answering(response(b"200 OK", b"{}", CLOSE))) as receiver:
        with pytest.raises(SourceUnavailableError, match=f"^{state}"):
            await post(receiver, Credentials(cookie_file=tmp_path / ".cookie"))
    assert receiver.requests == []


@given(st.text(max_size=20), st.text(max_size=20))
def test_user_and_password_are_what_they_are(user: str, password: str) -> None:
    """Without a cookie, user and password are used as they were given."""
    assert Credentials(user=user, password=password).read() == (user, password)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("__cookie__:a1b2", ("__cookie__", "a1b2")),
        (" __cookie__:a1b2\r\n", ("__cookie__", "a1b2")),
        ("user:with:colons", ("user", "with:colons")),
    ],
)
def test_cookie_is_split_at_its_first_colon(tmp_path: Path, text: str, found: tuple[str, str]) -> None:
    """A password may hold colons, and what stands around a line is not part of it."""
    (tmp_path / ".cookie").write_text(text)
    assert Credentials(cookie_file=tmp_path / ".cookie").read() == found


def test_password_is_not_shown() -> None:
    """Credentials that are printed by accident, as in a log line, do not tell the password."""
    assert PASSWORD not in repr(SECRET)
    assert PASSWORD not in str(SECRET)
