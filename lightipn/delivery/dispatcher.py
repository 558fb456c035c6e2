"""Takes due messages out of the outbox and has them sent, so that no shop delays another.

A wake-up is a doorbell; what is due stands in the table. The dispatcher claims as much as there is room for (in all,
and per host), which records the attempts, and starts one task for each. The only retry loop of this room: *when* to try
again is decided by the dialect's policy and stands in the table too.
"""

import collections
import random
from collections.abc import Callable, Mapping

import structlog
import trio

from lightipn.delivery.sender import Sender
from lightipn.outbox.policy import Policy
from lightipn.outbox.verdict import Outcome
from lightipn.store import attempts as attempt_store
from lightipn.store.attempts import Claim
from lightipn.store.database import Store

# The system's clock may be set; a wait is never longer than this before the table is looked at again.
LONGEST_NAP_S = 30.0
STOP_GRACE_S = 2.0
# Attempts at a time to a host that nothing is known of yet.
FIRST_ROOM = 2
HOSTS_KEPT = 10_000

log = structlog.get_logger("delivery")


class Dispatcher:
    """Delivers what is due, for ever.

    Args:
        max_in_flight: attempts under way in all.
        max_in_flight_per_host: attempts under way to one ``host:port``.
        clock: unix seconds.
    """

    def __init__(
        self,
        *,
        store: Store,
        sender: Sender,
        policies: Mapping[str, Policy],
        max_in_flight: int,
        max_in_flight_per_host: int,
        clock: Callable[[], float],
        chance: random.Random | None = None,
    ) -> None:
        self._store = store
        self._sender = sender
        self._policies = policies
        self._max_in_flight = max_in_flight
        self._max_in_flight_per_host = max_in_flight_per_host
        self._clock = clock
        self._chance = chance or random.Random()
        self._busy: collections.Counter[str] = collections.Counter()
        self._room_of: collections.OrderedDict[str, int] = collections.OrderedDict()
        self._bell = trio.Event()

    def ring(self) -> None:
        """Say that something may be due."""
        self._bell.set()

    async def run(self, stop: trio.Event) -> None:
        """Deliver until ``stop`` is set; then let attempts under way end for two seconds more.

        What is still under way after that is marked as interrupted, and told again at the next start.
        """
        await self._store.transact(attempt_store.recover_interrupted)
        async with trio.open_nursery() as attempts:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._claim_for_ever, attempts)
                await stop.wait()
                nursery.cancel_scope.cancel()
            attempts.cancel_scope.deadline = trio.current_time() + STOP_GRACE_S
        interrupted = await self._store.transact(attempt_store.recover_interrupted)
        if interrupted:
            log.warning("delivery.attempts_interrupted", count=interrupted)

    async def _claim_for_ever(self, attempts: trio.Nursery) -> None:
        while True:
            self._bell = trio.Event()
            next_due_at = await self._claim(attempts)
            nap_s = LONGEST_NAP_S if next_due_at is None else next_due_at - self._clock()
            with trio.move_on_after(min(max(nap_s, 0.0), LONGEST_NAP_S)):
                await self._bell.wait()

    async def _claim(self, attempts: trio.Nursery) -> float | None:
        """Claim what there is room for and start sending it; return when the next message is due."""
        room = self._max_in_flight - self._busy.total()
        if room <= 0:
            return None  # the end of an attempt rings
        busy = dict(self._busy)
        rooms = dict(self._room_of)
        with trio.CancelScope(shield=True):  # a claim that is committed must be sent, or be marked as interrupted
            claims, next_due_at = await self._store.transact(
                lambda db: attempt_store.claim_due(
                    db,
                    self._policies,
                    now=self._clock(),
                    room=room,
                    room_of=lambda host: min(rooms.get(host, FIRST_ROOM), self._max_in_flight_per_host),
                    busy=busy,
                )
            )
        for claim in claims:
            self._busy[claim.host] += 1
            attempts.start_soon(self._attempt, claim)
        return next_due_at

    def _note(self, host: str, *, is_answered: bool) -> None:
        """Give a host that answers more room, and one that does not hardly any: the others need it."""
        room = self._room_of.pop(host, FIRST_ROOM)
        self._room_of[host] = min(2 * room, self._max_in_flight_per_host) if is_answered else 1
        if len(self._room_of) > HOSTS_KEPT:
            self._room_of.popitem(last=False)

    async def _attempt(self, claim: Claim) -> None:
        try:
            answer = await self._sender.send(claim.request)
            self._note(claim.host, is_answered=answer.status is not None)
            with trio.CancelScope(shield=True):
                outcome = await self._store.transact(
                    lambda db: attempt_store.finish_attempt(
                        db, self._policies, claim, answer, now=self._clock(), jitter=self._chance.random()
                    )
                )
        finally:
            self._busy[claim.host] -= 1
            if not self._busy[claim.host]:
                del self._busy[claim.host]
            self.ring()
        # A 2xx that acknowledges nothing is normal flow in some dialects.
        write = log.warning if outcome is Outcome.FAILED else log.info
        write(
            f"delivery.attempt_{outcome.name.lower()}",
            delivery=claim.message_key,
            host=claim.host,
            status=answer.status,
            trouble=answer.trouble,
            latency_ms=round(answer.latency_ms, 1),
        )
