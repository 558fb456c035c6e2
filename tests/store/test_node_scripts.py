"""The scripts that a node's blocks are searched for: what of their pasts is known, and when they are forgotten."""

import pytest

from lightipn.bitcoin.transaction import Outpoint
from lightipn.chain.history import UNKNOWN
from lightipn.store import ledger, node_blocks, node_findings, node_rows, node_scripts, spends
from lightipn.store.database import Database
from lightipn.store.node_scripts import NodeScript
from lightipn.store.spends import SpentOutput
from tests.builders import block_hash_of, confirmed, entry_of, txid_of
from tests.store.node_rows import (
    NODE_TABLES,
    STATUS,
    absorb,
    begin,
    coin,
    coverage_of,
    found,
    hashes_to,
    history_of,
    is_past_known,
    register,
    rows_in,
    save_block,
    scripthash_of,
    settle_past,
)
from tests.store.rows import TIP, regtest_address

# --- scripts -----------------------------------------------------------------------------------------------------


def test_new_script_is_known_from_the_next_block_on(db: Database) -> None:
    """It waits for its past, and says so; taking it up again changes nothing."""
    begin(db)
    expected = [
        NodeScript(scripthash=scripthash_of(number), script=regtest_address(number).script, is_past_known=False)
        for number in (0, 1)
    ]
    assert register(db, 0, 1) == expected
    assert coverage_of(db, 0) == (TIP + 1, 0)
    save_block(db, TIP + 1)
    assert register(db, 1, 0, height=TIP + 1) == expected[::-1]
    assert coverage_of(db, 0) == (TIP + 1, 0)
    assert sorted(node_scripts.load_pending(db, limit=9), key=repr) == sorted(expected, key=repr)
    assert len(node_scripts.load_pending(db, limit=1)) == 1
    assert node_scripts.count_pending(db) == 2


def test_script_that_nobody_wants_has_no_past_to_look_for(db: Database) -> None:
    """A script from which a payment spends is looked after by its outputs alone."""
    begin(db)
    scripthash = scripthash_of(5)
    expected = [NodeScript(scripthash=scripthash, script=None, is_past_known=True)]
    assert node_scripts.register(db, [scripthash], height=TIP) == expected
    assert node_scripts.register(db, [], height=TIP) == []
    assert node_scripts.count_pending(db) == 0


def test_contested_outputs_are_those_that_payments_spend(db: Database) -> None:
    """What unconfirmed payments spend is looked after, but for outputs whose script is not followed."""
    rows = [
        SpentOutput(
            outpoint=Outpoint(txid_of(number), 2**32 - number),
            scripthash=scripthash_of(number),
            spender=txid_of(9),
            since_height=TIP,
        )
        for number in (1, 2)
    ]
    spends.save_spent_outputs(db, rows)
    expected = {coin(number, 2**32 - number): scripthash_of(number) for number in (1, 2)}
    assert dict(node_findings.load_contested(db)) == expected
    spends.drop_spends_from(db, scripthash_of(1))
    assert node_findings.load_contested(db) == [(coin(2, 2**32 - 2), scripthash_of(2))]


def test_dropped_script_leaves_what_others_share(db: Database) -> None:
    """With a script goes what was found of it alone; a transaction that concerns another one stays."""
    begin(db)
    register(db, 1)
    save_block(db, TIP + 1, found(1, TIP + 1, pays=[1]))
    only_one = rows_in(db)
    node_blocks.disconnect(db, TIP)
    register(db, 0)
    shared = found(1, TIP + 1, pays=[1, 0])
    save_block(db, TIP + 1, shared, found(2, TIP + 1, position=2, pays=[0]))
    node_rows.drop_script(db, scripthash_of(0))
    assert rows_in(db) == only_one
    assert node_findings.load_proof(db, txid_of(2)) is None
    node_rows.drop_script(db, scripthash_of(0))
    node_rows.drop_script(db, scripthash_of(1))
    emptied = rows_in(db)
    assert {table for table in NODE_TABLES if emptied[table]} == {"node_block"}


def test_stale_scripts_are_those_that_were_removed_meanwhile(db: Database) -> None:
    """What was removed while no node was followed is forgotten; the others keep what they have."""
    begin(db)
    register(db, 0, 1)
    save_block(db, TIP + 1, found(1, TIP + 1, pays=[0, 1]), found(2, TIP + 1, position=2, pays=[0]))
    before = rows_in(db)
    node_scripts.drop_stale_scripts(db)
    assert rows_in(db) == before
    ledger.remove_script(db, scripthash_of(0))
    node_scripts.drop_stale_scripts(db)
    assert history_of(db, 0) == []
    assert history_of(db, 1) == [(TIP + 1, 1, txid_of(1))]
    assert node_findings.load_proof(db, txid_of(2)) is None
    assert node_findings.load_outputs(db) == [(coin(1, 1), scripthash_of(1))]
    assert node_scripts.count_pending(db) == 1


def test_stale_script_of_a_payment_that_was_settled_is_forgotten(db: Database) -> None:
    """What was found of a script only because a payment spent from it is not kept once nobody looks after that."""
    begin(db)
    register(db, 0)
    before = rows_in(db)
    node_scripts.register(db, [scripthash_of(5)], height=TIP)
    node_findings.save_found(db, [found(1, TIP, spends={coin(900): 5})])
    assert history_of(db, 5) == [(TIP, 1, txid_of(1))]
    node_scripts.drop_stale_scripts(db)  # no payment is known that spends from it
    assert rows_in(db) == before


# --- the past ----------------------------------------------------------------------------------------------------


def test_past_that_was_found_is_settled(db: Database) -> None:
    """Each script says from where on its history is whole, and what of it nothing proves."""
    begin(db)
    register(db, 0, 1, 2)
    settle_past(
        db,
        [scripthash_of(0), scripthash_of(1)],
        reached=TIP + 900,
        history_from=TIP + 7,
        unproved={coin(91): (scripthash_of(1), 2_100_000_000_000_000)},
    )
    assert [coverage_of(db, number) for number in (0, 1, 2)] == [
        (TIP + 7, 0),
        (TIP + 7, 2_100_000_000_000_000),
        (TIP + 1, 0),
    ]
    assert [is_past_known(db, number) for number in (0, 1, 2)] == [True, True, False]
    assert [one.scripthash for one in node_scripts.load_pending(db, limit=9)] == [scripthash_of(2)]
    assert node_scripts.count_pending(db) == 1
    node_findings.save_found(db, [found(91, TIP, pays=[1])])  # its block was to be had after all
    settle_past(db, [scripthash_of(2), scripthash_of(1)], reached=TIP + 900, history_from=None)
    assert [coverage_of(db, number) for number in (0, 1, 2)] == [(TIP + 7, 0), (None, 0), (None, 0)]


def test_past_that_was_read_of_a_lost_block_is_looked_for_anew(db: Database) -> None:
    """What was unspent as of a block says nothing once the block is lost; histories read before it stay as they are."""
    begin(db)
    register(db, 0, 1, 2)
    for number, height in ((0, TIP), (1, TIP + 1)):
        settle_past(db, [scripthash_of(number)], reached=TIP + 900, history_from=height + 1)
    settle_past(db, [scripthash_of(2)], reached=TIP + 900, history_from=None)
    save_block(db, TIP + 1)
    assert node_blocks.disconnect(db, TIP) == ([], [scripthash_of(1)])
    assert [one.scripthash for one in node_scripts.load_pending(db, limit=9)] == [scripthash_of(1)]


def test_what_nothing_proves_is_less_once_it_is_spent(db: Database) -> None:
    """An output in a pruned block belongs to its script until a block spends it, and again if that block is lost."""
    begin(db)
    register(db, 0)
    unproved = {coin(91): (scripthash_of(0), 500), coin(92): (scripthash_of(0), 30)}
    settle_past(db, [scripthash_of(0)], reached=TIP + 900, history_from=TIP + 1, unproved=unproved)
    assert coverage_of(db, 0) == (TIP + 1, 530)
    assert dict(node_findings.load_outputs(db)) == dict.fromkeys(unproved, scripthash_of(0))
    payments = ledger.load_payments(db, scripthash_of(0))
    assert payments is not None
    assert payments.unproved == {Outpoint(txid_of(91), 0): 500, Outpoint(txid_of(92), 0): 30}
    save_block(db, TIP + 1, found(1, TIP + 1, spends={coin(91): 0}))
    assert coverage_of(db, 0) == (TIP + 1, 30)
    node_blocks.disconnect(db, TIP)
    assert coverage_of(db, 0) == (TIP + 1, 530)


def test_past_of_a_script_that_left_meanwhile_is_not_settled(db: Database) -> None:
    """A search that ends after its script was removed makes nothing of it."""
    begin(db)
    register(db, 0)
    ledger.remove_script(db, scripthash_of(0))
    node_rows.drop_script(db, scripthash_of(0))
    before = rows_in(db)
    settle_past(db, [scripthash_of(0)], reached=TIP + 900, history_from=None)
    assert rows_in(db) == before
    register(db, 0)
    assert not is_past_known(db, 0)


@pytest.mark.parametrize("is_stopped", [True, False], ids=["while it stood still", "while it ran"])
@pytest.mark.parametrize("is_settled", [True, False], ids=["settled", "still looked for"])
def test_address_that_is_removed_and_added_again_is_not_whole_by_that(
    db: Database, is_stopped: bool, is_settled: bool
) -> None:
    """A history that was not whole is not claimed to be because its address was forgotten and added in between."""
    begin(db)
    register(db, 0)
    if is_settled:
        settle_past(
            db, [scripthash_of(0)], reached=TIP + 900, history_from=TIP + 1, unproved={coin(90): (scripthash_of(0), 5)}
        )
    ledger.remove_script(db, scripthash_of(0))
    ledger.add_script(db, regtest_address(0))
    if is_stopped:
        node_scripts.drop_stale_scripts(db)
    register(db, 0)
    assert coverage_of(db, 0)[0] is not None


def test_pruned_blocks_leave_no_history_whole(db: Database) -> None:
    """Behind blocks that nobody could look through every script is to be looked for again, and says so."""
    begin(db, count=3)
    register(db, 0, 1)
    save_block(db, TIP + 1, found(1, TIP + 1, pays=[0]))
    settle_past(db, [scripthash_of(0)], reached=TIP + 900, history_from=None)
    ledger.add_script(db, regtest_address(2))  # not taken up yet
    node_blocks.skip_to(db, TIP + 500, hashes_to(TIP + 500, count=4))
    assert node_blocks.load_position(db) == (TIP + 500, block_hash_of(TIP + 500))
    known = [height for height in range(TIP + 502) if node_blocks.load_block_hash(db, height) is not None]
    assert known == list(range(TIP + 497, TIP + 501))
    assert [coverage_of(db, number) for number in (0, 1, 2)] == [(TIP + 501, 0)] * 3
    assert {one.scripthash for one in node_scripts.load_pending(db, limit=9)} == {scripthash_of(0), scripthash_of(1)}
    assert not is_past_known(db, 2, height=TIP + 500)
    assert history_of(db, 0) == [(TIP + 1, 1, txid_of(1))]
    save_block(db, TIP + 501, found(2, TIP + 501, spends={coin(1): 0}))
    assert history_of(db, 0) == [(TIP + 1, 1, txid_of(1)), (TIP + 501, 1, txid_of(2))]


# --- back to other servers ---------------------------------------------------------------------------------------


def test_other_servers_are_asked_for_what_was_not_whole(db: Database) -> None:
    """With other servers all of it is forgotten; scripts of which not all was known are asked again, no others."""
    begin(db)
    register(db, 0, 1, 2, 3)
    for number in range(4):
        ledger.save_status(db, scripthash_of(number), STATUS, now=1)
    save_block(db, TIP + 1, found(1, TIP + 1, pays=[0]))
    settle_past(db, [scripthash_of(0)], reached=TIP + 900, history_from=None)
    settle_past(db, [scripthash_of(1)], reached=TIP + 900, history_from=TIP, unproved={coin(91): (scripthash_of(1), 1)})
    settle_past(db, [scripthash_of(2)], reached=TIP + 900, history_from=TIP + 9)
    node_blocks.clear(db)
    assert rows_in(db) == {table: [] for table in NODE_TABLES}
    assert [coverage_of(db, number) for number in range(4)] == [(None, 0)] * 4
    assert dict(ledger.load_watches(db)) == {
        scripthash_of(0): STATUS,
        scripthash_of(1): UNKNOWN,
        scripthash_of(2): UNKNOWN,
        scripthash_of(3): UNKNOWN,
    }
    assert node_blocks.load_position(db) is None


def test_servers_have_nothing_to_forget_where_no_node_was_followed(db: Database) -> None:
    """A service that never had a node is asked for nothing again."""
    absorb(db, 0, entry_of(1, state=confirmed(TIP)))
    node_blocks.clear(db)
    assert dict(ledger.load_watches(db)) == {scripthash_of(0): STATUS}


def test_node_after_other_servers_claims_only_what_these_answered(db: Database) -> None:
    """From a node to other servers and back: what they did not show meanwhile is looked for once more."""
    begin(db)
    register(db, 0, 1)
    for number in (0, 1):
        ledger.save_status(db, scripthash_of(number), STATUS, now=1)
    node_blocks.clear(db)
    ledger.save_status(db, scripthash_of(1), STATUS, now=2)  # this one was answered
    begin(db)
    assert [is_past_known(db, number, height=TIP) for number in (0, 1)] == [False, True]
    assert [coverage_of(db, number)[0] for number in (0, 1)] == [TIP + 1, None]
