"""What a node's ZMQ publishers say."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.transaction import Outpoint
from lightipn.bitcoind.notices import (
    MISSED_AT_LEAST,
    TOPICS,
    BlockNotice,
    GapNotice,
    Hearing,
    Notice,
    NoticeReader,
    RemovalNotice,
    TransactionNotice,
)
from tests.builders import SCRIPT, double_sha256, load_vectors, payment, raw_transaction, txid_of

TXID = txid_of(1)
PRINTED = bytes.fromhex(hex_of(TXID))  # hashes are published as they are printed
BODIES = {
    b"hashblock": PRINTED,
    b"hashtx": PRINTED,
    b"rawtx": payment(1).raw,
    b"sequence": PRINTED + b"A" + (7).to_bytes(8, "little"),
}


def message(topic: bytes, body: bytes, counter: int = 0) -> list[bytes]:
    """Return the three parts of a message."""
    return [topic, body, counter.to_bytes(4, "little")]


def said(topic: bytes, body: bytes) -> list[Notice]:
    """Read one message with a fresh reader."""
    return NoticeReader().read(message(topic, body))


# --- topics ------------------------------------------------------------------------------------------------------


def test_new_tip_is_a_block_notice() -> None:
    """Both ways to speak of a block are a reason to look, connected and disconnected alike."""
    assert said(b"hashblock", PRINTED) == [BlockNotice()]
    assert said(b"sequence", PRINTED + b"C") == [BlockNotice()]
    assert said(b"sequence", PRINTED + b"D") == [BlockNotice()]


def test_txid_is_read_in_the_order_in_which_it_is_published() -> None:
    """A published txid is the printed one, so it is turned to internal order."""
    assert TXID != PRINTED
    assert said(b"hashtx", PRINTED) == [TransactionNotice(TXID)]


def test_mempool_events_name_their_transaction() -> None:
    """An accepted transaction is one to look at, a removed one is gone; the mempool's own counter is not needed."""
    tail = (1 << 40).to_bytes(8, "little")
    assert said(b"sequence", PRINTED + b"A" + tail) == [TransactionNotice(TXID)]
    assert said(b"sequence", PRINTED + b"R" + tail) == [RemovalNotice(TXID)]


@pytest.mark.parametrize("row", load_vectors("transactions")["rows"], ids=lambda row: row["name"])
def test_raw_transaction_comes_with_its_txid(row: dict[str, str]) -> None:
    """A whole transaction, legacy or segwit, is named by its own hash and handed on."""
    raw = bytes.fromhex(row["raw"])
    [notice] = said(b"rawtx", raw)
    assert isinstance(notice, TransactionNotice)
    assert (hex_of(notice.txid), notice.raw) == (row["txid"], raw)


def test_witness_is_handed_on_but_not_hashed() -> None:
    """The txid of a raw transaction is that of its bytes without witnesses."""
    spend, outputs = Outpoint(txid_of(3), 0), [(1000, SCRIPT)]
    bare, signed = raw_transaction([spend], outputs), raw_transaction([spend], outputs, witness=[b"s" * 71])
    [notice] = said(b"rawtx", signed)
    assert notice == TransactionNotice(txid=double_sha256(bare), raw=signed)  # type: ignore[arg-type]


# --- lost messages -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [0, 1, 5, 0xFFFFFFFF])
def test_first_message_is_no_gap(first: int) -> None:
    """Whoever begins to listen has lost nothing that he could know of."""
    reader = NoticeReader()
    for number in range(3):
        assert reader.read(message(b"hashblock", PRINTED, (first + number) & 0xFFFFFFFF)) == [BlockNotice()]


@pytest.mark.parametrize(
    ("first", "second"),
    [(0, 2), (5, 5), (5, 4), (5, 0), (0xFFFFFFFE, 0), (0xFFFFFFFF, 1), (0, 0xFFFFFFFF), (7, 1 << 31)],
)
def test_counter_that_does_not_follow_is_a_gap(first: int, second: int) -> None:
    """A counter that skips, repeats, falls back or begins anew (a restart) is a gap, told before what is said."""
    reader = NoticeReader()
    reader.read(message(b"hashtx", PRINTED, first))
    assert reader.read(message(b"hashtx", PRINTED, second)) == [GapNotice(), TransactionNotice(TXID)]
    following = (second + 1) & 0xFFFFFFFF
    assert reader.read(message(b"hashtx", PRINTED, following)) == [TransactionNotice(TXID)]


def test_each_topic_counts_for_itself() -> None:
    """A gap in one topic is no gap in another."""
    reader = NoticeReader()
    for number, topic in enumerate(TOPICS):
        reader.read(message(topic, BODIES[topic], 100 * number))
    assert reader.read(message(b"rawtx", BODIES[b"rawtx"], 202))[0] == GapNotice()
    for number, topic in enumerate(TOPICS):
        counter = 203 if topic == b"rawtx" else 100 * number + 1
        assert GapNotice() not in reader.read(message(topic, BODIES[topic], counter))


def test_message_that_says_nothing_counts_nevertheless() -> None:
    """A body that is no transaction is not missing, and what is lost before it is told."""
    reader = NoticeReader()
    assert reader.read(message(b"rawtx", b"junk", 4)) == []
    assert reader.read(message(b"rawtx", b"junk", 5)) == []
    assert reader.read(message(b"rawtx", b"junk", 7)) == [GapNotice()]


@given(
    st.integers(0, 0xFFFFFFFF),
    st.lists(st.tuples(st.sampled_from(TOPICS), st.integers(0, 3)), max_size=40),
    st.integers(0, 3),
)
@settings(deadline=None)
@pytest.mark.slow
def test_gaps_are_told_exactly_where_messages_are_missing(
    begin: int, published: list[tuple[bytes, int]], begin_near_the_end: int
) -> None:
    """Of any stream with any losses, also where the counter wraps at 2^32, each message after a loss has a gap."""
    begin = (begin if begin_near_the_end else 0xFFFFFFF0) & 0xFFFFFFFF
    reader = NoticeReader()
    counters: dict[bytes, int] = {}
    for topic, lost in published:
        is_first = topic not in counters
        counters[topic] = (counters.get(topic, begin) + lost) & 0xFFFFFFFF
        notices = reader.read(message(topic, BODIES[topic], counters[topic]))
        assert (GapNotice() in notices) == (lost > 0 and not is_first)
        assert notices[-1] == said(topic, BODIES[topic])[-1]
        counters[topic] = (counters[topic] + 1) & 0xFFFFFFFF


# --- junk --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [b"hashtx"],
        [b"hashtx", PRINTED],
        [b"hashtx", PRINTED, b"\x00" * 4, b""],
        [b"hashtx", PRINTED, b""],
        [b"hashtx", PRINTED, b"\x00" * 3],
        [b"hashtx", PRINTED, b"\x00" * 8],
        [b"", PRINTED, b"\x00" * 4],
        [b"rawblock", PRINTED, b"\x00" * 4],
        [b"HASHTX", PRINTED, b"\x00" * 4],
        [b"hashtx\x00", PRINTED, b"\x00" * 4],
    ],
    ids=repr,
)
def test_message_of_another_kind_says_nothing_and_counts_nothing(parts: list[bytes]) -> None:
    """What is not three parts of a topic we asked for, with a counter of four bytes, is as if it had not come."""
    reader = NoticeReader()
    reader.read(message(b"hashtx", PRINTED, 8))
    assert reader.read(parts) == []
    assert reader.read(message(b"hashtx", PRINTED, 9)) == [TransactionNotice(TXID)]


@pytest.mark.parametrize(
    ("topic", "body"),
    [
        (b"hashtx", b""),
        (b"hashtx", PRINTED[:31]),
        (b"hashtx", PRINTED + b"\x00"),
        (b"hashtx", PRINTED.hex().encode()),
        (b"rawtx", b""),
        (b"rawtx", payment(1).raw[:-1]),
        (b"rawtx", payment(1).raw + b"\x00"),
        (b"sequence", b""),
        (b"sequence", PRINTED),
        (b"sequence", PRINTED[:31] + b"A"),
    ],
)
def test_body_of_another_shape_says_nothing(topic: bytes, body: bytes) -> None:
    """A body that is too short, too long, or no transaction names none."""
    assert said(topic, body) == []


@given(st.lists(st.sampled_from(TOPICS) | st.binary(max_size=50), max_size=4))
@settings(deadline=None, max_examples=200)
@pytest.mark.slow
def test_any_message_is_read_without_an_exception(parts: list[bytes]) -> None:
    """Whoever answers at a publisher's address cannot make the reader fail."""
    for notice in NoticeReader().read(parts):
        assert not isinstance(notice, GapNotice)
        assert not isinstance(notice, TransactionNotice | RemovalNotice) or len(notice.txid) == 32


# --- which kinds come --------------------------------------------------------------------------------------------


def look(hearing: Hearing, *, block: bool = False, transactions: bool = False) -> None:
    """Look at a node, and find something that was not known."""
    hearing.begin_look()
    hearing.end_look(has_new_block=block, has_new_transactions=transactions)


def test_node_need_not_be_looked_at_while_both_kinds_come() -> None:
    """One kind alone is not enough; and what a look finds first is heard no more, until it is noticed again."""
    hearing = Hearing()
    hearing.hear(BlockNotice())
    assert not hearing.is_whole
    hearing.hear(TransactionNotice(TXID))
    assert hearing.is_whole
    look(hearing, block=True)
    assert hearing.is_whole  # it had been noticed
    look(hearing, block=True)
    assert not hearing.is_whole
    hearing.hear(BlockNotice())
    assert hearing.is_whole
    look(hearing, transactions=True)
    assert not hearing.is_whole


def test_kind_that_never_comes_is_named() -> None:
    """A look is quicker than a notice now and then; a kind that looks find again and again is published by nobody."""
    hearing = Hearing()
    for _ in range(MISSED_AT_LEAST - 1):
        look(hearing, block=True, transactions=True)
    assert hearing.missing == ""
    hearing.hear(TransactionNotice(TXID))
    look(hearing, block=True, transactions=True)
    assert hearing.missing == "blocks"
    for _ in range(MISSED_AT_LEAST):
        look(hearing, transactions=True)
    assert hearing.missing == "blocks and transactions"
    hearing.hear(BlockNotice())
    assert hearing.missing == "transactions"
    hearing.hear(GapNotice())
    assert hearing.missing == "transactions"
