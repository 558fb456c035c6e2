"""The laws of the ledger's rules, whatever comes in whatever order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.hashes import Txid
from lightipn.bitcoin.transaction import Outpoint, Transaction
from lightipn.chain.history import HistoryEntry
from lightipn.chain.verifier import Confirmed, Evidence, Known, Place, Unconfirmed, verify
from lightipn.ledger.entries import GONE, Dropped, PaymentState, Replaced, ScriptPayments
from lightipn.ledger.events import EventKind, PaymentEvent, TrustLevel
from lightipn.ledger.rules import LedgerDelta, absorbed, dropped, replaced, reverted
from tests.builders import SCRIPT, SEEN_AT, confirmed, payment, txid_of
from tests.ledger.steps import EMPTY, NOTHING, Facts, absorb, fact, standing_in, states_of, totals, written

# Payments 0 to 5: each but the first two spends the output of an earlier one, and none conflicts with another.
FAMILY: dict[int, Transaction] = {0: payment(100, amount_sat=1000), 1: payment(101, amount_sat=2000)}
for _number in range(2, 6):
    FAMILY[_number] = payment(
        100 + _number, amount_sat=900 - 100 * _number, spends=[Outpoint(FAMILY[_number - 2].txid, 0)]
    )
PLACES = st.one_of(st.builds(Unconfirmed, st.integers(1, 3)), st.builds(confirmed, st.integers(1, 5)))
HISTORIES = st.lists(st.dictionaries(st.sampled_from(sorted(FAMILY)), PLACES, max_size=6), max_size=5)


def facts_of(history: Mapping[int, Place | None]) -> Facts:
    """Return the facts of a generated history."""
    return [(FAMILY[number], place) for number, place in history.items()]


@given(HISTORIES)
@settings(deadline=None, max_examples=40)
def test_absorbing_a_history_twice_changes_nothing_the_second_time(histories: list[dict[int, Place]]) -> None:
    """Whatever came before, the same history again has no entries to write and no events to tell."""
    payments = EMPTY
    for history in histories:
        payments, _ = absorb(payments, *facts_of(history))
        again, delta = absorb(payments, *facts_of(history))
        assert (again, delta) == (payments, NOTHING)


@given(
    st.permutations(sorted(FAMILY)),
    st.lists(st.integers(1, 3), min_size=6, max_size=6),
    st.lists(PLACES, min_size=6, max_size=6),
)
@settings(deadline=None, max_examples=60)
def test_order_of_arrival_does_not_change_the_sums(order: list[int], sizes: list[int], places: list[Place]) -> None:
    """However the payments are cut into histories and in whatever order these come, the ledger ends up the same."""
    at_once, _ = absorb(EMPTY, *[(transaction, places[number]) for number, transaction in FAMILY.items()])
    payments, rest = EMPTY, list(order)
    for size in sizes:
        part, rest = rest[:size], rest[size:]
        payments, _ = absorb(payments, *[(FAMILY[number], places[number]) for number in part])
    assert not rest
    assert payments.entries == at_once.entries
    assert totals(payments) == totals(at_once)


@given(HISTORIES)
@settings(deadline=None, max_examples=40)
def test_total_is_the_sum_of_the_hashed_outputs(histories: list[dict[int, Place]]) -> None:
    """The sum of all nets equals what the raw transactions pay to the script less what they spend of it."""
    payments = EMPTY
    for history in histories:
        payments, _ = absorb(payments, *facts_of(history))
    held = {transaction.txid: transaction for transaction in FAMILY.values() if transaction.txid in payments.entries}
    paid_sat = sum(sum(transaction.received_by(SCRIPT).values()) for transaction in held.values())
    spent_sat = sum(
        held[outpoint.txid].outputs[outpoint.index].amount_sat
        for transaction in held.values()
        for outpoint in transaction.spends
        if outpoint.txid in held
    )
    assert sum(entry.net_sat for entry in payments.entries.values()) == paid_sat - spent_sat


# --- rivals ------------------------------------------------------------------------------------------------------

COINS = [Outpoint(txid_of(600 + number), 0) for number in range(3)]
# a, b and c want the first coin, c and d the second; e and f are children; x and y pay others than the script.
RIVALS: dict[str, Transaction] = {
    "a": payment(201, amount_sat=1000, spends=[COINS[0]], change_sat=1),
    "b": payment(202, amount_sat=900, spends=[COINS[0]]),
    "c": payment(203, amount_sat=800, spends=[COINS[0], COINS[1]]),
    "d": payment(204, amount_sat=700, spends=[COINS[1]]),
    "h": payment(205, amount_sat=600, spends=[COINS[2]]),
    "x": payment(206, amount_sat=0, spends=[COINS[0]], change_sat=990),
    "y": payment(207, amount_sat=0, spends=[COINS[1], COINS[2]], change_sat=980),
}
RIVALS["e"] = payment(208, amount_sat=30, spends=[Outpoint(RIVALS["a"].txid, 0)], change_sat=900)
RIVALS["f"] = payment(209, amount_sat=20, spends=[Outpoint(RIVALS["b"].txid, 0)])
NAME_OF = {transaction.txid: name for name, transaction in RIVALS.items()}
LISTED = "abcdefh"
# What can be in one chain together.
CHAINS = ["adhe", "bdhf", "ch", "dhx", "ay", "bfy", "xy"]


def conflict(one: str, other: str) -> bool:
    """Tell whether two of the rivals spend the same coin."""
    return one != other and not set(RIVALS[one].spends).isdisjoint(RIVALS[other].spends)


@dataclass(frozen=True)
class Step:
    """One thing that happens: a history comes, a reorg takes a payment's block, a payment is replaced or dropped."""

    kind: str
    history: Mapping[str, Place]
    name: str
    by: str
    place: Place

    def taken(self, payments: ScriptPayments) -> LedgerDelta:
        """Return what the rules make of it."""
        txid = RIVALS[self.name].txid
        match self.kind:
            case "listed":
                entries = tuple(fact(RIVALS[name], place) for name, place in self.history.items())
                verified = replace(verify((), {}, Evidence()), entries=entries)
                return absorbed(payments, verified, now=SEEN_AT)
            case "reverted" if isinstance(states_of(payments).get(txid), Confirmed):
                entry, told = reverted(payments.scripthash, payments.entries[txid])
                return LedgerDelta(scripthash=payments.scripthash, entries=(entry,), events=(told,))
            case "replaced" if conflict(self.name, self.by):
                return replaced(payments, txid, fact(RIVALS[self.by], self.place), now=SEEN_AT)
            case "dropped":
                return dropped(payments, txid, denied_by=2, now=SEEN_AT)
            case _:
                return NOTHING


@st.composite
def courses(draw: st.DrawFn) -> list[Step]:
    """Draw a course of events in which blocks hold only transactions that can be in one chain together."""
    chain = draw(st.sampled_from(CHAINS))
    blocks = {name: confirmed(height) for height, name in enumerate(chain, 1)}

    def place_of(name: str) -> Place:
        claimed = Unconfirmed(draw(st.integers(1, 3)))
        return blocks[name] if name in blocks and draw(st.booleans()) else claimed

    def step() -> Step:
        names = draw(st.lists(st.sampled_from(LISTED), unique=True, max_size=5))
        history = {
            name: place_of(name)
            for index, name in enumerate(names)
            if not any(conflict(name, earlier) for earlier in names[:index])
        }
        by = draw(st.sampled_from("abcdhxy"))
        return Step(
            kind=draw(st.sampled_from(["listed", "listed", "listed", "reverted", "replaced", "dropped"])),
            history=history,
            name=draw(st.sampled_from(LISTED)),
            by=by,
            place=place_of(by),
        )

    return [step() for _ in range(draw(st.integers(1, 8)))]


def expected_state(told: PaymentEvent) -> PaymentState:
    """Return where a payment is after an event about it."""
    match told.kind:
        case EventKind.SEEN:
            return Unconfirmed(told.seen_by)
        case EventKind.CONFIRMED:
            assert told.block_hash is not None
            assert told.height is not None
            return Confirmed(told.block_hash, told.height, 1)
        case EventKind.REVERTED:
            return Unconfirmed()
        case EventKind.REPLACED:
            assert told.replaced_by is not None
            return Replaced(told.replaced_by)
        case _:
            assert told.kind is EventKind.DROPPED
            return Dropped()


@pytest.mark.slow
@given(courses())
@settings(deadline=None, max_examples=80)
def test_whoever_follows_the_events_knows_the_ledger(course: list[Step]) -> None:
    """Each event says where its payment is now: with the events alone every payment's state is known."""
    payments, followed = EMPTY, dict[Txid, PaymentState]()
    for step in course:
        delta = step.taken(payments)
        payments = written(payments, delta)
        followed |= {told.txid: expected_state(told) for told in delta.events}
        held = {
            # a claim may be listed again with other witnesses: the event told those of the first notice
            txid: replace(state, seen_by=followed[txid].seen_by)  # type: ignore[union-attr]  # else they differ anyway
            if isinstance(state, Unconfirmed) and isinstance(followed[txid], Unconfirmed)
            else state
            for txid, state in states_of(payments).items()
            if txid in followed or not isinstance(state, GONE)  # what never stood was never told
        }
        assert followed == held


@pytest.mark.slow
@given(courses())
@settings(deadline=None, max_examples=80)
def test_no_coin_counts_twice(course: list[Step]) -> None:
    """Of the payments that stand, and may count, no two spend the same coin."""
    payments = EMPTY
    for step in course:
        payments = written(payments, step.taken(payments))
        spent = [outpoint for txid in standing_in(payments) for outpoint in payments.entries[txid].spends]
        assert len(spent) == len(set(spent))


@pytest.mark.slow
@given(courses())
@settings(deadline=None, max_examples=80)
def test_totals_never_count_gone_payments(course: list[Step]) -> None:
    """After every change the totals are those of the standing payments' nets, and of nothing else."""
    payments = EMPTY
    for step in course:
        payments = written(payments, step.taken(payments))
        standing = [payments.entries[txid] for txid in standing_in(payments)]
        assert sum(totals(payments)) == sum(max(0, entry.net_sat) for entry in standing)
        assert totals(payments)[0] == sum(
            max(0, entry.net_sat) for entry in standing if isinstance(entry.state, Confirmed)
        )


@pytest.mark.slow
@given(courses())
@settings(deadline=None, max_examples=80)
def test_what_is_confirmed_leaves_its_block_by_a_reorg_alone(course: list[Step]) -> None:
    """No history, no rival and no denial moves a payment that a block proves; only a reorg does."""
    payments = EMPTY
    for step in course:
        before = states_of(payments)
        payments = written(payments, step.taken(payments))
        for txid, state in before.items():
            if isinstance(state, Confirmed) and step.kind != "reverted":
                assert states_of(payments)[txid] == state


@pytest.mark.slow
@given(courses())
@settings(deadline=None, max_examples=80)
def test_what_is_gone_says_since_when_and_nothing_else_does(course: list[Step]) -> None:
    """After every change exactly the payments that are gone have the time at which they went."""
    payments = EMPTY
    for step in course:
        payments = written(payments, step.taken(payments))
        timed = {txid for txid, entry in payments.entries.items() if entry.gone_at is not None}
        assert timed == payments.entries.keys() - standing_in(payments)


@pytest.mark.slow
@given(courses())
@settings(deadline=None, max_examples=80)
def test_every_step_taken_twice_counts_once(course: list[Step]) -> None:
    """The same history, reorg, replacement or denial a second time writes nothing and tells nothing."""
    payments = EMPTY
    for step in course:
        payments = written(payments, step.taken(payments))
        assert step.taken(payments) == NOTHING


@pytest.mark.slow
@given(courses())
@settings(deadline=None, max_examples=80)
def test_nothing_but_the_unconfirmed_is_replaced_or_dropped(course: list[Step]) -> None:
    """Replacing or dropping a payment that is confirmed, gone or unknown is no change at all."""
    payments = EMPTY
    for step in course:
        if step.kind in ("replaced", "dropped"):
            state = states_of(payments).get(RIVALS[step.name].txid)
            if not isinstance(state, Unconfirmed):
                assert step.taken(payments) == NOTHING
        payments = written(payments, step.taken(payments))


@pytest.mark.slow
@given(courses())
@settings(deadline=None, max_examples=80)
def test_only_blocks_make_an_event_proved(course: list[Step]) -> None:
    """Confirmed and reverted are proved; seen and dropped are worth their servers; replaced is worth its rival."""
    payments = EMPTY
    for step in course:
        delta = step.taken(payments)
        payments = written(payments, delta)
        for told in delta.events:
            assert (told.block_hash is None) == (told.height is None)
            match told.kind:
                case EventKind.CONFIRMED | EventKind.REVERTED:
                    assert told.trust is TrustLevel.PROVED
                    assert told.height is not None
                case EventKind.SEEN:
                    assert told.trust is (TrustLevel.AGREED if told.seen_by > 1 else TrustLevel.SINGLE)
                case EventKind.DROPPED:
                    assert told.trust is TrustLevel.AGREED
                case _:
                    assert told.kind is EventKind.REPLACED
                    assert told.replaced_by is not None
                    rival = states_of(payments).get(told.replaced_by)
                    if rival is None and step.kind == "replaced" and told.replaced_by == RIVALS[step.by].txid:
                        rival = step.place  # it pays others
                    if isinstance(rival, Confirmed):
                        assert told.trust is TrustLevel.PROVED
                    elif isinstance(rival, Unconfirmed):
                        assert told.trust is (TrustLevel.AGREED if rival.seen_by > 1 else TrustLevel.SINGLE)


@pytest.mark.slow
@given(st.sampled_from(CHAINS), st.data(), st.lists(st.integers(1, 4), min_size=7, max_size=7))
@settings(deadline=None, max_examples=80)
def test_order_of_histories_does_not_change_what_blocks_prove(
    chain: str, data: st.DataObject, sizes: Sequence[int]
) -> None:
    """Whenever their rivals are claimed, before or after: what blocks prove counts in the end, and nothing else."""
    proved = [name for name in chain if name in LISTED]
    beaten = [name for name in LISTED if any(conflict(name, other) for other in proved)]
    payments, rest = EMPTY, data.draw(st.permutations([*proved, *beaten]))
    for size in sizes:
        part, rest = rest[:size], rest[size:]
        payments, _ = absorb(
            payments, *[(RIVALS[name], confirmed(5) if name in proved else Unconfirmed(2)) for name in part]
        )
    assert {NAME_OF[txid] for txid in standing_in(payments)} == set(proved)
    at_once, _ = absorb(EMPTY, *[(RIVALS[name], confirmed(5)) for name in proved])
    assert totals(payments) == totals(at_once)


@given(
    st.lists(st.sampled_from(LISTED), unique=True, min_size=1),
    st.lists(st.sampled_from(LISTED), unique=True),
    st.sets(st.sampled_from(LISTED)),
)
@settings(deadline=None, max_examples=80)
def test_same_history_again_without_new_witnesses_changes_nothing(
    first: list[str], second: list[str], witnessed: set[str]
) -> None:
    """A server that keeps listing both spenders of a coin changes nothing: what is gone needs its witnesses again."""
    payments = EMPTY
    evidence = Evidence(
        transactions={RIVALS[name].txid: RIVALS[name] for name in LISTED},
        seen_by={RIVALS[name].txid: 2 for name in witnessed},
    )
    for names in (first, second):
        history = tuple(HistoryEntry(RIVALS[name].txid, None) for name in names)
        payments = written(payments, absorbed(payments, verify(history, known_of(payments), evidence), now=SEEN_AT))
        again = verify(history, known_of(payments), Evidence(transactions=evidence.transactions))
        assert absorbed(payments, again, now=SEEN_AT) == NOTHING


def known_of(payments: ScriptPayments) -> Known:
    """Return what the verifier is told of a ledger."""
    return {txid: None if isinstance(state, GONE) else state for txid, state in states_of(payments).items()}
