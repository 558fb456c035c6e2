"""One attempt against receivers of every kind: what comes back is a value, never an exception."""

import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from lightipn.delivery import sender as sender_module
from lightipn.delivery.guard import AddressRules, GuardedBackend
from lightipn.delivery.sender import MAX_ANSWER_BYTES, Sender, open_sender
from lightipn.outbox.verdict import Answer
from tests.delivery.certificates import self_signed
from tests.delivery.raw_receiver import (
    LOOPBACK_ALLOWED,
    Behaviour,
    answering,
    open_local_sender,
    open_receiver,
    read_request,
    request_to,
    response,
)

TIMEOUT_S = 0.15


async def attempt(behave: Behaviour, *, timeout_s: float = 5.0) -> tuple[Answer, list[bytes]]:
    """Send one request to a receiver with this behaviour; return the answer and what the receiver read."""
    async with open_receiver(behave) as receiver, open_local_sender(timeout_s=timeout_s) as sender:
        answer = await sender.send(request_to(receiver.url))
        return answer, receiver.requests


async def close_at_once(stream: trio.abc.Stream) -> None:
    """Close without a word."""
    await stream.aclose()


async def say_nothing(stream: trio.abc.Stream) -> None:
    """Never answer."""


# --- answers -----------------------------------------------------------------------------------------------------


async def test_answer_comes_back_as_it_was_sent() -> None:
    """Status and body come back; the latency is measured."""
    answer, _ = await attempt(answering(response(b"200 OK", b'{"ok": true}')))
    assert (answer.status, answer.body, answer.trouble) == (200, b'{"ok": true}', "")
    assert 0 < answer.latency_ms < 5000


@pytest.mark.parametrize("status", [201, 204, 304, 400, 404, 410, 429, 500, 503])
async def test_every_status_is_an_answer(status: int) -> None:
    """An error of the receiver is an answer like any other."""
    answer, _ = await attempt(answering(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status))
    assert (answer.status, answer.trouble) == (status, "")


async def test_request_is_sent_as_recorded() -> None:
    """Method, path with query, headers and body are on the wire as they stand in the attempt's row."""
    _, (raw,) = await attempt(answering(response(b"200 OK")))
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.lower().split(b"\r\n")
    assert lines[0] == b"post /ipn?order=7 http/1.1"
    assert body == b"confirmed=0.1"
    for line in (
        b"content-type: application/x-www-form-urlencoded",
        b"x-ipn-id: m-1",
        b"content-length: 13",
        b"user-agent: lightipn",
    ):
        assert line in lines


async def test_compressed_answers_are_not_asked_for() -> None:
    """The body is judged as it comes, so a receiver must not be invited to compress it."""
    _, (raw,) = await attempt(answering(response(b"200 OK")))
    offers = [line for line in raw.lower().split(b"\r\n") if line.startswith(b"accept-encoding:")]
    assert not any(b"gzip" in offer or b"deflate" in offer for offer in offers)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_not_followed(status: int) -> None:
    """A redirect is the answer; nothing is sent to the place it points to."""
    async with open_receiver(answering(response(b"200 OK", b"secret"))) as target:
        location = f"Location: {target.url}".encode()
        answer, _ = await attempt(answering(response(b"%d Moved" % status, b"", location)))
        assert (answer.status, answer.trouble) == (status, "")
        assert target.connections == 0


async def test_cookies_are_not_kept() -> None:
    """What one answer sets is not sent with the next request: each attempt is as it was recorded."""
    cookie = b"Set-Cookie: session=1; Path=/"
    async with open_receiver(answering(response(b"200 OK", b"", cookie, b"Connection: close"))) as receiver:
        async with open_local_sender() as sender:
            await sender.send(request_to(receiver.url))
            await sender.send(request_to(receiver.url))
        assert len(receiver.requests) == 2
        assert b"cookie:" not in receiver.requests[1].lower()


async def test_huge_body_is_cut() -> None:
    """At most 64 KiB of an answer are read, however long it goes on."""

    async def flood(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
        while True:
            await stream.send_all(b"x" * 65536)

    answer, _ = await attempt(flood)
    assert (answer.status, answer.trouble, len(answer.body)) == (200, "", MAX_ANSWER_BYTES)


async def test_body_of_exactly_the_limit_is_whole() -> None:
    """An answer of 64 KiB is read to its end."""
    body = bytes(range(256)) * 256
    answer, _ = await attempt(answering(response(b"200 OK", body)))
    assert (len(body), answer.body) == (MAX_ANSWER_BYTES, body)


async def test_body_in_chunks_is_put_together() -> None:
    """A chunked answer, and one that ends with the connection, are read like any other."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    answer, _ = await attempt(answering(chunked))
    assert answer.body == b"abcde"

    async def until_closed(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.0 200 OK\r\n\r\nabcde")
        await stream.aclose()

    answer, _ = await attempt(until_closed)
    assert answer.body == b"abcde"


@pytest.mark.parametrize("uses_tls", [False, True], ids=["plain", "TLS"])
async def test_connection_is_used_again_and_each_answer_has_its_own_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uses_tls: bool
) -> None:
    """Attempts that follow each other share a connection; large answers before do not shorten the next one."""
    answer = response(b"200 OK", b"x" * 60_000)
    context = None
    if uses_tls:
        context, file = self_signed(tmp_path, ["127.0.0.1"])
        monkeypatch.setenv("SSL_CERT_FILE", str(file))

    async def answer_all(stream: trio.abc.Stream) -> None:
        await stream.send_all(answer)
        while await read_request(stream):
            await stream.send_all(answer)

    async with open_receiver(answer_all, context=context) as receiver, open_local_sender() as sender:
        lengths = [len((await sender.send(request_to(receiver.url))).body) for _ in range(8)]
        assert lengths == [60_000] * 8
        assert receiver.connections == 1


async def test_acknowledgement_before_endless_rest_is_kept() -> None:
    """What came before the limit is judged, however much follows; the connection is given up."""

    async def flood(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nACK!\r\n")
        while True:
            await stream.send_all(b"1000\r\n" + b" " * 0x1000 + b"\r\n")

    async with open_receiver(flood) as receiver, open_local_sender() as sender:
        answer = await sender.send(request_to(receiver.url))
        assert (answer.status, answer.body[:4], len(answer.body)) == (200, b"ACK!", MAX_ANSWER_BYTES)
        with trio.fail_after(5):
            await receiver.closed_by_sender.wait()


# --- trouble -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "opening",
    [
        pytest.param(b"", id="silence"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX-Header: ", id="headers without end"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", id="body without end"),
        pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n", id="chunk without end"),
    ],
)
async def test_drip_ends_at_the_time_limit(opening: bytes) -> None:
    """The limit covers the whole attempt: a byte now and then does not extend it."""

    async def drip(stream: trio.abc.Stream) -> None:
        await stream.send_all(opening)
        while opening:
            await stream.send_all(b"x")
            await trio.sleep(0.01)

    async with open_receiver(drip) as receiver, open_local_sender(timeout_s=TIMEOUT_S) as sender:
        started = trio.current_time()
        answer = await sender.send(request_to(receiver.url))
        assert (answer.status, answer.trouble) == (None, "timeout")
        assert TIMEOUT_S <= trio.current_time() - started < TIMEOUT_S + 1
        with trio.fail_after(5):
            await receiver.closed_by_sender.wait()  # and the connection is given up, not kept


@pytest.mark.parametrize(
    ("behave", "trouble"),
    [
        pytest.param(close_at_once, "not-http", id="closed without an answer"),
        pytest.param(answering(b"SSH-2.0-OpenSSH_9.2\r\n\r\n"), "not-http", id="another protocol"),
        pytest.param(answering(b"\x00\xff\x00\xff\r\n\r\n"), "not-http", id="bytes"),
        pytest.param(answering(b"HTTP/1.1 2OO OK\r\n\r\n"), "not-http", id="bad status"),
        pytest.param(
            answering(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"), "not-http", id="lengths"
        ),
        pytest.param(answering(b"HTTP/1.1 200 OK\r\nA: " + b"x" * 300_000), "not-http", id="endless header"),
        pytest.param(
            answering(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"), "not-http", id="bad chunk"
        ),
    ],
)
async def test_answers_that_are_no_http_are_trouble(behave: Behaviour, trouble: str) -> None:
    """A receiver that does not speak HTTP fails the attempt with a code."""
    answer, _ = await attempt(behave)
    assert (answer.status, answer.body, answer.trouble) == (None, b"", trouble)


async def test_connection_closed_in_the_middle_is_trouble() -> None:
    """Half an answer is no answer."""

    async def half(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        await stream.aclose()

    answer, _ = await attempt(half)
    assert (answer.status, answer.body) == (None, b"")
    assert answer.trouble in ("not-http", "connection-lost")


async def test_connection_reset_is_trouble() -> None:
    """A receiver that resets the connection fails the attempt with a code."""

    async def reset(stream: trio.abc.Stream) -> None:
        assert isinstance(stream, trio.SocketStream)
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        await stream.aclose()

    answer, _ = await attempt(reset)
    assert (answer.status, answer.trouble) in ((None, "connection-lost"), (None, "not-http"))


async def test_refused_connection_is_trouble() -> None:
    """Nobody listens: the attempt fails with a code."""
    async with open_receiver(say_nothing) as receiver:
        url = receiver.url
    async with open_local_sender() as sender:
        answer = await sender.send(request_to(url))
    assert (answer.status, answer.trouble) == (None, "connection-failed")


async def test_address_that_is_not_public_is_trouble() -> None:
    """The guard's refusal is the answer, and nothing is connected to."""
    async with open_receiver(answering(response(b"200 OK"))) as receiver:
        async with open_sender(AddressRules(), timeout_s=5.0, max_in_flight=8) as sender:
            answer = await sender.send(request_to(receiver.url))
            by_name = await sender.send(request_to(receiver.url.replace("127.0.0.1", "localhost")))
        assert (answer.trouble, by_name.trouble) == ("refused-address", "refused-address")
        assert receiver.connections == 0


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http://shop example/",
        "http://[::1/",
        "ftp://127.0.0.1/",
        "http://" + "a" * 64 + ".example/",
        "http://a..b/",
        "http://%31%32%37.0.0.1/",
        "http://xn--/",
        "http://127.0.0.1:99999/",
        "nonsense",
        "http://\x00/",
    ],
)
async def test_url_that_cannot_be_called_is_trouble(url: str) -> None:
    """Whatever stands in the URL, the attempt ends with a code and no exception."""
    async with open_sender(AddressRules(), timeout_s=5.0, max_in_flight=8) as sender:
        answer = await sender.send(request_to(url))
    assert answer.status is None
    assert answer.trouble in ("bad-url", "name-not-found", "refused-address")


# --- names -------------------------------------------------------------------------------------------------------


class Names(GuardedBackend):
    """A guard with a name server of its own: ``shop.example`` is this machine, all else is unknown."""

    async def _resolve(self, host: str, port: int) -> list[str]:
        await trio.lowlevel.checkpoint()
        if host != "shop.example":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ["127.0.0.1"]


@pytest.fixture
async def naming_sender(monkeypatch: pytest.MonkeyPatch) -> Sender:  # type: ignore[misc]  # pytest-trio's fixtures yield
    """A sender whose names are made up."""
    monkeypatch.setattr(sender_module, "GuardedBackend", Names)
    async with open_sender(LOOPBACK_ALLOWED, timeout_s=5.0, max_in_flight=8) as sender:
        yield sender


async def test_name_that_is_unknown_is_trouble(naming_sender: Sender) -> None:
    """A name without an address fails the attempt with a code."""
    answer = await naming_sender.send(request_to("http://gone.example/"))
    assert (answer.status, answer.trouble) == (None, "name-not-found")


async def test_host_header_keeps_the_name(naming_sender: Sender) -> None:
    """The connection goes to the checked address, and the request still names the host."""
    async with open_receiver(answering(response(b"200 OK"))) as receiver:
        answer = await naming_sender.send(request_to(f"http://shop.example:{receiver.port}/"))
        assert answer.status == 200
        assert f"host: shop.example:{receiver.port}".encode() in receiver.requests[0].lower().split(b"\r\n")


# --- TLS ---------------------------------------------------------------------------------------------------------


async def test_certificate_that_nobody_signed_is_trouble(tmp_path: Path) -> None:
    """A self-signed certificate ends the attempt before the request is sent."""
    context, _ = self_signed(tmp_path, ["127.0.0.1"])
    async with open_receiver(answering(response(b"200 OK")), context=context) as receiver:
        async with open_local_sender() as sender:
            answer = await sender.send(request_to(receiver.url))
        assert (answer.status, answer.trouble) == (None, "tls-failed")
        assert receiver.requests == []


async def test_certificate_for_another_name_is_trouble(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naming_sender: Sender
) -> None:
    """A trusted certificate must be made out to the name in the URL; the checked address does not matter."""
    context, file = self_signed(tmp_path, ["other.example"])
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    async with open_sender(LOOPBACK_ALLOWED, timeout_s=5.0, max_in_flight=8) as sender:
        async with open_receiver(answering(response(b"200 OK")), context=context) as receiver:
            answer = await sender.send(request_to(f"https://shop.example:{receiver.port}/"))
            assert (answer.status, answer.trouble) == (None, "tls-failed")
            assert receiver.requests == []


async def test_certificate_for_the_name_is_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, naming_sender: Sender
) -> None:
    """A trusted certificate for the name in the URL is taken, although the connection goes to an address."""
    context, file = self_signed(tmp_path, ["shop.example"])
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    async with open_sender(LOOPBACK_ALLOWED, timeout_s=5.0, max_in_flight=8) as sender:
        async with open_receiver(answering(response(b"200 OK", b"tls")), context=context) as receiver:
            answer = await sender.send(request_to(f"https://shop.example:{receiver.port}/"))
            assert (answer.status, answer.body, answer.trouble) == (200, b"tls", "")


async def test_plain_http_behind_https_is_trouble() -> None:
    """A port that does not speak TLS ends the attempt with a code."""
    behave = answering(response(b"400 Bad Request"))
    async with open_receiver(behave, speaks_first=True) as receiver, open_local_sender() as sender:
        answer = await sender.send(request_to(f"https://127.0.0.1:{receiver.port}/"))
        assert (answer.status, answer.trouble) == (None, "tls-failed")


async def test_handshake_that_never_ends_is_given_up() -> None:
    """A receiver that accepts and then says nothing costs one time limit, and its connection is closed."""
    async with open_receiver(say_nothing) as receiver, open_local_sender(timeout_s=TIMEOUT_S) as sender:
        answer = await sender.send(request_to(f"https://127.0.0.1:{receiver.port}/"))
        assert (answer.status, answer.trouble) == (None, "timeout")
        with trio.fail_after(5):
            await receiver.closed_by_sender.wait()


# --- many attempts -----------------------------------------------------------------------------------------------


async def test_failed_attempts_leave_the_pool_free() -> None:
    """After many attempts that ended in the middle the next one gets its connection at once."""
    async with open_receiver(say_nothing) as silent, open_receiver(answering(response(b"200 OK"))) as good:
        async with open_local_sender(timeout_s=TIMEOUT_S) as sender:
            async with trio.open_nursery() as nursery:
                for _ in range(30):  # more than the pool holds
                    nursery.start_soon(sender.send, request_to(silent.url))
            answer = await sender.send(request_to(good.url))
        assert (answer.status, answer.trouble) == (200, "")


async def test_attempts_that_end_while_they_wait_leave_the_pool_free() -> None:
    """An attempt that ends just when it is given its turn holds nothing: the next one gets its connection at once.

    The waiting attempts end before, with, and after those whose places they get.
    """

    async def send_eight(scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as attempts:
                for _ in range(8):  # as many as the pool holds
                    attempts.start_soon(sender.send, request_to(silent.url))

    async with open_receiver(say_nothing) as silent, open_receiver(answering(response(b"200 OK"))) as good:
        async with open_local_sender() as sender, trio.open_nursery() as nursery:
            for steps in range(8):
                placed, waiting = trio.CancelScope(), trio.CancelScope()
                silent.requests.clear()
                nursery.start_soon(send_eight, placed)
                with trio.fail_after(5):
                    while len(silent.requests) < 8:
                        await trio.testing.wait_all_tasks_blocked(0.001)
                nursery.start_soon(send_eight, waiting)
                await trio.testing.wait_all_tasks_blocked()
                placed.cancel()
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                waiting.cancel()
                with trio.fail_after(5):
                    while nursery.child_tasks:
                        await trio.testing.wait_all_tasks_blocked(0.001)
            answer = await sender.send(request_to(good.url))
        assert (answer.status, answer.trouble) == (200, "")


async def test_cancelled_attempt_is_cancelled() -> None:
    """Whoever cancels an attempt gets no answer for it, and the connection is closed."""
    async with open_receiver(say_nothing) as receiver, open_local_sender() as sender:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.send, request_to(receiver.url))
            with trio.fail_after(5):
                while not receiver.requests:
                    await trio.testing.wait_all_tasks_blocked(0.005)
            nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            await receiver.closed_by_sender.wait()
