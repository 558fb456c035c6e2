"""What is due goes out: side by side, within its limits, again and again, and nothing is lost at the end.

The clock is Trio's own, which jumps while everybody waits; transactions run in place, because it would jump while a
thread works too.
"""

import collections
import itertools
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from lightipn.delivery.dispatcher import LONGEST_NAP_S, STOP_GRACE_S, Dispatcher
from lightipn.outbox.messages import OutgoingRequest
from lightipn.outbox.verdict import Answer
from lightipn.store import deliveries, keys, outbox
from lightipn.store.database import Store, open_store
from tests.builders import entry_of
from tests.store.plain_dialect import FIRST_RETRY_S, LONGEST_RETRY_S, POLICIES, SILENCE, answer_of
from tests.store.rows import NOW, pay, subscribe

WEEK_S = 7 * 86400.0
Behaviour = Callable[[OutgoingRequest], Awaitable[Answer]]


def clock() -> float:
    """Return unix seconds that go by as Trio's clock does."""
    return NOW + trio.current_time()


async def echo(request: OutgoingRequest) -> Answer:
    """Acknowledge at once."""
    await trio.lowlevel.checkpoint()
    return answer_of(request.body)


async def fail(request: OutgoingRequest) -> Answer:
    """Refuse at once."""
    await trio.lowlevel.checkpoint()
    return answer_of(status=None, trouble="connection-failed")


async def hang(request: OutgoingRequest) -> Answer:
    """Answer after the whole time limit of fifteen seconds, with nothing."""
    await trio.sleep(15)
    return SILENCE


class FakeSender:
    """Receivers by host, and who was sent what and when."""

    def __init__(self, **receivers: Behaviour) -> None:
        self.receivers = receivers
        self.sent: list[tuple[float, str, bytes]] = []
        self.under_way: collections.Counter[str] = collections.Counter()
        self.most_under_way: collections.Counter[str] = collections.Counter()
        self.most_in_all = 0

    async def send(self, request: OutgoingRequest) -> Answer:
        """Have the receiver answer."""
        host = request.url.split("/")[2]
        self.sent.append((trio.current_time(), host, request.body))
        self.under_way[host] += 1
        self.most_under_way[host] = max(self.most_under_way[host], self.under_way[host])
        self.most_in_all = max(self.most_in_all, self.under_way.total())
        try:
            return await self.receivers[host](request)
        finally:
            self.under_way[host] -= 1

    def times_of(self, host: str) -> list[float]:
        """Return when a host was sent something."""
        return [at for at, name, _ in self.sent if name == host]


class NoJitter(random.Random):
    """A chance that never adds anything."""

    def random(self) -> float:
        """Return zero."""
        return 0.0


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A store whose transactions run in place."""
    async with open_store(tmp_path / "shop.db", "regtest", threaded=False) as store:
        yield store


async def fill(store: Store, host: str, count: int, *, first: int = 0) -> None:
    """Make so many messages to a host due now."""
    now = clock()

    def work(db: outbox.Database) -> None:
        for number in range(first, first + count):
            subscribe(db, number, url=f"http://{host}/{number}")
            pay(db, number, entry_of(number), now=now)

    await store.transact(work)


def dispatcher_of(store: Store, sender: FakeSender, *, in_all: int = 64, per_host: int = 8) -> Dispatcher:
    """Return a dispatcher over a fake sender."""
    return Dispatcher(
        store=store,
        sender=sender,  # type: ignore[arg-type]  # a fake with the one method that is called
        policies=POLICIES,
        max_in_flight=in_all,
        max_in_flight_per_host=per_host,
        clock=clock,
        chance=NoJitter(),
    )


@asynccontextmanager
async def running(dispatcher: Dispatcher) -> AsyncIterator[trio.Event]:
    """Run a dispatcher; stop it in the end, unless the test has."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(dispatcher.run, stop)
        yield stop
        stop.set()


async def states_of(store: Store) -> collections.Counter[str]:
    """Count messages by state."""
    found = await store.read(lambda db: deliveries.load_deliveries(db, limit=10_000))
    return collections.Counter(delivery.state for delivery in found)


# --- going out ---------------------------------------------------------------------------------------------------


async def test_what_is_due_at_the_start_goes_out_at_once(store: Store, autojump_clock: MockClock) -> None:
    """A dispatcher that starts finds what is due in the table; no bell is needed."""
    sender = FakeSender(shop=echo)
    await fill(store, "shop", 3)
    async with running(dispatcher_of(store, sender)):
        await trio.sleep(1)
    assert sender.times_of("shop") == [0.0] * 3
    assert await states_of(store) == {"acknowledged": 3}


async def test_bell_wakes_at_once(store: Store, autojump_clock: MockClock) -> None:
    """A message that comes while nothing is due is sent when the bell rings, not at the next look."""
    sender = FakeSender(shop=echo)
    dispatcher = dispatcher_of(store, sender)
    async with running(dispatcher):
        await trio.sleep(3)
        await fill(store, "shop", 1)
        dispatcher.ring()
        await trio.sleep(1)
        assert sender.times_of("shop") == [3.0]


async def test_table_is_looked_at_without_a_bell(store: Store, autojump_clock: MockClock) -> None:
    """What comes without a bell is found within half a minute: the system's clock may have been set."""
    sender = FakeSender(shop=echo)
    async with running(dispatcher_of(store, sender)):
        await trio.sleep(3)
        await fill(store, "shop", 1)
        await trio.sleep(LONGEST_NAP_S)
    assert sender.times_of("shop") == [LONGEST_NAP_S]


async def test_many_bells_are_heard(store: Store, autojump_clock: MockClock) -> None:
    """However bells and looks at the table meet, everything goes out at once."""
    sender = FakeSender(shop=echo)
    dispatcher = dispatcher_of(store, sender)
    async with running(dispatcher):
        for number in range(25):
            await fill(store, "shop", 1, first=number)
            dispatcher.ring()
            await trio.lowlevel.checkpoint()
        await trio.sleep(1)
        assert len(sender.sent) == 25
        assert sender.sent[-1][0] == 0.0


class InterruptedStore:
    """A store that lets something happen when the dispatcher's first look at the table is done."""

    def __init__(self, store: Store, happen: Callable[[], Awaitable[None]]) -> None:
        self._store = store
        self._happen = happen
        self._transactions = 0

    async def transact(self, work: Callable[[outbox.Database], object]) -> object:
        """Run a transaction; the second one is the first look."""
        value = await self._store.transact(work)
        self._transactions += 1
        if self._transactions == 2:
            await self._happen()
        return value


async def test_bell_between_look_and_nap_is_heard(store: Store, autojump_clock: MockClock) -> None:
    """A message that comes, and rings, right after the table was looked at does not wait for the next look.

    The other order of events, ring and then look, finds the message in the table.
    """
    sender = FakeSender(shop=echo)

    async def come_and_ring() -> None:
        await fill(store, "shop", 1)
        dispatcher.ring()

    dispatcher = dispatcher_of(InterruptedStore(store, come_and_ring), sender)  # type: ignore[arg-type]
    async with running(dispatcher):
        await trio.sleep(LONGEST_NAP_S / 2)
        assert sender.times_of("shop") == [0.0]


# --- limits ------------------------------------------------------------------------------------------------------


async def test_limits_hold_per_host_and_in_all(store: Store, autojump_clock: MockClock) -> None:
    """Never more requests are under way than allowed, and all messages go out in the end."""

    async def slowly(request: OutgoingRequest) -> Answer:
        await trio.sleep(1)
        return answer_of(request.body)

    sender = FakeSender(a=slowly, b=slowly, c=slowly)
    for place, host in enumerate("abc"):
        await fill(store, host, 20, first=100 * place)
    async with running(dispatcher_of(store, sender, in_all=10, per_host=4)):
        await trio.sleep(60)
    assert sender.most_in_all == 10
    assert max(sender.most_under_way.values()) == 4
    assert await states_of(store) == {"acknowledged": 60}
    assert len(sender.sent) == 60


async def test_slow_host_does_not_delay_another(store: Store, autojump_clock: MockClock) -> None:
    """A shop that never answers keeps its own messages waiting and nobody else's."""
    sender = FakeSender(dead=hang, alive=echo)
    await fill(store, "dead", 300)
    dispatcher = dispatcher_of(store, sender)
    async with running(dispatcher):
        await trio.sleep(5)
        await fill(store, "alive", 20, first=1000)
        dispatcher.ring()
        await trio.sleep(1)
        assert sender.times_of("alive") == [5.0] * 20
        assert len(sender.times_of("dead")) == 2


async def test_end_of_an_attempt_makes_room_at_once(store: Store, autojump_clock: MockClock) -> None:
    """The next message of a full host goes out when an attempt ends, not at the next look."""
    sender = FakeSender(dead=hang)
    await fill(store, "dead", 5)
    async with running(dispatcher_of(store, sender, per_host=2)):
        await trio.sleep(31)
    assert sender.times_of("dead")[:4] == [0.0, 0.0, 15.0, 30.0]


async def test_many_silent_hosts_leave_room_for_one_that_answers(store: Store, autojump_clock: MockClock) -> None:
    """A host gets more room the more it answers, and a single place while it does not: silent ones take little."""
    silent = [f"silent{number}" for number in range(20)]
    sender = FakeSender(**dict.fromkeys(silent, hang), alive=echo)
    for place, host in enumerate(silent):
        await fill(store, host, 20, first=100 * place)
    async with running(dispatcher_of(store, sender)):
        await trio.sleep(20)
        assert all(len(sender.times_of(host)) == 3 for host in silent)
        await fill(store, "alive", 20, first=5000)
        await trio.sleep(11)
    assert len(sender.times_of("alive")) == 20


# --- again and again ---------------------------------------------------------------------------------------------


async def test_retries_grow(store: Store, autojump_clock: MockClock) -> None:
    """A refusing shop is asked after 5, 10, 20 ... seconds, exactly when each try is due."""
    sender = FakeSender(dead=fail)
    await fill(store, "dead", 1)
    async with running(dispatcher_of(store, sender)):
        await trio.sleep(700)
    assert sender.times_of("dead") == [0, 5, 15, 35, 75, 155, 315, 635]


@pytest.mark.slow
async def test_week_of_retries(store: Store, autojump_clock: MockClock) -> None:
    """A shop that is down for a week is asked at least once an hour, never given up, and told when it is back."""
    is_back = False

    async def shop(request: OutgoingRequest) -> Answer:
        return await (echo if is_back else fail)(request)

    sender = FakeSender(shop=shop)
    await fill(store, "shop", 1)
    async with running(dispatcher_of(store, sender)):
        await trio.sleep(WEEK_S)
        times = sender.times_of("shop")
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        expected, pause = [], FIRST_RETRY_S
        while sum(expected) + pause <= WEEK_S:
            expected.append(pause)
            pause = min(2 * pause, LONGEST_RETRY_S)
        assert pauses == pytest.approx(expected, abs=1e-3)
        is_back = True
        await trio.sleep(LONGEST_RETRY_S)
        assert await states_of(store) == {"acknowledged": 1}
        sent = len(sender.sent)
        await trio.sleep(86400.0)
        assert len(sender.sent) == sent


async def test_changed_totals_are_told_at_once_between_two_tries(store: Store, autojump_clock: MockClock) -> None:
    """A new payment does not wait for the pause of the one before it."""
    sender = FakeSender(dead=fail)
    await fill(store, "dead", 1)
    dispatcher = dispatcher_of(store, sender)
    async with running(dispatcher):
        await trio.sleep(400)  # the next try is due at 635
        now = clock()
        await store.transact(lambda db: pay(db, 0, entry_of(7, received_sat=5), now=now))
        dispatcher.ring()
        await trio.sleep(1)
        assert sender.sent[-1] == (400.0, "dead", b"0+100005")


async def test_suspended_owner_is_sent_nothing(store: Store, autojump_clock: MockClock) -> None:
    """While an owner is suspended no attempt is made for it; a new secret and the bell set the messages free."""
    sender = FakeSender(shop=echo)
    await store.transact(lambda db: keys.save_key(db, name="shop", secret="s", now=NOW))
    await fill(store, "shop", 2)
    await store.transact(lambda db: keys.revoke_keys(db, name="shop", key_id=None, now=NOW))
    dispatcher = dispatcher_of(store, sender)
    async with running(dispatcher):
        await trio.sleep(1000)
        assert sender.sent == []
        await store.transact(lambda db: keys.save_key(db, name="shop", secret="t", now=NOW))
        dispatcher.ring()
        await trio.sleep(1)
        assert sender.times_of("shop") == [1000.0] * 2


# --- the end -----------------------------------------------------------------------------------------------------


async def test_stop_lets_attempts_end(store: Store, autojump_clock: MockClock) -> None:
    """An attempt that ends soon after the stop is recorded with its outcome; nothing new is begun."""

    async def in_a_second(request: OutgoingRequest) -> Answer:
        await trio.sleep(1)
        return answer_of(request.body)

    sender = FakeSender(shop=in_a_second)
    await fill(store, "shop", 3)
    async with running(dispatcher_of(store, sender, per_host=1)) as stop:
        await trio.sleep(0.5)
        stop.set()
    assert trio.current_time() == 1.0
    assert len(sender.sent) == 1
    assert await states_of(store) == {"acknowledged": 1, "due": 2}


async def test_stop_records_what_is_still_under_way(store: Store, autojump_clock: MockClock) -> None:
    """What has not ended two seconds after the stop is marked as interrupted, and told at the next start."""
    sender = FakeSender(dead=hang)
    await fill(store, "dead", 1)
    async with running(dispatcher_of(store, sender)) as stop:
        await trio.sleep(1)
        stop.set()
    assert trio.current_time() == 1.0 + STOP_GRACE_S
    (attempt,) = await store.read(lambda db: deliveries.load_attempts(db, 1))
    assert attempt.outcome == "interrupted"
    again = FakeSender(dead=echo)
    async with running(dispatcher_of(store, again)):
        await trio.sleep(1)
    assert len(again.sent) == 1
    assert await states_of(store) == {"acknowledged": 1}


async def test_what_was_claimed_is_sent_whenever_the_stop_comes(store: Store, autojump_clock: MockClock) -> None:
    """No attempt is recorded without being sent, at whatever moment the stop comes."""
    sender = FakeSender(shop=echo)
    for checkpoints in range(12):
        await fill(store, "shop", 2, first=10 * checkpoints)
        async with running(dispatcher_of(store, sender)) as stop:
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()
            stop.set()
    recorded = await store.read(lambda db: db.execute("SELECT count(*) FROM attempt").fetchone()[0])
    assert recorded == len(sender.sent)
    assert recorded > 12


async def test_crash_leaves_exactly_one_message_due(store: Store, autojump_clock: MockClock) -> None:
    """A dispatcher that dies between claim and outcome leaves its message to the next one, once."""
    await fill(store, "shop", 1)
    with trio.move_on_after(1):  # dies without a word
        await dispatcher_of(store, FakeSender(shop=hang)).run(trio.Event())
    assert await states_of(store) == {"in-flight": 1}
    sender = FakeSender(shop=echo)
    async with running(dispatcher_of(store, sender)):
        await trio.sleep(1)
    assert len(sender.sent) == 1
    outcomes = [attempt.outcome for attempt in await store.read(lambda db: deliveries.load_attempts(db, 1))]
    assert outcomes == ["interrupted", "acknowledged"]


async def test_cancelled_at_any_checkpoint_loses_nothing(store: Store, autojump_clock: MockClock) -> None:
    """Wherever a dispatcher is cancelled, all messages are delivered by the next one."""
    for checkpoints in range(12):
        await fill(store, "shop", 2, first=10 * checkpoints)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(dispatcher_of(store, FakeSender(shop=echo)).run, trio.Event())
            for _ in range(checkpoints):
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    sender = FakeSender(shop=echo)
    async with running(dispatcher_of(store, sender)):
        await trio.sleep(60)
    assert await states_of(store) == {"acknowledged": 24}
