"""Fresh addresses out of extended keys: the first look at a key, the counter, and the gap."""

from collections.abc import AsyncIterator

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from lightipn.bitcoin.extended_key import ScriptKind
from lightipn.errors import RequestError
from lightipn.outbox.subscriptions import Subscription
from lightipn.service import scanning
from lightipn.service.scanning import GAP_LIMIT, MOST_LOOKED_AHEAD, SCAN_WAIT_S
from lightipn.service.subscribing import Wish
from lightipn.service.supplying import FreshAddress
from lightipn.store import ledger
from tests.service.rig import URL, Tools
from tests.service.supply import DESCRIPTOR, KINDS, OTHER_TPUB, TPUB, VPUB, Desk, addresses_of, open_desk, texts_of
from tests.store.rows import NOW, TIP


@pytest.fixture
async def desk(tools: Tools) -> AsyncIterator[Desk]:
    """A service that scans, and servers that answer when the test says so."""
    async with open_desk(tools) as desk:
        yield desk


def fresh(index: int, kind: ScriptKind = ScriptKind.P2PKH, *, url: str = URL) -> FreshAddress:
    """Return the address with this index as a caller gets it."""
    return FreshAddress(address=texts_of([index], kind)[0], index=index, url=url)


async def stored(tools: Tools) -> list[Subscription]:
    """Return all subscriptions."""
    return list(await tools.service.subscriptions.list())


# --- the first look at a key -------------------------------------------------------------------------------------


async def test_first_use_looks_at_all_kinds_of_scripts(desk: Desk) -> None:
    """At the first use of a key twenty addresses of each of the four kinds of scripts are looked up, and no more."""
    assert await desk.scan() == fresh(0)
    wanted = {address.scripthash for kind in KINDS for address in addresses_of(range(GAP_LIMIT), kind)}
    assert (len(wanted), set(desk.asked) - wanted) == (4 * GAP_LIMIT, set())
    assert set(desk.asked) == wanted
    assert "watches" in desk.tools.rung


async def test_address_is_told_to_its_asker(desk: Desk, autojump_clock: MockClock) -> None:
    """The address that is given away is watched for good, for who asked for it; its URL comes back as it was."""
    await desk.scan()
    (found,) = await stored(desk.tools)
    assert (found.owner, found.dialect, found.address, found.url) == ("shop", "plain", texts_of([0])[0], URL)
    assert (found.terms, found.since_height, found.created_at) == (b"1", TIP, NOW)
    record = await desk.tools.store.read(lambda db: ledger.load_script(db, addresses_of([0])[0].scripthash))
    assert record is not None
    assert record.wanted_until is None


async def test_second_use_looks_at_nothing(desk: Desk, autojump_clock: MockClock) -> None:
    """Once a key was scanned, an address costs no lookup and no waiting."""
    await desk.scan()
    await desk.answer_all()
    count = len(desk.asked)
    before = trio.current_time()
    assert [await desk.issue() for _ in range(3)] == [fresh(1), fresh(2), fresh(3)]
    assert trio.current_time() == before
    await desk.answer_all()
    assert desk.asked[count:] == []


@pytest.mark.parametrize(
    ("used", "first", "looked_at"),
    [
        pytest.param([0], 1, 21, id="the first"),
        pytest.param([0, 1, 2], 3, 23, id="the first three"),
        pytest.param([7], 8, 28, id="one in the middle"),
        pytest.param([19], 20, 40, id="the last of twenty"),
        pytest.param([0, 20], 21, 41, id="nineteen unused in between"),
        pytest.param([19, 39], 40, 60, id="the last of twenty, twice"),
        pytest.param([20], 0, 20, id="twenty unused before it"),
    ],
)
async def test_addresses_that_were_used_are_skipped(desk: Desk, used: list[int], first: int, looked_at: int) -> None:
    """Addresses up to the last used one are skipped; a key is looked at until twenty in a row are unused."""
    desk.use(*used)
    assert await desk.scan() == fresh(first)
    asked = {index for index, address in enumerate(addresses_of(range(200))) if address.scripthash in set(desk.asked)}
    assert asked >= set(range(looked_at))


@pytest.mark.slow
async def test_key_with_a_long_past_is_looked_at_in_growing_steps(desk: Desk) -> None:
    """A key that was used a thousand times is scanned whole, in few steps, none of which is endless."""
    desk.use(*range(0, 1100, 19))
    steps = []
    desk.ask()
    while not desk.issued:
        await trio.testing.wait_all_tasks_blocked()
        asked = await desk.tools.answer_watches(desk.paid)
        steps.append(len(asked))
        await trio.testing.wait_all_tasks_blocked()
    assert desk.issued[0][1] == fresh(1084)
    assert len([step for step in steps if step]) < 12
    assert max(steps) <= max(4 * GAP_LIMIT, MOST_LOOKED_AHEAD)


async def test_history_that_is_too_long_to_read_is_a_use(desk: Desk, autojump_clock: MockClock) -> None:
    """An address whose history is not read, because it is too long, counts as used."""
    desk.ask()
    await trio.testing.wait_all_tasks_blocked()
    await desk.tools.settle(addresses_of([4])[0], trouble="history-too-long")
    await desk.answer_all()
    assert desk.issued[-1][1] == fresh(5)


async def test_address_that_somebody_watches_already_is_looked_at_too(desk: Desk, autojump_clock: MockClock) -> None:
    """A shop that watched unused addresses of its key one by one before gets an address, as everybody does."""
    await desk.tools.subscribe(addresses_of([3])[0], url="https://shop.example/before")
    await desk.answer_all()
    assert await desk.scan() == fresh(0)


async def test_scan_does_not_keep_what_it_looked_at(desk: Desk, autojump_clock: MockClock) -> None:
    """What was merely looked at is forgotten after a while, but for the kind of address that is given away."""
    desk.use(0)
    await desk.scan()

    def forget(db: ledger.Database) -> list[str]:
        while ledger.drop_unwanted_scripts(db, now=NOW + ledger.LOOKUP_KEEP_S + 1):
            pass
        return [row[0] for row in db.execute("SELECT address FROM script").fetchall()]

    assert sorted(await desk.tools.store.transact(forget)) == sorted(texts_of(range(1, GAP_LIMIT + 1)))
    assert await desk.issue() == fresh(2)


async def test_scan_that_takes_long_is_pending_and_goes_on(desk: Desk, autojump_clock: MockClock) -> None:
    """After eight seconds the caller is told to come again; the scan goes on, and the next call profits."""
    desk.ask()
    await trio.sleep(2)
    desk.ask()
    await trio.sleep(SCAN_WAIT_S + 1)
    assert desk.issued == [(SCAN_WAIT_S, "503 scan-pending"), (2 + SCAN_WAIT_S, "503 scan-pending")]
    assert await stored(desk.tools) == []
    await desk.answer_all()
    assert await desk.issue() == fresh(0)


@pytest.mark.slow
async def test_scan_keeps_its_lookups_alive(desk: Desk, autojump_clock: MockClock) -> None:
    """While no server answers for hours, what is looked up stays wanted; an answer then ends the scan."""
    desk.ask()
    for _ in range(60):
        await trio.sleep(120)
        until = NOW + int(trio.current_time())
        await desk.tools.store.transact(lambda db, until=until: ledger.drop_unwanted_scripts(db, now=until))
    await desk.answer_all()
    assert desk.issued == [(SCAN_WAIT_S, "503 scan-pending")]
    assert await desk.issue() == fresh(0)


async def test_scan_goes_on_after_a_restart(tools: Tools, autojump_clock: MockClock) -> None:
    """A service that died while it scanned goes on where it was, without anybody asking again."""
    async with open_desk(tools) as before:
        before.use(0, 19)
        before.ask()
        await trio.testing.wait_all_tasks_blocked()
        await tools.answer_watches(before.paid)  # the first twenty of each kind
        await trio.testing.wait_all_tasks_blocked()
    again = Tools(tools.store)
    async with open_desk(again) as after:
        after.use(0, 19)
        await trio.testing.wait_all_tasks_blocked()
        # What was queued when it died is watched from the database at the start.
        await tools.store.transact(_ask_for_all)
        await after.answer_all()
        first = {address.scripthash for address in addresses_of(range(GAP_LIMIT))}
        assert not set(after.asked) & first
        assert await after.issue() == fresh(20)


def _ask_for_all(db: ledger.Database) -> None:
    """Have every script asked that was never worked in."""
    for (scripthash,) in db.execute("SELECT scripthash FROM script WHERE absorbed_at IS NULL").fetchall():
        ledger.save_watch_change(db, scripthash, ledger.WatchChange.ASKED)


async def test_callers_share_a_scan(desk: Desk) -> None:
    """Whoever asks for the same key while it is scanned waits for the same scan."""
    for _ in range(5):
        desk.ask()
    await desk.answer_all()
    assert sorted(answer.index for _, answer in desk.issued if isinstance(answer, FreshAddress)) == [0, 1, 2, 3, 4]
    assert len(desk.asked) == 4 * GAP_LIMIT


async def test_keys_that_are_being_scanned_are_limited(
    desk: Desk, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where too many keys are being scanned another one is refused at once; those that were scanned are served."""
    monkeypatch.setattr(scanning, "MOST_SCANS", 4)
    await desk.scan()
    desk.ask(OTHER_TPUB)
    await trio.testing.wait_all_tasks_blocked()
    before = trio.current_time()
    assert await desk.refusal_of(f"wpkh({OTHER_TPUB}/7/*)") == "503 scan-pending"
    assert trio.current_time() == before
    assert await desk.issue() == fresh(1)
    await desk.answer_all()
    assert isinstance(await desk.scan(f"wpkh({OTHER_TPUB}/7/*)"), FreshAddress)


# --- the kind of script ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("used", [kind for kind in KINDS if kind is not ScriptKind.P2PKH], ids=lambda kind: kind.value)
async def test_prefix_that_does_not_fit_the_wallet_is_refused(desk: Desk, used: ScriptKind) -> None:
    """A key whose wallet uses only another kind of addresses than the prefix says is refused, and told which."""
    desk.use(0, 3, kind=used)
    assert await desk.scan() == "400 unused-type"
    with pytest.raises(RequestError, match=f"pass address_type={used.value}"):
        await desk.issue()
    assert await stored(desk.tools) == []
    assert await desk.issue(kind=used) == fresh(4, used)


async def test_explicit_kind_passes(desk: Desk) -> None:
    """Who says which kind is wanted gets it, used or not; what was given away then needs no saying any more."""
    desk.use(0, kind=ScriptKind.P2WPKH)
    assert await desk.scan(kind=ScriptKind.P2PKH) == fresh(0)
    assert await desk.issue() == fresh(1)


async def test_kind_of_the_prefix_passes_where_several_are_used(desk: Desk) -> None:
    """Where the wallet uses the kind of the prefix too, that is taken."""
    desk.use(0)
    desk.use(0, 1, 2, kind=ScriptKind.P2TR)
    assert await desk.scan() == fresh(1)


async def test_spellings_of_a_key_are_one_counter(desk: Desk) -> None:
    """A key by its segwit prefix, by its plain one with the kind, and as a descriptor gives from one counter."""
    kind = ScriptKind.P2WPKH
    assert await desk.scan(VPUB) == fresh(0, kind)
    assert await desk.issue(TPUB, kind=kind) == fresh(1, kind)
    assert await desk.issue(DESCRIPTOR) == fresh(2, kind)
    assert await desk.issue(f" {VPUB}\n") == fresh(3, kind)
    assert await desk.tools.service.supplies.gap(owner="shop", key=DESCRIPTOR, kind=None) == 4
    assert [state.record.next_index for state in await desk.tools.service.supplies.list()] == [4]


async def test_spellings_are_one_counter_whichever_came_first(desk: Desk) -> None:
    """A descriptor that was scanned first, on its own, is the same counter as the key that is scanned afterwards."""
    kind = ScriptKind.P2WPKH
    desk.use(0, kind=kind)
    assert await desk.scan(DESCRIPTOR) == fresh(1, kind)
    assert len(set(desk.asked)) < 4 * GAP_LIMIT
    assert await desk.scan(VPUB) == fresh(2, kind)
    assert await desk.issue(TPUB, kind=kind) == fresh(3, kind)


async def test_kinds_of_a_key_are_several_counters(desk: Desk) -> None:
    """Each kind of script of one key has a counter of its own."""
    await desk.scan()
    assert await desk.issue(kind=ScriptKind.P2TR) == fresh(0, ScriptKind.P2TR)
    assert await desk.issue() == fresh(1)


# --- the counter -------------------------------------------------------------------------------------------------


async def test_callers_side_by_side_get_different_indexes(desk: Desk) -> None:
    """However many ask at the same time, the indexes are consecutive, and none is given twice."""
    await desk.scan()
    desk.issued.clear()
    for number in range(GAP_LIMIT - 1):
        desk.ask(owner=f"shop{number % 3}")
    await trio.testing.wait_all_tasks_blocked()
    found = [answer for _, answer in desk.issued if isinstance(answer, FreshAddress)]
    assert sorted(answer.index for answer in found) == list(range(1, GAP_LIMIT))
    assert sorted(answer.address for answer in found) == sorted(texts_of(range(1, GAP_LIMIT)))


async def test_index_is_never_given_again(desk: Desk) -> None:
    """A counter goes on after a restart, and after what was given away was removed by the operator."""
    await desk.scan()
    await desk.tools.service.subscriptions.unsubscribe(texts_of([0])[0], url=None)
    async with open_desk(Tools(desk.tools.store)) as again:
        assert await again.issue() == fresh(1)


async def test_owners_share_the_counter_and_not_the_addresses(desk: Desk) -> None:
    """Two owners of one key never get the same address; each is told of its own alone."""
    await desk.scan()
    assert await desk.issue(owner="other", url="https://other.example/") == fresh(1, url="https://other.example/")
    assert await desk.issue() == fresh(2)
    told = [(item.owner, item.address) for item in await stored(desk.tools)]
    assert told == list(zip(("shop", "other", "shop"), texts_of(range(3)), strict=True))


async def test_request_for_the_same_address_and_url_stays_another(desk: Desk, autojump_clock: MockClock) -> None:
    """A subscription that the owner made to an address before it is given away, with other terms, stays as it is."""
    wish = Wish(address=texts_of([0])[0], url=URL, terms=b"2", updates_terms=False)
    made = await desk.tools.service.subscriptions.subscribe(wish, dialect="plain", owner="shop")
    desk.ask()
    await trio.testing.wait_all_tasks_blocked()
    await desk.tools.settle(addresses_of([0])[0])
    await desk.answer_all()
    assert desk.issued[-1][1] == fresh(0)
    assert [item.terms for item in await stored(desk.tools)] == [b"2", b"1"]
    assert (await stored(desk.tools))[0] == made


async def test_tip_that_is_not_proved_yet_is_settled_later(desk: Desk) -> None:
    """An address that is given away before the tip is proved has no past known yet."""
    desk.tools.is_tip_proved = False
    await desk.scan()
    (found,) = await stored(desk.tools)
    assert found.since_height is None


async def test_without_a_server_no_index_is_given(desk: Desk) -> None:
    """While no server is connected nobody would see a payment: 503, and the index is given to a later call."""
    await desk.scan()
    desk.tools.is_connected = False
    assert await desk.refusal_of() == "503 no-server"
    assert await desk.refusal_of(kind=ScriptKind.P2TR) == "503 no-server"
    desk.tools.is_connected = True
    assert await desk.issue() == fresh(1)
    assert len(await stored(desk.tools)) == 2


async def test_address_that_was_paid_since_the_scan_is_skipped(desk: Desk) -> None:
    """An address that the wallet's owner gave away by hand, and that was paid, is not given away once that is known."""
    await desk.scan()
    await desk.tools.subscribe(addresses_of([1])[0], owner="operator")
    await desk.pay(1)
    assert await desk.issue() == fresh(2)
    assert await desk.tools.service.supplies.gap(owner="shop", key=TPUB, kind=None) == 1


async def test_spellings_that_are_not_known_as_one_give_no_address_twice(desk: Desk) -> None:
    """Two descriptors that lead to the same addresses, and look different, never give the same address away."""
    first = await desk.scan(f"wsh(multi(1,{TPUB}/0/*))")
    second = await desk.scan(f"wsh(sortedmulti(1,{TPUB}/0/*))")
    assert isinstance(first, FreshAddress)
    assert isinstance(second, FreshAddress)
    assert (first.index, second.index) == (0, 1)
    assert first.address != second.address


async def test_key_that_was_never_used_is_forgotten(desk: Desk, autojump_clock: MockClock) -> None:
    """Anybody may ask for any key: one of which nothing was given away is forgotten in time, one in use never is."""
    await desk.scan()
    desk.use(0, kind=ScriptKind.P2TR, key=OTHER_TPUB)
    assert await desk.scan(OTHER_TPUB) == "400 unused-type"
    assert len(await desk.tools.service.supplies.list()) == 2
    await trio.sleep(scanning.KEEP_UNUSED_S + 1)
    assert isinstance(await desk.scan(f"wpkh({OTHER_TPUB}/7/*)"), FreshAddress)
    listed = await desk.tools.service.supplies.list()
    assert [(state.record.source, state.record.next_index) for state in listed] == [
        (TPUB, 1),
        (f"wpkh({OTHER_TPUB}/7/*)", 1),
    ]
    assert await desk.issue() == fresh(1)
    assert await desk.scan(OTHER_TPUB) == "400 unused-type"


# --- the gap -----------------------------------------------------------------------------------------------------


async def test_twenty_unpaid_addresses_are_the_limit(desk: Desk) -> None:
    """The twentieth unpaid address in a row is given away, the next is refused; a payment to any makes room again."""
    await desk.scan()
    assert [(await desk.issue()).index for _ in range(GAP_LIMIT - 1)] == list(range(1, GAP_LIMIT))
    assert await desk.refusal_of() == "400 gap-too-large"
    assert len(await stored(desk.tools)) == GAP_LIMIT
    await desk.pay(4)
    assert [(await desk.scan()).index for _ in range(5)] == [20, 21, 22, 23, 24]
    assert await desk.refusal_of() == "400 gap-too-large"


async def test_address_that_was_used_far_ahead_is_not_given_away(desk: Desk) -> None:
    """What was used beyond the first twenty is found before its turn comes, and left out."""
    desk.use(26, 30)
    await desk.scan()
    for _ in range(GAP_LIMIT - 1):
        await desk.scan()
    await desk.pay(15)
    given = [(await desk.scan()).index for _ in range(10)]
    assert given == [20, 21, 22, 23, 24, 25, 27, 28, 29, 31]


async def test_address_that_is_paid_before_its_turn_is_not_given_away(desk: Desk) -> None:
    """The next addresses are watched from the first one on: one that the wallet uses meanwhile is left out."""
    await desk.scan()
    await desk.pay(2)
    assert [(await desk.scan()).index for _ in range(3)] == [1, 3, 4]


async def test_gap_begins_behind_what_was_used_before(desk: Desk) -> None:
    """Addresses that were used before the first call are no gap."""
    desk.use(6)
    await desk.scan()
    assert [(await desk.issue()).index for _ in range(GAP_LIMIT - 1)] == list(range(8, 7 + GAP_LIMIT))
    assert await desk.refusal_of() == "400 gap-too-large"


async def test_gap_limit_holds_for_one_call(desk: Desk) -> None:
    """A caller may allow a larger gap, or a smaller one; it must say so each time."""
    await desk.scan()
    assert await desk.refusal_of(gap_limit=1) == "400 gap-too-large"
    for _ in range(GAP_LIMIT - 1):
        await desk.issue()
    assert await desk.refusal_of() == "400 gap-too-large"
    assert (await desk.scan(gap_limit=GAP_LIMIT + 1)).index == GAP_LIMIT
    assert await desk.refusal_of(gap_limit=GAP_LIMIT + 1) == "400 gap-too-large"
    assert await desk.refusal_of() == "400 gap-too-large"


async def test_gap_is_told_to_owners_of_addresses(desk: Desk) -> None:
    """The gap counts what anybody was given since the last payment; who has no address of the key sees none."""
    gap = desk.tools.service.supplies.gap
    with pytest.raises(RequestError) as caught:
        await gap(owner="shop", key=TPUB, kind=None)
    assert (caught.value.status_hint, caught.value.code) == (404, "xpub-not-found")
    await desk.scan()
    assert await gap(owner="shop", key=TPUB, kind=None) == 1
    await desk.issue(owner="other")
    await desk.issue(owner="other")
    assert await gap(owner="shop", key=TPUB, kind=None) == 3
    await desk.pay(1)
    assert await gap(owner="other", key=TPUB, kind=None) == 1
    for owner, kind in (("third", None), ("shop", ScriptKind.P2TR)):
        with pytest.raises(RequestError) as caught:
            await gap(owner=owner, key=TPUB, kind=kind)
        assert caught.value.code == "xpub-not-found"


async def test_operator_sees_every_key(desk: Desk) -> None:
    """The operator sees each key in use with its counter and gap, and the addresses that were given away of it."""
    await desk.scan()
    await desk.issue(owner="other", url="https://other.example/")
    await desk.pay(0)
    (state,) = await desk.tools.service.supplies.list()
    assert (state.record.source, state.record.kind, state.record.next_index) == (TPUB, "p2pkh", 2)
    assert (state.gap, state.left, state.record.is_scanned) == (1, GAP_LIMIT - 1, True)
    shown, issued = await desk.tools.service.supplies.show(state.record.chain_id, limit=9)
    assert shown == state
    assert [(one.index, one.address, one.owner, one.url, one.is_paid) for one in issued] == [
        (1, texts_of([1])[0], "other", "https://other.example/", False),
        (0, texts_of([0])[0], "shop", URL, True),
    ]
    assert len((await desk.tools.service.supplies.show(state.record.chain_id, limit=1))[1]) == 1
    with pytest.raises(RequestError) as caught:
        await desk.tools.service.supplies.show(99, limit=1)
    assert (caught.value.status_hint, caught.value.code) == (404, "not-found")


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "kind", "code"),
    [
        pytest.param("nonsense", None, "400 bad-key", id="no key"),
        pytest.param("", None, "400 bad-key", id="nothing"),
        pytest.param(f"wpkh({TPUB}/0/5)", None, "400 bad-key", id="descriptor of one address"),
        pytest.param(DESCRIPTOR, ScriptKind.P2TR, "400 bad-address-type", id="descriptor of another kind"),
    ],
)
async def test_what_is_no_key_is_refused_before_anything_is_looked_up(
    desk: Desk, autojump_clock: MockClock, key: str, kind: ScriptKind | None, code: str
) -> None:
    """A bad key is refused at once, and nothing is scanned."""
    assert await desk.refusal_of(key, kind=kind) == code
    await desk.answer_all()
    assert desk.asked == []
    assert await desk.tools.service.supplies.list() == []


async def test_bad_url_and_owner_are_refused_before_anything_is_looked_up(desk: Desk) -> None:
    """A callback that could not be called, and an owner that could not be shown, cost no lookup and no index."""
    for owner, url, code in (("shop", "bad", "bad-url"), ("a b", URL, "bad-name")):
        with pytest.raises(RequestError) as caught:
            await desk.issue(owner=owner, url=url)
        assert caught.value.code == code
    await desk.answer_all()
    assert desk.asked == []
