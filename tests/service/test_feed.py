"""The event feed: whose events, in which order, and how a reader goes on."""

import pytest
import trio
from trio.testing import MockClock

from lightipn.errors import RequestError
from lightipn.service.feed import LOOK_AGAIN_S, MOST_AFTER, MOST_AT_ONCE, EventPage
from lightipn.store import events
from lightipn.store.database import open_store
from tests.service.happenings import confirm, connect, distrust, see
from tests.service.rig import Tools
from tests.store.rows import regtest_address


async def numbers(tools: Tools, *, after: int = 0, limit: int = MOST_AT_ONCE, owner: str | None) -> list[int]:
    """Return the numbers on a page."""
    page = await tools.service.feed.events(after=after, limit=limit, owner=owner)
    return [event.number for event in page.events]


async def fill(tools: Tools) -> None:
    """Pay the first address (1), the second (2), connect a block (3), lose a server (4), and confirm the first (5)."""
    for number, owner in ((0, "shop"), (1, "other")):
        await tools.subscribe(regtest_address(number), owner=owner)
    for happen in (
        lambda db: see(db, 0),
        lambda db: see(db, 1),
        connect,
        distrust,
        lambda db: confirm(db, 0),
    ):
        await tools.store.transact(happen)


async def test_operator_sees_everything(tools: Tools) -> None:
    """Without an owner all events come, oldest first, servers' too."""
    await fill(tools)
    page = await tools.service.feed.events(after=0, limit=10, owner=None)
    assert [(event.number, event.kind) for event in page.events] == [
        (1, "payment.seen"),
        (2, "payment.seen"),
        (3, "block.connected"),
        (4, "server.distrusted"),
        (5, "payment.confirmed"),
    ]
    assert (page.next_after, page.latest) == (5, 5)


async def test_owner_sees_his_own_payments_and_blocks(tools: Tools) -> None:
    """An owner gets the events of his addresses and of blocks, never another's, and none of servers."""
    await fill(tools)
    assert await numbers(tools, owner="shop") == [1, 3, 5]
    assert await numbers(tools, owner="other") == [2, 3]
    assert await numbers(tools, owner="stranger") == [3]


async def test_past_events_stay_after_unsubscribing(tools: Tools) -> None:
    """What happened while an owner was subscribed is his for ever: the feed proves that he missed nothing."""
    await fill(tools)
    before = await numbers(tools, owner="shop")
    await tools.service.subscriptions.unsubscribe(regtest_address(0).text, url=None)
    assert await numbers(tools, owner="shop") == before


async def test_empty_feed_is_an_empty_page(tools: Tools) -> None:
    """Before the first event there is nothing, and nothing to go on from."""
    page = await tools.service.feed.events(after=0, limit=10, owner="shop")
    assert page == EventPage(events=(), next_after=0, latest=0)


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
@pytest.mark.parametrize("owner", [None, "shop", "other", "stranger"])
async def test_pages_give_each_event_once(tools: Tools, owner: str | None, limit: int) -> None:
    """Whoever goes on with ``next_after`` gets each of his events exactly once, in order, and comes to the end."""
    await fill(tools)
    await fill(tools)
    whole = await numbers(tools, owner=owner)
    read: list[int] = []
    after, calls = 0, 0
    while True:
        page = await tools.service.feed.events(after=after, limit=limit, owner=owner)
        assert len(page.events) <= limit
        assert all(after < event.number <= page.next_after for event in page.events)
        read += [event.number for event in page.events]
        after, calls = page.next_after, calls + 1
        if after == page.latest:
            break
        assert calls < 30
    assert read == whole
    assert await numbers(tools, after=after, owner=owner) == []


async def test_reader_at_the_end_finds_what_comes_later(tools: Tools) -> None:
    """An event that is written after the last page is on the next one."""
    await fill(tools)
    end = (await tools.service.feed.events(after=0, limit=100, owner="shop")).next_after
    await tools.store.transact(lambda db: confirm(db, 0, txid=7))
    assert await numbers(tools, after=end, owner="shop") == [6]


async def test_gap_of_others_events_is_passed(tools: Tools, monkeypatch: pytest.MonkeyPatch) -> None:
    """A long run of others' events makes a page empty, not the feed: ``next_after`` moves until it is behind them."""
    monkeypatch.setattr(events, "MOST_EXAMINED", 10)
    for number, owner in ((0, "shop"), (1, "other")):
        await tools.subscribe(regtest_address(number), owner=owner)
    for _ in range(25):
        await tools.store.transact(lambda db: see(db, 1))
    await tools.store.transact(lambda db: see(db, 0))
    page = await tools.service.feed.events(after=0, limit=5, owner="shop")
    assert page == EventPage(events=(), next_after=10, latest=26)
    page = await tools.service.feed.events(after=10, limit=5, owner="shop")
    assert page == EventPage(events=(), next_after=20, latest=26)
    page = await tools.service.feed.events(after=20, limit=5, owner="shop")
    assert ([event.number for event in page.events], page.next_after) == ([26], 26)


@pytest.mark.parametrize("after", [6, MOST_AFTER])
async def test_reader_ahead_of_the_feed_is_told(tools: Tools, after: int) -> None:
    """A number that is not reached yet is refused: the database is an older copy, and news would be skipped."""
    await fill(tools)
    with pytest.raises(RequestError, match="newest event is 5"):
        await tools.service.feed.events(after=after, limit=1, owner="shop")


@pytest.mark.parametrize(
    ("after", "limit", "code"),
    [
        (-1, 1, "bad-after"),
        (MOST_AFTER + 1, 1, "bad-after"),
        (1 << 63, 1, "bad-after"),
        (0, 0, "bad-limit"),
        (0, -1, "bad-limit"),
        (0, MOST_AT_ONCE + 1, "bad-limit"),
    ],
)
async def test_number_out_of_range_is_named(tools: Tools, after: int, limit: int, code: str) -> None:
    """A number that cannot be is refused by the name of its parameter."""
    with pytest.raises(RequestError, match=rf"^{code[4:]} is .*, want a whole number from [01] to \d+$") as caught:
        await tools.service.feed.events(after=after, limit=limit, owner=None)
    assert (caught.value.code, caught.value.status_hint) == (code, 400)


async def test_write_of_another_process_is_noticed_within_a_second(tools: Tools, autojump_clock: MockClock) -> None:
    """The first look does not wait; the next one lasts until somebody else wrote, and no longer than a second more."""
    version = await tools.service.feed.wait_written(None)
    assert trio.current_time() == 0.0
    with trio.move_on_after(10.5):
        await tools.service.feed.wait_written(version)
    assert trio.current_time() == 10.5  # nobody wrote
    async with (
        open_store(tools.store.path, "regtest", threaded=False) as other_process,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(tools.service.feed.wait_written, version)
        await trio.sleep(2.2)
        await other_process.transact(lambda db: see(db, 0))
    assert 12.7 <= trio.current_time() <= 12.7 + LOOK_AGAIN_S
