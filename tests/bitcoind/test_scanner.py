"""What of a block, or of a transaction, concerns watched scripts: against a reference that reads every transaction."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.block import parse_block
from lightipn.bitcoin.hashes import ScriptHash, scripthash_of
from lightipn.bitcoin.transaction import (
    Outpoint,
    PackedOutpoint,
    Transaction,
    TxOutput,
    packed_outpoint,
    parse_transaction,
)
from lightipn.bitcoind.scanner import Hits, Match, match_transaction, matches_of, scan_block
from tests.bitcoin.blocks import block_of
from tests.builders import NULL_OUTPOINT, OTHER_SCRIPT, SCRIPT, coinbase, raw_transaction, txid_of

OWNER, OTHER_OWNER = scripthash_of(SCRIPT), scripthash_of(OTHER_SCRIPT)
FOREIGN = b"\x51"
SCRIPTS = [SCRIPT, OTHER_SCRIPT, FOREIGN, b"", b"\x6a" + b"x" * 0xFF]
# What blocks before this one made, and what of it is watched.
OLD = [Outpoint(txid_of(number), number % 3) for number in range(6)]
OLD_OWNERS = {
    packed_outpoint(OLD[number].txid, OLD[number].index): scripthash_of(SCRIPTS[number % 2]) for number in (0, 1, 2)
}


def matches_in(
    transactions: Sequence[Transaction], scripts: Set[bytes], outpoints: Mapping[PackedOutpoint, ScriptHash]
) -> dict[int, Match]:
    """Scan a block of these transactions."""
    block = parse_block(block_of([(one.raw, one.txid) for one in transactions]))
    return matches_of(block, scan_block(block, scripts, outpoints), outpoints)


def naive_matches(
    transactions: Sequence[Transaction], scripts: Set[bytes], outpoints: Mapping[PackedOutpoint, ScriptHash]
) -> dict[int, Match]:
    """Read one transaction after the other, and remember what each one makes."""
    owners = dict(outpoints)
    matches = {}
    for position, one in enumerate(transactions):
        made = {
            packed_outpoint(one.txid, index): scripthash_of(output.script)
            for index, output in enumerate(one.outputs)
            if output.script in scripts
        }
        spent = {
            packed_outpoint(spend.txid, spend.index): owners[packed_outpoint(spend.txid, spend.index)]
            for spend in one.spends
            if packed_outpoint(spend.txid, spend.index) in owners
        }
        owners |= made
        if made or spent:
            matches[position] = Match(txid=one.txid, outputs=made, spends=spent)
    return matches


def transaction_of(spends: Sequence[Outpoint], scripts: Sequence[bytes], *, number: int = 0) -> Transaction:
    """Return a transaction that spends these and pays 1000 sat to each script."""
    return parse_transaction(raw_transaction(spends, [(1000, script) for script in scripts], locktime=number))


def output_of(transaction: Transaction, index: int) -> Outpoint:
    """Return one of its outpoints."""
    return Outpoint(transaction.txid, index)


@dataclass(frozen=True, slots=True)
class Scene:
    """A block, what is watched, and the outpoints that are known to belong to it."""

    transactions: Sequence[Transaction]
    scripts: Set[bytes]
    outpoints: Mapping[PackedOutpoint, ScriptHash]


@st.composite
def scenes(draw: st.DrawFn) -> Scene:
    """A block whose transactions pay a few scripts over and over, and spend from each other and from before."""
    transactions = [coinbase(1, script=draw(st.sampled_from([SCRIPT, OTHER_SCRIPT, FOREIGN])))]
    unspent = list(OLD)
    for number in range(draw(st.integers(0, 6))):
        spends = draw(st.lists(st.sampled_from(unspent), min_size=1, max_size=4, unique=True))
        paid = draw(st.lists(st.sampled_from(SCRIPTS), min_size=1, max_size=4))
        # Never of 64 bytes, which no transaction may have: the lengths of these scripts do not allow it.
        one = transaction_of(spends, paid, number=number)
        transactions.append(one)
        unspent = [each for each in unspent if each not in spends] or [Outpoint(txid_of(100 + number), 0)]
        unspent += [output_of(one, index) for index in range(len(paid))]
    scripts = draw(st.sets(st.sampled_from(SCRIPTS)))
    outpoints = dict(OLD_OWNERS)
    if draw(st.booleans()):  # the block is looked through again: what it made is known already
        for match in naive_matches(transactions, set(SCRIPTS), {}).values():
            known = draw(st.sets(st.sampled_from(sorted(match.outputs)))) if match.outputs else set()
            outpoints |= {each: match.outputs[each] for each in known}
    return Scene(transactions, scripts, outpoints)


# --- blocks ------------------------------------------------------------------------------------------------------


@given(scenes())
@settings(deadline=None, max_examples=200)
@pytest.mark.slow
def test_scan_finds_what_a_reading_of_every_transaction_finds(scene: Scene) -> None:
    """The scan of a block finds every output to a watched script and every spend from one, and nothing else."""
    before = dict(scene.outpoints)
    found = matches_in(scene.transactions, scene.scripts, scene.outpoints)
    assert found == naive_matches(scene.transactions, scene.scripts, scene.outpoints)
    assert list(found) == sorted(found)
    assert scene.outpoints == before


def test_output_that_is_spent_in_its_own_block_is_found_both_ways() -> None:
    """A watched output made and spent in one block concerns its script twice, though nobody knew it before."""
    pays = transaction_of([OLD[5]], [FOREIGN, SCRIPT])
    spends = transaction_of([output_of(pays, 1)], [FOREIGN])
    outpoint = packed_outpoint(pays.txid, 1)
    assert matches_in([coinbase(1, script=FOREIGN), pays, spends], {SCRIPT}, {}) == {
        1: Match(txid=pays.txid, outputs={outpoint: OWNER}, spends={}),
        2: Match(txid=spends.txid, outputs={}, spends={outpoint: OWNER}),
    }


def test_chain_of_payments_in_one_block_is_followed() -> None:
    """Each link of a chain within a block, watched script to watched script, is found."""
    links = [transaction_of([OLD[5]], [SCRIPT])]
    for number, script in enumerate([OTHER_SCRIPT, SCRIPT, FOREIGN], start=1):
        links.append(transaction_of([output_of(links[-1], 0)], [script], number=number))
    found = matches_in([coinbase(1, script=FOREIGN), *links], {SCRIPT, OTHER_SCRIPT}, {})
    assert [found[position].scripthashes for position in found] == [
        {OWNER},
        {OWNER, OTHER_OWNER},
        {OWNER, OTHER_OWNER},
        {OWNER},
    ]


def test_script_that_is_paid_many_times_is_found_each_time() -> None:
    """Repeated outputs to one script are as many outpoints of it, in one transaction and across several."""
    first = transaction_of([OLD[4]], [SCRIPT, FOREIGN, SCRIPT, SCRIPT])
    second = transaction_of([OLD[5]], [SCRIPT])
    found = matches_in([coinbase(1), first, second], {SCRIPT}, {})
    assert [sorted(each[32] for each in match.outputs) for match in found.values()] == [[0], [0, 2, 3], [0]]
    assert {owner for match in found.values() for owner in match.outputs.values()} == {OWNER}


def test_spend_of_what_was_watched_before_is_found_without_its_script() -> None:
    """An input is told by the outpoint alone: a script that nobody looks for any more still has its output spent."""
    spends = transaction_of([OLD[5], OLD[0], OLD[1]], [FOREIGN])
    owned = {packed_outpoint(each.txid, each.index): owner for each, owner in ((OLD[0], OWNER), (OLD[1], OTHER_OWNER))}
    assert matches_in([coinbase(1), spends], set(), OLD_OWNERS) == {
        1: Match(txid=spends.txid, outputs={}, spends=owned)
    }


def test_same_index_of_another_transaction_is_another_outpoint() -> None:
    """Neither the txid alone nor the index alone makes an outpoint."""
    near = [Outpoint(OLD[0].txid, OLD[0].index + 1), Outpoint(txid_of(50), OLD[0].index)]
    assert matches_in([coinbase(1, script=FOREIGN), transaction_of(near, [FOREIGN])], {SCRIPT}, OLD_OWNERS) == {}


def test_block_that_concerns_nobody_gives_nothing() -> None:
    """Where nothing is watched, or nothing of it moves, the scan is empty."""
    block = parse_block(block_of([(one.raw, one.txid) for one in [coinbase(1), transaction_of([OLD[5]], [FOREIGN])]]))
    for scripts, outpoints in ((set(), {}), ({OTHER_SCRIPT}, OLD_OWNERS)):
        hits = scan_block(block, scripts, outpoints)
        assert hits == Hits([], [])
        assert matches_of(block, hits, outpoints) == {}


def test_hits_are_indices_into_the_blocks_lists() -> None:
    """A hit names the script, or the spend, by its place in the block."""
    transactions = [coinbase(1, script=FOREIGN), transaction_of([OLD[5], OLD[0]], [FOREIGN, SCRIPT])]
    block = parse_block(block_of([(one.raw, one.txid) for one in transactions]))
    hits = scan_block(block, {SCRIPT}, OLD_OWNERS)
    assert hits == Hits([2], [2])
    assert (block.scripts[2], block.spends[2]) == (SCRIPT, packed_outpoint(OLD[0].txid, OLD[0].index))


# --- single transactions -----------------------------------------------------------------------------------------


@given(scenes())
@settings(deadline=None, max_examples=100)
@pytest.mark.slow
def test_each_transaction_alone_matches_as_in_its_block(scene: Scene) -> None:
    """A transaction concerns whom it concerns in a block, once what others made before it is known."""
    owners = dict(scene.outpoints)
    expected = matches_in(scene.transactions, scene.scripts, scene.outpoints)
    for position, one in enumerate(scene.transactions):
        match = match_transaction(one, scene.scripts, owners)
        assert match == expected.get(position)
        if match is not None:
            owners.update(match.outputs)


def test_transaction_that_concerns_nobody_is_no_match() -> None:
    """Nothing is made of a foreign transaction."""
    assert match_transaction(transaction_of([OLD[5]], [FOREIGN]), {SCRIPT}, OLD_OWNERS) is None
    assert match_transaction(coinbase(1), set(), {}) is None


def test_match_names_each_script_once() -> None:
    """Whom a transaction concerns is a set: payers, and those paid."""
    one = transaction_of([OLD[0], OLD[1], OLD[2]], [SCRIPT, SCRIPT])
    match = match_transaction(one, {SCRIPT}, OLD_OWNERS)
    assert match is not None
    assert match.scripthashes == frozenset({OWNER, OTHER_OWNER})
    assert (len(match.outputs), len(match.spends)) == (2, 3)
    assert one.outputs == (TxOutput(amount_sat=1000, script=SCRIPT),) * 2


def test_packed_outpoint_is_as_it_stands_in_a_transaction() -> None:
    """An outpoint packs to the 36 bytes that an input begins with, up to the largest index."""
    for spend in (OLD[1], NULL_OUTPOINT, Outpoint(txid_of(3), 0x01020304)):
        assert packed_outpoint(spend.txid, spend.index) == raw_transaction([spend], [(1, SCRIPT)])[5:41]
