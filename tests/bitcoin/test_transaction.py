"""Raw transactions to inputs, outputs and the txid."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.transaction import MAX_MONEY_SAT, Outpoint, TxOutput, parse_transaction
from lightipn.errors import TransactionError
from tests.builders import (
    NULL_OUTPOINT,
    OTHER_SCRIPT,
    SCRIPT,
    compact_size,
    double_sha256,
    load_vectors,
    raw_transaction,
    txid_of,
)

VECTORS = load_vectors("transactions")["rows"]
LEGACY = bytes.fromhex(VECTORS[1]["raw"])
SEGWIT = bytes.fromhex(VECTORS[2]["raw"])
SPEND = Outpoint(txid_of(1), 7)


@pytest.mark.parametrize("row", VECTORS, ids=lambda row: row["name"])
def test_real_transactions_parse_to_their_known_facts(row: Any) -> None:
    """Published transactions, legacy and segwit, give their published txid, inputs and amounts."""
    raw = bytes.fromhex(row["raw"])
    found = parse_transaction(raw)
    assert hex_of(found.txid) == row["txid"]
    assert [f"{hex_of(outpoint.txid)}:{outpoint.index}" for outpoint in found.spends] == row["spends"]
    assert [output.amount_sat for output in found.outputs] == row["amounts_sat"]
    assert (found.is_coinbase, found.signals_rbf) == (row["is_coinbase"], row["signals_rbf"])
    assert (found.raw, raw[4:6] == b"\x00\x01") == (raw, row["has_witness"])


@pytest.mark.parametrize("row", VECTORS, ids=lambda row: row["name"])
def test_every_truncation_is_refused(row: Any) -> None:
    """A transaction that is cut short at any byte is refused."""
    raw = bytes.fromhex(row["raw"])
    for size_bytes in range(len(raw)):
        with pytest.raises(TransactionError):
            parse_transaction(raw[:size_bytes])


@pytest.mark.parametrize("tail", [b"\x00", b"\x00\x00\x00\x00", LEGACY], ids=["a zero", "four zeros", "another one"])
@pytest.mark.parametrize("raw", [LEGACY, SEGWIT], ids=["legacy", "segwit"])
def test_trailing_bytes_are_refused(raw: bytes, tail: bytes) -> None:
    """Nothing may follow a transaction: else one txid would stand for many texts."""
    with pytest.raises(TransactionError, match=f"{len(tail)} bytes follow the transaction"):
        parse_transaction(raw + tail)


def test_witness_does_not_change_the_txid() -> None:
    """The same inputs and outputs have the same txid with any witness and with none."""
    outputs = [(1000, SCRIPT)]
    bare = raw_transaction([SPEND], outputs)
    signed = raw_transaction([SPEND], outputs, witness=[b"signature", b"key"])
    other = raw_transaction([SPEND], outputs, witness=[b"x" * 300])
    txids = {parse_transaction(raw).txid for raw in (bare, signed, other)}
    assert txids == {double_sha256(bare)}
    assert parse_transaction(signed).raw == signed


def test_everything_outside_the_witness_changes_the_txid() -> None:
    """Another input, index, amount, script, sequence or lock time is another transaction."""
    variants = [
        raw_transaction([SPEND], [(1000, SCRIPT)]),
        raw_transaction([Outpoint(txid_of(2), 7)], [(1000, SCRIPT)]),
        raw_transaction([Outpoint(txid_of(1), 8)], [(1000, SCRIPT)]),
        raw_transaction([SPEND], [(1001, SCRIPT)]),
        raw_transaction([SPEND], [(1000, OTHER_SCRIPT)]),
        raw_transaction([SPEND], [(1000, SCRIPT)], sequence=0),
        raw_transaction([SPEND], [(1000, SCRIPT)], locktime=1),
        raw_transaction([SPEND], [(1000, SCRIPT)], script_sig=b"\x00"),
    ]
    assert len({parse_transaction(raw).txid for raw in variants}) == len(variants)


def test_inputs_and_outputs_keep_their_order() -> None:
    """All inputs and outputs are there, in order, with amounts from zero to 21 million BTC."""
    spends = [Outpoint(txid_of(number), number) for number in range(300)]
    outputs = [(0, b""), (MAX_MONEY_SAT - 1, SCRIPT), (1, bytes(70_000))]
    found = parse_transaction(raw_transaction(spends, outputs))
    assert found.spends == tuple(spends)
    assert found.outputs == tuple(TxOutput(amount_sat=amount_sat, script=script) for amount_sat, script in outputs)


def test_outputs_to_one_script_are_found_by_index() -> None:
    """What a script receives is told per output, so that a later spend of one of them can be matched."""
    found = parse_transaction(raw_transaction([SPEND], [(5, SCRIPT), (6, OTHER_SCRIPT), (7, SCRIPT)]))
    assert found.received_by(SCRIPT) == {0: 5, 2: 7}
    assert found.received_by(OTHER_SCRIPT) == {1: 6}
    assert found.received_by(b"\x51") == {}


@pytest.mark.parametrize(
    ("sequence", "signals"),
    [(0, True), (1, True), (0xFFFFFFFD, True), (0xFFFFFFFE, False), (0xFFFFFFFF, False)],
)
def test_replaceability_is_signalled_by_the_sequence(sequence: int, signals: bool) -> None:
    """A transaction signals replaceability exactly when a sequence is below 0xfffffffe (BIP-125)."""
    assert parse_transaction(raw_transaction([SPEND], [(1000, SCRIPT)], sequence=sequence)).signals_rbf is signals


def test_coinbase_spends_the_null_outpoint_and_nothing_else() -> None:
    """A transaction is a coinbase only if its single input spends the null outpoint."""
    outputs = [(1000, SCRIPT)]
    assert parse_transaction(raw_transaction([NULL_OUTPOINT], outputs)).is_coinbase
    assert not parse_transaction(raw_transaction([NULL_OUTPOINT, SPEND], outputs)).is_coinbase
    assert not parse_transaction(raw_transaction([Outpoint(NULL_OUTPOINT.txid, 0)], outputs)).is_coinbase
    assert not parse_transaction(raw_transaction([Outpoint(txid_of(1), 0xFFFFFFFF)], outputs)).is_coinbase


ABSURD = b"\xff" + b"\xff" * 8
HEAD = b"\x02\x00\x00\x00"
INPUT = bytes(36) + b"\x00" + b"\xff" * 4
OUTPUT = (1000).to_bytes(8, "little") + compact_size(len(SCRIPT)) + SCRIPT


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(HEAD + ABSURD + INPUT, id="inputs"),
        pytest.param(HEAD + b"\xfe\xff\xff\xff\xff" + INPUT, id="inputs, four bytes"),
        pytest.param(HEAD + b"\x01" + bytes(36) + ABSURD, id="script of an input"),
        pytest.param(HEAD + b"\x01" + INPUT + ABSURD + OUTPUT, id="outputs"),
        pytest.param(HEAD + b"\x01" + INPUT + b"\x01" + bytes(8) + ABSURD, id="script of an output"),
        pytest.param(HEAD + b"\x00\x01\x01" + INPUT + b"\x01" + OUTPUT + ABSURD + bytes(4), id="witness items"),
        pytest.param(HEAD + b"\x00\x01\x01" + INPUT + b"\x01" + OUTPUT + b"\x01" + ABSURD, id="witness item"),
    ],
)
def test_absurd_counts_are_refused_at_once(raw: bytes) -> None:
    """A count of 2^64 - 1 is refused because it cannot fit, before anything is read or reserved for it."""
    with pytest.raises(TransactionError, match=r"do not fit|want at least"):
        parse_transaction(raw)


@pytest.mark.parametrize(
    ("length", "value"),
    [
        (b"\xfd\x01\x00", 1),
        (b"\xfd\xfc\x00", 252),
        (b"\xfe\x01\x00\x00\x00", 1),
        (b"\xfe\xff\xff\x00\x00", 65_535),
        (b"\xff\x01" + bytes(7), 1),
        (b"\xff\xff\xff\xff\xff" + bytes(4), 0xFFFFFFFF),
    ],
)
def test_length_not_in_its_shortest_form_is_refused(length: bytes, value: int) -> None:
    """A length has one spelling, as in Bitcoin Core: another one would give the same transaction a second text."""
    raw = raw_transaction([SPEND], [(1000, SCRIPT)], witness=[b"x"])
    with pytest.raises(TransactionError, match=f"length {value} is not written in its shortest form"):
        parse_transaction(raw[:6] + length + raw[7:])


@pytest.mark.parametrize("size_bytes", [252, 253, 65_535, 65_536])
def test_lengths_at_the_edges_of_their_forms_are_read(size_bytes: int) -> None:
    """Script lengths just below and above the edges of the compact form are read right."""
    script = bytes(size_bytes)
    assert parse_transaction(raw_transaction([SPEND], [(1000, script)])).outputs[0].script == script


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(b"", "ends at byte 0", id="nothing"),
        pytest.param(HEAD + b"\x00\x01" + OUTPUT + bytes(4), "do not fit", id="no input, one output"),
        pytest.param(HEAD + b"\x00\x00" + bytes(60), "no input", id="neither"),
        pytest.param(HEAD + b"\x01" + INPUT + b"\x00" + bytes(40), "no output", id="no output"),
        pytest.param(HEAD + b"\x00\x02\x01" + INPUT + b"\x01" + OUTPUT + bytes(5), "no input", id="segwit flag 2"),
        pytest.param(HEAD + b"\x00\x01\x00" + b"\x01" + OUTPUT + bytes(4), "no input", id="segwit without input"),
        pytest.param(
            HEAD + b"\x01" + INPUT + b"\x01" + (MAX_MONEY_SAT + 1).to_bytes(8, "little") + b"\x00" + bytes(4),
            "want at most",
            id="more than all money",
        ),
        pytest.param(
            HEAD + b"\x01" + INPUT + b"\x01" + b"\xff" * 8 + b"\x00" + bytes(4), "want at most", id="negative amount"
        ),
    ],
)
def test_what_is_no_transaction_is_refused_with_its_reason(raw: bytes, reason: str) -> None:
    """A transaction has inputs, outputs, and amounts between zero and 21 million BTC."""
    with pytest.raises(TransactionError, match=reason):
        parse_transaction(raw)


def transaction_of_size(size_bytes: int, *, witness: list[bytes] | None = None) -> bytes:
    """Return a well-formed transaction that is this long without its witness."""
    raw = raw_transaction([SPEND], [(1000, bytes(size_bytes - 60))], witness=witness)
    assert witness is not None or len(raw) == size_bytes
    return raw


@pytest.mark.parametrize("witness", [None, [b"x" * 100]], ids=["legacy", "segwit"])
def test_transaction_of_64_bytes_is_refused(witness: list[bytes] | None) -> None:
    """A transaction of 64 bytes without its witness is refused, 65 bytes pass.

    Two hashes of a merkle tree are 64 bytes as well: whoever grinds a transaction of that length can present an inner
    node as a transaction, and so "prove" a payment that no block holds (CVE-2017-12842).
    """
    with pytest.raises(TransactionError, match="transaction has 64 bytes"):
        parse_transaction(transaction_of_size(64, witness=witness))
    assert len(parse_transaction(transaction_of_size(65, witness=witness)).outputs[0].script) == 5


@given(
    st.one_of(
        st.binary(max_size=300),
        st.builds(
            lambda raw, at, junk: raw[: at % len(raw)] + junk + raw[at % len(raw) + len(junk) :],
            st.sampled_from([LEGACY, SEGWIT]),
            st.integers(0, 400),
            st.binary(min_size=1, max_size=9),
        ),
    )
)
@settings(deadline=None, max_examples=200)
def test_any_bytes_parse_or_are_refused(raw: bytes) -> None:
    """Any bytes at all are either a transaction that keeps them, or a TransactionError."""
    try:
        found = parse_transaction(raw)
    except TransactionError:
        return
    assert found.raw == raw
    assert found.spends
    assert all(0 <= output.amount_sat <= MAX_MONEY_SAT for output in found.outputs)


@given(
    st.lists(st.builds(Outpoint, st.binary(min_size=32, max_size=32), st.integers(0, 0xFFFFFFFF)), min_size=1),
    st.lists(
        st.tuples(st.integers(0, MAX_MONEY_SAT // 100), st.binary(min_size=5, max_size=60)), min_size=1, max_size=100
    ),
    st.integers(0, 0xFFFFFFFF),
    st.none() | st.lists(st.binary(max_size=80), max_size=3),
)
@settings(deadline=None, max_examples=50)
def test_written_transactions_read_back(
    spends: list[Outpoint], outputs: list[tuple[int, bytes]], sequence: int, witness: list[bytes] | None
) -> None:
    """What an independent writer put into a transaction is what the parser takes out of it."""
    raw = raw_transaction(spends, outputs, sequence=sequence, witness=witness)
    found = parse_transaction(raw)
    assert found.txid == double_sha256(raw_transaction(spends, outputs, sequence=sequence))
    assert found.spends == tuple(spends)
    assert [(output.amount_sat, output.script) for output in found.outputs] == outputs


def test_outputs_that_sum_to_more_than_all_coins_are_refused() -> None:
    """Outputs are bounded together, not one by one: a made-up transaction cannot make a sum outgrow its 64 bits."""
    half = MAX_MONEY_SAT // 2
    assert parse_transaction(raw_transaction([SPEND], [(half, SCRIPT), (half, SCRIPT)])).received_by(SCRIPT)
    with pytest.raises(TransactionError, match="together"):
        parse_transaction(raw_transaction([SPEND], [(half, SCRIPT), (half + 1, SCRIPT)]))
