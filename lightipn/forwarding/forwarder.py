"""Passes coins on, for ever: look, sign, store, hand to the network, follow.

What is to be done stands in the database: a crash at any point leaves coins that belong to no transfer, and are looked
at again, or a signed transaction, which is handed to the network again and never made anew.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog
import trio

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.transaction import Transaction
from lightipn.forwarding.follower import Follower
from lightipn.forwarding.plan import TOO_SMALL, Hold, PassingTerms, Plan, worth_spending
from lightipn.forwarding.purse import Purse
from lightipn.store import chain, forwards, transfers
from lightipn.store.database import Database, Store
from lightipn.store.forwards import Coin, Forward
from lightipn.store.transfers import SweepWish, Transfer

LOOK_AT_LEAST_EVERY_S = 30.0
READY_PAGE = 100
NOTHING_LEFT = "nothing-left"

log = structlog.get_logger("forwarding")


@dataclass(frozen=True, slots=True)
class _Made:
    """A transfer that is signed, and not stored yet."""

    coins: list[Coin]
    plan: Plan
    signed: Transaction


class Forwarder:
    """Passes coins on.

    Args:
        confirmations: a coin is passed on once it is so deep.
        is_ready: tells whether our tip is proved.
        clock: unix seconds.
    """

    def __init__(
        self,
        *,
        store: Store,
        purse: Purse,
        follower: Follower,
        confirmations: int,
        is_ready: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._purse = purse
        self._follower = follower
        self._confirmations = confirmations
        self._is_ready = is_ready
        self._clock = clock
        self._bell = trio.Event()

    def ring(self) -> None:
        """Say that something may have changed."""
        self._bell.set()

    async def run(self) -> None:
        """Pass coins on for ever."""
        while True:
            self._bell = trio.Event()
            if self._is_ready():
                await self.work_round()
            with trio.move_on_after(LOOK_AT_LEAST_EVERY_S):
                await self._bell.wait()

    async def work_round(self) -> None:
        """Look once at everything that may need something; the fee is asked for once, and only where one is paid."""
        tip_height = await self._store.read(chain.load_tip_height)
        ready = await self._store.read(lambda db: forwards.load_ready(db, tip_height, limit=READY_PAGE))
        wish = await self._store.read(transfers.load_sweep)
        needs_fee = bool(ready) or wish is not None or await self._store.read(transfers.has_unmined)
        fee_rate = await self._purse.estimate() if needs_fee else None
        await self._follower.follow_all(fee_rate)
        if fee_rate is None:
            return
        for forward in ready:
            await self._pass_on(forward, tip_height, fee_rate)
        if wish is not None:
            await self._sweep(wish, tip_height, fee_rate)

    async def _pass_on(self, forward: Forward, tip_height: int, fee_rate: float) -> None:
        found = await self._store.read(
            lambda db: forwards.load_coins(db, forward, tip_height=tip_height, confirmations=self._confirmations)
        )
        made = await self._make(found, self._purse.terms_of(forward.terms), fee_rate)
        if isinstance(made, Hold):
            await self._hold(forward, "" if made.reason == NOTHING_LEFT else made.reason, tip_height)
            return

        def work(db: Database) -> Transfer | None:
            still = forwards.load_coins(db, forward, tip_height=tip_height, confirmations=self._confirmations)
            current = forwards.load_forward(db, forward.forward_id)
            if current is None or not current.is_active or not set(made.coins) <= set(still):
                return None  # deleted, reorganized or spent while it was signed
            again = tip_height + 1 if len(still) > len(made.coins) else None
            forwards.save_look(db, forward.forward_id, hold_reason="", wake_height=again)
            return self._added(db, made, forward.forward_id, forward.terms.destination, tip_height)

        await self._hand_over(await self._store.transact(work))

    async def _hold(self, forward: Forward, reason: str, tip_height: int) -> None:
        if reason not in ("", forward.hold_reason):
            log.warning("forwarding.coins_held", forward=forward.forward_id, reason=reason)
        await self._store.transact(
            lambda db: forwards.save_look(db, forward.forward_id, hold_reason=reason, wake_height=tip_height + 1)
        )

    async def _make(self, found: Sequence[Coin], terms: PassingTerms, fee_rate: float) -> _Made | Hold:
        """Plan and sign a transfer of the coins that are worth it, or say why they wait."""
        if not found:
            return Hold(NOTHING_LEFT)
        amounts_sat = [coin.amount_sat for coin in found]
        plan: Plan | Hold = Hold(TOO_SMALL)
        # All that bring something; where that is too dear, those alone that are not dear themselves.
        for most_percent in (100.0, self._purse.limits.max_percent):
            chosen = worth_spending(amounts_sat, fee_rate, most_percent=most_percent)
            coins = [found[position] for position in chosen]
            plan = self._purse.plan(coins, terms, fee_rate=fee_rate) if coins else plan
            if not isinstance(plan, Hold):
                break
        if isinstance(plan, Hold):
            return plan
        signed = await self._purse.sign(coins, plan)
        return signed if isinstance(signed, Hold) else _Made(coins, plan, signed)

    def _added(self, db: Database, made: _Made, forward_id: str | None, destination: str, tip_height: int) -> Transfer:
        transfer_id = transfers.add_transfer(
            db,
            forward_id=forward_id,
            destination=destination,
            coins=made.coins,
            signed=made.signed,
            fee_sat=made.plan.fee_sat,
            value_sat=made.plan.value_sat,
            tip_height=tip_height,
            now=int(self._clock()),
        )
        return transfers.load_transfer(db, transfer_id)

    async def _hand_over(self, transfer: Transfer | None) -> None:
        if transfer is None:
            return
        newest = transfer.newest
        log.info(
            "forwarding.transfer_signed",
            transfer=transfer.transfer_id,
            forward=transfer.forward_id,
            txid=hex_of(newest.txid),
            coins=len(transfer.coins),
            value_sat=newest.value_sat,
            fee_sat=newest.fee_sat,
        )
        await self._follower.hand_over(transfer, newest)

    async def _sweep(self, wish: SweepWish, tip_height: int, fee_rate: float) -> None:
        """Pass on what belongs to no transfer, of all addresses together; and again, until nothing is left."""
        found = await self._store.read(partial(_load_left, tip_height=tip_height, is_all=wish.is_all))
        terms = PassingTerms(destination=self._purse.script_of(wish.destination))
        made = await self._make(found, terms, fee_rate)
        if isinstance(made, Hold):
            if made.reason in (NOTHING_LEFT, TOO_SMALL):  # all else passes
                log.info("forwarding.sweep_ended", coins=len(found), reason=made.reason)
                await self._store.transact(lambda db: transfers.take_sweep(db, wish.wish_id))
            return

        def work(db: Database) -> Transfer | None:
            if not set(made.coins) <= set(_load_left(db, tip_height=tip_height, is_all=wish.is_all)):
                return None
            return self._added(db, made, None, wish.destination, tip_height)

        await self._hand_over(await self._store.transact(work))
        self.ring()


def _load_left(db: Database, *, tip_height: int, is_all: bool) -> list[Coin]:
    """Return every confirmed coin of deleted forwards, or of all, that belongs to no transfer."""
    return [
        coin
        for forward in forwards.load_with_coins(db, is_all=is_all)
        for coin in forwards.load_coins(db, forward, tip_height=tip_height, confirmations=1)
    ]
