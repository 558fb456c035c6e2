"""A shop that is down for days, on a clock of the test's own: pauses grow, and nothing is given up."""

import itertools
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from lightipn.bitcoin.address import address_of, parse_address
from lightipn.bitcoin.network import REGTEST
from lightipn.delivery.dispatcher import Dispatcher
from lightipn.dialects.ipn import wire
from lightipn.dialects.ipn.policy import IpnPolicy
from lightipn.outbox.messages import OutgoingRequest
from lightipn.outbox.policy import Notice
from lightipn.outbox.verdict import Answer
from lightipn.store import deliveries, outbox
from lightipn.store import subscriptions as subscription_store
from lightipn.store.database import Store, open_store
from tests.scenarios.story import SHOP_SCRIPT

DAY_S = 86_400.0
POLICIES = {"ipn": IpnPolicy(max_retry_interval_s=3600.0)}
ADDRESS = parse_address(str(address_of(SHOP_SCRIPT, REGTEST)), REGTEST)
TOTALS = wire.Totals(address=ADDRESS.text, confirmed_sat=0, unconfirmed_sat=5_000)
ECHO = f'{{"address": "{ADDRESS.text}", "confirmed": 0, "unconfirmed": 0.00005}}'.encode()


class FakeSender:
    """Notes when it was asked to send, and answers as the shop does.

    Attributes:
        is_shop_open: whether the shop echoes; else nobody answers.
    """

    def __init__(self) -> None:
        self.is_shop_open = False
        self.sent_at: list[float] = []

    async def send(self, request: OutgoingRequest) -> Answer:
        """Make an attempt."""
        assert wire.encode_form(TOTALS) == request.body
        self.sent_at.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.is_shop_open:
            return Answer(status=200, body=ECHO, trouble="", latency_ms=1.0)
        return Answer(status=None, body=b"", trouble="connection-failed", latency_ms=1.0)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    """A database with one message that is due."""
    async with open_store(tmp_path / "days.db", "regtest", threaded=False) as store:

        def work(db: outbox.Database) -> None:
            subscription = subscription_store.save_subscription(
                db,
                dialect="ipn",
                owner="shop",
                address=ADDRESS,
                url="http://shop.example/paid",
                terms=wire.encode_terms(wire.IpnTerms(max_confirms=1)),
                now=0,
            )
            baseline = POLICIES["ipn"].baseline_of(subscription)
            notice = Notice(topic="", payload=wire.encode_payload(TOTALS))
            outbox.add_message(db, subscription, notice, baseline=baseline, now=0.0)

        await store.transact(work)
        yield store


def dispatcher_of(store: Store, sender: FakeSender) -> Dispatcher:
    """Return a dispatcher on the test's clock."""
    return Dispatcher(
        store=store,
        sender=sender,  # type: ignore[arg-type]  # a fake with the one method that is used
        policies=POLICIES,
        max_in_flight=4,
        max_in_flight_per_host=2,
        clock=trio.current_time,
        chance=random.Random(3),
    )


@pytest.mark.slow
async def test_closed_shop_is_asked_with_growing_pauses(
    store: Store, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Pauses double from five seconds up to an hour, and go on for days, until the shop acknowledges."""
    sender = FakeSender()
    nursery.start_soon(dispatcher_of(store, sender).run, trio.Event())
    await trio.sleep(3 * DAY_S)
    pauses = [round(after - before, 3) for before, after in itertools.pairwise(sender.sent_at)]
    wanted = [min(5.0 * 2.0**tries, 3600.0) for tries in range(len(pauses))]
    assert all(want <= pause <= min(1.1 * want, 3600.0) for pause, want in zip(pauses, wanted, strict=True))
    assert len(sender.sent_at) > 70
    sender.is_shop_open = True
    await trio.sleep(3700)
    count = len(sender.sent_at)
    await trio.sleep(3 * DAY_S)
    assert len(sender.sent_at) == count
    (delivery,) = await store.read(lambda db: deliveries.load_deliveries(db, limit=10))
    assert delivery.state == "acknowledged"


@pytest.mark.slow
async def test_restarts_do_not_hurry_a_closed_shop(store: Store, autojump_clock: trio.testing.MockClock) -> None:
    """A service that is started anew every ten minutes keeps the pauses: the table says when, not the process."""
    sender = FakeSender()
    for _ in range(6 * 24):
        with trio.move_on_after(600):
            await dispatcher_of(store, sender).run(trio.Event())
    assert 24 <= len(sender.sent_at) <= 40
