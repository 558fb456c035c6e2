"""The book of what is to be told, and when."""

import math
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.bitcoind.book import WatchBook
from lightipn.chain.history import UNKNOWN, Status

A, B, C, D = (ScriptHash(bytes([number]) * 32) for number in range(4))
S1, S2, S3 = (Status(bytes([number]) * 32) for number in range(1, 4))
STATUSES = [None, S1, S2, S3]


def watching(*scripthashes: ScriptHash, known: Status | None = None) -> WatchBook:
    """Return a book in which these are watched, of each of which the same was absorbed."""
    book = WatchBook()
    for scripthash in scripthashes:
        assert book.watch(scripthash, known)
    return book


def told(
    book: WatchBook, statuses: dict[ScriptHash, Status | None], *, now: float = 0.0, limit: int = 9
) -> set[ScriptHash]:
    """Take what is due, read each one's status as the source does, and return what must be told."""
    return {each for each in book.take(now=now, limit=limit) if book.is_news(each, statuses.get(each))}


# --- watching ----------------------------------------------------------------------------------------------------


def test_script_is_watched_once() -> None:
    """A second watch changes nothing, whatever status it brings."""
    book = watching(A, known=S1)
    assert not book.watch(A, S2)
    assert book.known == {A: S1}


def test_new_watch_is_not_due_by_itself() -> None:
    """A script is read when something touches it, not for being watched."""
    assert watching(A).take(now=0.0, limit=9) == []


def test_only_watched_scripts_are_touched() -> None:
    """What concerns a script that nobody watches is forgotten at once, also where it is watched later."""
    book = watching(A)
    book.touch([B, A, B])
    assert book.take(now=0.0, limit=9) == [A]
    book.watch(B, None)
    assert book.take(now=0.0, limit=9) == []


def test_script_that_was_let_go_of_leaves_nothing_behind() -> None:
    """An unwatched script is neither read nor told, holds no place, and begins anew when it is watched again."""
    book = watching(A, B)
    book.touch([A])
    assert told(book, {A: S1}) == {A}
    book.touch([A])
    book.recheck(B, at=5.0)
    book.unwatch(A)
    book.unwatch(B)
    book.unwatch(C)  # never watched
    assert (book.known, book.next_recheck()) == ({}, math.inf)
    assert book.take(now=9.0, limit=9) == []
    assert not book.is_news(A, S1)
    book.absorbed(A, S1)
    book.recheck(A, at=1.0)
    assert (book.known, book.next_recheck()) == ({}, math.inf)
    assert book.watch(A, None)
    book.touch([A])
    assert told(book, {A: S1}, limit=1) == {A}


# --- telling -----------------------------------------------------------------------------------------------------


def test_history_is_told_only_if_it_differs_from_what_was_absorbed() -> None:
    """An equal status is no news; another one is, and so is an empty history after one that was not."""
    book = watching(A, known=S1)
    book.touch([A])
    assert told(book, {A: S1}) == set()
    for before, after in ((S1, S2), (S2, None), (None, S3)):
        assert book.known[A] == before
        book.touch([A])
        assert told(book, {A: after}) == {A}
        book.absorbed(A, after)


def test_empty_history_is_news_to_whoever_absorbed_nothing_that_is_known() -> None:
    """An unknown status differs from every history's, the empty one's included."""
    book = watching(A, known=UNKNOWN)
    book.touch([A])
    assert told(book, {A: None}) == {A}


def test_script_that_is_worked_in_waits_until_it_is_absorbed() -> None:
    """What touches a script that is under way is not forgotten, and told only afterwards."""
    book = watching(A, B)
    book.touch([A])
    assert told(book, {A: S1}) == {A}
    book.touch([A, B])
    assert told(book, {A: S2}) == set()
    assert book.take(now=99.0, limit=9) == []
    book.absorbed(A, S1)
    assert told(book, {A: S2}) == {A}


def test_no_more_are_under_way_than_allowed() -> None:
    """At most so many are taken that no more than the limit are under way; the others follow, first come first."""
    book = watching(A, B, C, D)
    book.touch([D, A, C, B])
    assert book.take(now=0.0, limit=0) == []
    assert book.take(now=0.0, limit=2) == [D, A]
    assert book.is_news(D, S1)
    assert book.is_news(A, S1)
    assert book.take(now=0.0, limit=2) == []
    assert book.take(now=0.0, limit=1) == []
    book.absorbed(D, S1)
    assert book.take(now=0.0, limit=2) == [C]


def test_what_is_no_news_holds_no_place() -> None:
    """A script whose history is known already makes room at once."""
    book = watching(A, B, known=S1)
    book.touch([A, B])
    assert [each for _ in range(2) for each in book.take(now=0.0, limit=1) if not book.is_news(each, S1)] == [A, B]


# --- rechecks ----------------------------------------------------------------------------------------------------


def test_recheck_tells_the_same_again_when_its_time_has_come() -> None:
    """A recheck tells a status that was absorbed, from its time on and once."""
    book = watching(A, known=S1)
    book.recheck(A, at=10.0)
    assert book.next_recheck() == 10.0
    assert told(book, {A: S1}, now=9.9) == set()
    assert told(book, {A: S1}, now=10.0) == {A}
    assert book.next_recheck() == math.inf
    book.absorbed(A, S1)
    assert told(book, {A: S1}, now=99.0) == set()


def test_earlier_recheck_stands() -> None:
    """Of two rechecks the earlier one counts, in whichever order they come; each script has its own."""
    book = watching(A, B, C)
    for first, second, scripthash in ((10.0, 20.0, A), (20.0, 10.0, B)):
        book.recheck(scripthash, at=first)
        book.recheck(scripthash, at=second)
    book.recheck(C, at=15.0)
    assert told(book, {}, now=10.0) == {A, B}
    assert book.next_recheck() == 15.0
    assert told(book, {}, now=20.0) == {C}


def test_recheck_ends_what_is_under_way() -> None:
    """A history that could not be worked in makes room, and comes again."""
    book = watching(A, B)
    book.touch([A, B])
    assert told(book, {A: S1}, limit=1) == {A}
    book.recheck(A, at=60.0)
    assert told(book, {B: S1}, limit=1) == {B}
    book.absorbed(B, S1)
    assert told(book, {A: S1}, now=60.0, limit=1) == {A}


def test_touch_tells_a_script_before_its_recheck() -> None:
    """Whoever waits for a recheck is told at once when something happens, though it be the status told before."""
    book = watching(A)
    book.touch([A])
    assert told(book, {A: S1}) == {A}
    book.recheck(A, at=60.0)
    book.touch([A])
    assert told(book, {A: S1}, now=1.0) == {A}


def test_recheck_outlives_a_history_that_is_absorbed_before_its_time() -> None:
    """A recheck stands whatever is absorbed in between, also of a telling that was under way when it was asked for.

    A payment that is dropped, or a block that is left, asks for a recheck beside the task that works the script in.
    That task may be done only afterwards: what it absorbed is then older than the question.
    """
    book = watching(A)
    book.touch([A])
    assert told(book, {A: S1}) == {A}
    book.recheck(A, at=0.0)
    book.absorbed(A, S1)
    assert told(book, {A: S1}, now=0.0) == {A}


def test_recheck_that_falls_due_while_its_script_is_worked_in_is_told_afterwards() -> None:
    """A recheck whose time comes while the script is under way again waits, and is not lost."""
    book = watching(A)
    book.recheck(A, at=10.0)
    book.touch([A])
    assert told(book, {A: S1}, now=5.0) == {A}
    assert told(book, {A: S1}, now=10.0) == set()
    book.absorbed(A, S1)
    assert told(book, {A: S1}, now=10.0) == {A}


# --- laws over random sequences ----------------------------------------------------------------------------------

SCRIPTHASHES = st.sampled_from([A, B])
OPERATIONS = st.one_of(
    st.tuples(st.just("watch"), SCRIPTHASHES, st.sampled_from(STATUSES)),
    st.tuples(st.just("unwatch"), SCRIPTHASHES, st.none()),
    st.tuples(st.just("happen"), SCRIPTHASHES, st.sampled_from(STATUSES)),
    st.tuples(st.just("touch"), SCRIPTHASHES, st.none()),
    st.tuples(st.just("absorb"), SCRIPTHASHES, st.none()),
    st.tuples(st.just("recheck"), SCRIPTHASHES, st.sampled_from([0.0, 1.0, 5.0, 30.0])),
    st.tuples(st.just("tell"), st.integers(1, 2), st.sampled_from([0.0, 1.0, 10.0])),
)


@dataclass(slots=True)
class World:
    """Histories that change, a source that tells them, and a reader that works them in when the test says so.

    Args:
        is_strict: what a recheck made due must be news, though it be what was absorbed; else it may be.
    """

    is_strict: bool = False

    book: WatchBook = field(default_factory=WatchBook)
    now: float = 0.0
    current: dict[ScriptHash, Status | None] = field(default_factory=dict)  # of every script, as the node has it
    absorbed: dict[ScriptHash, Status | None] = field(default_factory=dict)  # of watched scripts
    under_way: dict[ScriptHash, Status | None] = field(default_factory=dict)
    rechecks: dict[ScriptHash, float] = field(default_factory=dict)
    due: dict[ScriptHash, None] = field(default_factory=dict)  # rechecks whose time has come

    def step(self, name: str, argument: object, value: object) -> None:
        """Do one operation on the book, and on the model of it."""
        scripthash: ScriptHash = argument  # type: ignore[assignment]  # of all operations but "tell"
        match name:
            case "watch":
                status = value if isinstance(value, bytes) else None
                assert self.book.watch(scripthash, status) == (scripthash not in self.absorbed)  # type: ignore[arg-type]
                self.absorbed.setdefault(scripthash, status)  # type: ignore[arg-type]
                self.book.touch([scripthash])  # as the enrolment does when it has taken a script up
            case "unwatch":
                self.book.unwatch(scripthash)
                for table in (self.absorbed, self.under_way, self.rechecks, self.due):
                    table.pop(scripthash, None)  # type: ignore[attr-defined]
            case "happen":
                self.current[scripthash] = value  # type: ignore[assignment]
                self.book.touch([scripthash])
            case "touch":
                self.book.touch([scripthash])
            case "absorb" if scripthash in self.under_way:
                self.absorbed[scripthash] = self.under_way.pop(scripthash)
                self.book.absorbed(scripthash, self.absorbed[scripthash])
            case "recheck" if scripthash in self.absorbed:
                self.under_way.pop(scripthash, None)
                at = self.now + float(value)  # type: ignore[arg-type]
                self.rechecks[scripthash] = min(at, self.rechecks.get(scripthash, math.inf))
                self.absorbed[scripthash] = UNKNOWN
                self.book.recheck(scripthash, at=at)
            case "tell":
                self.now += float(value)  # type: ignore[arg-type]
                self.tell(limit=int(argument))  # type: ignore[call-overload]

    def tell(self, *, limit: int) -> None:
        """Take what is due and tell what is news, with the laws of each telling."""
        taken = self.book.take(now=self.now, limit=limit)
        assert len(taken) == len(set(taken))
        assert len(taken) <= max(0, limit - len(self.under_way))
        assert not set(taken) & self.under_way.keys()
        assert set(taken) <= self.absorbed.keys()
        self.due |= {each: None for each, at in self.rechecks.items() if at <= self.now}
        self.rechecks = {each: at for each, at in self.rechecks.items() if at > self.now}
        assert self.book.next_recheck() == min(self.rechecks.values(), default=math.inf)
        for each in taken:
            status = self.current.get(each)
            is_changed, is_due, is_news = (
                status != self.absorbed[each],
                each in self.due,
                self.book.is_news(each, status),
            )
            assert is_news or not is_changed
            assert is_changed or is_due or not is_news
            assert is_news or not (self.is_strict and is_due)
            self.due.pop(each, None)
            if is_news:
                self.under_way[each] = status

    def settle(self) -> None:
        """Work in all that is under way, and tell, until nothing is due any more."""
        for _ in range(20):
            for each in list(self.under_way):
                self.step("absorb", each, None)
            self.tell(limit=2)


@given(st.lists(OPERATIONS, min_size=5, max_size=40))
@settings(deadline=None, max_examples=300)
@pytest.mark.slow
def test_every_change_is_told_in_the_end_and_none_beside_itself(operations: list[tuple[str, object, object]]) -> None:
    """Whatever happens in whichever order, no script is told while it is worked in, and in the end all is absorbed."""
    world = World()
    for operation in operations:
        world.step(*operation)
    world.now += 1000.0
    world.settle()
    assert not world.under_way
    assert world.book.next_recheck() == math.inf
    assert world.book.known == world.absorbed == {each: world.current.get(each) for each in world.absorbed}


@given(st.lists(OPERATIONS, min_size=5, max_size=40))
@settings(deadline=None, max_examples=300)
@pytest.mark.slow
def test_every_recheck_is_told_from_its_time_on(operations: list[tuple[str, object, object]]) -> None:
    """Whatever is touched, told or absorbed before the time of a recheck, its script is told once it has come."""
    world = World(is_strict=True)
    for operation in operations:
        world.step(*operation)
    world.now += 1000.0
    world.settle()
    assert not world.due
