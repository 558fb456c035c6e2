"""Making forwards, and the operator's wishes about them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from lightipn.bitcoin.network import REGTEST
from lightipn.bitcoin.transaction import MAX_MONEY_SAT
from lightipn.errors import RequestError
from lightipn.forwarding.seed import addresses_of
from lightipn.service.desk import Service
from lightipn.service.forwarding import MOST_LISTED, MOST_LOOKED_AT, ForwardTerms
from lightipn.store import forwards, ledger, subscriptions, transfers
from lightipn.store.database import Database
from tests.forwarding.rig import DESTINATION, MASTER, OTHER_WORDS, URL, WORDS, Rig, open_rig
from tests.service.rig import Tools
from tests.store.rows import regtest_address

SUPPLY = addresses_of(WORDS, REGTEST)
PROCESS = regtest_address(902).text


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    """A service with recovery words."""
    async with open_rig(tmp_path) as opened:
        yield opened


@pytest.fixture
def service(rig: Rig) -> Service:
    """What callers ask."""
    return rig.service


async def refusal(service: Service, **terms: object) -> str:
    """Ask for a forward that must be refused, and return the code."""
    with pytest.raises(RequestError) as caught:
        await service.forwards.create(
            ForwardTerms(**{"destination": DESTINATION.text, **terms}),  # type: ignore[arg-type]  # by name
            owner="shop",
        )
    return caught.value.code


async def test_each_forward_has_an_address_of_its_own(rig: Rig) -> None:
    """Addresses are given in order, each once, even after a removal; each is watched for good."""
    made = [await rig.forward() for _ in range(3)]
    await rig.service.forwards.remove(made[2].forward_id, owner="shop")
    made.append(await rig.forward())
    assert [one.address for one in made] == [SUPPLY.address_at(index).text for index in range(4)]
    for one in made:
        assert await rig.store.read(lambda db, one=one: ledger.is_wanted_for_good(db, one.scripthash))  # type: ignore[misc]  # bound at once


async def test_destination_is_the_named_one_or_the_masters(service: Service) -> None:
    """Who names no destination gets the configured one."""
    for named, destination in ((DESTINATION.text, DESTINATION.text), ("", MASTER.text), ("  ", MASTER.text)):
        made = await service.forwards.create(ForwardTerms(destination=named), owner="shop")
        assert made.forward.terms.destination == destination
        assert made.txids == ()


@pytest.mark.parametrize(
    ("terms", "code"),
    [
        pytest.param({"destination": "nonsense"}, "bad-address", id="no address"),
        pytest.param({"destination": "bc1qcr8te4kr609gcawutmrza0j4xv80jy8z306fyu"}, "bad-address", id="of mainnet"),
        pytest.param({"url": "http://169.254.169.254/"}, "bad-url", id="a forbidden receiver"),
        pytest.param({"process_address": "x", "process_sat": 1}, "bad-address", id="no process address"),
        pytest.param({"process_address": PROCESS}, "bad-amount", id="no share"),
        pytest.param({"process_address": PROCESS, "process_sat": 1, "process_share": "0.1"}, "bad-amount", id="two"),
        pytest.param({"process_sat": 1}, "bad-amount", id="a share for nobody"),
        pytest.param({"process_share": "0.1"}, "bad-amount", id="a part for nobody"),
        pytest.param({"process_address": PROCESS, "process_sat": -1}, "bad-amount", id="a negative share"),
        pytest.param({"process_address": PROCESS, "process_sat": MAX_MONEY_SAT + 1}, "bad-amount", id="too large"),
        pytest.param({"mining_fee_sat": -5}, "bad-amount", id="a negative fee"),
        pytest.param({"mining_fee_sat": 0}, "bad-amount", id="no fee"),
        *(
            pytest.param({"process_address": PROCESS, "process_share": share}, "bad-amount", id=f"share {share!r}")
            for share in ("1", "1.5", "0", "0.0", "-0.1", "1e-3", "NaN", "0.123456789", ".5", "")
        ),
    ],
)
async def test_wrong_terms_are_refused(rig: Rig, terms: dict[str, object], code: str) -> None:
    """A mistake is named, and takes no address."""
    assert await refusal(rig.service, **terms) == code
    assert (await rig.forward()).address_index == 0


async def test_without_words_there_are_no_forwards(tools: Tools) -> None:
    """Forwarding is off unless a seed file is configured, whatever is asked."""
    asked = tools.service.forwards
    for ask in (
        asked.create(ForwardTerms(destination=DESTINATION.text), owner="shop"),
        asked.sweep(DESTINATION.text),
        asked.recover(owner="shop", first=0, count=1),
        asked.bind(),
    ):
        with pytest.raises(RequestError) as caught:
            await ask
        assert caught.value.code == "forwarding-off"
    assert await asked.list(owner="shop") == []


async def look_at_all(rig: Rig) -> None:
    """Have every input address be worked in, as the running service does."""

    def work(db: Database) -> None:
        for forward in forwards.load_forwards(db, owner=None, is_active_only=False, limit=1000):
            ledger.save_status(db, forward.scripthash, None, now=int(rig.now))

    await rig.store.transact(work)


async def test_database_that_knows_nothing_of_its_words_gives_no_address(rig: Rig) -> None:
    """Who restored the words but not the database must look first: else an address would be given a second time.

    Looked at is enough once the servers were asked, and twenty unused addresses lie behind the last used one.
    """
    asked = rig.service.forwards
    await rig.store.transact(lambda db: db.execute("DELETE FROM setting WHERE name = 'forwarding_seed'"))
    assert await refusal(rig.service) == "not-recovered"
    assert await asked.recover(owner="operator", first=0, count=25) == 25
    assert await refusal(rig.service) == "scan-pending"
    await look_at_all(rig)
    recovered = await rig.store.read(
        lambda db: forwards.load_forwards(db, owner=None, is_active_only=False, limit=1000)
    )
    await rig.pay(recovered[5], 1)
    assert await refusal(rig.service) == "not-recovered"
    with pytest.raises(RequestError):  # nobody looked at those in between
        await asked.recover(owner="operator", first=26, count=5)
    assert await asked.recover(owner="operator", first=25, count=1) == 1
    await look_at_all(rig)
    assert (await rig.forward()).address_index == 26
    assert (await rig.forward()).address_index == 27


async def test_database_that_knows_its_words_gives_addresses_whatever_is_looked_at(rig: Rig) -> None:
    """Looking further in a database that made all of its addresses itself holds nothing up."""
    made = await rig.forward()
    await rig.pay(made, 1)
    assert await rig.service.forwards.recover(owner="operator", first=0, count=3) == 2
    assert (await rig.forward()).address_index == 3


async def test_input_addresses_are_no_destinations(rig: Rig) -> None:
    """Coins that are passed on to an input address would only go round."""
    made = await rig.forward()
    assert await refusal(rig.service, destination=made.address) == "bad-address"
    assert await refusal(rig.service, process_address=made.address, process_sat=1000) == "bad-address"
    with pytest.raises(RequestError):
        await rig.service.forwards.sweep(made.address)


async def test_words_of_another_database_are_refused(rig: Rig) -> None:
    """A database stays with its first words: nothing is looked at, given, or bound with others."""
    other = addresses_of(OTHER_WORDS, REGTEST).identity
    await rig.store.transact(
        lambda db: db.execute("UPDATE setting SET value = ? WHERE name = 'forwarding_seed'", [other.hex()])
    )
    assert await refusal(rig.service) == "not-recovered"
    for ask in (rig.service.forwards.recover(owner="operator", first=0, count=1), rig.service.forwards.bind()):
        with pytest.raises(RequestError) as caught:
            await ask
        assert (caught.value.code, caught.value.status_hint) == ("other-seed", 409)


async def test_owners_see_their_own(rig: Rig) -> None:
    """An owner lists, shows and removes his own active forwards; of others' he is told that they are not there."""
    mine = await rig.forward()
    theirs = (await rig.service.forwards.create(ForwardTerms(destination=""), owner="other")).forward
    asked = rig.service.forwards
    assert [one.forward for one in await asked.list(owner="shop")] == [mine]
    assert (await asked.show(mine.forward_id, owner="shop")).forward == mine
    for forward_id in (theirs.forward_id, "unknown", "x" * 1000):
        for ask in (asked.show(forward_id, owner="shop"), asked.remove(forward_id, owner="shop")):
            with pytest.raises(RequestError) as caught:
                await ask
            assert (caught.value.code, caught.value.status_hint) == ("not-found", 404)
    await asked.remove(mine.forward_id, owner="shop")
    assert await asked.list(owner="shop") == []
    assert [one.forward.forward_id for one in await asked.list(owner=None)] == [mine.forward_id, theirs.forward_id]


async def test_list_has_pages(rig: Rig) -> None:
    """At most two hundred are listed at once."""
    made = [await rig.forward() for _ in range(5)]
    found = await rig.service.forwards.list(owner="shop", offset=2, limit=2)
    assert [one.forward for one in found] == made[2:4]
    assert MOST_LISTED == 200


async def test_callback_is_a_hook_of_its_own(rig: Rig) -> None:
    """A URL makes a subscription that no payment and no block wakes; without one there is none."""
    silent, told = await rig.forward(), await rig.current(await rig.forward(url=URL))
    assert silent.subscription_id is None
    found = await rig.store.read(lambda db: subscriptions.load_subscription(db, told.subscription_id or 0))
    assert found is not None
    assert (found.url, found.owner, found.address, found.scripthash) == (URL, "shop", told.address, None)


@pytest.mark.slow
async def test_removed_forward_still_tells_what_is_under_way(rig: Rig) -> None:
    """What was signed before the removal is handed over, followed, and told; what comes later is left."""
    forward = await rig.forward(url=URL)
    await rig.pay(forward, 1)
    rig.network.loses = True
    await rig.work()
    await rig.service.forwards.remove(forward.forward_id, owner="shop")
    rig.network.loses = False
    await rig.pay(forward, 2)
    await rig.mine()
    await rig.work()
    assert len((await rig.transfer()).coins) == 1
    assert len(await rig.topics()) == 1


@pytest.mark.slow
async def test_history_has_the_newest_versions(rig: Rig) -> None:
    """A forward shows the transactions that passed its coins on: of each transfer the newest."""
    forward = await rig.forward()
    await rig.pay(forward, 1)
    await rig.work()
    [first] = (await rig.transfer()).versions
    assert (await rig.service.forwards.show(forward.forward_id, owner="shop")).txids == [first.txid]
    await rig.mine(rig.bump_after_blocks)
    await rig.work()
    _, second = (await rig.transfer()).versions
    assert (await rig.service.forwards.show(forward.forward_id, owner="shop")).txids == [second.txid]
    assert [one.newest for one in await rig.service.forwards.transfers(limit=9)] == [second]


async def test_sweep_is_a_wish_with_a_checked_address(rig: Rig) -> None:
    """Where to is checked before it is written down, and said; the running service does the rest."""
    assert await rig.service.forwards.sweep("") == MASTER.text
    assert await rig.service.forwards.sweep(DESTINATION.text.upper(), is_all=True) == DESTINATION.text
    with pytest.raises(RequestError, match="address"):
        await rig.service.forwards.sweep("bc1qcr8te4kr609gcawutmrza0j4xv80jy8z306fyu")
    wish = await rig.store.read(transfers.load_sweep)
    assert wish is not None
    assert (wish.destination, wish.is_all) == (MASTER.text, False)


async def test_recovered_addresses_are_watched_once_and_pass_nothing_on(rig: Rig) -> None:
    """Those that are known stay as they are; new ones are deleted forwards, whose coins wait for a sweep."""
    known = await rig.forward()
    assert await rig.service.forwards.recover(owner="operator", first=0, count=4) == 3
    assert await rig.service.forwards.recover(owner="operator", first=0, count=4) == 0
    assert await rig.service.forwards.recover(owner="operator", first=3, count=2) == 1
    found = await rig.store.read(lambda db: forwards.load_forwards(db, owner=None, is_active_only=False, limit=9))
    assert [(one.address_index, one.is_active) for one in found] == [(0, True), *((n, False) for n in range(1, 5))]
    assert found[0] == known
    for count in (0, MOST_LOOKED_AT + 1):
        with pytest.raises(RequestError, match="count"):
            await rig.service.forwards.recover(owner="operator", first=0, count=count)
