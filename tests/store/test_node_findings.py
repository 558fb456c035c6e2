"""What was found in blocks of one's own node: transactions with their proofs, and the outputs they make and spend."""

from lightipn.ledger.entries import Dropped
from lightipn.store import node_blocks, node_findings
from lightipn.store.database import Database
from lightipn.store.node_findings import BLOCKS_KEPT, KnownProof
from tests.builders import confirmed, entry_of, txid_of
from tests.store.node_rows import (
    absorb,
    begin,
    coin,
    coverage_of,
    found,
    hashes_to,
    history_of,
    register,
    rows_in,
    save_block,
    scripthash_of,
)
from tests.store.rows import TIP


def test_payment_that_may_stand_in_a_pruned_block_is_kept(db: Database) -> None:
    """Behind blocks that nobody looked through an unconfirmed payment cannot be denied, and counts in one place."""
    begin(db)
    register(db, 0, 1)
    absorb(db, 0, entry_of(1, received_sat=500), entry_of(2, received_sat=70, state=confirmed(TIP)))
    absorb(db, 1, entry_of(3, received_sat=9, state=Dropped()))
    assert node_findings.load_undeniable(db, scripthash_of(0)) == []
    kept = node_blocks.skip_to(db, TIP + 900, hashes_to(TIP + 900))
    assert kept == {coin(1): scripthash_of(0)}
    assert node_findings.load_undeniable(db, scripthash_of(0)) == [txid_of(1)]
    assert node_findings.load_all_undeniable(db) == [txid_of(1)]
    assert node_findings.is_unproved(db, txid_of(1))
    node_findings.recount_unproved(db, [scripthash_of(0)])
    assert coverage_of(db, 0) == (TIP + 901, 0)


def test_transaction_that_waits_stands_in_no_pruned_block(db: Database) -> None:
    """Once it is seen in the mempool a payment can be denied again; what else nothing proves stays."""
    begin(db)
    register(db, 0)
    absorb(db, 0, entry_of(1, received_sat=500))
    node_blocks.skip_to(db, TIP + 900, hashes_to(TIP + 900))
    node_findings.save_strays(db, {coin(7): (scripthash_of(0), 33)})
    node_findings.drop_strays_of(db, txid_of(1))
    assert node_findings.load_undeniable(db, scripthash_of(0)) == []
    assert (node_findings.load_all_undeniable(db), coverage_of(db, 0)) == ([], (TIP + 901, 33))


def test_found_transactions_are_read_as_they_were_written(db: Database) -> None:
    """Each script has its transactions in the chain's order, and each transaction has its proof."""
    begin(db)
    register(db, 0, 1)
    first = found(1, TIP + 1, position=3, pays=[0, 1, 0])
    second = found(2, TIP + 1, position=0, pays=[1])
    third = found(3, TIP + 2, position=1, spends={coin(1, 2): 0})
    save_block(db, TIP + 1, first, second)
    save_block(db, TIP + 2, third)
    assert node_findings.load_histories(db, [scripthash_of(1), scripthash_of(0), scripthash_of(2)]) == {
        scripthash_of(1): [(TIP + 1, 0, txid_of(2)), (TIP + 1, 3, txid_of(1))],
        scripthash_of(0): [(TIP + 1, 3, txid_of(1)), (TIP + 2, 1, txid_of(3))],
        scripthash_of(2): [],
    }
    for one in (first, second, third):
        assert node_findings.load_proof(db, one.txid) == KnownProof(
            height=one.height, position=one.position, siblings=one.siblings, raw=one.raw
        )
    assert dict(node_findings.load_outputs(db)) == {**first.outputs, **second.outputs}


def test_lonely_transaction_is_proved_by_no_sibling(db: Database) -> None:
    """The coinbase of an empty block has an empty branch, which is another thing than an unknown one."""
    begin(db)
    save_block(db, TIP + 1, found(1, TIP + 1, position=0, pays=[0]))
    proof = node_findings.load_proof(db, txid_of(1))
    assert proof is not None
    assert proof.siblings == ()


def test_output_that_is_spent_in_its_own_block_is_known_as_spent(db: Database) -> None:
    """Both transactions of a chain within a block are kept, and the reorg of that block takes both."""
    begin(db)
    register(db, 0)
    before = rows_in(db)
    save_block(db, TIP + 1, found(1, TIP + 1, pays=[0]), found(2, TIP + 1, position=2, spends={coin(1): 0}))
    assert [txid for _, _, txid in history_of(db, 0)] == [txid_of(1), txid_of(2)]
    assert db.execute("SELECT spent_height FROM node_output").fetchall() == [(TIP + 1,)]
    assert node_blocks.disconnect(db, TIP)[0] == [scripthash_of(0)]
    assert rows_in(db) == before


def test_transaction_that_another_block_holds_moves(db: Database) -> None:
    """After a reorg a transaction stands where the new block has it, with the new block's branch."""
    begin(db)
    register(db, 0)
    save_block(db, TIP + 1, found(1, TIP + 1, position=1, pays=[0]))
    node_blocks.disconnect(db, TIP)
    save_block(db, TIP + 1, branch=1)
    moved = found(1, TIP + 2, position=4, pays=[0])
    save_block(db, TIP + 2, moved, branch=1)
    assert history_of(db, 0) == [(TIP + 2, 4, txid_of(1))]
    proof = node_findings.load_proof(db, txid_of(1))
    assert proof == KnownProof(height=TIP + 2, position=4, siblings=moved.siblings, raw=moved.raw)


def test_what_was_taken_over_gets_its_proof_when_it_is_found(db: Database) -> None:
    """Looking through a block again adds branch and bytes to what the ledger knew, and nothing twice."""
    absorb(db, 0, entry_of(1, state=confirmed(TIP - 1)))
    begin(db)
    one = found(1, TIP - 1, pays=[0])
    for _ in range(2):
        node_findings.save_found(db, [one])
        assert history_of(db, 0) == [(TIP - 1, 1, txid_of(1))]
        assert node_findings.load_outputs(db) == [(coin(1), scripthash_of(0))]
        proof = node_findings.load_proof(db, txid_of(1))
        assert proof == KnownProof(height=TIP - 1, position=1, siblings=one.siblings, raw=one.raw)


def test_outputs_that_were_spent_long_ago_are_not_looked_after(db: Database) -> None:
    """An unspent output is looked after for ever, a spent one for as long as a reorg may free it."""
    begin(db, 0)
    register(db, 0, height=0)
    save_block(db, 1, found(1, 1, pays=[0, 0, 0]))
    save_block(db, 10, found(2, 10, spends={coin(1, 0): 0}))
    save_block(db, 11, found(3, 11, spends={coin(1, 1): 0}))
    everything = {coin(1, index) for index in range(3)}
    assert {key for key, _ in node_findings.load_outputs(db)} == everything
    save_block(db, BLOCKS_KEPT + 9)
    assert {key for key, _ in node_findings.load_outputs(db)} == everything
    save_block(db, BLOCKS_KEPT + 10)
    assert {key for key, _ in node_findings.load_outputs(db)} == everything - {coin(1, 0)}


def test_what_blocks_show_is_ahead_of_the_ledger_until_it_is_confirmed_there(db: Database) -> None:
    """A payment that is found, and is not known, waits, or is gone in the ledger, is missing from it."""
    register(db, 0, 1)
    assert not node_findings.is_ahead_of_ledger(db, scripthash_of(0))
    save_block(db, TIP + 1, found(1, TIP + 1, pays=[0]), found(2, TIP + 1, pays=[0]))
    absorb(db, 0, entry_of(1, received_sat=5, state=confirmed(TIP + 1)))
    for entry in (entry_of(2, received_sat=5), entry_of(2, received_sat=5, state=Dropped())):
        assert node_findings.is_ahead_of_ledger(db, scripthash_of(0))
        absorb(db, 0, entry)
    assert node_findings.is_ahead_of_ledger(db, scripthash_of(0))
    absorb(db, 0, entry_of(2, received_sat=5, state=confirmed(TIP + 1)))
    assert not node_findings.is_ahead_of_ledger(db, scripthash_of(0))
    assert not node_findings.is_ahead_of_ledger(db, scripthash_of(1))
