"""The outbox against a model of its receivers: payments, claims, outcomes and crashes in any order."""

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from lightipn.ledger.entries import Replaced
from lightipn.store import attempts, deliveries, keys
from lightipn.store.attempts import Claim
from tests.builders import entry_of, txid_of
from tests.store.plain_dialect import NOTHING, POLICIES, SILENCE, answer_of, payload_of
from tests.store.rows import NOW, claim, open_memory, pay, subscribe

HOSTS = ("a.example", "a.example", "b.example")


class Receivers(RuleBasedStateMachine):
    """Three subscriptions at two hosts, and what their receivers believe.

    A receiver believes the totals that it heard last. The law: whenever nothing is due and nothing under way for a
    subscription, its receiver believes the newest totals; and once all is delivered, so do all.
    """

    flying: Bundle[Claim] = Bundle("flying")

    def __init__(self) -> None:
        super().__init__()
        self.memory = open_memory()
        self.db = self.memory.__enter__()
        self.now = float(NOW)
        self.payments = [dict[int, int]() for _ in range(3)]  # of each address: payment number to satoshis
        self.belief = [NOTHING] * 3
        self.in_flight: dict[int, Claim] = {}

    def teardown(self) -> None:
        """Deliver everything, and see that every receiver believes the newest totals."""
        attempts.recover_interrupted(self.db)
        for _ in range(20):
            self.now += 3600
            claims, _next = claim(self.db, now=self.now)
            for taken in claims:
                self.hear(taken)
                self.finish(taken, taken.sent_payload)
        assert deliveries.count_pending(self.db) == (0, None)
        assert self.belief == [self.newest(number) for number in range(3)]
        self.memory.__exit__(None, None, None)

    def newest(self, number: int) -> bytes:
        """Return the totals of an address as they are."""
        return payload_of(0, sum(self.payments[number].values()))

    def finish(self, taken: Claim, body: bytes | None) -> None:
        """End an attempt: with this answer, or with silence."""
        answer = SILENCE if body is None else answer_of(body)
        attempts.finish_attempt(self.db, POLICIES, taken, answer, now=self.now, jitter=0.0)

    def hear(self, taken: Claim) -> None:
        """Have the receiver take in what was sent."""
        self.belief[int(taken.request.url.rpartition("/")[2])] = taken.request.body

    @initialize()
    def subscribe_all(self) -> None:
        """Two subscriptions at one host, one at another."""
        keys.save_key(self.db, name="shop", secret="first", now=NOW)
        for number, host in enumerate(HOSTS):
            subscribe(self.db, number, url=f"http://{host}/{number}")

    @rule(number=st.integers(0, 2), payment=st.integers(1, 2))
    def pay_or_replace(self, number: int, payment: int) -> None:
        """A payment comes, or one that was there is replaced."""
        entry = entry_of(payment, received_sat=payment)
        if self.payments[number].pop(payment, None):
            entry = replace(entry, state=Replaced(txid_of(99)))
        else:
            self.payments[number][payment] = payment
        pay(self.db, number, entry, now=self.now)

    @rule(
        target=flying,
        wait_s=st.sampled_from([0, 3600]),
        room=st.integers(1, 3),
        room_per_host=st.integers(1, 2),
    )
    def send(self, wait_s: int, room: int, room_per_host: int) -> object:
        """The dispatcher claims what there is room for, now or an hour later, and the requests go out."""
        self.now += wait_s
        claims, _ = claim(self.db, now=self.now, room=room, room_per_host=room_per_host)
        assert len(claims) <= room
        for taken in claims:
            assert taken.message_key not in self.in_flight
            self.in_flight[taken.message_key] = taken
        return multiple(*claims)

    @rule(taken=consumes(flying), end=st.sampled_from(["acknowledged", "heard, answer lost", "heard, refused", "lost"]))
    def finish_one(self, taken: Claim, end: str) -> None:
        """An attempt ends: heard or not, acknowledged or not, answered or not."""
        if self.in_flight.get(taken.message_key) is not taken:
            return  # a crash ended it
        del self.in_flight[taken.message_key]
        if end != "lost":
            self.hear(taken)
        bodies = {"acknowledged": taken.sent_payload, "heard, refused": b"?"}
        self.finish(taken, bodies.get(end))

    @rule(heard=st.sets(st.integers(0, 2)))
    def crash(self, heard: set[int]) -> None:
        """The process dies; some of what was under way was heard. The next start recovers."""
        for taken in self.in_flight.values():
            if int(taken.request.url.rpartition("/")[2]) in heard:
                self.hear(taken)
        assert attempts.recover_interrupted(self.db) == len(self.in_flight)
        self.in_flight.clear()

    @rule(number=st.integers(0, 2))
    def suspend_for_a_while(self, number: int) -> None:
        """The owner's last secret is revoked, a payment comes, nothing is sent; then there is a new secret."""
        keys.revoke_keys(self.db, name="shop", key_id=None, now=int(self.now))
        self.pay_or_replace(number, 1)
        assert claim(self.db, now=self.now + 3600) == ([], None)
        keys.save_key(self.db, name="shop", secret=f"s{len(keys.load_keys(self.db))}", now=int(self.now))

    @invariant()
    def quiet_means_known(self) -> None:
        """Where nothing is due and nothing under way, the receiver believes the newest totals."""
        by_url = {delivery.url: delivery for delivery in deliveries.load_deliveries(self.db, limit=9)}
        for number, host in enumerate(HOSTS):
            delivery = by_url.get(f"http://{host}/{number}")
            if delivery is None or delivery.state == "acknowledged":
                assert self.belief[number] == self.newest(number)


Receivers.TestCase.settings = settings(deadline=None, max_examples=100, stateful_step_count=40)


@pytest.mark.slow
class TestReceivers(Receivers.TestCase):  # type: ignore[name-defined,misc]  # made by Hypothesis at run time
    """For any order of payments, claims, outcomes and crashes every receiver comes to believe the newest totals."""
