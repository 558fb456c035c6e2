"""What the read calls answer of addresses: balances, and their inputs and outputs."""

from collections.abc import Sequence
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.transaction import Outpoint
from lightipn.dialects.blockcypher.answers import (
    BalanceJson,
    RefWish,
    TxRefJson,
    balance_json_of,
    chosen_of,
    hook_json_of,
    newest_first,
    refs_of,
    wallet_balance_of,
)
from lightipn.dialects.blockcypher.wire import Event, HookTerms
from lightipn.ledger.entries import Dropped, LedgerEntry, PaymentState, Replaced
from tests.builders import SCRIPT, SEEN_AT, confirmed, entry_of, txid_of

TIP = 1000


def refs(*entries: LedgerEntry, script: bytes | None = None) -> tuple[list[TxRefJson], list[TxRefJson]]:
    """Return the inputs and outputs of an address at our tip."""
    return refs_of(entries, script=script, tip_height=TIP, times={TIP: SEEN_AT + 60}, confidences={txid_of(2): 0.7})


# --- balances ----------------------------------------------------------------------------------------------------


def test_balance_sums_up_what_stands() -> None:
    """Received and sent are gross and of blocks alone; what is unconfirmed stands beside it; what is gone nowhere."""
    found = balance_json_of(
        [
            entry_of(1, received_sat=100, state=confirmed(TIP)),
            entry_of(2, received_sat=30, sent_sat=70, state=confirmed(TIP)),
            entry_of(3, received_sat=5),
            entry_of(4, received_sat=0, sent_sat=20),
            entry_of(5, received_sat=999, state=Replaced(txid_of(9))),
            entry_of(6, received_sat=999, state=Dropped()),
            entry_of(7, received_sat=999, is_coinbase=True),
        ]
    )
    assert found == BalanceJson(
        total_received=130,
        total_sent=70,
        balance=60,
        unconfirmed_balance=-15,
        final_balance=45,
        n_tx=2,
        unconfirmed_n_tx=2,
        final_n_tx=4,
    )
    assert set(msgspec.structs.asdict(balance_json_of([])).values()) == {0}


def test_coin_that_a_block_spends_was_received() -> None:
    """What a node spent before its past is known, or out of a block that nobody can show, leaves no debt behind."""
    parent = entry_of(1, received_sat=300)
    child = entry_of(2, received_sat=0, sent_sat=300, state=confirmed(TIP), spends=(Outpoint(parent.txid, 0),))
    found = balance_json_of([parent, child])
    assert (found.total_received, found.total_sent, found.balance, found.unconfirmed_balance) == (300, 300, 0, 0)
    unknown = entry_of(3, received_sat=40, sent_sat=100, state=confirmed(TIP))
    found = balance_json_of([unknown], unproved_spent_sat=100)
    assert (found.total_received, found.total_sent, found.balance, found.final_balance) == (140, 100, 40, 40)


STATES = st.none() | st.builds(confirmed, st.integers(1, TIP)) | st.just(Dropped())


@settings(deadline=None, max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), STATES), max_size=8))
def test_sums_agree(payments: list[tuple[int, int, PaymentState | None]]) -> None:
    """Final is confirmed and unconfirmed together, in coins and in transactions."""
    found = balance_json_of(
        entry_of(number, received_sat=received_sat, sent_sat=sent_sat, state=state)
        for number, (received_sat, sent_sat, state) in enumerate(payments)
    )
    assert found.final_balance == found.balance + found.unconfirmed_balance
    assert found.balance == found.total_received - found.total_sent
    assert found.final_n_tx == found.n_tx + found.unconfirmed_n_tx <= len(payments)


def test_transaction_between_two_addresses_of_a_wallet_counts_once() -> None:
    """Of a wallet coins are the sum over its addresses, and transactions are counted as such."""
    found = wallet_balance_of(
        [
            entry_of(1, received_sat=100, state=confirmed(TIP)),
            entry_of(2, received_sat=0, sent_sat=100, state=confirmed(TIP)),
            entry_of(2, received_sat=90, state=confirmed(TIP)),
            entry_of(3, received_sat=5),
            entry_of(3, received_sat=6),
        ]
    )
    assert (found.balance, found.unconfirmed_balance) == (90, 11)
    assert (found.n_tx, found.unconfirmed_n_tx, found.final_n_tx) == (2, 1, 3)


# --- inputs and outputs ------------------------------------------------------------------------------------------


def test_outputs_and_inputs_of_an_address() -> None:
    """A coin that came and went is a spent output and the input that spends it, each with the balance after it."""
    came = entry_of(1, received_sat=100, state=confirmed(TIP - 1))
    went = entry_of(
        2,
        received_sat=30,
        sent_sat=100,
        state=confirmed(TIP),
        spends=[Outpoint(txid_of(8), 0), Outpoint(came.txid, 0)],
    )
    place = {"tx_hash": hex_of(went.txid), "block_height": TIP, "confirmations": 1, "ref_balance": 30}
    place |= {"confirmed": "2023-11-14T22:14:20Z"}
    assert refs(came, went) == (
        [
            TxRefJson(tx_input_n=-1, tx_output_n=0, value=30, spent=False, **place),
            TxRefJson(tx_input_n=1, tx_output_n=-1, value=100, **place),
            TxRefJson(
                tx_hash=hex_of(came.txid),
                block_height=TIP - 1,
                tx_input_n=-1,
                tx_output_n=0,
                value=100,
                confirmations=2,
                ref_balance=100,
                spent=True,
                spent_by=hex_of(went.txid),
                confirmed="2023-11-14T22:13:20Z",
            ),
        ],
        [],
    )


def test_unconfirmed_ones_stand_apart() -> None:
    """What is in no block has no balance after it, but the time at which it was seen, and its confidence if asked."""
    assert refs(entry_of(2, received_sat=7), script=SCRIPT) == (
        [],
        [
            TxRefJson(
                tx_hash=hex_of(txid_of(2)),
                block_height=-1,
                tx_input_n=-1,
                tx_output_n=0,
                value=7,
                confirmations=0,
                spent=False,
                received="2023-11-14T22:13:20Z",
                script=SCRIPT.hex(),
                confidence=0.7,
            )
        ],
    )


def test_refs_are_newest_first() -> None:
    """Confirmed ones come by height and position, the newest first; what is gone does not come."""
    entries = [
        entry_of(1, state=confirmed(TIP - 5)),
        entry_of(2, state=confirmed(TIP, position=1)),
        entry_of(3, state=confirmed(TIP, position=9)),
        entry_of(4, state=Replaced(txid_of(9))),
        replace(entry_of(5), seen_at=SEEN_AT + 5),
        entry_of(6),
    ]
    found, pending = refs(*entries)
    assert [ref.tx_hash for ref in found] == [hex_of(txid_of(number)) for number in (3, 2, 1)]
    assert [ref.tx_hash for ref in pending] == [hex_of(txid_of(number)) for number in (5, 6)]
    assert [entry.txid for entry in newest_first(entries)] == [txid_of(number) for number in (5, 6, 3, 2, 1)]


def ref(height: int, *, spent: bool | None = False) -> TxRefJson:
    """Return an output at a height, or an input."""
    return TxRefJson(
        tx_hash="",
        block_height=height,
        tx_input_n=-1 if spent is not None else 0,
        tx_output_n=0 if spent is not None else -1,
        value=1,
        confirmations=TIP - height + 1,
        spent=msgspec.UNSET if spent is None else spent,
    )


@pytest.mark.parametrize(
    ("wish", "wanted"),
    [
        (RefWish(limit=9), [10, 11, 12, 13]),
        (RefWish(limit=1), [10, 11, 12, 13]),
        (RefWish(limit=9, before=12), [10, 11]),
        (RefWish(limit=9, after=11), [12, 13]),
        (RefWish(limit=9, before=13, after=10), [11, 12]),
        (RefWish(limit=9, confirmations=TIP - 11), [10, 11, 12]),
        (RefWish(limit=9, is_unspent_only=True), [10, 13]),
    ],
)
def test_wish_chooses(wish: RefWish, wanted: Sequence[int]) -> None:
    """A bound itself is left out; an input is no unspent output; the limit is left to the caller."""
    found = chosen_of([ref(10), ref(11, spent=True), ref(12, spent=None), ref(13)], wish)
    assert [one.block_height for one in found] == wanted


def test_balance_after_each_is_the_sum_so_far() -> None:
    """The oldest balance is the first payment, the newest the whole balance."""
    entries = [entry_of(number, received_sat=10**number, state=confirmed(number)) for number in range(1, 6)]
    found, _ = refs(*reversed(entries))
    assert [one.ref_balance for one in found] == [111110, 11110, 1110, 110, 10]


# --- hooks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("terms", "fields"),
    [
        (HookTerms(Event.UNCONFIRMED), {}),
        (HookTerms(Event.CONFIRMATION), {"confirmations": 6}),
        (HookTerms(Event.CONFIRMATION, confirmations=10), {"confirmations": 10}),
        (HookTerms(Event.CONFIDENCE), {"confidence": 0.99}),
        (HookTerms(Event.CONFIDENCE, confidence=0.5), {"confidence": 0.5}),
    ],
)
def test_hook_shows_what_its_event_uses(terms: HookTerms, fields: dict[str, object]) -> None:
    """A hook is shown with the fields of its own event, and without empty ones."""
    made = hook_json_of(
        "id", terms, url="u", address="a", wallet="", token="", errors=3, has_own_key=False, is_suspended=True
    )
    assert (
        msgspec.json.decode(msgspec.json.encode(made))
        == {
            "id": "id",
            "event": terms.event.value,
            "url": "u",
            "callback_errors": 3,
            "filter": f"addr=a&event={terms.event.value}",
            "suspended": True,
            "address": "a",
        }
        | fields
    )
