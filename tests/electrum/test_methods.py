"""Answers get their types here: every form that servers use is read, and every other is a ``ProtocolError``."""

from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.bitcoin.network import MAINNET, REGTEST
from lightipn.chain.history import HistoryEntry, Status
from lightipn.chain.source import FeeHistogram, MerkleBranch
from lightipn.electrum import methods
from lightipn.electrum.methods import ServerVersion
from lightipn.electrum.protocol import Call
from lightipn.errors import ProtocolError

HASH = bytes(range(32))
HEX = bytes(reversed(HASH)).hex()  # as Bitcoin's texts print it
OTHER_HEX = "ab" * 32
HEADER = REGTEST.genesis_header
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from([HEX, HEADER.hex(), HEADER.hex() * 2, "zz", "0", 0, -1, 1 << 31, 1 << 64]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["hex", "headers", "height", "tx_hash", "merkle", "pos", "genesis_hash", "count", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=10,
)


def header_count(result: object) -> list[bytes]:
    """Decode at most three headers."""
    return methods.decode_headers(result, most=3)


def status_notification(result: object) -> object:
    """Decode a notification's parameters, which the protocol has checked to be a list."""
    return methods.decode_status_notification(result if isinstance(result, list) else [result])


DECODERS: list[Callable[[object], object]] = [
    methods.decode_version,
    methods.decode_genesis_hash,
    methods.decode_tip,
    header_count,
    methods.decode_status,
    status_notification,
    methods.decode_history,
    methods.decode_transaction,
    methods.decode_merkle_branch,
    methods.decode_histogram,
    methods.decode_fee_rate,
]

GOOD = [
    pytest.param(
        methods.decode_version,
        ["Fulcrum 2.1.1", "1.6"],
        ServerVersion("Fulcrum 2.1.1", "1.6"),
        id="version of Fulcrum",
    ),
    pytest.param(
        methods.decode_version,
        ["electrs/0.11.1", "1.4"],
        ServerVersion("electrs/0.11.1", "1.4"),
        id="version of electrs",
    ),
    pytest.param(
        methods.decode_genesis_hash,
        {"genesis_hash": "0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206", "hosts": {}},
        REGTEST.genesis_hash,
        id="genesis of regtest",
    ),
    pytest.param(methods.decode_tip, {"hex": HEADER.hex(), "height": 0}, (0, HEADER), id="tip"),
    pytest.param(
        methods.decode_tip, {"hex": HEADER.hex(), "height": 7, "more": 1}, (7, HEADER), id="tip with more fields"
    ),
    pytest.param(header_count, {"count": 2, "hex": HEADER.hex() * 2, "max": 2016}, [HEADER] * 2, id="headers of 1.4"),
    pytest.param(
        header_count, {"count": 2, "headers": [HEADER.hex()] * 2, "max": 2016}, [HEADER] * 2, id="headers of 1.6"
    ),
    pytest.param(header_count, {"count": 0, "hex": "", "max": 2016}, [], id="no headers in 1.4"),
    pytest.param(header_count, {"count": 0, "headers": [], "max": 2016}, [], id="no headers in 1.6"),
    pytest.param(methods.decode_status, HEX, Status(bytes.fromhex(HEX)), id="status in plain order"),
    pytest.param(methods.decode_status, None, None, id="null status"),
    pytest.param(
        methods.decode_status_notification,
        [HEX, OTHER_HEX],
        (ScriptHash(HASH), Status(bytes.fromhex(OTHER_HEX))),
        id="status notice",
    ),
    pytest.param(methods.decode_status_notification, [HEX, None], (ScriptHash(HASH), None), id="notice of null"),
    pytest.param(methods.decode_history, [], (), id="empty history"),
    pytest.param(
        methods.decode_history,
        [
            {"tx_hash": HEX, "height": 700},
            {"tx_hash": OTHER_HEX, "height": 0, "fee": 200},
            {"tx_hash": HEX, "height": -1, "fee": 200},
        ],
        (
            HistoryEntry(Txid(HASH), 700),
            HistoryEntry(Txid(bytes.fromhex(OTHER_HEX)), None),
            HistoryEntry(Txid(HASH), None, has_unconfirmed_parent=True),
        ),
        id="history with all three kinds of height",
    ),
    pytest.param(methods.decode_transaction, "0200", b"\x02\x00", id="raw transaction"),
    pytest.param(
        methods.decode_merkle_branch,
        {"block_height": 5, "merkle": [HEX, OTHER_HEX], "pos": 3},
        MerkleBranch(3, (HASH, bytes.fromhex(OTHER_HEX))),
        id="branch",
    ),
    pytest.param(methods.decode_merkle_branch, {"merkle": [], "pos": 0}, MerkleBranch(0, ()), id="block of one"),
    pytest.param(methods.decode_histogram, [], FeeHistogram(()), id="histogram of an empty mempool"),
    pytest.param(
        methods.decode_histogram,
        [[12, 128812], [4.5, 0], [0, 78]],
        FeeHistogram(((12.0, 128812), (4.5, 0), (0.0, 78))),
        id="histogram of whole and broken rates",
    ),
    pytest.param(
        methods.decode_histogram,
        [[5e7, (1 << 40) - 1]] * 10_000,
        FeeHistogram(((5e7, (1 << 40) - 1),) * 10_000),
        id="largest histogram",
    ),
    pytest.param(methods.decode_fee_rate, 0.0002, 20.0, id="estimate in BTC per 1,000 virtual bytes"),
    pytest.param(methods.decode_fee_rate, 1, 100_000.0, id="estimate as a whole number"),
    pytest.param(methods.decode_fee_rate, 500, 5e7, id="highest estimate"),
    pytest.param(methods.decode_fee_rate, -1, None, id="no estimate"),
    pytest.param(methods.decode_fee_rate, -1.0, None, id="no estimate as a float"),
]

BAD = [
    pytest.param(methods.decode_version, "Fulcrum", id="version as a text"),
    pytest.param(methods.decode_version, ["Fulcrum"], id="version without protocol"),
    pytest.param(methods.decode_version, ["Fulcrum", 1.4], id="protocol as a number"),
    pytest.param(methods.decode_genesis_hash, [], id="features as a list"),
    pytest.param(methods.decode_genesis_hash, {}, id="features without genesis"),
    pytest.param(methods.decode_genesis_hash, {"genesis_hash": HEX[:-2]}, id="genesis of 31 bytes"),
    pytest.param(methods.decode_tip, None, id="null tip"),
    pytest.param(methods.decode_tip, {"hex": HEADER.hex()[:-2], "height": 1}, id="tip of 79 bytes"),
    pytest.param(methods.decode_tip, {"hex": HEADER.hex(), "height": -1}, id="negative tip"),
    pytest.param(methods.decode_tip, {"hex": HEADER.hex(), "height": True}, id="true for a height"),
    pytest.param(methods.decode_tip, {"hex": HEADER.hex(), "height": 1.0}, id="float for a height"),
    pytest.param(methods.decode_tip, {"hex": HEADER.hex(), "height": 1 << 31}, id="height of 32 bits"),
    pytest.param(methods.decode_tip, {"hex": HEADER.hex(), "height": "1"}, id="text for a height"),
    pytest.param(header_count, {"headers": [HEADER.hex()] * 4}, id="more headers than asked for, 1.6"),
    pytest.param(header_count, {"hex": HEADER.hex() * 4}, id="more headers than asked for, 1.4"),
    pytest.param(header_count, {"hex": HEADER.hex()[:-2]}, id="headers cut short, 1.4"),
    pytest.param(header_count, {"headers": [HEADER.hex()[:-2]]}, id="headers cut short, 1.6"),
    pytest.param(header_count, {"headers": [5]}, id="headers as numbers"),
    pytest.param(header_count, {"count": 0}, id="no headers field"),
    pytest.param(methods.decode_status, "", id="empty status"),
    pytest.param(methods.decode_status, HEX + "00", id="status of 33 bytes"),
    pytest.param(methods.decode_status, 0, id="status 0"),
    pytest.param(methods.decode_status, "zz" * 32, id="status not hex"),
    pytest.param(methods.decode_status, "é" * 64, id="status not ASCII"),
    pytest.param(status_notification, [HEX], id="notice without status"),
    pytest.param(status_notification, [HEX, None, None], id="notice of three"),
    pytest.param(status_notification, [None, HEX], id="notice of nobody"),
    pytest.param(status_notification, [HEX[:-1], None], id="notice of half a scripthash"),
    pytest.param(methods.decode_history, None, id="null history"),
    pytest.param(methods.decode_history, {}, id="history as an object"),
    pytest.param(methods.decode_history, [[]], id="entries as lists"),
    pytest.param(methods.decode_history, [{"height": 1}], id="entry without txid"),
    pytest.param(methods.decode_history, [{"tx_hash": HEX}], id="entry without height"),
    pytest.param(methods.decode_history, [{"tx_hash": HEX, "height": -2}], id="height -2"),
    pytest.param(methods.decode_history, [{"tx_hash": HEX, "height": False}], id="false for a height"),
    pytest.param(methods.decode_history, [{"tx_hash": HEX, "height": 1 << 31}], id="entry above all heights"),
    pytest.param(methods.decode_history, [{"tx_hash": 5, "height": 1}], id="txid as a number"),
    pytest.param(methods.decode_transaction, {"hex": "00"}, id="verbose transaction"),
    pytest.param(methods.decode_transaction, "0", id="half a byte"),
    pytest.param(methods.decode_merkle_branch, [], id="branch as a list"),
    pytest.param(methods.decode_merkle_branch, {"merkle": [HEX]}, id="branch without position"),
    pytest.param(methods.decode_merkle_branch, {"merkle": [HEX], "pos": -1}, id="negative position"),
    pytest.param(methods.decode_merkle_branch, {"merkle": [HEX[:-2]], "pos": 0}, id="sibling of 31 bytes"),
    pytest.param(methods.decode_merkle_branch, {"merkle": [None], "pos": 0}, id="null sibling"),
    pytest.param(methods.decode_merkle_branch, {"merkle": [HEX] * 65, "pos": 0}, id="branch of 65 levels"),
    pytest.param(methods.decode_histogram, None, id="null histogram"),
    pytest.param(methods.decode_histogram, {"1": 2}, id="histogram as an object"),
    pytest.param(methods.decode_histogram, [1, 2], id="steps as numbers"),
    pytest.param(methods.decode_histogram, [[]], id="empty step"),
    pytest.param(methods.decode_histogram, [[1]], id="step without a size"),
    pytest.param(methods.decode_histogram, [[1, 2, 3]], id="step of three"),
    pytest.param(methods.decode_histogram, [["1", 2]], id="rate as a text"),
    pytest.param(methods.decode_histogram, [[None, 2]], id="null rate"),
    pytest.param(methods.decode_histogram, [[1, 2.0]], id="float for a size"),
    pytest.param(methods.decode_histogram, [[-1, 2]], id="negative rate"),
    pytest.param(methods.decode_histogram, [[1, -1]], id="negative size"),
    pytest.param(methods.decode_histogram, [[True, 2]], id="true for a rate"),
    pytest.param(methods.decode_histogram, [[1, True]], id="true for a size"),
    pytest.param(methods.decode_histogram, [[5e7 + 1, 2]], id="rate that nobody ever paid"),
    pytest.param(methods.decode_histogram, [[10**309, 2]], id="rate above all floats"),
    pytest.param(methods.decode_histogram, [[1, 1 << 40]], id="mempool of a tebibyte"),
    pytest.param(methods.decode_histogram, [[1, 10**309]], id="size above all floats"),
    pytest.param(methods.decode_histogram, [[1, 2]] * 10_001, id="too many steps"),
    pytest.param(methods.decode_fee_rate, None, id="null estimate"),
    pytest.param(methods.decode_fee_rate, "0.0001", id="estimate as a text"),
    pytest.param(methods.decode_fee_rate, [0.0001], id="estimate in a list"),
    pytest.param(methods.decode_fee_rate, True, id="true for an estimate"),
    pytest.param(methods.decode_fee_rate, False, id="false for an estimate"),
    pytest.param(methods.decode_fee_rate, 0, id="estimate of nothing"),
    pytest.param(methods.decode_fee_rate, 500.1, id="estimate that nobody ever paid"),
    pytest.param(methods.decode_fee_rate, 1e308, id="estimate that is infinite in satoshis"),
    pytest.param(methods.decode_fee_rate, 10**309, id="estimate above all floats"),
]


@pytest.mark.parametrize(("decode", "result", "wanted"), GOOD)
def test_known_forms_are_read(decode: Callable[[object], object], result: object, wanted: object) -> None:
    """Every form that a server of protocol 1.4 to 1.6 uses is read into its typed value."""
    assert decode(result) == wanted


@pytest.mark.parametrize(("decode", "result"), BAD)
def test_wrong_shapes_are_refused(decode: Callable[[object], object], result: object) -> None:
    """An answer of another shape is a ``ProtocolError``."""
    with pytest.raises(ProtocolError, match="wrong shape"):
        decode(result)


@pytest.mark.parametrize("decode", DECODERS, ids=lambda decode: decode.__name__)
@settings(max_examples=60)
@given(result=JSON)
@example(result=[{"tx_hash": HEX, "height": float("nan")}])
@example(result={"merkle": [HEX], "pos": 1 << 70})
@example(result=10**309)
@example(result=-(10**309))
@example(result=[[10**309, 10**309]])
@example(result=[[float("nan"), 1]])
def test_random_answers_raise_only_protocol_errors(decode: Callable[[object], object], result: object) -> None:
    """No JSON value makes a decoder fail otherwise than by ``ProtocolError``."""
    try:
        decode(result)
    except ProtocolError:
        return


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("Fulcrum 2.1.1", "Fulcrum 2.1.1"),
        ("ElectrumX 1.20.0", "ElectrumX 1.20.0"),
        ("electrs/0.11.1", "electrs/0.11.1"),
        ("electrs-esplora 0.4.1", "electrs-esplora 0.4.1"),
        ("Fulcrum 2.1.1\x1b[31m update at http://evil.example", "Fulcrum 2.1.1"),
        ("\x1b[31mFulcrum", ""),
        ("http://evil.example", "http"),
        ("x" * 100, "x" * 24),
    ],
)
def test_of_what_a_server_says_of_itself_name_and_number_are_kept(said: str, kept: str) -> None:
    """A server's name is shown on terminals, so no sentence, link or escape sequence of its making gets through."""
    assert methods.decode_version([said, "1.4.2"]) == methods.ServerVersion(kept, "1.4.2")


@pytest.mark.parametrize("protocol", ["1.6\x00", "9" * 50, "", "one", "1"])
def test_protocol_that_is_no_version_is_refused(protocol: str) -> None:
    """A protocol is a version number, and nothing else."""
    with pytest.raises(ProtocolError):
        methods.decode_version(["Fulcrum 2.1.1", protocol])


@pytest.mark.parametrize(
    ("protocol", "is_spoken"),
    [("1.2", False), ("1.3", False), ("1.4", True), ("1.4.2", True), ("1.6", True), ("1.7", False)],
)
def test_only_protocols_that_we_know_are_spoken(protocol: str, is_spoken: bool) -> None:
    """A server may not take us back to an older protocol, nor to one we never asked for."""
    assert methods.ServerVersion("Fulcrum 2.1.1", protocol).is_spoken is is_spoken


@pytest.mark.parametrize(
    ("software", "delays"),
    [("ElectrumX 1.20.0", True), ("ElectrumX", True), ("Fulcrum 2.1.1", False), ("electrs/0.11.1", False)],
)
def test_only_electrumx_delays_short_answers(software: str, delays: bool) -> None:
    """Only an ElectrumX is known to hold short answers back."""
    assert ServerVersion(software, "1.6").delays_short_answers is delays


def test_genesis_of_another_network_is_read_as_it_is() -> None:
    """A decoder judges shapes alone: another network's genesis is read, and refused elsewhere."""
    answer = {"genesis_hash": "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"}
    assert methods.decode_genesis_hash(answer) == MAINNET.genesis_hash


def test_calls_use_the_wires_names_and_byte_order() -> None:
    """Calls carry Electrum's method names, and hashes in the order that Bitcoin's texts use."""
    assert methods.version_call() == Call("server.version", ("lightipn", ["1.4", "1.6"]))
    assert methods.subscribe_call(ScriptHash(HASH)) == Call("blockchain.scripthash.subscribe", (HEX,))
    assert methods.unsubscribe_call(ScriptHash(HASH)) == Call("blockchain.scripthash.unsubscribe", (HEX,))
    assert methods.history_call(ScriptHash(HASH)) == Call("blockchain.scripthash.get_history", (HEX,))
    assert methods.transaction_call(Txid(HASH)) == Call("blockchain.transaction.get", (HEX,))
    assert methods.merkle_call(Txid(HASH), 5) == Call("blockchain.transaction.get_merkle", (HEX, 5))
    assert methods.headers_call(5, 6) == Call("blockchain.block.headers", (5, 6))
    assert methods.histogram_call() == Call("mempool.get_fee_histogram", ())
    assert methods.fee_call(6) == Call("blockchain.estimatefee", (6,))
    assert methods.broadcast_call(b"\x02\x00") == Call("blockchain.transaction.broadcast", ("0200",))
