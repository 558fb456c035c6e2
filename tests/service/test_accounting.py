"""Accounts as an owner has them: made, given addresses with their hooks, booked and audited."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from lightipn.bitcoin.transaction import MAX_MONEY_SAT
from lightipn.errors import RequestError
from lightipn.ledger.accounts import Movement, MovementKind, ReservationStatus
from lightipn.service.accounting import MOST_CONFIRMATIONS, Account, AccountAddress, AccountWish
from lightipn.service.ground import AccountHooks
from lightipn.service.summary import alarms_of
from lightipn.store import chain, hooks, ledger, movements
from lightipn.store.database import Database, open_store
from lightipn.store.movements import RecordedMovement
from tests.builders import confirmed, entry_of, txid_of
from tests.service.rig import URL, Tools
from tests.service.supply import TPUB, Desk, open_desk, texts_of
from tests.store.rows import NOW, TIP, pay, regtest_address

TILL = AccountWish(name="till", credit_confirmations=2)
TERMS = (b"1", b"2")  # in the test dialect: two hooks an address


@pytest.fixture
async def tools(tmp_path: Path) -> AsyncIterator[Tools]:
    """A service whose accounts have hooks, over an empty database with a tip."""
    async with open_store(tmp_path / "shop.db", "regtest", threaded=False) as store:
        await store.transact(lambda db: chain.save_base_height(db, TIP))
        yield Tools(store, account_hooks=AccountHooks(dialect="plain", terms=TERMS))


@pytest.fixture
async def desk(tools: Tools) -> AsyncIterator[Desk]:
    """The same with a scanner, and servers that answer when the test says so."""
    async with open_desk(tools) as desk:
        yield desk


async def refusal_of(work: Callable[[], Awaitable[object]]) -> str:
    """Ask for what is refused, and return status and code."""
    with pytest.raises(RequestError) as refused:
        await work()
    return f"{refused.value.status_hint} {refused.value.code}"


async def hooks_in(tools: Tools, *, owner: str = "shop") -> list[hooks.Hook]:
    """Return an owner's hooks."""
    return list(await tools.store.read(lambda db: hooks.load_hooks(db, owner=owner, limit=100)))


# --- making ------------------------------------------------------------------------------------------------------


async def test_account_is_made_and_shown(tools: Tools, autojump_clock: MockClock) -> None:
    """An account is what was asked for; its owner sees it, and nobody else."""
    wish = AccountWish(name="A.b_c@d-1", credit_confirmations=6, extended_key=f" {TPUB} ", url=URL)
    made = await tools.service.accounts.create(wish, owner="shop")
    assert made == Account(
        account_id=1,
        owner="shop",
        name="A.b_c@d-1",
        extended_key=TPUB,
        url=URL,
        credit_confirmations=6,
        balance_sat=0,
        locked_sat=0,
        created_at=NOW,
    )
    assert await tools.service.accounts.show("A.b_c@d-1", owner="shop") == made
    assert list(await tools.service.accounts.list(owner="shop")) == [made]
    assert list(await tools.service.accounts.list(owner="other")) == []
    assert list(await tools.service.accounts.list(owner=None)) == [made]
    assert await refusal_of(lambda: tools.service.accounts.show("A.b_c@d-1", owner="other")) == "404 unknown-account"


async def test_name_is_an_owners_own(tools: Tools) -> None:
    """An owner has a name once; another owner may have the same."""
    await tools.service.accounts.create(TILL, owner="shop")
    assert await refusal_of(lambda: tools.service.accounts.create(TILL, owner="shop")) == "409 account-exists"
    await tools.service.accounts.create(TILL, owner="other")


@pytest.mark.parametrize("name", ["", " ", "a b", ".a", "-a", "a/b", "ä", "a\n", "x" * 65, "\x1b[31m"])
async def test_bad_name_is_refused(tools: Tools, name: str) -> None:
    """A name is 64 plain characters at most, and begins with a letter or digit."""
    wish = AccountWish(name=name, credit_confirmations=2)
    assert await refusal_of(lambda: tools.service.accounts.create(wish, owner="shop")) == "400 bad-account-name"


@pytest.mark.parametrize(
    ("wish", "refusal"),
    [
        (AccountWish(name="a", credit_confirmations=0), "400 bad-number"),
        (AccountWish(name="a", credit_confirmations=-1), "400 bad-number"),
        (AccountWish(name="a", credit_confirmations=MOST_CONFIRMATIONS + 1), "400 bad-number"),
        (AccountWish(name="a", credit_confirmations=2, extended_key="xpub"), "400 bad-key"),
        (AccountWish(name="a", credit_confirmations=2, url="bad"), "400 bad-url"),
    ],
    ids=["no depth", "negative depth", "endless depth", "key", "URL"],
)
async def test_bad_wish_is_refused(tools: Tools, wish: AccountWish, refusal: str) -> None:
    """What cannot be kept is refused before anything is written."""
    assert await refusal_of(lambda: tools.service.accounts.create(wish, owner="shop")) == refusal
    assert list(await tools.service.accounts.list(owner=None)) == []


async def test_unknown_account_is_404_everywhere(tools: Tools) -> None:
    """Whatever is asked of an account that is not there, or is another owner's, has one answer."""
    await tools.service.accounts.create(TILL, owner="other")
    desk = tools.service.accounts
    text = regtest_address(0).text
    for work in (
        lambda: desk.show("till", owner="shop"),
        lambda: desk.add_address("till", text, owner="shop"),
        lambda: desk.derive_address("till", owner="shop"),
        lambda: desk.addresses("till", owner="shop"),
        lambda: desk.deposits("till", owner="shop", limit=9),
        lambda: desk.movements("till", owner="shop", limit=9),
        lambda: desk.adjust("till", owner="shop", amount_sat=1, reference="r"),
    ):
        assert await refusal_of(work) == "404 unknown-account"
    assert await hooks_in(tools) == []


# --- addresses and their hooks -----------------------------------------------------------------------------------


async def test_address_comes_with_its_hooks(tools: Tools, autojump_clock: MockClock) -> None:
    """An account with a URL has the hooks of its flow made for each address; they are kept with it."""
    await tools.service.accounts.create(
        AccountWish(name="till", credit_confirmations=2, url="https://shop.example/hooks"), owner="shop"
    )
    added = await tools.service.accounts.add_address("till", regtest_address(0).text, owner="shop")
    found = await hooks_in(tools)
    assert [(hook.address, hook.url, hook.terms) for hook in found] == [
        (regtest_address(0).text, "https://shop.example/hooks", terms) for terms in TERMS
    ]
    assert added == AccountAddress(
        account_id=1,
        address=regtest_address(0).text,
        scripthash=regtest_address(0).scripthash,
        index=None,
        hook_ids=tuple(hook.hook_id for hook in found),
        is_active=True,
        added_at=NOW,
        used_at=NOW,
    )
    assert list(await tools.service.accounts.addresses("till", owner="shop")) == [added]
    told = await tools.service.subscriptions.list()
    assert [(one.hook_id, one.address) for one in told] == [(hook.hook_id, added.address) for hook in found]
    assert await tools.store.read(hooks.load_service_key) is not None
    assert {"watches", "messages"} <= set(tools.rung)


async def test_account_without_a_url_has_no_hooks(tools: Tools) -> None:
    """Who wants no webhooks has none, and the address is watched all the same."""
    await tools.service.accounts.create(TILL, owner="shop")
    added = await tools.service.accounts.add_address("till", regtest_address(0).text, owner="shop")
    assert (added.hook_ids, await hooks_in(tools)) == ((), [])
    watches = await tools.store.read(ledger.load_watches)
    assert [scripthash for scripthash, _ in watches] == [regtest_address(0).scripthash]


async def test_address_belongs_to_one_account_of_an_owner(tools: Tools) -> None:
    """A second account of the same owner may not have it: no payment is credited to him twice. Another owner may."""
    for owner, name in (("shop", "till"), ("shop", "second"), ("other", "till")):
        await tools.service.accounts.create(AccountWish(name=name, credit_confirmations=1), owner=owner)
    desk, text = tools.service.accounts, regtest_address(0).text
    await desk.add_address("till", text, owner="shop")
    for name in ("till", "second"):
        for written in (text, text.upper()):
            refusal = await refusal_of(lambda n=name, t=written: desk.add_address(n, t, owner="shop"))  # type: ignore[misc]
            assert refusal == "409 address-taken"
    await desk.add_address("till", text, owner="other")
    await tools.store.transact(lambda db: pay(db, 0, entry_of(1, received_sat=7, state=confirmed(TIP))))
    found = await desk.list(owner=None)
    assert {(one.owner, one.name): one.balance_sat for one in found} == {
        ("shop", "till"): 7,
        ("shop", "second"): 0,
        ("other", "till"): 7,
    }


@pytest.mark.parametrize("text", ["", "nonsense", "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"])
async def test_bad_address_is_refused(tools: Tools, text: str) -> None:
    """What is no address of the network belongs to nobody."""
    await tools.service.accounts.create(TILL, owner="shop")
    assert await refusal_of(lambda: tools.service.accounts.add_address("till", text, owner="shop")) == "400 bad-address"


async def test_past_payments_come_with_the_address(tools: Tools) -> None:
    """What an address was paid before is the account's at once."""
    await tools.subscribe(regtest_address(0))
    await tools.store.transact(lambda db: pay(db, 0, entry_of(1, received_sat=7, state=confirmed(TIP - 1))))
    await tools.service.accounts.create(TILL, owner="shop")
    await tools.service.accounts.add_address("till", regtest_address(0).text, owner="shop")
    assert (await tools.service.accounts.show("till", owner="shop")).balance_sat == 7
    (deposit,) = await tools.service.accounts.deposits("till", owner="shop", limit=9)
    assert (deposit.deposit.txid, deposit.deposit.credited_sat) == (txid_of(1), 7)


# --- derived addresses -------------------------------------------------------------------------------------------


async def derive(desk: Desk, *, name: str = "till", owner: str = "shop") -> AccountAddress | str:
    """Derive an address, with servers that answer; return it, or the refusal."""
    found: list[AccountAddress | str] = []

    async def run() -> None:
        try:
            found.append(await desk.tools.service.accounts.derive_address(name, owner=owner))
        except RequestError as error:
            found.append(f"{error.status_hint} {error.code}")

    desk.nursery.start_soon(run)
    await desk.answer_all()
    return found[0]


async def open_till(desk: Desk, *, name: str = "till", owner: str = "shop", url: str = "") -> None:
    """Make an account that derives its addresses."""
    wish = AccountWish(name=name, credit_confirmations=2, extended_key=TPUB, url=url)
    await desk.tools.service.accounts.create(wish, owner=owner)


async def test_addresses_are_derived_in_order(desk: Desk) -> None:
    """Each call gives the key's next address, with its hooks, and it belongs to the account from then on."""
    await open_till(desk, url=URL)
    added = [await derive(desk) for _ in range(3)]
    assert all(isinstance(one, AccountAddress) for one in added)
    found = await desk.tools.service.accounts.addresses("till", owner="shop")
    assert list(found) == added
    assert [(one.address, one.index, len(one.hook_ids)) for one in found] == [
        (text, index, 2) for index, text in enumerate(texts_of(range(3)))
    ]
    assert len(await hooks_in(desk.tools)) == 6


async def test_used_addresses_are_left_out(desk: Desk) -> None:
    """What the wallet used before is not given to an account."""
    desk.use(0, 1)
    await open_till(desk)
    added = await derive(desk)
    assert isinstance(added, AccountAddress)
    assert (added.index, added.address) == (2, texts_of([2])[0])


async def test_two_accounts_of_one_key_share_no_address(desk: Desk) -> None:
    """Accounts with the same key, of one owner or of several, have addresses of their own."""
    await open_till(desk)
    await open_till(desk, name="second")
    await open_till(desk, owner="other")
    found = [await derive(desk, name=name, owner=owner) for name, owner in (("till", "shop"), ("second", "shop"))]
    found.append(await derive(desk, owner="other"))
    assert [one.index for one in found if isinstance(one, AccountAddress)] == [0, 1, 2]


async def test_address_that_was_added_before_is_not_derived(desk: Desk) -> None:
    """A key's address that the owner had added to an account by himself is passed over."""
    await open_till(desk)
    await desk.tools.service.accounts.add_address("till", texts_of([0])[0], owner="shop")
    added = await derive(desk)
    assert isinstance(added, AccountAddress)
    assert added.address == texts_of([1])[0]


async def test_account_without_a_key_derives_nothing(tools: Tools) -> None:
    """An account whose addresses are given has none to derive."""
    await tools.service.accounts.create(TILL, owner="shop")
    assert await refusal_of(lambda: tools.service.accounts.derive_address("till", owner="shop")) == "400 no-key"


async def test_nothing_is_derived_while_nobody_is_connected(desk: Desk) -> None:
    """Without a server no address is given away: nobody would see its payments."""
    await open_till(desk)
    desk.tools.is_connected = False
    assert await derive(desk) == "503 no-server"


# --- booking -----------------------------------------------------------------------------------------------------


async def fund(tools: Tools, amount_sat: int = 1000) -> None:
    """Make an account with a balance."""
    await tools.service.accounts.create(AccountWish(name="till", credit_confirmations=1), owner="shop")
    await tools.service.accounts.add_address("till", regtest_address(0).text, owner="shop")
    await tools.store.transact(lambda db: pay(db, 0, entry_of(1, received_sat=amount_sat, state=confirmed(TIP))))


async def balance_in(tools: Tools) -> int:
    """Return the account's balance."""
    return (await tools.service.accounts.show("till", owner="shop")).balance_sat


async def test_booking_is_a_movement_with_its_reference(tools: Tools, autojump_clock: MockClock) -> None:
    """What an owner books away or to an account is a row of its own that names him as its cause."""
    await fund(tools)
    await trio.sleep(60)
    booked = await tools.service.accounts.adjust("till", owner="shop", amount_sat=-400, reference="payout 7")
    movement = Movement(
        kind=MovementKind.ADJUST,
        status=ReservationStatus.COMPLETED,
        amount_sat=-400,
        balance_sat=-400,
        locked_sat=0,
        cause="owner",
    )
    assert booked == RecordedMovement(
        number=3, movement=movement, txid=None, address="", reference="payout 7", happened_at=NOW + 60
    )
    (newest, *_) = await tools.service.accounts.movements("till", owner="shop", limit=9)
    assert (newest, await balance_in(tools)) == (booked, 600)


async def test_same_reference_books_once(tools: Tools) -> None:
    """Who asks again because an answer was lost books nothing more; another amount is refused."""
    await fund(tools)
    first = await tools.service.accounts.adjust("till", owner="shop", amount_sat=-400, reference="r")
    again = await tools.service.accounts.adjust("till", owner="shop", amount_sat=-400, reference="r")
    assert (again, await balance_in(tools)) == (first, 600)
    refusal = await refusal_of(
        lambda: tools.service.accounts.adjust("till", owner="shop", amount_sat=-401, reference="r")
    )
    assert (refusal, await balance_in(tools)) == ("409 reference-taken", 600)


async def test_reference_repeats_even_where_nothing_is_left(tools: Tools) -> None:
    """A booking that emptied the account is answered again, not refused for want of money."""
    await fund(tools)
    first = await tools.service.accounts.adjust("till", owner="shop", amount_sat=-1000, reference="all")
    assert await tools.service.accounts.adjust("till", owner="shop", amount_sat=-1000, reference="all") == first


async def test_reference_is_an_accounts_own(tools: Tools) -> None:
    """The same reference names another booking in another account."""
    await fund(tools)
    await tools.service.accounts.create(AccountWish(name="second", credit_confirmations=1), owner="shop")
    for name in ("till", "second"):
        await tools.service.accounts.adjust(name, owner="shop", amount_sat=5, reference="r")
    found = await tools.service.accounts.list(owner="shop")
    assert [(one.name, one.balance_sat) for one in found] == [("second", 5), ("till", 1005)]


async def test_no_more_is_booked_away_than_there_is(tools: Tools) -> None:
    """The balance ends at zero; what is locked does not count."""
    await fund(tools)
    await tools.store.transact(lambda db: pay(db, 0, entry_of(2, received_sat=9, state=confirmed(TIP + 1))))
    work = tools.service.accounts.adjust
    assert await refusal_of(lambda: work("till", owner="shop", amount_sat=-1001, reference="a")) == "409 not-enough"
    await work("till", owner="shop", amount_sat=-1000, reference="b")
    assert await refusal_of(lambda: work("till", owner="shop", amount_sat=-1, reference="c")) == "409 not-enough"
    assert await balance_in(tools) == 0


async def test_negative_balance_can_be_filled_and_not_lowered(tools: Tools) -> None:
    """Where a reorg took a credit that was booked away, an owner may pay in, also less than is missing."""
    await fund(tools)
    work = tools.service.accounts.adjust
    await work("till", owner="shop", amount_sat=-1000, reference="out")
    await tools.store.transact(lambda db: pay(db, 0, entry_of(1, received_sat=1000)))
    assert await balance_in(tools) == -1000
    assert await refusal_of(lambda: work("till", owner="shop", amount_sat=-1, reference="a")) == "409 not-enough"
    await work("till", owner="shop", amount_sat=300, reference="in")
    assert await balance_in(tools) == -700


@pytest.mark.parametrize("amount_sat", [0, MAX_MONEY_SAT + 1, -MAX_MONEY_SAT - 1, 1 << 70])
async def test_bad_amount_is_refused(tools: Tools, amount_sat: int) -> None:
    """Nothing, and more than all coins there are, cannot be booked."""
    await fund(tools)
    refusal = await refusal_of(
        lambda: tools.service.accounts.adjust("till", owner="shop", amount_sat=amount_sat, reference="r")
    )
    assert refusal == "400 bad-amount"


@pytest.mark.parametrize("reference", ["", "x" * 101, "a\nb", "\x1b[31m", "\u202e"])
async def test_bad_reference_is_refused(tools: Tools, reference: str) -> None:
    """A reference is one printable line of at most 100 characters."""
    await fund(tools)
    refusal = await refusal_of(
        lambda: tools.service.accounts.adjust("till", owner="shop", amount_sat=1, reference=reference)
    )
    assert refusal == "400 bad-reference"


async def test_balance_never_outgrows_what_can_be_kept(tools: Tools) -> None:
    """Whoever books the largest amounts again and again is refused at some point; the database takes every sum."""
    await fund(tools)
    near = (1 << 63) - 1 - MAX_MONEY_SAT

    def work(db: Database) -> None:  # what thousands of such bookings leave
        movement = Movement(
            kind=MovementKind.ADJUST,
            status=ReservationStatus.COMPLETED,
            amount_sat=near,
            balance_sat=near,
            locked_sat=0,
            cause="owner",
        )
        movements.add_movement(db, 1, movement, reference="many", now=NOW)

    await tools.store.transact(work)
    with pytest.raises(RequestError):
        await tools.service.accounts.adjust("till", owner="shop", amount_sat=MAX_MONEY_SAT, reference="last")


# --- audit and alarms --------------------------------------------------------------------------------------------


async def test_audit_looks_at_every_account(tools: Tools) -> None:
    """Each account of each owner is added up anew, and its flaws stand beside it."""
    await fund(tools)
    await tools.service.accounts.create(TILL, owner="other")
    assert [(one.account.owner, list(one.flaws)) for one in await tools.service.accounts.audit()] == [
        ("other", []),
        ("shop", []),
    ]
    await tools.store.transact(lambda db: db.execute("UPDATE account SET balance_sat = 7 WHERE owner = 'other'"))
    found = {one.account.owner: list(one.flaws) for one in await tools.service.accounts.audit()}
    assert found == {"other": ["the balance is 7 sat, its movements add up to 0 sat"], "shop": []}


async def alarms_in(tools: Tools) -> list[str]:
    """Return what the operator of a service that runs well is alarmed of."""
    summary = await tools.service.summary()
    return [
        alarm
        for alarm in alarms_of(summary, now=NOW, is_running=True, has_regular_blocks=False)
        if "no server is connected" not in alarm
    ]


async def test_negative_account_is_an_alarm(tools: Tools) -> None:
    """An account below zero is told to the operator by its name, owner and balance, until it is not any more."""
    await fund(tools)
    await tools.service.accounts.adjust("till", owner="shop", amount_sat=-1000, reference="out")
    assert await alarms_in(tools) == []
    await tools.store.transact(lambda db: pay(db, 0, entry_of(1, received_sat=1000)))
    (alarm,) = await alarms_in(tools)
    assert alarm.startswith("account till of shop is at -1000 sat: ")
    assert [one.name for one in (await tools.service.summary()).negative_accounts] == ["till"]
    await tools.service.accounts.adjust("till", owner="shop", amount_sat=1000, reference="in")
    assert await alarms_in(tools) == []


async def test_suspended_hook_is_an_alarm(tools: Tools) -> None:
    """A hook whose receiver fails too often is told to the operator by its id and owner."""
    await tools.service.accounts.create(AccountWish(name="till", credit_confirmations=1, url=URL), owner="shop")
    await tools.service.accounts.add_address("till", regtest_address(0).text, owner="shop")
    (hook, _) = await hooks_in(tools)
    assert await alarms_in(tools) == []
    await tools.store.transact(
        lambda db: db.execute("UPDATE hook SET suspended_at = ?, errors = 50 WHERE hook_id = ?", [NOW, hook.hook_id])
    )
    (alarm,) = await alarms_in(tools)
    assert alarm.startswith(f"hook {hook.hook_id} of shop is suspended: 50 of its webhooks ")
    assert [one.hook_id for one in (await tools.service.summary()).suspended_hooks] == [hook.hook_id]
