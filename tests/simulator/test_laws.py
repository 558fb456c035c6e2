"""Laws of the made-up chain, which hold whatever happened to it."""

import hashlib
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings

from lightipn.bitcoin.hashes import hex_of, scripthash_of
from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.merkle import merkle_root_of
from lightipn.chain.history import HistoryEntry, check_history
from lightipn.simulator.blocks import SimulatedChain
from tests.simulator.readers import chain_of_headers, parsed
from tests.simulator.stories import SCRIPTS, Step, do, steps


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
