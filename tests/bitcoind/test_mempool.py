"""The view of the mempool, against a model that keeps whole transactions."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.hashes import ScriptHash, Txid, hex_of, scripthash_of
from lightipn.bitcoin.transaction import Outpoint, PackedOutpoint, Transaction, packed_outpoint, parse_transaction
from lightipn.bitcoind import mempool
from lightipn.bitcoind.mempool import MempoolView
from lightipn.bitcoind.scanner import Match, match_transaction
from lightipn.chain.history import HistoryEntry
from tests.builders import OTHER_SCRIPT, SCRIPT, payment, raw_transaction, txid_of

FOREIGN = b"\x51"
SCRIPTS = [SCRIPT, OTHER_SCRIPT, FOREIGN, b"\x6a" + b"x" * 200]
OWNERS = [scripthash_of(script) for script in SCRIPTS]
OWNER, OTHER_OWNER = OWNERS[:2]


def waiting(number: int, scripts: Iterable[bytes], *spends: Outpoint) -> Transaction:
    """Return a transaction that pays each of these scripts, and spends what nobody else does unless told."""
    inputs = spends or [Outpoint(txid_of(number), 0)]
    return parse_transaction(raw_transaction(inputs, [(500, script) for script in scripts], locktime=number))


def _family() -> list[Transaction]:
    """Return transactions that pay several scripts, and of which some spend each other's outputs."""
    first = waiting(1, [SCRIPT])
    second = waiting(2, [OTHER_SCRIPT, SCRIPT, SCRIPT], Outpoint(first.txid, 0))
    third = waiting(3, [FOREIGN], Outpoint(second.txid, 1), Outpoint(first.txid, 0))  # a rival of the second, and child
    fourth = waiting(4, [FOREIGN, SCRIPTS[3]])
    fifth = waiting(5, [OTHER_SCRIPT, FOREIGN, OTHER_SCRIPT], Outpoint(second.txid, 0), Outpoint(fourth.txid, 1))
    return [first, second, third, fourth, fifth, waiting(6, [SCRIPTS[3]] * 3)]


FAMILY = _family()
FAMILY_OUTPUTS = {
    packed_outpoint(one.txid, index): scripthash_of(output.script)
    for one in FAMILY
    for index, output in enumerate(one.outputs)
}


def match_of(transaction: Transaction, scripts: Iterable[bytes]) -> Match | None:
    """Return what of it concerns these scripts, all of whose outputs are known."""
    watched = set(scripts)
    owners = {scripthash_of(script) for script in watched}
    outpoints = {outpoint: owner for outpoint, owner in FAMILY_OUTPUTS.items() if owner in owners}
    return match_transaction(transaction, watched, outpoints)


def add(view: MempoolView, transaction: Transaction, *scripts: bytes) -> frozenset[ScriptHash]:
    """Take a transaction up while these scripts are watched."""
    return view.add(transaction, match_of(transaction, scripts))


def candidates_in(view: MempoolView, *scripts: bytes) -> list[Txid]:
    """Return the transactions that may pay one of these scripts, sorted; they are looked at two at a time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mempool, "LOOKED_AT_ONCE", 2)
        return sorted(txid for page in view.candidates(scripts) for txid in page)


def txids_of(view: MempoolView, scripthash: ScriptHash) -> list[Txid]:
    """Return what waits for a script."""
    return [entry.txid for entry in view.entries(scripthash)]


# --- one thing at a time -----------------------------------------------------------------------------------------


def test_transaction_that_concerns_nobody_is_known_and_told_to_nobody() -> None:
    """Of a foreign transaction only that it waits is kept."""
    view = MempoolView()
    one = payment(1)
    assert view.add(one, None) == frozenset()
    assert one.txid in view
    assert txid_of(99) not in view
    assert (view.matches(), view.entries(OWNER)) == ([], [])
    assert view.remove(one.txid) == frozenset()
    assert one.txid not in view


def test_payment_waits_for_its_script_until_it_leaves() -> None:
    """Whom a transaction concerns is named when it comes and when it goes; in between it is in their histories."""
    view = MempoolView()
    second = FAMILY[1]
    assert add(view, second, SCRIPT, OTHER_SCRIPT) == {OWNER, OTHER_OWNER}
    assert view.entries(OWNER) == view.entries(OTHER_OWNER) == [HistoryEntry(txid=second.txid, height=None)]
    assert view.matches() == [match_of(second, [SCRIPT, OTHER_SCRIPT])]
    assert view.remove(second.txid) == {OWNER, OTHER_OWNER}
    assert (view.entries(OWNER), view.entries(OTHER_OWNER), view.matches()) == ([], [], [])


def test_what_was_never_there_leaves_without_a_trace() -> None:
    """A block, or a notice, names transactions that were never seen in the mempool."""
    view = MempoolView()
    assert view.remove(txid_of(1)) == frozenset()
    view.forget_script(OWNER)
    assert view.compare({txid_of(1)}, view.txids()) == ([txid_of(1)], [])


def test_entries_stand_in_one_order_however_they_came() -> None:
    """The same mempool gives the same history, and so the same status, whatever came first."""
    orders = []
    for numbers in ([1, 2, 3, 4], [3, 1, 4, 2], [4, 3, 2, 1]):
        view = MempoolView()
        for number in numbers:
            add(view, waiting(number, [SCRIPT]), SCRIPT)
        orders.append(view.entries(OWNER))
    assert orders[0] == orders[1] == orders[2]
    assert len(orders[0]) == 4


def test_script_watched_later_finds_what_waits_for_it() -> None:
    """The outputs of transactions that concerned nobody are remembered well enough to find them again."""
    view = MempoolView()
    for one in FAMILY:
        view.add(one, None)
    paying = {one.txid for one in FAMILY if any(output.script == OTHER_SCRIPT for output in one.outputs)}
    assert candidates_in(view, OTHER_SCRIPT) == sorted(paying)
    assert candidates_in(view) == []
    assert candidates_in(view, b"\x52") == []


def test_script_that_is_watched_no_more_leaves_the_others_theirs() -> None:
    """Forgetting a script takes it out of matches and histories, and nobody else."""
    view = MempoolView()
    second, fifth = FAMILY[1], FAMILY[4]
    add(view, second, SCRIPT, OTHER_SCRIPT)
    add(view, fifth, SCRIPT, OTHER_SCRIPT)
    view.forget_script(OTHER_OWNER)
    assert view.matches() == [match_of(second, [SCRIPT])]
    assert txids_of(view, OWNER) == [second.txid]
    assert view.entries(OTHER_OWNER) == []
    assert fifth.txid in view
    assert view.remove(second.txid) == {OWNER}
    assert view.remove(fifth.txid) == frozenset()


def test_payer_keeps_a_payment_whose_payee_is_watched_no_more() -> None:
    """A script that is left out of a transaction's outputs does not take what it spends from the payer."""
    view = MempoolView()
    fifth = FAMILY[4]
    add(view, fifth, OTHER_SCRIPT, FOREIGN, SCRIPTS[3])
    view.forget_script(OTHER_OWNER)
    view.forget_script(scripthash_of(FOREIGN))
    assert view.matches() == [match_of(fifth, [SCRIPTS[3]])]
    assert view.remove(fifth.txid) == {scripthash_of(SCRIPTS[3])}


def test_listing_is_compared_both_ways() -> None:
    """A listing tells what to fetch and what has gone."""
    view = MempoolView()
    for one in FAMILY[:3]:
        view.add(one, None)
    new, gone = view.compare({FAMILY[0].txid, FAMILY[4].txid, FAMILY[5].txid}, view.txids())
    assert (set(new), set(gone)) == ({FAMILY[4].txid, FAMILY[5].txid}, {FAMILY[1].txid, FAMILY[2].txid})
    assert view.compare({one.txid for one in FAMILY[:3]}, view.txids()) == ([], [])


# --- taken up again ----------------------------------------------------------------------------------------------


def test_transaction_that_is_taken_up_again_with_more_is_told_to_all() -> None:
    """When a second script of a waiting transaction is watched, both are told, and both have it."""
    view = MempoolView()
    second = FAMILY[1]
    add(view, second, SCRIPT)
    assert add(view, second, SCRIPT, OTHER_SCRIPT) == {OWNER, OTHER_OWNER}
    assert view.matches() == [match_of(second, [SCRIPT, OTHER_SCRIPT])]
    assert txids_of(view, OWNER) == txids_of(view, OTHER_OWNER) == [second.txid]


@pytest.mark.parametrize("others", [(OTHER_SCRIPT,), ()], ids=["another script", "nobody"])
def test_transaction_that_is_taken_up_again_with_less_is_taken_from_the_rest(others: tuple[bytes, ...]) -> None:
    """What a transaction was found to concern last is what counts: a script that it left out waits for it no more.

    A script is let go of at once and forgotten here later; a transaction that concerns it may be taken up in between.
    """
    view = MempoolView()
    second = FAMILY[1]
    add(view, second, SCRIPT, *others)
    add(view, second, *others)
    assert view.entries(OWNER) == []
    assert txids_of(view, OTHER_OWNER) == [second.txid] * len(others)


def test_script_is_forgotten_after_its_transaction_was_taken_up_with_less_and_left() -> None:
    """A transaction that is gone is gone for all scripts that it ever concerned, and forgetting one of them is safe."""
    view = MempoolView()
    second = FAMILY[1]
    add(view, second, SCRIPT, OTHER_SCRIPT)
    add(view, second, OTHER_SCRIPT)
    view.remove(second.txid)
    view.forget_script(OWNER)
    assert (view.matches(), view.entries(OWNER), view.entries(OTHER_OWNER)) == ([], [], [])


def test_rival_takes_the_place_of_what_it_replaces() -> None:
    """Two transactions that spend the same never wait together: the newer one is told, and the older one is gone."""
    view = MempoolView()
    first, second, third = FAMILY[:3]
    add(view, second, SCRIPT, OTHER_SCRIPT)
    assert add(view, third, SCRIPT) == {OWNER, OTHER_OWNER}
    assert second.txid not in view
    assert txids_of(view, OWNER) == [third.txid]
    assert view.entries(OTHER_OWNER) == []
    assert first.txid not in view


# --- unconfirmed parents -----------------------------------------------------------------------------------------


def test_child_of_a_waiting_transaction_says_so() -> None:
    """An entry tells whether it spends an output that waits as well."""
    view = MempoolView()
    parent, child = FAMILY[3], FAMILY[4]
    view.add(parent, None)
    add(view, child, OTHER_SCRIPT)
    assert view.entries(OTHER_OWNER) == [HistoryEntry(txid=child.txid, height=None, has_unconfirmed_parent=True)]


def test_child_says_so_too_if_it_came_before_its_parent() -> None:
    """A listing has no order: the child may be taken up first, and its history is the same in the end."""
    view = MempoolView()
    parent, child = FAMILY[3], FAMILY[4]
    add(view, child, OTHER_SCRIPT)
    assert not view.entries(OTHER_OWNER)[0].has_unconfirmed_parent
    view.add(parent, None)
    assert view.entries(OTHER_OWNER)[0].has_unconfirmed_parent


def test_child_whose_parent_has_left_says_so_no_more() -> None:
    """Once the parent is in a block, its child spends nothing that waits."""
    view = MempoolView()
    parent, child = FAMILY[3], FAMILY[4]
    view.add(parent, None)
    add(view, child, OTHER_SCRIPT)
    view.remove(parent.txid)
    assert not view.entries(OTHER_OWNER)[0].has_unconfirmed_parent


# --- against the model -------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Model:
    """Keeps the whole mempool, and reads all of it for every answer."""

    scripts: set[bytes] = field(default_factory=set)
    pool: dict[Txid, tuple[Transaction, Match | None]] = field(default_factory=dict)

    def matches(self) -> Mapping[Txid, Match]:
        """Return what concerns somebody."""
        return {txid: match for txid, (_, match) in self.pool.items() if match is not None}

    def concerned(self, txid: Txid) -> frozenset[ScriptHash]:
        """Return whom a transaction concerns."""
        match = self.matches().get(txid)
        return frozenset() if match is None else match.scripthashes

    def forget(self, script: bytes) -> None:
        """Leave a script out of everything."""
        self.scripts.discard(script)
        self.pool = {
            txid: (one, self._without(match, scripthash_of(script))) for txid, (one, match) in self.pool.items()
        }

    def _without(self, match: Match | None, scripthash: ScriptHash) -> Match | None:
        def rest(of: Mapping[PackedOutpoint, ScriptHash]) -> dict[PackedOutpoint, ScriptHash]:
            return {outpoint: owner for outpoint, owner in of.items() if owner != scripthash}

        if match is None or not (rest(match.outputs) or rest(match.spends)):
            return None
        return Match(txid=match.txid, outputs=rest(match.outputs), spends=rest(match.spends))

    def hanging_on(self, txid: Txid) -> frozenset[ScriptHash]:
        """Return whose payments spend from a transaction."""
        children = [one.txid for one, _ in self.pool.values() if any(spend.txid == txid for spend in one.spends)]
        return frozenset().union(*(self.concerned(child) for child in children))

    def rivals_of(self, txid: Txid, match: Match | None) -> list[Txid]:
        """Return what spends the same outputs of watched scripts."""
        spends = set() if match is None else match.spends.keys()
        return [other for other, found in self.matches().items() if other != txid and found.spends.keys() & spends]

    def has_parent(self, txid: Txid) -> bool:
        """Tell whether it spends an output that waits."""
        return any(spend.txid in self.pool for spend in self.pool[txid][0].spends)


NUMBERS = st.integers(0, len(FAMILY) - 1)
OPERATIONS = st.one_of(
    st.tuples(st.just("watch"), st.integers(0, 3)),
    st.tuples(st.just("forget"), st.integers(0, 3)),
    st.tuples(st.just("add"), NUMBERS),
    st.tuples(st.just("add"), NUMBERS),
    st.tuples(st.just("remove"), NUMBERS),
)


def do(view: MempoolView, model: Model, name: str, number: int) -> None:
    """Do one operation on both, and compare what it returns."""
    one, script = FAMILY[number], SCRIPTS[number % 4]
    match name:
        case "watch":  # as the enrolment does: what waits for it already is taken up anew
            model.scripts.add(script)
            for txid in candidates_in(view, script):
                do(view, model, "add", next(n for n, each in enumerate(FAMILY) if each.txid == txid))
        case "forget":
            view.forget_script(scripthash_of(script))
            model.forget(script)
        case "add":
            found = match_of(one, model.scripts)
            expected = model.concerned(one.txid) | model.hanging_on(one.txid)
            for rival in model.rivals_of(one.txid, found):
                expected |= model.concerned(rival) | model.hanging_on(rival)
                del model.pool[rival]
            assert view.add(one, found) == expected | (found.scripthashes if found else frozenset())
            model.pool[one.txid] = one, found
        case "remove":
            is_there = one.txid in model.pool
            expected = model.concerned(one.txid) | model.hanging_on(one.txid)
            assert view.remove(one.txid) == (expected if is_there else frozenset())
            model.pool.pop(one.txid, None)


def check(view: MempoolView, model: Model, *, listing: set[Txid], wanted: list[bytes]) -> None:
    """Compare all that can be asked, but for the parents."""
    assert {one.txid for one in FAMILY if one.txid in view} == model.pool.keys()
    assert {match.txid: match for match in view.matches()} == model.matches()
    assert len(view.matches()) == len(model.matches())
    for scripthash in OWNERS:
        expected = [txid for txid in model.pool if scripthash in model.concerned(txid)]
        assert txids_of(view, scripthash) == sorted(expected, key=lambda each: (model.has_parent(each), hex_of(each)))
        assert all(entry.height is None for entry in view.entries(scripthash))
    new, gone = view.compare(listing, view.txids())
    assert (sorted(new), sorted(gone)) == (sorted(listing - model.pool.keys()), sorted(model.pool.keys() - listing))
    candidates = candidates_in(view, *wanted)
    assert len(candidates) == len(set(candidates))
    paying = {txid for txid, (one, _) in model.pool.items() if any(output.script in wanted for output in one.outputs)}
    assert set(candidates) == paying


LISTINGS = st.sets(st.sampled_from([one.txid for one in FAMILY] + [txid_of(77)]))


@given(st.lists(OPERATIONS, min_size=5, max_size=40), LISTINGS, st.lists(st.sampled_from(SCRIPTS), max_size=2))
@settings(deadline=None, max_examples=200)
@pytest.mark.slow
def test_view_says_what_the_whole_mempool_would(
    operations: list[tuple[str, int]], listing: set[Txid], wanted: list[bytes]
) -> None:
    """After any sequence of operations the view answers as one that keeps every transaction."""
    view, model = MempoolView(), Model()
    for name, number in operations:
        do(view, model, name, number)
    check(view, model, listing=listing, wanted=wanted)


@given(st.lists(OPERATIONS, min_size=5, max_size=40))
@settings(deadline=None, max_examples=200)
@pytest.mark.slow
def test_entries_tell_of_the_parents_that_wait_now(operations: list[tuple[str, int]]) -> None:
    """Whatever came and went in whichever order, an entry has an unconfirmed parent if it spends from the mempool."""
    view, model = MempoolView(), Model()
    for name, number in operations:
        do(view, model, name, number)
    for scripthash in OWNERS:
        for entry in view.entries(scripthash):
            assert entry.has_unconfirmed_parent == model.has_parent(entry.txid)
