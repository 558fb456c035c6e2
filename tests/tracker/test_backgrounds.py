"""What hooks show beside a payment: what it spends, and how it stands in the mempool; asked only for them, briefly."""

from typing import Any

import pytest
import trio

from lightipn.bitcoin.hashes import Txid
from lightipn.bitcoin.network import REGTEST
from lightipn.bitcoin.transaction import Outpoint, details_of, parse_transaction
from lightipn.chain.source import FeeHistogram
from lightipn.dialects.blockcypher.policy import BlockcypherPolicy
from lightipn.dialects.blockcypher.wire import Event, HookTerms, encode_terms
from lightipn.ledger.entries import Standing
from lightipn.ledger.transactions import KnownTransaction
from lightipn.store import hooks, subscriptions
from lightipn.store import transactions as transaction_store
from lightipn.store.database import Database
from lightipn.tracker.backgrounds import HISTOGRAM_TIMEOUT_S, REFRESH_S, median_of
from lightipn.tracker.proofs import PREVOUTS_TIMEOUT_S
from tests.tracker import rig
from tests.tracker.fake_server import SILENCE_S
from tests.tracker.rig import NAMES, NOW, ONE, OTHER_SCRIPT, SHOP, SHOP_SCRIPT, Spine, address_on_regtest


@pytest.fixture(autouse=True)
def _with_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the spine know a dialect with hooks."""
    monkeypatch.setitem(rig.POLICIES, "blockcypher", BlockcypherPolicy(network=REGTEST))


async def add_hook(spine: Spine, script: bytes = SHOP_SCRIPT) -> None:
    """Add a hook about a script, and have the source watch it."""
    address = address_on_regtest(script)

    def work(db: Database) -> None:
        terms = encode_terms(HookTerms(Event.UNCONFIRMED))
        url = "http://shop.example/hook"
        hooks.save_service_key(db, "key")
        made = hooks.add_hook(
            db,
            owner="shop",
            address=address.text,
            wallet_id=None,
            url=url,
            terms=terms,
            private_key=None,
            now=int(NOW),
        )
        subscriptions.save_subscription(
            db,
            dialect="blockcypher",
            owner="shop",
            address=address,
            url=url,
            terms=terms,
            now=int(NOW),
            hook_id=made.hook_id,
        )

    await spine.store.transact(work)
    spine.source.watch(SHOP, None)


async def known(spine: Spine, txid: Txid) -> KnownTransaction | None:
    """Return what is kept of a transaction."""
    return await spine.store.read(lambda db: transaction_store.load_transaction(db, txid))


async def standing(spine: Spine, txid: Txid) -> Standing | None:
    """Return how a transaction stood when it was first seen."""
    return (await spine.store.read(lambda db: transaction_store.load_standings(db, [txid]))).get(txid)


def rate_of(spine: Spine, txid: Txid) -> float:
    """Return the fee rate of a transaction, as the made-up chain knows it."""
    raw = spine.chain.transaction(txid)
    assert raw is not None
    return spine.chain.fee_sat(txid) / details_of(parse_transaction(raw)).vbytes


def claim_histograms(spine: Spine, rate: float, *vbytes: int) -> None:
    """Have each server claim that so much of its mempool pays more than a rate, and as much pays less."""
    for server, above in zip(spine.servers(), vbytes, strict=True):
        server.histogram = FeeHistogram(((rate + 5, above), (rate, 7), (rate - 1, above)))


def histograms_asked(spine: Spine) -> int:
    """Return how often servers were asked for histograms."""
    return spine.source.calls["histogram"]


# --- inputs ------------------------------------------------------------------------------------------------------


async def test_inputs_of_a_payment_are_kept(trio_spine: Spine) -> None:
    """What a payment to a hook's address spends is fetched, proved by its hash, and kept with its fee."""
    await add_hook(trio_spine)
    txid = trio_spine.chain.pay(SHOP_SCRIPT, 5_000)
    await trio_spine.absorb()
    found = await known(trio_spine, txid)
    assert found is not None
    assert None not in found.spent
    assert found.fee_sat == trio_spine.chain.fee_sat(txid)


async def test_inputs_of_a_confirmed_payment_are_kept_too(trio_spine: Spine) -> None:
    """A payment that is first seen in a block shows its inputs; of the mempool nobody is asked then."""
    await add_hook(trio_spine)
    txid = await trio_spine.pay_and_mine()
    await trio_spine.absorb()
    found = await known(trio_spine, txid)
    assert found is not None
    assert found.fee_sat is not None
    assert histograms_asked(trio_spine) == 0


async def test_coinbase_spends_nothing(trio_spine: Spine) -> None:
    """A coinbase's input is unknown, and nobody is asked for it."""
    await add_hook(trio_spine)
    trio_spine.chain.mine(pay_to=SHOP_SCRIPT)
    await trio_spine.follow()
    await trio_spine.absorb()
    ((txid, entry),) = (await trio_spine.entries()).items()
    assert entry.is_coinbase
    found = await known(trio_spine, txid)
    assert found is not None
    assert found.spent == (None,)


async def test_false_input_is_not_believed(trio_spine: Spine) -> None:
    """A server that gives another transaction for an input is reported, and another one asked."""
    await add_hook(trio_spine)
    txid = trio_spine.chain.pay(SHOP_SCRIPT, 5_000)
    raw = trio_spine.chain.transaction(txid)
    assert raw is not None
    parent = parse_transaction(raw).spends[0].txid
    other = trio_spine.chain.transaction(trio_spine.chain.pay(OTHER_SCRIPT, 1))
    truth = trio_spine.chain.transaction
    trio_spine.source.named[ONE].transaction_of = lambda asked: other if asked == parent else truth(asked)
    await trio_spine.absorb()
    found = await known(trio_spine, txid)
    assert found is not None
    assert found.fee_sat == trio_spine.chain.fee_sat(txid)
    assert set(trio_spine.source.verdicts) <= {(ONE, "false-transaction")}


# --- histograms --------------------------------------------------------------------------------------------------


async def refreshed(spine: Spine) -> None:
    """Wait until the servers were asked what their mempools pay."""
    await trio.sleep(REFRESH_S + HISTOGRAM_TIMEOUT_S)


@pytest.mark.parametrize(
    ("claims", "wanted"), [([7], 7), ([9, 1], 1), ([9, 1, 5], 5), ([4, 1, 3, 2], 2), ([0.5, 10**9, 0.5], 0.5)]
)
def test_median_is_the_middle_claim(claims: list[float], wanted: float) -> None:
    """Of two in the middle the lower one counts: what is told was said by somebody."""
    assert median_of(claims) == wanted


@pytest.mark.parametrize(
    ("claims", "wanted"),
    [((1_000, 2_000, 9_000_000), 2_000), ((0, 0, 5), 0), ((5_000_000_000, 5_000_000_000, 0), 5_000_000_000)],
)
async def test_place_in_the_mempool_is_the_median_of_claims(
    trio_spine: Spine, autojump_clock: Any, claims: tuple[int, int, int], wanted: int
) -> None:
    """How much pays a higher rate is the median of what the servers say: one liar alone moves nothing."""
    await add_hook(trio_spine)
    txid = trio_spine.chain.pay(SHOP_SCRIPT, 5_000)
    claim_histograms(trio_spine, rate_of(trio_spine, txid), *claims)
    await refreshed(trio_spine)
    assert histograms_asked(trio_spine) == 3
    await trio_spine.absorb()
    assert await standing(trio_spine, txid) == Standing(vbytes_ahead=wanted)
    assert histograms_asked(trio_spine) == 3


@pytest.mark.parametrize("trouble", ["silent", "gone", "lost"])
async def test_servers_that_fail_leave_the_median_to_the_others(
    trio_spine: Spine, autojump_clock: Any, trouble: str
) -> None:
    """A server that is silent, gone or not connected is left out of the median; nobody is blamed."""
    await add_hook(trio_spine)
    txid = trio_spine.chain.pay(SHOP_SCRIPT, 5_000)
    claim_histograms(trio_spine, rate_of(trio_spine, txid), 1_000, 2_000, 3_000)
    match trouble:
        case "silent":
            silence_mempools(trio_spine, ONE)
        case "gone":
            trio_spine.source.named[ONE].is_gone = True
        case _:
            trio_spine.source.lose(ONE)
    await refreshed(trio_spine)
    trio_spine.source.named[ONE].is_gone = False
    await trio_spine.absorb()
    assert await standing(trio_spine, txid) == Standing(vbytes_ahead=2_000)
    assert trio_spine.source.verdicts == []


async def test_nothing_is_known_where_no_mempool_answers(trio_spine: Spine, autojump_clock: Any) -> None:
    """Old claims do not outlive their servers' silence: what is unknown is left out."""
    await add_hook(trio_spine)
    txid = trio_spine.chain.pay(SHOP_SCRIPT, 5_000)
    claim_histograms(trio_spine, rate_of(trio_spine, txid), 1_000, 2_000, 3_000)
    await refreshed(trio_spine)
    silence_mempools(trio_spine, *NAMES)
    await refreshed(trio_spine)
    await trio_spine.absorb()
    assert await standing(trio_spine, txid) == Standing()


async def test_unconfirmed_parent_is_noted(trio_spine: Spine) -> None:
    """A payment that spends what is unconfirmed itself says so."""
    await add_hook(trio_spine)
    parent = trio_spine.chain.pay(OTHER_SCRIPT, 50_000)
    child = trio_spine.chain.pay(SHOP_SCRIPT, 5_000, spend=[Outpoint(parent, 0)])
    alone = trio_spine.chain.pay(SHOP_SCRIPT, 6_000)
    await trio_spine.absorb()
    found = [await standing(trio_spine, txid) for txid in (child, alone)]
    assert [one is not None and one.has_unconfirmed_parent for one in found] == [True, False]


async def test_mempools_are_asked_while_there_are_hooks(trio_spine: Spine, autojump_clock: Any) -> None:
    """Every half minute each server is asked once, however many payments there are; without a hook nobody is."""
    await trio.sleep(10 * REFRESH_S)
    assert histograms_asked(trio_spine) == 0
    await add_hook(trio_spine)
    for number in range(1, 4):
        trio_spine.chain.pay(SHOP_SCRIPT, 5_000 + number)
        await trio_spine.absorb()
        await trio.sleep(REFRESH_S)
        assert histograms_asked(trio_spine) == 3 * number


# --- only for hooks ----------------------------------------------------------------------------------------------


async def test_scripts_without_a_hook_ask_nothing(trio_spine: Spine) -> None:
    """Where no hook is about a script nothing is asked of the mempool, and nothing is known of it."""
    await add_hook(trio_spine, OTHER_SCRIPT)
    txid = trio_spine.chain.pay(SHOP_SCRIPT, 5_000)
    await trio_spine.absorb()
    assert histograms_asked(trio_spine) == 0
    assert await standing(trio_spine, txid) == Standing()


async def test_known_payments_are_not_looked_into_again(trio_spine: Spine) -> None:
    """A history without anything new asks nothing."""
    await add_hook(trio_spine)
    trio_spine.chain.pay(SHOP_SCRIPT, 5_000)
    await trio_spine.absorb()
    before = trio_spine.source.calls.copy()
    await trio_spine.absorb()
    assert trio_spine.source.calls == before


# --- time --------------------------------------------------------------------------------------------------------


async def seen_after(spine: Spine, txid: Txid) -> float:
    """Have the payment announced, and return after how many seconds it is in the ledger."""
    start = trio.current_time()
    await spine.source.tell(SHOP)
    while txid not in await spine.entries():
        await trio.sleep(0.05)
        assert trio.current_time() < start + 60
    return trio.current_time() - start


def silence_mempools(spine: Spine, *names: str) -> None:
    """Have servers be silent about their mempools alone."""
    ask = spine.source.fetch_fee_histogram

    async def answer(*, server: str) -> FeeHistogram:
        if server in names:
            await trio.sleep(SILENCE_S)
        return await ask(server=server)

    spine.source.fetch_fee_histogram = answer


def parents_of(spine: Spine, txid: Txid) -> set[Txid]:
    """Return the transactions that one spends from."""
    raw = spine.chain.transaction(txid)
    assert raw is not None
    return {spend.txid for spend in parse_transaction(raw).spends}


async def test_silent_mempools_hold_no_payment_back(trio_spine: Spine, autojump_clock: Any) -> None:
    """No payment waits for what the mempool pays: it is told at once, and its inputs are known all the same."""
    await add_hook(trio_spine)
    txid = trio_spine.chain.pay(SHOP_SCRIPT, 5_000)
    silence_mempools(trio_spine, *NAMES)
    await trio.sleep(REFRESH_S)
    assert await seen_after(trio_spine, txid) <= 0.1
    assert await standing(trio_spine, txid) == Standing()
    found = await known(trio_spine, txid)
    assert found is not None
    assert found.fee_sat is not None


async def test_inputs_that_do_not_come_hold_a_payment_back_for_two_seconds(
    trio_spine: Spine, autojump_clock: Any
) -> None:
    """Inputs that nobody gives are waited for two seconds, once; then the payment is told."""
    await add_hook(trio_spine)
    txid = trio_spine.chain.pay(SHOP_SCRIPT, 5_000)
    for server in trio_spine.servers():
        server.silent_about = parents_of(trio_spine, txid)
    assert await seen_after(trio_spine, txid) <= PREVOUTS_TIMEOUT_S + 0.1
    found = await known(trio_spine, txid)
    assert found is not None
    assert set(found.spent) == {None}
    assert await standing(trio_spine, txid) == Standing()
