"""Messages of single payments against a model of their receivers: payments, tips, answers and crashes in any order."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from lightipn.ledger.entries import Dropped
from lightipn.store import attempts, chain, deliveries, outbox
from lightipn.store.attempts import Claim
from lightipn.store.outbox import SETTLING_S
from tests.builders import block_hash_of, confirmed, entry_of
from tests.store.each_dialect import HEARD, MOST_TIPS
from tests.store.rows import NOW, claim, finish, open_memory, pay, subscribe_to_each
from tests.store.tips import grow, reorg, stand_at_tip, wake

ADDRESSES = 2
PAYMENTS = st.tuples(st.integers(0, ADDRESSES - 1), st.integers(0, 2))
Payment = tuple[int, int]


class Shops(RuleBasedStateMachine):
    """Two subscriptions at one host, each told of three payments.

    Laws: one request under way per subscription; nothing is told after its acknowledgement, or while it is gone; what
    stands and is not acknowledged is under way, due, waits for a tip, or was told at as many tips as is allowed.
    """

    flying: Bundle[Claim] = Bundle("flying")

    def __init__(self) -> None:
        super().__init__()
        self.memory = open_memory()
        self.db = self.memory.__enter__()
        self.now = float(NOW)
        self.standing: dict[Payment, int | None] = {}  # what is not gone, and the height of its block
        self.acknowledged: set[Payment] = set()
        self.in_flight: dict[Payment, Claim] = {}
        self.tips_told: dict[Payment, set[int]] = {}

    def teardown(self) -> None:
        """Let every tip come, acknowledge all that is told, and see that nothing stands unheard."""
        attempts.recover_interrupted(self.db)
        for _ in range(6):
            self.now += 1000
            grow(self.db)
            wake(self.db, now=self.now)
            self.now += SETTLING_S
            while claims := claim(self.db, now=self.now)[0]:
                for taken in claims:
                    finish(self.db, taken, body=HEARD, now=self.now)
        assert deliveries.count_pending(self.db) == (0, None)
        for payment in self.standing:
            assert self.states()[payment] in ("acknowledged", "dead")
        self.memory.__exit__(None, None, None)

    def states(self) -> dict[Payment, str]:
        """Return the state that is shown of each payment's message."""
        found = {delivery.message_id: delivery.state for delivery in deliveries.load_deliveries(self.db, limit=100)}
        return {
            (number, int(message.payload) - 1): found[message.message_id]
            for number in range(ADDRESSES)
            for _, message in outbox.load_messages(self.db, number + 1).values()
        }

    def payment_of(self, taken: Claim) -> Payment:
        """Return what an attempt tells."""
        return int(taken.request.url.rpartition("/")[2]), int(taken.sent_payload) - 1

    def write(self, payment: Payment) -> None:
        """Write a payment as the model has it, and review its subscription."""
        entry = entry_of(payment[1] + 10 * payment[0], received_sat=payment[1] + 1)
        if payment not in self.standing:
            entry = replace(entry, state=Dropped())
        else:
            height = self.standing[payment]
            entry = entry if height is None else replace(entry, state=confirmed(height))
        pay(self.db, payment[0], entry, now=self.now, tip_height=chain.load_tip_height(self.db))

    @initialize()
    def subscribe_all(self) -> None:
        """Two addresses of one shop."""
        stand_at_tip(self.db)
        for number in range(ADDRESSES):
            subscribe_to_each(self.db, number, url=f"http://shop.example/{number}")

    @rule(payment=PAYMENTS)
    def seen_or_dropped(self, payment: Payment) -> None:
        """A payment comes, or one that was there is dropped."""
        if payment in self.standing:
            del self.standing[payment]
        else:
            self.standing[payment] = None
        self.write(payment)

    @rule(mined=st.sets(PAYMENTS, max_size=3), count=st.integers(1, 2))
    def tip(self, mined: set[Payment], count: int) -> None:
        """Blocks come, with some of the payments; the tip is told first, their histories after it."""
        self.now += 10
        grow(self.db, count)
        wake(self.db, now=self.now)
        self.now += 1
        for payment in mined:
            if payment in self.standing and self.standing[payment] is None:
                self.standing[payment] = chain.load_tip_height(self.db)
                self.write(payment)

    @rule()
    def reorg_one(self) -> None:
        """The highest block leaves with its payments, and two others come."""
        self.now += 10
        height = chain.load_tip_height(self.db)
        branch = int.from_bytes(block_hash_of(height, branch=chain.load_tip_number(self.db))[:1], "big")
        reorg(self.db, 1, 2, branch=branch)
        for payment, at in list(self.standing.items()):
            if at == height:
                self.standing[payment] = None
                self.write(payment)
        wake(self.db, now=self.now)

    @rule(target=flying, wait_s=st.sampled_from([0.0, SETTLING_S, 100.0]), room=st.integers(1, 3))
    def send(self, wait_s: float, room: int) -> object:
        """The dispatcher claims what there is room for, and the requests go out."""
        self.now += wait_s
        claims, _ = claim(self.db, now=self.now, room=room)
        for taken in claims:
            payment = self.payment_of(taken)
            assert payment[0] not in {number for number, _ in self.in_flight}
            assert payment not in self.acknowledged
            assert payment in self.standing
            height = self.standing[payment]
            depth = 0 if height is None else chain.load_tip_height(self.db) - height + 1
            assert taken.request.headers["X-Confirmations"] == str(depth)
            self.in_flight[payment] = taken
            self.tips_told.setdefault(payment, set()).add(chain.load_tip_number(self.db))
        return multiple(*claims)

    @rule(taken=consumes(flying), body=st.sampled_from([HEARD, b"not yet", None]))
    def finish_one(self, taken: Claim, body: bytes | None) -> None:
        """An attempt ends: acknowledged, answered otherwise, or not at all."""
        payment = self.payment_of(taken)
        if self.in_flight.get(payment) is not taken:
            return  # a crash ended it
        del self.in_flight[payment]
        finish(self.db, taken, body=body, now=self.now)
        if body == HEARD:
            self.acknowledged.add(payment)

    @rule(payment=PAYMENTS)
    def acknowledge_by_hand(self, payment: Payment) -> None:
        """The shop says by itself that it knows, also while it is being told."""
        for message_key, message in outbox.load_messages(self.db, payment[0] + 1).values():
            if int(message.payload) == payment[1] + 1:
                outbox.save_message(self.db, message_key, message.acknowledged(now=self.now))
                self.acknowledged.add(payment)

    @rule()
    def crash(self) -> None:
        """The process dies; the next start recovers."""
        assert attempts.recover_interrupted(self.db) == len(self.in_flight)
        self.in_flight.clear()
        wake(self.db, now=self.now)

    @invariant()
    def nothing_is_lost(self) -> None:
        """Every payment that was ever told about is in the state that the model says."""
        states = self.states()
        assert set(self.standing) <= set(states)
        for payment, state in states.items():
            if payment in self.in_flight:
                assert state == "in-flight"
            elif payment in self.acknowledged:
                assert state == "acknowledged"
            elif payment not in self.standing:
                assert state == "withdrawn"
            elif state == "dead":
                assert len(self.tips_told[payment]) >= MOST_TIPS
            else:
                assert state in ("due", "next-block")


Shops.TestCase.settings = settings(deadline=None, max_examples=60, stateful_step_count=40)


@pytest.mark.slow
class TestShops(Shops.TestCase):  # type: ignore[name-defined,misc]  # made by Hypothesis at run time
    """Every payment is told until it is heard, one request a subscription at a time, and never again after that."""
