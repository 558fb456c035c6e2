"""The index of a node's blocks against a made-up chain: reorgs, new watches, searches and gaps in any order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from lightipn.bitcoin.hashes import BlockHash, Txid
from lightipn.bitcoin.transaction import Outpoint, PackedOutpoint
from lightipn.ledger.entries import Dropped
from lightipn.store import ledger, node_blocks, node_findings, node_rows, node_scripts
from lightipn.store.node_findings import BLOCKS_KEPT, FoundTransaction, KnownProof
from tests.builders import block_hash_of, confirmed, entry_of, txid_of
from tests.store.node_rows import (
    absorb,
    begin,
    coin,
    coverage_of,
    found,
    history_of,
    register,
    scripthash_of,
    settle_past,
)
from tests.store.rows import TIP, open_memory, regtest_address

ADDRESSES = 3  # that may be watched; one more is a stranger's
NUMBERS = st.integers(0, ADDRESSES - 1)
# Whom each output of a transaction pays, and which of the unspent outputs it spends.
PAYMENTS = st.tuples(st.lists(st.integers(0, ADDRESSES), max_size=3), st.lists(st.integers(0, 50), max_size=2))
BLOCKS = st.lists(st.lists(PAYMENTS, max_size=3), min_size=1, max_size=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Payment:
    """A transaction of the made-up chain.

    Args:
        spends: outpoints, each with the number of the address that it belongs to.
    """

    number: int
    pays: tuple[int, ...]
    spends: dict[PackedOutpoint, int]

    def made(self) -> dict[PackedOutpoint, int]:
        """Return its outputs, each with the number of the address that it pays."""
        return {coin(self.number, index): payee for index, payee in enumerate(self.pays)}


@dataclass(slots=True, kw_only=True)
class MadeUpBlock:
    """A block of the made-up chain.

    Args:
        seen_for: numbers of the addresses that it was looked through for.
    """

    block_hash: BlockHash
    payments: list[Payment]
    seen_for: set[int] = field(default_factory=set)


class Chain:
    """What is true: blocks on top of ``TIP``, and what of them is spent."""

    def __init__(self) -> None:
        self.blocks: list[MadeUpBlock] = []
        self.last_number = 0
        self.branch = 0

    def height_of(self, index: int) -> int:
        """Return the height of a block."""
        return TIP + 1 + index

    def unspent(self) -> dict[PackedOutpoint, int]:
        """Return the unspent outputs, each with the number of its address."""
        outputs: dict[PackedOutpoint, int] = {}
        for block in self.blocks:
            for payment in block.payments:
                for outpoint in payment.spends:
                    del outputs[outpoint]
                outputs |= payment.made()
        return outputs

    def add(self, wishes: Iterable[tuple[Sequence[int], Sequence[int]]], again: Iterable[Payment] = ()) -> MadeUpBlock:
        """Add a block of payments that left the chain, as far as they are still possible, and of new ones."""
        block = MadeUpBlock(block_hash=block_hash_of(self.height_of(len(self.blocks)), branch=self.branch), payments=[])
        self.blocks.append(block)
        for payment in again:
            if payment.spends.keys() <= self.unspent().keys():
                block.payments.append(payment)
        for pays, picks in wishes:
            unspent = self.unspent()
            coins = sorted(unspent)
            spends = {coins[pick % len(coins)]: unspent[coins[pick % len(coins)]] for pick in picks if coins}
            if pays or spends:
                self.last_number += 1
                block.payments.append(Payment(number=self.last_number, pays=tuple(pays), spends=spends))
        return block


def findings(block: MadeUpBlock, height: int, watched: set[int], known: set[PackedOutpoint]) -> list[FoundTransaction]:
    """Return what a scanner finds in a block, which knows these addresses and these outputs; it learns new ones."""
    items = []
    for position, payment in enumerate(block.payments):
        spends = {outpoint: owner for outpoint, owner in payment.spends.items() if outpoint in known}
        whole = found(payment.number, height, position=position, pays=payment.pays, spends=spends)
        wanted = {scripthash_of(number) for number in watched}
        outputs = {outpoint: owner for outpoint, owner in whole.outputs.items() if owner in wanted}
        known.update(outputs)
        if outputs or spends:
            items.append(
                FoundTransaction(
                    txid=whole.txid,
                    height=height,
                    position=position,
                    siblings=whole.siblings,
                    raw=whole.raw,
                    outputs=outputs,
                    spends=whole.spends,
                )
            )
    return items


class NodeIndex(RuleBasedStateMachine):
    """A chain that grows and is reorganised under addresses that come and go.

    Law: histories, outputs and proofs are those of the blocks that were looked through for an address, all of them and
    nothing else; and an address of which a block was not looked through does not pass for whole.
    """

    def __init__(self) -> None:
        super().__init__()
        self.memory = open_memory()
        self.db = self.memory.__enter__()
        begin(self.db)
        self.chain = Chain()
        self.watched: set[int] = set()
        self.pending: set[int] = set()

    def teardown(self) -> None:
        """Search the past of all, and see that nothing is missing; then let go of all, and see that nothing is left."""
        self.find_past()
        for number in self.watched:
            truth = [
                (self.chain.height_of(index), position, txid_of(payment.number))
                for index, block in enumerate(self.chain.blocks)
                for position, payment in enumerate(block.payments)
                if number in payment.pays or number in payment.spends.values()
            ]
            assert history_of(self.db, number) == truth
            assert coverage_of(self.db, number) == (None, 0)
        for number in list(self.watched):
            self.unwatch(number, is_running=True)
        counts = [
            self.db.execute(f"SELECT count(*) FROM {table}").fetchone()
            for table in ("node_script", "node_transaction", "node_entry", "node_output")
        ]
        assert counts == [(0,)] * 4
        self.memory.__exit__(None, None, None)

    @property
    def height(self) -> int:
        """Height of the chain's last block."""
        return TIP + len(self.chain.blocks)

    def look_through(self, block: MadeUpBlock) -> None:
        """Look through the chain's last block as it comes."""
        known = {outpoint for outpoint, _ in node_findings.load_outputs(self.db)}
        items = findings(block, self.height, self.watched, known)
        node_blocks.save_block(self.db, self.height, block.block_hash, items)
        block.seen_for = set(self.watched)

    # --- what happens ---

    @rule(number=NUMBERS)
    def watch(self, number: int) -> None:
        """Somebody wants an address, perhaps one that is watched."""
        (script,) = register(self.db, number, height=self.height)
        if number not in self.watched:
            self.watched.add(number)
            self.pending.add(number)
            assert coverage_of(self.db, number) == (self.height + 1, 0)
        assert script.script == regtest_address(number).script
        assert script.is_past_known is (number not in self.pending)

    @rule(number=NUMBERS, is_running=st.booleans())
    def unwatch(self, number: int, is_running: bool) -> None:
        """Nobody wants an address any more: the service hears of it, or finds out when it starts."""
        ledger.remove_script(self.db, scripthash_of(number))
        if is_running:
            node_rows.drop_script(self.db, scripthash_of(number))
        else:
            node_scripts.drop_stale_scripts(self.db)
        self.watched.discard(number)
        self.pending.discard(number)
        for block in self.chain.blocks:
            block.seen_for.discard(number)

    @rule(blocks=BLOCKS)
    def grow(self, blocks: list[list[tuple[list[int], list[int]]]]) -> None:
        """Blocks come."""
        for wishes in blocks:
            self.look_through(self.chain.add(wishes))

    @precondition(lambda self: self.chain.blocks)
    @rule(depth=st.integers(1, 4), blocks=BLOCKS, share=st.integers(0, 3))
    def reorg(self, depth: int, blocks: list[list[tuple[list[int], list[int]]]], share: int) -> None:
        """The highest blocks leave; others come, with some of the same payments, elsewhere."""
        depth = min(depth, len(self.chain.blocks))
        fork_height = self.height - depth
        expected = {
            scripthash_of(number)
            for number in self.watched
            if any(height > fork_height for height, _, _ in self.history_of(number))
        }
        lost = [payment for block in self.chain.blocks[-depth:] for payment in block.payments]
        touched, _ = node_blocks.disconnect(self.db, fork_height)
        del self.chain.blocks[-depth:]
        assert sorted(touched) == sorted(expected)
        self.chain.branch += 1
        kept = [payment for at, payment in enumerate(lost) if at % 4 <= share]
        for number, wishes in enumerate(blocks):
            self.look_through(self.chain.add(wishes, kept if number == len(blocks) - 1 else ()))

    @rule(count=st.integers(1, 3), wishes=st.lists(PAYMENTS, max_size=3))
    def prune(self, count: int, wishes: list[tuple[list[int], list[int]]]) -> None:
        """The node prunes blocks before they were looked through."""
        for _ in range(count):
            self.chain.add(wishes)
        node_blocks.skip_to(self.db, self.height, [block.block_hash for block in self.chain.blocks[-count:]])
        for block in self.chain.blocks:
            block.seen_for &= self.watched
        self.pending = set(self.watched)
        assert all(coverage_of(self.db, number)[0] == self.height + 1 for number in self.watched)

    @rule()
    def find_past(self) -> None:
        """All blocks are searched for the addresses that wait for it."""
        waiting = node_scripts.load_pending(self.db, limit=9)
        assert {one.scripthash for one in waiting} == {scripthash_of(number) for number in self.pending}
        self.search(self.pending)
        settle_past(self.db, [one.scripthash for one in waiting], reached=TIP + 900, history_from=None)
        self.pending = set()

    @rule()
    def find_again(self) -> None:
        """What is known already is found once more, which changes nothing."""
        self.search(self.watched - self.pending)

    def search(self, numbers: set[int]) -> None:
        """Search all blocks for some addresses."""
        known: set[PackedOutpoint] = set()
        for index, block in enumerate(self.chain.blocks):
            node_findings.save_found(self.db, findings(block, self.chain.height_of(index), numbers, known))
            block.seen_for |= numbers

    # --- what must hold ---

    def owned_by(self, number: int) -> dict[PackedOutpoint, int | None]:
        """Return an address's outputs of blocks that were looked through for it, each with where one spent it."""
        outputs: dict[PackedOutpoint, int | None] = {}
        for index, block in enumerate(self.chain.blocks):
            if number in block.seen_for:
                for payment in block.payments:
                    for outpoint in payment.spends.keys() & outputs.keys():
                        outputs[outpoint] = self.chain.height_of(index)
                    outputs |= {outpoint: None for outpoint, payee in payment.made().items() if payee == number}
        return outputs

    def history_of(self, number: int) -> list[tuple[int, int, Txid]]:
        """Return an address's transactions in blocks that were looked through for it."""
        owned = self.owned_by(number).keys()
        return [
            (self.chain.height_of(index), position, txid_of(payment.number))
            for index, block in enumerate(self.chain.blocks)
            if number in block.seen_for
            for position, payment in enumerate(block.payments)
            if number in payment.pays or payment.spends.keys() & owned
        ]

    @invariant()
    def histories_are_what_was_seen(self) -> None:
        """Every address has the transactions that blocks showed of it, in the chain's order."""
        numbers = range(ADDRESSES + 1)
        assert node_findings.load_histories(self.db, [scripthash_of(number) for number in numbers]) == {
            scripthash_of(number): self.history_of(number) if number in self.watched else [] for number in numbers
        }

    @invariant()
    def outputs_are_those_of_watched_scripts(self) -> None:
        """Every output that was found is looked after, with its owner, and with the block that spent it."""
        owned = {number: self.owned_by(number) for number in self.watched}
        assert sorted(node_findings.load_outputs(self.db)) == sorted(
            (outpoint, scripthash_of(number)) for number, outputs in owned.items() for outpoint in outputs
        )
        assert dict(self.db.execute("SELECT outpoint, spent_height FROM node_output").fetchall()) == {
            outpoint: height for outputs in owned.values() for outpoint, height in outputs.items()
        }

    @invariant()
    def proofs_are_those_of_the_chain(self) -> None:
        """A transaction that concerns somebody has the proof of the block that holds it now; no other one has any."""
        places = {place for number in self.watched for place in self.history_of(number)}
        expected: dict[Txid, KnownProof | None] = {}
        for number in range(1, self.chain.last_number + 1):
            expected[txid_of(number)] = None
            for height, position, txid in places:
                if txid == txid_of(number):
                    one = found(number, height, position=position)
                    expected[txid] = KnownProof(height=height, position=position, siblings=one.siblings, raw=one.raw)
        assert {txid: node_findings.load_proof(self.db, txid) for txid in expected} == expected

    @invariant()
    def nothing_passes_for_whole_that_is_not(self) -> None:
        """Where a block was not looked through for an address, it says from where on its history is whole."""
        assert node_scripts.count_pending(self.db) == len(self.pending)
        for number in self.watched:
            history_from, _ = coverage_of(self.db, number)
            is_whole = all(number in block.seen_for for block in self.chain.blocks)
            assert is_whole or history_from is not None

    @invariant()
    def position_is_the_tip(self) -> None:
        """The last block that was looked through is the chain's, and no block of another branch is left."""
        if self.chain.blocks:
            assert node_blocks.load_position(self.db) == (self.height, self.chain.blocks[-1].block_hash)
        for index, block in enumerate(self.chain.blocks):
            assert node_blocks.load_block_hash(self.db, self.chain.height_of(index)) in (block.block_hash, None)
        assert node_blocks.load_block_hash(self.db, self.height + 1) is None


NodeIndex.TestCase.settings = settings(deadline=None, max_examples=40, stateful_step_count=25)


@pytest.mark.slow
class TestNodeIndex(NodeIndex.TestCase):  # type: ignore[name-defined,misc]  # made by Hypothesis at run time
    """Whatever happens, the index is what one would find in the blocks by hand."""


HEIGHTS = st.one_of(st.none(), st.integers(0, 3), st.integers(TIP - 3, TIP + 3))
PROVED = st.lists(
    st.tuples(HEIGHTS, st.sets(NUMBERS, min_size=1), st.booleans()), max_size=6
)  # of each payment: its height, its addresses, and whether it spends what the one before it paid


@pytest.mark.slow
@settings(deadline=None, max_examples=60)
@given(proved=PROVED, whole=st.sets(NUMBERS), at=st.sampled_from([0, 2, TIP, TIP + 2, BLOCKS_KEPT + 2]))
def test_what_is_taken_over_is_what_is_proved(
    proved: list[tuple[int | None, set[int], bool]], whole: set[int], at: int
) -> None:
    """A node begins with the ledger's proved payments up to a block, for every address the same as for it alone."""
    entries: dict[int, list[tuple[int, int | None]]] = {number: [] for number in range(ADDRESSES)}
    with open_memory() as db:
        for number in entries:
            absorb(db, number)
        for payment, (height, numbers, is_spending) in enumerate(proved, 1):
            state = Dropped() if height is None else confirmed(height, position=payment)
            spends = [Outpoint(txid_of(payment - 1), 0)] if is_spending else []
            for number in numbers:
                entries[number].append((payment, height))
                ledger.save_entries(db, scripthash_of(number), [entry_of(payment, state=state, spends=spends)])
        for number in set(entries) - whole:
            ledger.forget_status(db, [scripthash_of(number)])
        begin(db, at)
        for number, owned in entries.items():
            expected = [(height, payment) for payment, height in owned if height is not None and height <= at]
            kept = [(height, int(position)) for height, position, _ in history_of(db, number)]
            if number in whole:
                assert kept == sorted(expected)
            assert set(kept) <= set(expected)
        pending = {scripthash_of(number) for number in set(entries) - whole}
        register(db, *entries, height=at)
        assert {one.scripthash for one in node_scripts.load_pending(db, limit=9)} == pending
        assert {number: coverage_of(db, number)[0] for number in entries} == {
            number: None if number in whole else at + 1 for number in entries
        }


def test_made_up_chain_can_be_reorganised() -> None:
    """The law's own chain spends what is there, once, and takes payments again only where they are possible."""
    chain = Chain()
    chain.add([([0], [])])
    chain.add([([1], [0]), ([2], [0])])
    first, second = chain.blocks[1].payments
    assert (first.spends, second.spends) == ({coin(1): 0}, {coin(2): 1})
    lost = chain.blocks.pop().payments
    again = chain.add([], lost[1:])
    assert again.payments == []
    assert chain.add([], lost).payments == lost
