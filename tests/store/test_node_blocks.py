"""How far the blocks of one's own node were looked through: beginnings, reorgs, and what is taken over."""

import sqlite3
from collections.abc import Callable

import pytest

from lightipn.bitcoin.transaction import Outpoint
from lightipn.store import chain, ledger, node_blocks, node_findings, node_scripts
from lightipn.store.database import Database
from lightipn.store.node_blocks import LOOKED_THROUGH_AGAIN
from lightipn.store.node_findings import BLOCKS_KEPT, KnownProof
from lightipn.store.node_scripts import NodeScript
from tests.builders import block_hash_of, confirmed, entry_of, txid_of
from tests.store.node_rows import (
    absorb,
    begin,
    coin,
    coverage_of,
    found,
    history_of,
    is_past_known,
    register,
    rows_in,
    save_block,
    scripthash_of,
)
from tests.store.rows import TIP, regtest_address

# --- where it stands ---------------------------------------------------------------------------------------------


def test_nothing_was_looked_through_at_first(db: Database) -> None:
    """A new database stands nowhere, and knows no block, no transaction and no script."""
    assert node_blocks.load_position(db) is None
    assert node_blocks.load_block_hash(db, 0) is None
    assert node_findings.load_proof(db, txid_of(1)) is None
    assert node_findings.load_histories(db, [scripthash_of(0)]) == {scripthash_of(0): []}
    assert node_findings.load_histories(db, []) == {}
    assert node_findings.load_outputs(db) == []
    assert (node_scripts.load_pending(db, limit=9), node_scripts.count_pending(db)) == ([], 0)


def test_position_is_the_last_block(db: Database) -> None:
    """Each block that is looked through becomes the position, and the ones before it are known by their hashes."""
    begin(db, TIP, count=3)
    assert node_blocks.load_position(db) == (TIP, block_hash_of(TIP))
    save_block(db, TIP + 1)
    assert node_blocks.load_position(db) == (TIP + 1, block_hash_of(TIP + 1))
    known = {height: node_blocks.load_block_hash(db, height) for height in range(TIP - 3, TIP + 3)}
    expected = {height: block_hash_of(height) for height in range(TIP - 2, TIP + 2)}
    assert known == {TIP - 3: None, **expected, TIP + 2: None}


def test_followed_from_the_tip_where_nothing_was_absorbed(db: Database) -> None:
    """A service that no server has shown anything begins at the node's tip, whatever it has got ready to watch."""
    chain.save_base_height(db, TIP)
    ledger.add_script(db, regtest_address(0))
    assert node_blocks.first_position(db, node_height=5 * TIP, lowest=7) == 5 * TIP


@pytest.mark.parametrize(
    ("tip", "node_height", "lowest", "allowed"),
    [
        pytest.param(TIP, TIP, 0, {TIP - 100}, id="one tip"),
        pytest.param(TIP, TIP + 3000, 0, {TIP - 100}, id="node ahead"),
        pytest.param(TIP, TIP - 50, 0, {TIP - 100}, id="node somewhat behind"),
        pytest.param(TIP, TIP - 500, 0, {TIP - 500}, id="node far behind"),
        pytest.param(60, 60, 0, {0}, id="young chain"),
        # The lowest block that it has may be looked through, or not: there is none before it in any case.
        pytest.param(TIP, TIP, TIP - 40, {TIP - 41, TIP - 40}, id="pruned above"),
        pytest.param(TIP, TIP, TIP - 400, {TIP - 100}, id="pruned below"),
    ],
)
def test_used_service_looks_through_its_last_blocks_again(
    db: Database, tip: int, node_height: int, lowest: int, allowed: set[int]
) -> None:
    """It begins 100 blocks below our own tip, or where the node's blocks begin or end."""
    assert LOOKED_THROUGH_AGAIN == 100
    chain.save_base_height(db, tip)
    chain.save_followed_height(db, tip)
    absorb(db, 0)
    assert node_blocks.first_position(db, node_height=node_height, lowest=lowest) in allowed


def test_headers_alone_are_not_what_was_told(db: Database) -> None:
    """Where histories were told only up to a lower height than our tip, it begins there."""
    chain.save_base_height(db, TIP)
    absorb(db, 0)
    assert node_blocks.first_position(db, node_height=TIP + 5, lowest=0) == TIP - 100
    chain.save_followed_height(db, TIP - 700)
    assert node_blocks.first_position(db, node_height=TIP + 5, lowest=0) == TIP - 800
    begin(db, TIP - 800)
    assert is_past_known(db, 0, height=TIP - 800)


# --- what is taken over ------------------------------------------------------------------------------------------


def test_node_takes_over_what_is_proved(db: Database) -> None:
    """A script that other servers showed whole has its past: what is proved up to there, and nothing else."""
    paid, spending = confirmed(TIP - 9, position=4), confirmed(TIP, position=2)
    absorb(
        db,
        0,
        entry_of(1, state=paid),
        entry_of(2, received_sat=7, sent_sat=100_000, state=spending, spends=[Outpoint(txid_of(1), 0)]),
        entry_of(3, state=confirmed(TIP + 1)),
        entry_of(4),
    )
    begin(db)
    assert register(db, 0) == [
        NodeScript(scripthash=scripthash_of(0), script=regtest_address(0).script, is_past_known=True)
    ]
    assert history_of(db, 0) == [(TIP - 9, 4, txid_of(1)), (TIP, 2, txid_of(2))]
    assert node_findings.load_proof(db, txid_of(1)) == KnownProof(height=TIP - 9, position=4, siblings=None, raw=None)
    assert node_findings.load_proof(db, txid_of(3)) is None
    assert sorted(node_findings.load_outputs(db)) == sorted([(coin(1), scripthash_of(0)), (coin(2), scripthash_of(0))])
    assert coverage_of(db, 0) == (None, 0)
    assert node_scripts.count_pending(db) == 0


def test_transaction_of_two_scripts_is_taken_over_for_both(db: Database) -> None:
    """One script pays another: both have the transaction, whichever is taken over first."""
    place = confirmed(TIP - 5)
    for payer, payee in ((0, 1), (1, 0)):
        first, second = 10 * payer + 1, 10 * payer + 2
        spend = [Outpoint(txid_of(first), 0)]
        sent = entry_of(second, received_sat=0, sent_sat=100_000, state=place, spends=spend)
        absorb(db, payer, entry_of(first, state=confirmed(TIP - 8)), sent)
        absorb(db, payee, entry_of(second, state=place, spends=spend))
    begin(db)
    both = {txid_of(number) for number in (2, 12)}
    assert {txid for _, _, txid in history_of(db, 0)} == both | {txid_of(1)}
    assert {txid for _, _, txid in history_of(db, 1)} == both | {txid_of(11)}
    node_blocks.disconnect(db, TIP - 6)
    assert {key for key, _ in node_findings.load_outputs(db)} == {coin(1), coin(11)}
    assert db.execute("SELECT count(*) FROM node_output WHERE spent_height IS NOT NULL").fetchone() == (0,)


def make_troubled(db: Database) -> None:
    """Have its history be too long to be read."""
    ledger.save_trouble(db, scripthash_of(0), "history-too-long")


def make_asked_again(db: Database) -> None:
    """Have servers be asked again, who have not answered."""
    ledger.forget_status(db, [scripthash_of(0)])


def make_partial(db: Database) -> None:
    """Have a history that begins somewhere, as an earlier node left it."""
    db.execute("UPDATE script SET history_from = 700")


@pytest.mark.parametrize("spoil", [make_troubled, make_asked_again, make_partial])
def test_past_that_was_not_shown_whole_is_looked_for(db: Database, spoil: Callable[[Database], None]) -> None:
    """A whole past is never claimed for a script that no server showed whole; what was proved of it is kept."""
    absorb(db, 0, entry_of(1, state=confirmed(TIP - 9)))
    absorb(db, 1)
    spoil(db)
    begin(db)
    assert not is_past_known(db, 0)
    history_from, _ = coverage_of(db, 0)
    assert history_from is not None
    assert history_from >= 700
    assert set(history_of(db, 0)) <= {(TIP - 9, 1, txid_of(1))}


def test_script_that_no_server_was_asked_for_is_looked_for(db: Database) -> None:
    """An address that was added and never absorbed has no known past."""
    absorb(db, 1)
    ledger.add_script(db, regtest_address(0))
    begin(db)
    assert not is_past_known(db, 0)
    assert coverage_of(db, 0) == (TIP + 1, 0)
    assert is_past_known(db, 1)


@pytest.mark.parametrize("lowest", [TIP + 1, TIP + 2, TIP + 500])
def test_whole_past_is_not_claimed_across_blocks_that_nobody_looked_through(db: Database, lowest: int) -> None:
    """A node that has pruned what came after our last tip leaves a gap: what was proved before it is not all."""
    chain.save_base_height(db, TIP)
    absorb(db, 0, entry_of(1, state=confirmed(TIP - 200)))
    height = node_blocks.first_position(db, node_height=TIP + 900, lowest=lowest)
    begin(db, height)
    is_gap = height > TIP
    assert is_past_known(db, 0, height=height) is not is_gap
    assert (coverage_of(db, 0)[0] is not None) is is_gap


# --- blocks ------------------------------------------------------------------------------------------------------


def test_block_is_looked_through_once(db: Database) -> None:
    """The height of a block that was looked through is refused to another one: it would hide a reorg."""
    begin(db)
    with pytest.raises(sqlite3.IntegrityError):
        save_block(db, TIP, branch=1)
    assert node_blocks.load_position(db) == (TIP, block_hash_of(TIP))


@pytest.mark.parametrize("depth", [0, 1, 2, 3])
def test_reorg_leaves_what_lies_below_the_fork(db: Database, depth: int) -> None:
    """Blocks above the fork go with all that was found in them, and whom that concerns is told, each once."""
    begin(db)
    register(db, 0, 1, 2)
    blocks = [
        [found(1, TIP + 1, pays=[0, 1])],
        [found(2, TIP + 2, spends={coin(1): 0}, pays=[2]), found(3, TIP + 2, position=2, pays=[2])],
        [found(4, TIP + 3, spends={coin(1, 1): 1, coin(2): 2})],
    ]
    states = [rows_in(db)]
    for height, items in enumerate(blocks, TIP + 1):
        save_block(db, height, *items)
        states.append(rows_in(db))
    touched, _ = node_blocks.disconnect(db, TIP + 3 - depth)
    expected = {0: set(), 1: {1, 2}, 2: {0, 1, 2}, 3: {0, 1, 2}}[depth]
    assert sorted(touched) == sorted(scripthash_of(number) for number in expected)
    assert rows_in(db) == states[3 - depth]


def test_reorg_below_where_it_began_takes_back_what_was_taken_over(db: Database) -> None:
    """A proved payment whose block leaves the chain is found anew in the blocks that come in its place."""
    absorb(db, 0, entry_of(1, state=confirmed(TIP - 2)), entry_of(2, state=confirmed(TIP - 1)))
    begin(db, count=5)
    assert node_blocks.disconnect(db, TIP - 2)[0] == [scripthash_of(0)]
    assert node_blocks.load_position(db) == (TIP - 2, block_hash_of(TIP - 2))
    assert history_of(db, 0) == [(TIP - 2, 1, txid_of(1))]
    save_block(db, TIP - 1, found(2, TIP - 1, position=5, pays=[0]), branch=1)
    assert history_of(db, 0) == [(TIP - 2, 1, txid_of(1)), (TIP - 1, 5, txid_of(2))]


def test_old_blocks_lose_their_proofs_and_hashes(db: Database) -> None:
    """What lies more than 2016 blocks deep loses hash, branch and bytes in time; where a transaction stands is kept."""
    begin(db, 0)
    register(db, 0, height=0)
    height = BLOCKS_KEPT + 84  # a multiple of 100
    for number in (83, 84):
        save_block(db, number, found(number, number, pays=[0]))
    save_block(db, height - 1)
    assert node_findings.load_proof(db, txid_of(83)) == KnownProof(
        height=83, position=1, siblings=found(83, 83).siblings, raw=b"raw 83"
    )
    save_block(db, height)
    assert node_findings.load_proof(db, txid_of(83)) == KnownProof(height=83, position=1, siblings=None, raw=None)
    assert node_findings.load_proof(db, txid_of(84)) == KnownProof(
        height=84, position=1, siblings=found(84, 84).siblings, raw=b"raw 84"
    )
    assert history_of(db, 0) == [(83, 1, txid_of(83)), (84, 1, txid_of(84))]
    known = {number: node_blocks.load_block_hash(db, number) is not None for number in (0, 83, 84, height)}
    assert known == {0: False, 83: False, 84: True, height: True}
