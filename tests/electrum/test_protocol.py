"""Framing and pairing: bytes in, messages out, and nothing but ``ProtocolError`` for what is neither."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lightipn.electrum.protocol import (
    ANSWER_BYTES,
    KEPT_LINE_BYTES,
    MAX_LINE_BYTES,
    OTHER_ANSWER_BYTES,
    STANDING_LINE_BYTES,
    Answer,
    Call,
    ElectrumProtocol,
    Incoming,
    Notification,
    Refusal,
)
from lightipn.errors import ProtocolError

PING = Call("server.ping")
TIP = Call("blockchain.headers.subscribe")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
# Objects that look like messages: every field may be there or not, with a sensible value or any at all.
MESSAGES = st.fixed_dictionaries(
    {},
    optional={
        "jsonrpc": st.just("2.0") | JSON,
        "id": st.integers(0, 4) | st.none() | JSON,
        "result": JSON,
        "error": st.fixed_dictionaries({"code": st.integers() | JSON, "message": JSON}) | JSON,
        "method": st.text(max_size=8) | JSON,
        "params": st.lists(JSON, max_size=3) | JSON,
    },
)


def line_of(message: object) -> bytes:
    """Write a message as a server does."""
    return json.dumps(message).encode() + b"\n"


def answer_of(request_id: object, result: object = None) -> dict[str, object]:
    """Return the answer to a request."""
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def error_of(request_id: object, code: object = 1) -> dict[str, object]:
    """Return the error that answers a request."""
    return {"jsonrpc": "2.0", "id": request_id, "error": {"code": code, "message": "visit http://phishing.example"}}


def asked(*calls: Call) -> ElectrumProtocol:
    """Return a link on which these calls are open, with ids from 1 on."""
    protocol = ElectrumProtocol()
    ids, _ = protocol.request(calls)
    assert ids == list(range(1, len(calls) + 1))
    return protocol


# --- what is sent ------------------------------------------------------------------------------------------------


def test_one_call_is_one_object() -> None:
    """A single call leaves as one JSON object on one line."""
    ids, data = ElectrumProtocol().request([Call("blockchain.block.headers", (5, 2))])
    assert ids == [1]
    assert data.count(b"\n") == 1
    assert data.endswith(b"\n")
    assert json.loads(data) == {"jsonrpc": "2.0", "method": "blockchain.block.headers", "params": [5, 2], "id": 1}


def test_several_calls_are_one_batch() -> None:
    """Several calls leave as one batch on one line, in order, and no id is ever used twice."""
    protocol = ElectrumProtocol()
    protocol.request([PING])
    ids, data = protocol.request([TIP, PING])
    assert ids == [2, 3]
    assert data.count(b"\n") == 1
    assert [(item["id"], item["method"]) for item in json.loads(data)] == [(2, TIP.method), (3, PING.method)]
    assert protocol.request([PING])[0] == [4]


# --- framing -----------------------------------------------------------------------------------------------------

STREAM = (
    line_of(answer_of(2, "b"))
    + line_of({"jsonrpc": "2.0", "method": "blockchain.scripthash.subscribe", "params": ["é", None]})
    + line_of([error_of(3, -101), answer_of(1, ["a"])])
)
STREAM_MESSAGES: list[Incoming] = [
    Answer(2, "b"),
    Notification("blockchain.scripthash.subscribe", ["é", None]),
    Refusal(3, -101),
    Answer(1, ["a"]),
]


def test_every_split_gives_the_same_messages() -> None:
    """Wherever the network cuts the bytes, the same messages come out, and none before its line has ended."""
    for split in range(len(STREAM) + 1):
        protocol = asked(PING, PING, PING)
        first = protocol.receive(STREAM[:split])
        assert len(first) == (0, 1, 2, 4)[STREAM[:split].count(b"\n")]
        assert first + protocol.receive(STREAM[split:]) == STREAM_MESSAGES


def test_byte_by_byte_gives_the_same_messages() -> None:
    """A link that delivers single bytes gives the same messages."""
    protocol = asked(PING, PING, PING)
    assert [message for byte in STREAM for message in protocol.receive(bytes([byte]))] == STREAM_MESSAGES


@pytest.mark.parametrize("padding", [b"\r", b"   ", b"\t \r"], ids=["Fulcrum's return", "ElectrumX' blanks", "both"])
def test_padding_means_nothing(padding: bytes) -> None:
    """Blanks around a message mean nothing: Fulcrum ends lines with a return, ElectrumX pads them."""
    line = padding.replace(b"\r", b" ") + json.dumps(answer_of(1, 7)).encode() + padding + b"\n"
    assert asked(PING).receive(line) == [Answer(1, 7)]


def test_oversized_line_ends_the_link() -> None:
    """A line that grows over the limit is refused before it has an end, so memory stays bounded."""
    protocol = ElectrumProtocol(max_line_bytes=100)
    protocol.receive(b"x" * 100)
    with pytest.raises(ProtocolError, match="more than 100 bytes"):
        protocol.receive(b"x")


def test_many_short_lines_are_no_oversized_one() -> None:
    """The limit holds for each line: many of them at once may be longer together."""
    protocol = ElectrumProtocol(max_line_bytes=200)
    protocol.request([PING] * 50)
    data = b"".join(line_of(answer_of(number)) for number in range(1, 51))
    assert len(data) > 1000
    assert len(protocol.receive(data)) == 50


def test_line_is_as_long_as_the_questions_allow() -> None:
    """Without a question under way a line is short; each question adds what its answer may need, and no more."""
    protocol = ElectrumProtocol()
    protocol.receive(b"x" * STANDING_LINE_BYTES)
    with pytest.raises(ProtocolError, match=f"more than {STANDING_LINE_BYTES} bytes"):
        protocol.receive(b"x")
    protocol = asked(Call("blockchain.transaction.get", ("00",)), PING)
    allowed = STANDING_LINE_BYTES + ANSWER_BYTES["blockchain.transaction.get"] + OTHER_ANSWER_BYTES
    protocol.receive(b"x" * allowed)
    with pytest.raises(ProtocolError, match=f"more than {allowed} bytes"):
        protocol.receive(b"x")


@pytest.mark.parametrize("is_abandoned", [False, True], ids=["waited for", "abandoned"])
def test_room_for_an_answer_is_given_back(is_abandoned: bool) -> None:
    """Once a question is answered, or its late answer came, a line may be as long as before it."""
    protocol = asked(Call("blockchain.transaction.get", ("00",)))
    if is_abandoned:
        protocol.abandon([1])
    protocol.receive(line_of(answer_of(1)))
    protocol.receive(b"x" * STANDING_LINE_BYTES)
    with pytest.raises(ProtocolError, match=f"more than {STANDING_LINE_BYTES} bytes"):
        protocol.receive(b"x")


def test_many_questions_do_not_allow_endless_lines() -> None:
    """However much is asked, a line has an absolute limit."""
    protocol = asked(*[Call("blockchain.transaction.get", ("00",))] * 100)
    protocol.receive(b"x" * MAX_LINE_BYTES)
    with pytest.raises(ProtocolError, match=f"more than {MAX_LINE_BYTES} bytes"):
        protocol.receive(b"x")


@pytest.mark.parametrize("shell", [b"[]", b"{}", b"[[]]"], ids=["lists", "objects", "lists in lists"])
def test_line_of_empty_shells_ends_the_link(shell: bytes) -> None:
    """A line that would take many times its length in memory is refused before it is read."""
    line = b'{"jsonrpc":"2.0","id":1,"result":[' + b",".join([shell] * 10_000) + b"]}\n"
    with pytest.raises(ProtocolError, match="lists and objects"):
        asked(PING).receive(line)


def test_honest_answers_are_no_empty_shells() -> None:
    """A batch of the shortest answers that a server gives, and a long history, are read as ever."""
    protocol = asked(*[PING] * 101)
    assert len(protocol.receive(line_of([answer_of(number) for number in range(1, 101)]))) == 100
    entries = [{"tx_hash": f"{number:064x}", "height": 0} for number in range(1000)]
    assert protocol.receive(line_of(answer_of(101, entries))) == [Answer(101, entries)]


def test_bytes_of_notices_are_counted() -> None:
    """Every line that holds a notice counts in full, padding and all; answers count for nothing."""
    protocol = asked(PING, PING)
    notice: dict[str, object] = {"jsonrpc": "2.0", "method": "server.hello", "params": []}
    protocol.receive(line_of(answer_of(1)))
    assert protocol.notified_bytes == 0
    lines = [line_of(notice), b" " * 1000 + line_of(notice), line_of([answer_of(2), notice])]
    protocol.receive(b"".join(lines))
    assert protocol.notified_bytes == sum(len(line) - 1 for line in lines)


# --- pairing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations([1, 2, 3])), ids=str)
def test_batches_are_answered_in_any_order(order: tuple[int, ...]) -> None:
    """The answers to a batch may come in any order, together or one by one, and keep their ids."""
    wanted = [Answer(number, f"result {number}") for number in order]
    items = [answer_of(number, f"result {number}") for number in order]
    assert asked(PING, PING, PING).receive(line_of(items)) == wanted
    assert asked(PING, PING, PING).receive(b"".join(map(line_of, items))) == wanted


def test_error_with_null_id_names_no_request() -> None:
    """An error with a null id is a refusal of whatever is under way, and closes no request."""
    protocol = asked(PING)
    assert protocol.receive(line_of({"error": {"code": 4, "message": "Batch limit exceeded"}, "id": None})) == [
        Refusal(None, 4)
    ]
    assert protocol.receive(line_of(answer_of(1))) == [Answer(1, None)]


def test_server_words_are_dropped() -> None:
    """Of an error only its code is kept: its text could be a phishing message."""
    (refusal,) = asked(PING).receive(line_of(error_of(1, 2)))
    assert refusal == Refusal(1, 2)
    assert "phishing" not in repr(refusal)


@pytest.mark.parametrize("code", [True, 1.5, "1", None, [], {}], ids=repr)
def test_code_that_is_no_integer_is_dropped_or_refused(code: object) -> None:
    """An error whose code is no integer gives code 0, or ends the link; it never reaches a caller as it is."""
    try:
        (refusal,) = asked(PING).receive(line_of(error_of(1, code)))
    except ProtocolError:
        return
    assert isinstance(refusal, Refusal)
    assert type(refusal.code) is int


UNASKED = [
    pytest.param(answer_of(2), id="id never given out"),
    pytest.param(answer_of(0), id="id 0"),
    pytest.param(answer_of(-1), id="negative id"),
    pytest.param(error_of(2), id="error for an id never given out"),
    pytest.param([answer_of(1), answer_of(1)], id="answered twice in a batch"),
    pytest.param(answer_of(True), id="true for 1"),
    pytest.param(answer_of(1.0), id="1.0 for 1"),
    pytest.param(answer_of("1"), id="text for 1"),
    pytest.param(answer_of(None), id="answer with a null id"),
    pytest.param(answer_of([1]), id="list for 1"),
    pytest.param({"jsonrpc": "2.0", "result": 1}, id="no id"),
]


@pytest.mark.parametrize("message", UNASKED)
def test_answer_to_nothing_ends_the_link(message: object) -> None:
    """An answer that nobody asked for, or whose id is not exactly the integer given out, breaks the protocol."""
    with pytest.raises(ProtocolError):
        asked(PING).receive(line_of(message))


def test_answer_comes_once() -> None:
    """A second answer to the same request breaks the protocol."""
    protocol = asked(PING)
    protocol.receive(line_of(answer_of(1)))
    with pytest.raises(ProtocolError, match="nothing that was asked"):
        protocol.receive(line_of(answer_of(1)))


def test_abandoned_request_may_be_answered_late() -> None:
    """A late answer, or error, to an abandoned request is dropped without complaint, but only once."""
    protocol = asked(PING, PING, PING)
    protocol.abandon([1, 2])
    assert protocol.receive(line_of([answer_of(1), error_of(2), answer_of(3)])) == [Answer(3, None)]
    with pytest.raises(ProtocolError, match="nothing that was asked"):
        protocol.receive(line_of(answer_of(1)))


# --- nonsense ----------------------------------------------------------------------------------------------------

NONSENSE = [
    pytest.param(b"", id="empty line"),
    pytest.param(b"HTTP/1.1 400 Bad Request\r", id="HTTP"),
    pytest.param(b'\x16\x03\x01 "no JSON', id="TLS"),
    pytest.param(b'{"jsonrpc":"2.0","id":1,"result":"\xff\xfe"}', id="not UTF-8"),
    pytest.param(b'{"jsonrpc":"2.0","id":1,"result":NaN}', id="NaN"),
    pytest.param(b'{"jsonrpc":"2.0","id":1,"result":null', id="cut short"),
    pytest.param(b"[" * 100_000, id="100,000 open lists"),
    pytest.param(b"[" * 100_000 + b"]" * 100_000, id="100,000 nested lists"),
    pytest.param(b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 5000 + b"]" * 5000 + b"}", id="deep result"),
    pytest.param(b'{"jsonrpc":"2.0","id":1,"result":' + b"9" * 5000 + b"}", id="integer of 5,000 digits"),
    pytest.param(b'{"jsonrpc":"2.0","id":' + b"9" * 5000 + b',"result":1}', id="id of 5,000 digits"),
    pytest.param(b"1", id="number"),
    pytest.param(b'"text"', id="text"),
    pytest.param(b"null", id="null"),
    pytest.param(b"[1]", id="batch of numbers"),
    pytest.param(b"[[]]", id="batch in a batch"),
    pytest.param(b"{}", id="empty object"),
    pytest.param(b'{"jsonrpc":"2.0","id":1}', id="neither result nor error"),
    pytest.param(b'{"jsonrpc":"2.0","id":1,"result":1,"error":{"code":1,"message":""}}', id="result and error"),
    pytest.param(b'{"jsonrpc":"2.0","id":1,"error":7}', id="error that is a number"),
    pytest.param(b'{"jsonrpc":"2.0","method":5,"params":[]}', id="method that is a number"),
    pytest.param(b'{"jsonrpc":"2.0","method":"a","params":{"height":1}}', id="named parameters"),
    pytest.param(b'{"jsonrpc":"2.0","method":"a","params":null}', id="null parameters"),
]


@pytest.mark.parametrize("line", NONSENSE)
def test_nonsense_ends_the_link(line: bytes) -> None:
    """Whatever is no JSON-RPC message, however it is malformed, is a ``ProtocolError`` and nothing else."""
    with pytest.raises(ProtocolError):
        asked(PING).receive(line + b"\n")


DEEP = [pytest.param(b"[" * 100_000, id="100,000 open lists"), pytest.param(b"[]," * 100_000, id="100,000 empty lists")]


@pytest.mark.parametrize("line", [case for case in NONSENSE if case.values[0].count(b"[") < 100])
def test_what_broke_the_protocol_is_kept(line: bytes) -> None:
    """The error carries the line as it was sent, or the beginning of a long one."""
    with pytest.raises(ProtocolError) as caught:
        asked(PING).receive(line + b"\n")
    assert caught.value.raw == line[:KEPT_LINE_BYTES]


@pytest.mark.parametrize("line", DEEP)
def test_beginning_of_a_line_of_empty_shells_is_kept(line: bytes) -> None:
    """A line that is refused before it is read leaves its beginning as evidence, too."""
    with pytest.raises(ProtocolError) as caught:
        asked(PING).receive(line + b"\n")
    assert caught.value.raw == line[:KEPT_LINE_BYTES]


def test_notification_without_parameters_is_one() -> None:
    """A notification without parameters has none; what it means is for others to judge."""
    assert ElectrumProtocol().receive(b'{"jsonrpc":"2.0","method":"server.hello"}\n') == [
        Notification("server.hello", [])
    ]


@given(st.lists(st.binary(max_size=200), max_size=5))
def test_random_bytes_raise_only_protocol_errors(chunks: list[bytes]) -> None:
    """No bytes make the link fail otherwise than by ``ProtocolError``."""
    protocol = asked(PING, PING)
    try:
        for chunk in chunks:
            protocol.receive(chunk + b"\n")
    except ProtocolError:
        return


@pytest.mark.slow
@given(st.lists(MESSAGES | JSON | st.lists(MESSAGES, max_size=4), max_size=4))
def test_random_messages_are_paired_or_refused(messages: list[object]) -> None:
    """Whatever a server says in JSON, each open request is answered at most once, or the link ends."""
    protocol = asked(PING, PING, PING)
    said: list[Incoming] = []
    try:
        for message in messages:
            said.extend(protocol.receive(line_of(message)))
    except ProtocolError:
        pass
    answered = [one.request_id for one in said if not isinstance(one, Notification)]
    paired = [request_id for request_id in answered if request_id is not None]
    assert set(paired) <= {1, 2, 3}
    assert len(paired) == len(set(paired))
