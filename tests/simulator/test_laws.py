"""Laws of the made-up chain, which hold whatever happened to it."""

import contextlib
import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.hashes import hex_of, scripthash_of
from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.merkle import merkle_root_of
from lightipn.bitcoin.transaction import TxOutput
from lightipn.chain.history import HistoryEntry, check_history
from lightipn.errors import RequestError
from lightipn.simulator import forge
from lightipn.simulator.blocks import SimulatedChain
from tests.simulator.readers import chain_of_headers, parsed

SCRIPTS = [forge.made_up_script(f"law {n}") for n in range(4)]
Step = tuple[str, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["mine", "mine", "pay", "pay", "pay", "spend", "spend", "replace", "evict", "reorg", "submit"]),
        st.integers(0, 10),
        st.integers(0, 3),
    ),
    max_size=25,
)


def do(chain: SimulatedChain, step: Step) -> None:
    """Do one of the things that can happen, where it can."""
    act, number, which = step
    mempool = chain.mempool
    unspent = [coin.outpoint for script in SCRIPTS for coin in chain.coins(scripthash_of(script)) if not coin.spent_by]
    match act:
        case "mine":
            chosen = None if number < 5 else mempool[: number - 5]
            chain.mine(which, include=chosen, pay_to=SCRIPTS[which])
        case "pay":
            chain.pay(SCRIPTS[which], 50_000 + number, rbf=number > 3, segwit=number % 2 == 0)
        case "spend" if unspent:
            outpoint = unspent[number % len(unspent)]
            chain.pay(SCRIPTS[which], 10_000 * number, spend=[outpoint], change_to=SCRIPTS[number % 4])
        case "replace" if mempool:
            chain.replace(mempool[number % len(mempool)], SCRIPTS[which] if number % 2 else None, 1 + number)
        case "evict" if mempool:
            chain.evict(mempool[number % len(mempool)])
        case "reorg" if chain.tip_height:
            depth = min(1 + which, chain.tip_height)
            drop = chain.block_txids(chain.tip_height)[:: number + 1]
            chain.reorg(depth, drop=drop, remine=number % 2 == 0)
        case "submit" if mempool:
            spends = parsed(chain, mempool[number % len(mempool)]).spends
            output = TxOutput(amount_sat=number + 1, script=SCRIPTS[which])
            with contextlib.suppress(RequestError):  # some signal no replaceability
                chain.submit(forge.payment_of(spends, [output], sequence=0xF0000000 + chain.version).raw)


def status_by_hand(history: Sequence[HistoryEntry]) -> bytes | None:
    """Compute a status as the protocol's text says, without the code under test."""
    text = ""
    for entry in history:
        height = entry.height if entry.height is not None else -1 if entry.has_unconfirmed_parent else 0
        text += f"{entry.txid[::-1].hex()}:{height}:"
    return hashlib.sha256(text.encode()).digest() if text else None


def check_laws(chain: SimulatedChain) -> None:
    """Check that everything the chain says fits together."""
    in_blocks = [txid for height in range(1, chain.tip_height + 1) for txid in chain.block_txids(height)]
    known = [*in_blocks, *chain.mempool]
    assert len(set(known)) == len(known)
    transactions = {txid: parsed(chain, txid) for txid in known}
    assert all(transaction.txid == txid for txid, transaction in transactions.items())
    spends = [spend for tx in transactions.values() if not tx.is_coinbase for spend in tx.spends]
    assert len(set(spends)) == len(spends)
    for script in SCRIPTS:
        history = chain.history(scripthash_of(script))
        check_history(history)
        assert chain.status(scripthash_of(script)) == status_by_hand(history)
        expected = {
            txid
            for txid, tx in transactions.items()
            if tx.received_by(script)
            or any(s.txid in transactions and s.index in transactions[s.txid].received_by(script) for s in tx.spends)
        }
        assert {entry.txid for entry in history} == expected
        for entry in history:
            assert chain.height_of(entry.txid) == entry.height
            if entry.height is None:
                parents = {spend.txid for spend in transactions[entry.txid].spends}
                assert entry.has_unconfirmed_parent == bool(parents & set(chain.mempool))
            else:
                branch = chain.merkle(entry.txid, entry.height)
                root = merkle_root_of(entry.txid, branch.siblings, branch.position)
                assert root == parse_header(chain.header_at(entry.height)).merkle_root
        unconfirmed = [entry for entry in history if entry.height is None]
        assert unconfirmed == sorted(unconfirmed, key=lambda e: (e.has_unconfirmed_parent, hex_of(e.txid)))


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_everything_fits_together_at_all_times(story: list[Step]) -> None:
    """Whatever happens, histories, statuses, proofs and raw bytes agree, and no output is spent twice."""
    chain = SimulatedChain()
    for step in story:
        do(chain, step)
        check_laws(chain)
    if chain.tip_height:
        assert chain_of_headers().extended_by(1, chain.headers_from(1, chain.tip_height)) is not None


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_whatever_changes_is_touched(story: list[Step]) -> None:
    """A scripthash whose status changed is among those touched since, and none is named twice."""
    chain = SimulatedChain()
    for step in story:
        before = {scripthash_of(script): chain.status(scripthash_of(script)) for script in SCRIPTS}
        version = chain.version
        do(chain, step)
        touched = chain.touched_since(version)
        assert len(set(touched)) == len(touched)
        assert {name for name, status in before.items() if chain.status(name) != status} <= set(touched)
        assert chain.touched_since(chain.version) == []
