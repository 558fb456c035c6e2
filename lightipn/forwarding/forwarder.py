"""Passes coins on, for ever: look, sign, store, hand to the network, follow.

What is to be done stands in the database: a crash at any point leaves coins that belong to no transfer, and are looked
at again, or a signed transaction, which is handed to the network again and never made anew.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from pathlib import Path

import structlog
import trio

from lightipn.bitcoin.address import parse_address
from lightipn.bitcoin.hashes import Txid, hex_of
from lightipn.bitcoin.network import Network
from lightipn.bitcoin.transaction import Transaction, TxOutput, details_of, parse_transaction
from lightipn.errors import SourceError, SourceRefusedError
from lightipn.forwarding.following import Step, View
from lightipn.forwarding.plan import (
    FEE_TOO_HIGH,
    LOWEST_FEE_RATE,
    MOST_COINS,
    Hold,
    PassingTerms,
    Plan,
    least_bump_sat,
    plan_of,
)
from lightipn.forwarding.seed import read_words
from lightipn.forwarding.signing import OwnCoin, sign_transfer
from lightipn.service.ground import Outside
from lightipn.store import chain, forwards, transfers
from lightipn.store.database import Database, Store
from lightipn.store.forwards import Coin, Forward
from lightipn.store.passing import PayloadOf, tell_confirmations, tell_passed_on
from lightipn.store.transfers import Transfer, Version

LOOK_AT_LEAST_EVERY_S = 30.0
HAND_AGAIN_S = 60.0
READY_PAGE = 100
REFUSED = "refused-by-servers"

log = structlog.get_logger("forwarding")


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardingRules:
    """What the operator decides.

    Args:
        confirmations: a coin is passed on once it is so deep.
        max_fee_percent: of what is passed on; a higher fee is never paid.
        fee_target_blocks: within so many blocks a transfer shall be mined.
        bump_after_blocks: one that is not mined after so many pays more.
    """

    seed_file: Path
    confirmations: int
    max_fee_percent: float
    fee_target_blocks: int
    bump_after_blocks: int


class Forwarder:
    """Passes coins on.

    Args:
        is_ready: tells whether our tip is proved.
        payload_of: writes what a callback says.
        ring: says that a callback is due.
        clock: unix seconds.
    """

    def __init__(
        self,
        *,
        store: Store,
        network: Network,
        rules: ForwardingRules,
        outside: Outside,
        is_ready: Callable[[], bool],
        payload_of: PayloadOf,
        ring: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._network = network
        self._rules = rules
        self._outside = outside
        self._is_ready = is_ready
        self._payload_of = payload_of
        self._ring = ring
        self._clock = clock
        self._bell = trio.Event()
        self._handed: dict[int, tuple[int, float]] = {}  # version → tip and time at which it was handed over last

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
        """Look once at everything that may need something."""
        for transfer in await self._store.read(transfers.load_open_transfers):
            await self._follow(transfer)
        tip_height = await self._store.read(chain.load_tip_height)
        for forward in await self._store.read(lambda db: forwards.load_ready(db, tip_height, limit=READY_PAGE)):
            await self._pass_on(forward, tip_height)
        await self._sweep(tip_height)

    # --- passing on ---

    async def _pass_on(self, forward: Forward, tip_height: int) -> None:
        confirmations = self._rules.confirmations
        found = await self._store.read(
            lambda db: forwards.load_coins(db, forward, tip_height=tip_height, confirmations=confirmations)
        )
        coins = found[:MOST_COINS]
        again = tip_height + 1
        if not coins:
            await self._save_look(forward, "", wake_height=again)
            return
        plan = await self._plan([coin.amount_sat for coin in coins], self._terms_of(forward))
        if isinstance(plan, Hold):
            if plan.reason != forward.hold_reason:
                log.warning("forwarding.coins_held", forward=forward.forward_id, reason=plan.reason)
            await self._save_look(forward, plan.reason, wake_height=again)
            return
        signed = await self._sign(coins, plan)

        def work(db: Database) -> bool:
            still = forwards.load_coins(db, forward, tip_height=tip_height, confirmations=confirmations)
            current = forwards.load_forward(db, forward.forward_id)
            if current is None or not current.is_active or not set(coins) <= set(still):
                return False  # deleted, reorganized or spent while it was signed
            transfers.add_transfer(
                db,
                forward_id=forward.forward_id,
                destination=forward.terms.destination,
                coins=coins,
                signed=signed,
                fee_sat=plan.fee_sat,
                value_sat=plan.value_sat,
                tip_height=tip_height,
                now=int(self._clock()),
            )
            left = len(still) > len(coins)
            forwards.save_look(db, forward.forward_id, hold_reason="", wake_height=tip_height if left else None)
            return True

        if await self._store.transact(work):
            log.info(
                "forwarding.transfer_signed",
                forward=forward.forward_id,
                txid=hex_of(signed.txid),
                coins=len(coins),
                value_sat=plan.value_sat,
                fee_sat=plan.fee_sat,
            )
            await self._hand_over_new(signed.txid)

    async def _save_look(self, forward: Forward, reason: str, *, wake_height: int) -> None:
        await self._store.transact(
            lambda db: forwards.save_look(db, forward.forward_id, hold_reason=reason, wake_height=wake_height)
        )

    def _terms_of(self, forward: Forward) -> PassingTerms:
        terms = forward.terms
        process = parse_address(terms.process_address, self._network).script if terms.process_address else None
        return PassingTerms(
            destination=parse_address(terms.destination, self._network).script,
            process_script=process,
            process_sat=terms.process_sat,
            process_share=Decimal(terms.process_share or 0),
            mining_fee_sat=terms.mining_fee_sat,
        )

    async def _plan(self, amounts_sat: Sequence[int], terms: PassingTerms, *, least_fee_sat: int = 0) -> Plan | Hold:
        return plan_of(
            amounts_sat,
            terms,
            fee_rate=await self._fee_rate(),
            max_fee_percent=self._rules.max_fee_percent,
            least_fee_sat=least_fee_sat,
        )

    async def _fee_rate(self) -> float:
        """Return what the servers say is enough; where they have no estimate, the least that is relayed."""
        try:
            rate = await self._outside.fee_rate(self._rules.fee_target_blocks)
        except SourceError:
            rate = None
        return LOWEST_FEE_RATE if rate is None else rate

    async def _sign(self, coins: Sequence[Coin], plan: Plan) -> Transaction:
        """Sign in a thread: the keys' code takes a moment to load. The words are read for this, and forgotten."""
        owned = [
            OwnCoin(outpoint=coin.outpoint, amount_sat=coin.amount_sat, address_index=coin.address_index)
            for coin in coins
        ]
        return await trio.to_thread.run_sync(
            partial(_read_and_sign, self._rules.seed_file, self._network, owned, plan.outputs)
        )

    # --- handing over ---

    async def _hand_over_new(self, txid: Txid) -> None:
        for transfer in await self._store.read(transfers.load_open_transfers):
            if transfer.newest.txid == txid:
                await self._hand_over(transfer, transfer.newest)

    async def _hand_over(self, transfer: Transfer, version: Version) -> None:
        """Hand a signed transaction to the network, and tell whom it may concern when that went well."""
        tip_height = await self._store.read(chain.load_tip_height)
        self._handed[version.version_id] = tip_height, self._clock()
        try:
            await self._outside.broadcast(parse_transaction(version.raw))
        except SourceRefusedError:
            log.warning("forwarding.transfer_refused", transfer=transfer.transfer_id, txid=hex_of(version.txid))
            await self._store.transact(lambda db: transfers.save_trouble(db, transfer.transfer_id, REFUSED))
            return
        except SourceError as error:
            log.info("forwarding.transfer_waits", transfer=transfer.transfer_id, reason=str(error))
            return

        def work(db: Database) -> bool:
            transfers.save_trouble(db, transfer.transfer_id, "")
            is_first = transfers.save_broadcast(db, version.version_id, now=int(self._clock()))
            if is_first:
                tell_passed_on(db, transfer, version, payload_of=self._payload_of, now=self._clock())
            return is_first

        if await self._store.transact(work):
            log.info("forwarding.transfer_broadcast", transfer=transfer.transfer_id, txid=hex_of(version.txid))
            self._ring()

    # --- following ---

    async def _follow(self, transfer: Transfer) -> None:
        view = await self._store.read(partial(_view_of, transfer=transfer))
        if view.confirmations > transfer.told_confirmations:
            await self._store.transact(
                lambda db: tell_confirmations(
                    db,
                    transfer,
                    txid=view.mined_txid or transfer.newest.txid,
                    confirmations=view.confirmations,
                    payload_of=self._payload_of,
                    now=self._clock(),
                )
            )
            self._ring()
        match view.step(bump_after_blocks=self._rules.bump_after_blocks):
            case Step.WAIT:
                pass
            case Step.FINISH:
                await self._store.transact(lambda db: transfers.save_final(db, transfer.transfer_id))
            case Step.VOID:
                await self._void(transfer)
            case Step.BROADCAST:
                handed_at, time = self._handed.get(transfer.newest.version_id, (-1, 0.0))
                if handed_at != view.tip_height or self._clock() - time >= HAND_AGAIN_S:
                    await self._hand_over(transfer, transfer.newest)
            case Step.BUMP:
                await self._bump(transfer, view.tip_height)

    async def _void(self, transfer: Transfer) -> None:
        log.warning("forwarding.transfer_voided", transfer=transfer.transfer_id, txid=hex_of(transfer.newest.txid))

        def work(db: Database) -> None:
            transfers.void_transfer(db, transfer)
            if transfer.forward_id is not None:
                tip_height = chain.load_tip_height(db)
                forwards.save_look(db, transfer.forward_id, hold_reason="", wake_height=tip_height)

        await self._store.transact(work)

    async def _bump(self, transfer: Transfer, tip_height: int) -> None:
        """Sign a version that pays more, of the very same coins."""
        newest = transfer.newest
        before = parse_transaction(newest.raw)
        terms = await self._terms_of_transfer(transfer)
        least_sat = least_bump_sat(newest.fee_sat, details_of(before).vbytes)
        plan = await self._plan([coin.amount_sat for coin in transfer.coins], terms, least_fee_sat=least_sat)
        if isinstance(plan, Hold):
            if transfer.trouble != FEE_TOO_HIGH:
                log.warning("forwarding.bump_held", transfer=transfer.transfer_id, reason=plan.reason)
            await self._store.transact(lambda db: transfers.save_trouble(db, transfer.transfer_id, FEE_TOO_HIGH))
            return
        signed = await self._sign(transfer.coins, plan)
        await self._store.transact(
            lambda db: transfers.add_version(
                db,
                transfer.transfer_id,
                signed,
                fee_sat=plan.fee_sat,
                value_sat=plan.value_sat,
                tip_height=tip_height,
                now=int(self._clock()),
            )
        )
        log.info(
            "forwarding.transfer_bumped",
            transfer=transfer.transfer_id,
            txid=hex_of(signed.txid),
            fee_sat=plan.fee_sat,
        )
        await self._hand_over_new(signed.txid)

    async def _terms_of_transfer(self, transfer: Transfer) -> PassingTerms:
        forward_id = transfer.forward_id
        forward = None
        if forward_id is not None:
            forward = await self._store.read(lambda db: forwards.load_forward(db, forward_id))
        if forward is not None:
            return self._terms_of(forward)
        return PassingTerms(destination=parse_address(transfer.destination, self._network).script)

    # --- sweeping ---

    async def _sweep(self, tip_height: int) -> None:
        """Pass on whatever belongs to no transfer, of all addresses together, where the operator wishes it."""
        wish = await self._store.read(transfers.load_sweep)
        if wish is None:
            return
        wish_id, destination = wish
        coins = (await self._store.read(partial(_load_left, tip_height=tip_height)))[:MOST_COINS]
        terms = PassingTerms(destination=parse_address(destination, self._network).script)
        plan = await self._plan([coin.amount_sat for coin in coins], terms) if coins else Hold("nothing-left")
        if isinstance(plan, Hold):
            log.warning("forwarding.sweep_ended", coins=len(coins), reason=plan.reason)
            await self._store.transact(lambda db: transfers.take_sweep(db, wish_id))
            return
        signed = await self._sign(coins, plan)

        def work(db: Database) -> bool:
            if not set(coins) <= set(_load_left(db, tip_height=tip_height)):
                return False
            transfers.add_transfer(
                db,
                forward_id=None,
                destination=destination,
                coins=coins,
                signed=signed,
                fee_sat=plan.fee_sat,
                value_sat=plan.value_sat,
                tip_height=tip_height,
                now=int(self._clock()),
            )
            return True

        if await self._store.transact(work):  # and again, until nothing is left
            log.info("forwarding.sweep_signed", txid=hex_of(signed.txid), coins=len(coins), value_sat=plan.value_sat)
            await self._hand_over_new(signed.txid)
        self.ring()


def _read_and_sign(
    seed_file: Path, network: Network, coins: Sequence[OwnCoin], outputs: Sequence[TxOutput]
) -> Transaction:
    return sign_transfer(read_words(seed_file), network, coins, outputs)


def _view_of(db: Database, transfer: Transfer) -> View:
    return View(
        transfer=transfer,
        entries=transfers.load_own_entries(db, transfer),
        has_lost_coin=any(transfers.is_coin_lost(db, transfer, coin) for coin in transfer.coins),
        tip_height=chain.load_tip_height(db),
    )


def _load_left(db: Database, *, tip_height: int) -> list[Coin]:
    """Return every confirmed coin that belongs to no transfer."""
    return [
        coin
        for forward in forwards.load_with_coins(db)
        for coin in forwards.load_coins(db, forward, tip_height=tip_height, confirmations=1)
    ]
