"""The event feed on disk: append-only, without a gap, and to each reader what is his."""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.hashes import BlockHash, Txid
from lightipn.bitcoin.header import BlockHeader, parse_header
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.headers import ChainDelta
from lightipn.errors import StoreError
from lightipn.ledger.events import EventKind, PaymentEvent, TrustLevel
from lightipn.store import events, subscriptions
from lightipn.store.database import Database, open_store
from lightipn.store.events import EventPage, RecordedEvent
from tests.builders import block_hash_of, genesis_of, mined_run, txid_of
from tests.store.groups import run_as_group
from tests.store.rows import NOW, open_memory, regtest_address, subscribe

EVERYTHING = 1000
TRUNK = [parse_header(raw) for raw in mined_run(genesis_of(REGTEST), 4)]
BRANCH = [parse_header(raw) for raw in mined_run(TRUNK[0], 4, branch=1)]


def seen(number: int, *, txid: int = 1, net_sat: int = 40) -> PaymentEvent:
    """Return the event that two servers hold a payment to the address with this number."""
    return PaymentEvent(
        kind=EventKind.SEEN,
        scripthash=regtest_address(number).scripthash,
        txid=txid_of(txid),
        net_sat=net_sat,
        height=None,
        trust=TrustLevel.AGREED,
        seen_by=2,
        signals_rbf=True,
    )


def see(db: Database, number: int, *, txid: int = 1) -> None:
    """Write that a payment to the address with this number was seen."""
    events.save_payment_events(db, [seen(number, txid=txid)], now=NOW)


def connect(
    db: Database, fork_height: int, connected: Sequence[BlockHeader], disconnected: Sequence[BlockHeader] = ()
) -> None:
    """Write that headers entered the chain, and others left it."""
    delta = ChainDelta(fork_height=fork_height, disconnected=tuple(disconnected), connected=tuple(connected))
    events.save_block_events(db, delta, now=NOW)


def everything(db: Database) -> tuple[RecordedEvent, ...]:
    """Return the whole feed."""
    return events.load_events(db, after=0, limit=EVERYTHING, owner=None).events


def numbers(db: Database, *, owner: str | None = None) -> list[int]:
    """Return the numbers of all events that an owner may see."""
    page = events.load_events(db, after=0, limit=EVERYTHING, owner=owner)
    return [event.number for event in page.events]


# --- what is written is what is read -----------------------------------------------------------------------------

PAYMENT_EVENTS = [
    pytest.param(seen(0, net_sat=-30), id="seen"),
    pytest.param(
        PaymentEvent(
            kind=EventKind.CONFIRMED,
            scripthash=regtest_address(0).scripthash,
            txid=txid_of(1),
            net_sat=40,
            height=900_000,
            trust=TrustLevel.PROVED,
            block_hash=block_hash_of(900_000),
        ),
        id="confirmed",
    ),
    pytest.param(
        PaymentEvent(
            kind=EventKind.REVERTED,
            scripthash=regtest_address(0).scripthash,
            txid=txid_of(1),
            net_sat=40,
            height=900_000,
            trust=TrustLevel.PROVED,
            block_hash=block_hash_of(900_000, branch=1),
            signals_rbf=True,
        ),
        id="reverted",
    ),
    pytest.param(
        PaymentEvent(
            kind=EventKind.REPLACED,
            scripthash=regtest_address(0).scripthash,
            txid=txid_of(1),
            net_sat=40,
            height=None,
            trust=TrustLevel.SINGLE,
            replaced_by=txid_of(2),
        ),
        id="replaced",
    ),
    pytest.param(
        PaymentEvent(
            kind=EventKind.DROPPED,
            scripthash=regtest_address(0).scripthash,
            txid=txid_of(1),
            net_sat=21_000_000 * 100_000_000,
            height=None,
            trust=TrustLevel.AGREED,
        ),
        id="dropped",
    ),
]


@pytest.mark.parametrize("event", PAYMENT_EVENTS)
def test_payment_event_is_read_as_it_was_written(db: Database, event: PaymentEvent) -> None:
    """Every field of what happened to a payment comes back, with the address, the time, and its number."""
    subscribe(db, 0)
    events.save_payment_events(db, [event], now=NOW + 5)
    (found,) = everything(db)
    assert found == RecordedEvent(
        number=1,
        happened_at=NOW + 5,
        kind=event.kind.value,
        scripthash=event.scripthash,
        address=regtest_address(0).text,
        txid=event.txid,
        net_sat=event.net_sat,
        height=event.height,
        block_hash=event.block_hash,
        trust=event.trust.value,
        seen_by=event.seen_by,
        replaced_by=event.replaced_by,
        signals_rbf=event.signals_rbf,
        server="",
        reason="",
    )


def test_every_field_of_a_payment_event_is_kept() -> None:
    """A field that is added to payment events must be added to the feed."""
    assert {field.name for field in fields(PaymentEvent)} <= {field.name for field in fields(RecordedEvent)}


def test_event_keeps_the_address_when_its_script_is_forgotten(db: Database) -> None:
    """The address is written with the event, so that the operator can read it when nobody wants it any more."""
    subscribe(db, 0)
    see(db, 0)
    subscriptions.remove_subscriptions(db, regtest_address(0).scripthash, url=None)
    see(db, 0)  # nobody knows the script now
    assert [event.address for event in everything(db)] == [regtest_address(0).text, ""]


def test_server_event_names_the_server_and_the_reason(db: Database) -> None:
    """An event about a server has neither payment nor block."""
    events.save_server_event(db, server="a.example:50002:s", reason="another certificate", now=NOW)
    assert everything(db) == (
        RecordedEvent(
            number=1,
            happened_at=NOW,
            kind="server.distrusted",
            scripthash=None,
            address="",
            txid=None,
            net_sat=None,
            height=None,
            block_hash=None,
            trust="",
            seen_by=0,
            replaced_by=None,
            signals_rbf=False,
            server="a.example:50002:s",
            reason="another certificate",
        ),
    )


# --- blocks ------------------------------------------------------------------------------------------------------


def blocks_in(db: Database) -> list[tuple[str, int | None, BlockHash | None]]:
    """Return what is told of blocks."""
    return [(event.kind, event.height, event.block_hash) for event in everything(db)]


def test_blocks_of_the_past_are_not_told(db: Database) -> None:
    """Until the tip was reached for the first time no block is an event; what happens to payments is one."""
    subscribe(db, 0)
    connect(db, 0, TRUNK[:2])
    see(db, 0)
    assert [event.kind for event in everything(db)] == ["payment.seen"]
    events.begin_block_events(db)
    connect(db, 2, TRUNK[2:3])
    assert [event.kind for event in everything(db)] == ["payment.seen", "block.connected"]


async def test_blocks_are_told_after_a_restart_too(tmp_path: Path) -> None:
    """That the tip was reached once is remembered: blocks found during downtime are told; saying it twice is once."""
    path = tmp_path / "shop.db"
    async with open_store(path, "regtest", threaded=False) as store:
        await store.transact(events.begin_block_events)
        await store.transact(events.begin_block_events)
    async with open_store(path, "regtest", threaded=False) as store:
        await store.transact(lambda db: connect(db, 0, TRUNK[:1]))
        assert await store.read(blocks_in) == [("block.connected", 1, TRUNK[0].block_hash)]


def test_each_block_is_one_event_in_order(db: Database) -> None:
    """Blocks that come together are one event each, from the lowest up, without a gap, and proved."""
    events.begin_block_events(db)
    connect(db, 0, TRUNK[:3])
    assert blocks_in(db) == [
        ("block.connected", 1, TRUNK[0].block_hash),
        ("block.connected", 2, TRUNK[1].block_hash),
        ("block.connected", 3, TRUNK[2].block_hash),
    ]
    assert [event.number for event in everything(db)] == [1, 2, 3]
    assert {event.trust for event in everything(db)} == {"proved"}


def test_reorg_is_told_from_the_top_down_and_then_from_the_fork_up(db: Database) -> None:
    """What leaves the chain goes last block first, then the new branch comes first block first."""
    events.begin_block_events(db)
    connect(db, 1, BRANCH[:3], TRUNK[1:3])
    assert blocks_in(db) == [
        ("block.disconnected", 3, TRUNK[2].block_hash),
        ("block.disconnected", 2, TRUNK[1].block_hash),
        ("block.connected", 2, BRANCH[0].block_hash),
        ("block.connected", 3, BRANCH[1].block_hash),
        ("block.connected", 4, BRANCH[2].block_hash),
    ]


# --- append-only, without a gap ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM event",
        "DELETE FROM event WHERE number = 2",
        "UPDATE event SET net_sat = 0",
        "UPDATE event SET number = 9 WHERE number = 2",
        "UPDATE OR REPLACE event SET number = 1 WHERE number = 2",
        "UPDATE event SET net_sat = net_sat",
        "INSERT OR REPLACE INTO event SELECT * FROM event WHERE number = 2",
    ],
)
def test_event_is_never_changed_or_removed(db: Database, statement: str) -> None:
    """The table itself refuses to change or remove a row, whoever asks."""
    for txid in (1, 2, 3):
        see(db, 0, txid=txid)
    before = everything(db)
    with pytest.raises(sqlite3.IntegrityError, match=r"an event is never (removed|changed)"):
        db.execute(statement)
    assert everything(db) == before


def test_number_is_not_given_twice(db: Database) -> None:
    """An event cannot be written under a number that is taken."""
    see(db, 0)
    with pytest.raises(sqlite3.IntegrityError):
        db.execute(
            "INSERT INTO event (number, happened_at, kind, address, trust, seen_by, signals_rbf, server, reason)"
            " VALUES (1, 1, 'block.connected', '', '', 0, 0, '', '')"
        )
    assert [event.kind for event in everything(db)] == ["payment.seen"]


def test_removing_a_script_leaves_its_events(db: Database) -> None:
    """Who unsubscribes takes nothing out of the feed, and the next event has the next number."""
    subscribe(db, 0)
    see(db, 0)
    subscriptions.remove_subscriptions(db, regtest_address(0).scripthash, url=None)
    see(db, 0)
    assert numbers(db) == [1, 2]


def seeing(txid: int) -> Callable[[Database], None]:
    """Return work that writes an event."""
    return lambda db: see(db, 0, txid=txid)


def seeing_twice_and_failing(db: Database) -> None:
    """Write two events, and fail."""
    see(db, 0, txid=98)
    see(db, 0, txid=99)
    raise ZeroDivisionError


async def test_caller_that_is_rolled_back_leaves_no_gap(tmp_path: Path) -> None:
    """In a group the numbers of a caller who failed go to the next: numbers follow each other, and none is empty."""
    async with open_store(tmp_path / "shop.db", "regtest") as store:
        works = [seeing(1), seeing_twice_and_failing, seeing(2), seeing_twice_and_failing, seeing(3)]
        answers = await run_as_group(store, *works)
        assert [type(answer) for answer in answers if answer is not None] == [ZeroDivisionError] * 2
        found = await store.read(everything)
        assert [(event.number, event.txid) for event in found] == [(n, txid_of(n)) for n in (1, 2, 3)]


async def test_group_that_is_lost_leaves_no_gap(tmp_path: Path) -> None:
    """A whole group that was not committed takes no number with it."""

    def lose(db: Database) -> None:
        db.conn.execute("ROLLBACK")

    async with open_store(tmp_path / "shop.db", "regtest") as store:
        await store.transact(seeing(1))
        lost = await run_as_group(store, seeing(97), lose, seeing(98))
        assert all(isinstance(answer, StoreError) for answer in lost)
        await store.transact(seeing(2))
        found = await store.read(everything)
        assert [(event.number, event.txid) for event in found] == [(1, txid_of(1)), (2, txid_of(2))]


async def test_number_is_seen_only_once_its_change_is_on_disk(tmp_path: Path) -> None:
    """Whoever reads while a transaction is under way sees none of its events."""

    def write_and_look_from_outside(db: Database) -> int:
        see(db, 0)
        with closing(sqlite3.connect(tmp_path / "shop.db")) as outside:
            return int(outside.execute("SELECT count(*) FROM event").fetchone()[0])

    async with open_store(tmp_path / "shop.db", "regtest") as store:
        assert await store.transact(write_and_look_from_outside) == 0
        assert await store.read(numbers) == [1]


# --- whose events ------------------------------------------------------------------------------------------------


def fill(db: Database) -> None:
    """Pay the shop's address (1), another owner's (2) and nobody's (3), connect a block (4), lose a server (5)."""
    subscribe(db, 0, owner="shop")
    subscribe(db, 1, owner="other")
    for number in (0, 1, 2):
        see(db, number)
    events.begin_block_events(db)
    connect(db, 0, TRUNK[:1])
    events.save_server_event(db, server="a.example:50002:s", reason="another certificate", now=NOW)


@pytest.mark.parametrize(
    ("owner", "expected"),
    [(None, [1, 2, 3, 4, 5]), ("shop", [1, 4]), ("other", [2, 4]), ("stranger", [4]), ("", [4])],
)
def test_owner_sees_his_scripts_and_blocks(db: Database, owner: str | None, expected: list[int]) -> None:
    """An owner gets what happened to his own scripts, and blocks; servers are the operator's business alone."""
    fill(db)
    assert numbers(db, owner=owner) == expected


def test_shared_address_is_seen_by_each_of_its_owners_once(db: Database) -> None:
    """Two owners of one address see its events, and one with two subscriptions sees each of them once."""
    subscribe(db, 0, owner="shop")
    subscribe(db, 0, owner="shop", url="http://second.example/")
    subscribe(db, 0, owner="other")
    see(db, 0)
    assert numbers(db, owner="shop") == numbers(db, owner="other") == [1]


def test_event_of_no_kind_we_know_is_not_shown_to_owners(db: Database) -> None:
    """Only blocks are everybody's: a kind that a later version adds stays with the operator until it is decided."""
    for kind in ("server.distrusted", "server.block.x", "blocked", "BLOCKED"):
        db.execute(
            "INSERT INTO event (happened_at, kind, address, trust, seen_by, signals_rbf, server, reason)"
            " VALUES (1, ?, '', '', 0, 0, '', '')",
            [kind],
        )
    assert numbers(db, owner="shop") == []
    assert len(numbers(db)) == 4


# --- pages -------------------------------------------------------------------------------------------------------


def test_empty_feed_is_an_empty_page(db: Database) -> None:
    """Before the first event there is nothing, and a reader stays where he is."""
    for owner in (None, "shop"):
        assert events.load_events(db, after=0, limit=5, owner=owner) == EventPage(events=(), next_after=0, latest=0)
        assert events.load_events(db, after=7, limit=5, owner=owner) == EventPage(events=(), next_after=7, latest=0)


@st.composite
def feeds(draw: st.DrawFn) -> list[int]:
    """Draw a feed: the number of the paid address for each event, 3 for a block, 4 for a server."""
    return draw(st.lists(st.sampled_from([0, 0, 1, 2, 3, 4]), max_size=25))


def write(db: Database, what: int) -> None:
    """Write one event of a drawn feed."""
    if what == 3:
        connect(db, 0, TRUNK[:1])
    elif what == 4:
        events.save_server_event(db, server="a.example:50002:s", reason="another certificate", now=NOW)
    else:
        see(db, what)


@pytest.mark.slow
@settings(deadline=None, max_examples=80)
@given(
    written=feeds(),
    meanwhile=feeds(),
    limits=st.lists(st.integers(1, 7), min_size=1, max_size=12),
    owner=st.sampled_from([None, "shop", "other", "stranger"]),
    most_examined=st.sampled_from([1, 3, 1000]),
)
def test_any_sequence_of_limits_yields_each_event_once(
    written: list[int], meanwhile: list[int], limits: list[int], owner: str | None, most_examined: int
) -> None:
    """Whoever goes on with ``next_after`` gets each of his events once, in order, also those that come meanwhile."""
    with pytest.MonkeyPatch.context() as patch, open_memory() as db:
        patch.setattr(events, "MOST_EXAMINED", most_examined)
        events.begin_block_events(db)
        subscribe(db, 0, owner="shop")
        subscribe(db, 1, owner="other")
        for what in written:
            write(db, what)
        read: list[RecordedEvent] = []
        after, calls, coming = 0, 0, list(meanwhile)
        while True:
            limit = limits[calls % len(limits)]
            page = events.load_events(db, after=after, limit=limit, owner=owner)
            assert len(page.events) <= limit
            assert all(after < event.number <= page.next_after for event in page.events)
            assert after <= page.next_after <= page.latest
            read += page.events
            assert page.next_after > after or after == page.latest  # else the reader would turn in circles
            after, calls = page.next_after, calls + 1
            if coming:
                write(db, coming.pop(0))
            elif after == page.latest:
                break
        patch.setattr(events, "MOST_EXAMINED", EVERYTHING)
        whole = events.load_events(db, after=0, limit=EVERYTHING, owner=owner).events
        assert tuple(read) == whole
        assert [event.number for event in everything(db)] == list(range(1, len(written) + len(meanwhile) + 1))
        visible = {None: {0, 1, 2, 3, 4}, "shop": {0, 3}, "other": {1, 3}, "stranger": {3}}[owner]
        assert [event.number for event in whole] == [
            number for number, what in enumerate([*written, *meanwhile], 1) if what in visible
        ]


def test_page_examines_no_more_than_its_bound(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader without news is led past others' events bit by bit, never through the whole feed in one call."""
    monkeypatch.setattr(events, "MOST_EXAMINED", 4)
    subscribe(db, 0, owner="shop")
    for _ in range(9):
        see(db, 1)
    see(db, 0)
    pages = [events.load_events(db, after=after, limit=5, owner="shop") for after in (0, 4, 8)]
    assert [(len(page.events), page.next_after, page.latest) for page in pages] == [(0, 4, 10), (0, 8, 10), (1, 10, 10)]


def test_owners_page_is_read_by_number(db: Database) -> None:
    """The owner's filter looks each event up, and reads no table whole."""
    subscribe(db, 0)
    statements: list[str] = []
    db.conn.set_trace_callback(statements.append)
    events.load_events(db, after=0, limit=5, owner="shop")
    db.conn.set_trace_callback(None)
    (query,) = [statement for statement in statements if "EXISTS" in statement]
    plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {query}").fetchall()]
    assert any("event_owner" in step and "owner=? AND number=?" in step for step in plan)
    assert not any("SCAN" in step for step in plan)


def test_txid_is_any_32_bytes(db: Database) -> None:
    """Bytes that look like text, or are all zero, come back as they are."""
    for raw in (bytes(32), b"payment.seen" + bytes(20), b"\xff" * 32):
        events.save_payment_events(
            db,
            [
                PaymentEvent(
                    kind=EventKind.SEEN,
                    scripthash=regtest_address(0).scripthash,
                    txid=Txid(raw),
                    net_sat=0,
                    height=None,
                    trust=TrustLevel.SINGLE,
                )
            ],
            now=NOW,
        )
    assert [event.txid for event in everything(db)] == [bytes(32), b"payment.seen" + bytes(20), b"\xff" * 32]
