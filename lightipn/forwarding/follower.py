"""Follows signed transfers: hands them to the network, records what came of it, raises the fee, lets go."""

from collections.abc import Callable
from functools import partial

import structlog

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.transaction import details_of, parse_transaction
from lightipn.errors import SourceError, SourceRefusedError
from lightipn.forwarding.following import Step, View
from lightipn.forwarding.plan import FEE_TOO_HIGH, Hold, PassingTerms, Plan, least_bump_sat, vbytes_of
from lightipn.forwarding.purse import Purse
from lightipn.service.ground import Outside
from lightipn.store import chain, forwards, transfers
from lightipn.store.database import Database, Store
from lightipn.store.passing import PayloadOf, tell_confirmations, tell_passed_on
from lightipn.store.transfers import Transfer, Version

HAND_AGAIN_S = 60.0
REFUSED = "refused-by-servers"

log = structlog.get_logger("forwarding")


class Follower:
    """Follows transfers until they are deep in the chain.

    Args:
        bump_after_blocks: a transfer that is not mined after so many pays more.
        payload_of: writes what a callback says.
        ring: says that a callback is due.
        clock: unix seconds.
    """

    def __init__(
        self,
        *,
        store: Store,
        purse: Purse,
        outside: Outside,
        bump_after_blocks: int,
        payload_of: PayloadOf,
        ring: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._purse = purse
        self._outside = outside
        self._bump_after_blocks = bump_after_blocks
        self._payload_of = payload_of
        self._ring = ring
        self._clock = clock
        self._handed: dict[int, tuple[int, float]] = {}  # version → tip and time at which it was handed over last
        self._held: dict[int, int] = {}  # transfer → tip at which no version could be had that pays more

    async def follow_all(self, fee_rate: float | None) -> None:
        """Look once at every transfer that is not deep in the chain yet.

        Args:
            fee_rate: satoshis a virtual byte; None while nobody answers: nothing is signed anew then.
        """
        found = await self._store.read(transfers.load_open_transfers)
        current = {version.version_id for transfer in found for version in transfer.versions}
        self._handed = {version_id: at for version_id, at in self._handed.items() if version_id in current}
        open_ids = {transfer.transfer_id for transfer in found}
        self._held = {transfer_id: tip for transfer_id, tip in self._held.items() if transfer_id in open_ids}
        for transfer in found:
            await self._follow(transfer, fee_rate)

    async def _follow(self, transfer: Transfer, fee_rate: float | None) -> None:
        view = await self._store.read(partial(_view_of, transfer=transfer))
        for version in view.unrecorded:
            await self._record_taken(transfer, version)
        await self._tell_depth(view)
        match view.step(bump_after_blocks=self._bump_after_blocks):
            case Step.WAIT:
                pass
            case Step.FINISH:
                await self._store.transact(lambda db: transfers.save_final(db, transfer.transfer_id))
            case Step.VOID:
                await self._void(transfer)
            case Step.BROADCAST:
                await self._hand_over_again(transfer, view.tip_height, fee_rate)
            case Step.BUMP:
                is_bumped = fee_rate is not None and await self._bump(transfer, view.tip_height, fee_rate)
                if not is_bumped and not view.is_newest_there:
                    await self._hand_over_again(transfer, view.tip_height, None)

    async def _tell_depth(self, view: View) -> None:
        txid, transfer = view.mined_txid, view.transfer
        told = transfer.told_confirmations if transfer.told_txid == txid else 0
        if txid is None or view.confirmations <= told:
            return
        work = partial(
            tell_confirmations,
            transfer=transfer,
            txid=txid,
            confirmations=view.confirmations,
            payload_of=self._payload_of,
            now=self._clock(),
        )
        if await self._store.transact(work):
            self._ring()

    # --- handing over ---

    async def _hand_over_again(self, transfer: Transfer, tip_height: int, fee_rate: float | None) -> None:
        """Hand over what no server shows; where it was refused and fees have risen, a version that pays more."""
        newest = transfer.newest
        handed_at, time = self._handed.get(newest.version_id, (-1, 0.0))
        if handed_at == tip_height and self._clock() - time < HAND_AGAIN_S:
            return
        if transfer.trouble == REFUSED and fee_rate is not None:
            vbytes = details_of(parse_transaction(newest.raw)).vbytes
            if fee_rate * vbytes > least_bump_sat(newest.fee_sat, vbytes):
                await self._bump(transfer, tip_height, fee_rate)
                return
        await self.hand_over(transfer, newest)

    async def hand_over(self, transfer: Transfer, version: Version) -> None:
        """Hand a signed transaction to the network, and tell whom it may concern when that went well."""
        tip_height = await self._store.read(chain.load_tip_height)
        self._handed[version.version_id] = tip_height, self._clock()
        try:
            await self._outside.broadcast(parse_transaction(version.raw))
        except SourceRefusedError:
            log.warning("forwarding.transfer_refused", transfer=transfer.transfer_id, txid=hex_of(version.txid))
            await self._store.transact(lambda db: transfers.save_trouble(db, transfer.transfer_id, REFUSED))
        except SourceError as error:
            log.info("forwarding.transfer_waits", transfer=transfer.transfer_id, reason=str(error))
        else:
            await self._record_taken(transfer, version)

    async def _record_taken(self, transfer: Transfer, version: Version) -> None:
        def work(db: Database) -> bool:
            if transfer.trouble == REFUSED:
                transfers.save_trouble(db, transfer.transfer_id, "")
            if not transfers.save_broadcast(db, version.version_id, now=int(self._clock())):
                return False
            transfers.save_trouble(db, transfer.transfer_id, "")
            return tell_passed_on(db, transfer, version, payload_of=self._payload_of, now=self._clock())

        is_due = await self._store.transact(work)
        log.info("forwarding.transfer_broadcast", transfer=transfer.transfer_id, txid=hex_of(version.txid))
        if is_due:
            self._ring()

    # --- letting go, and raising the fee ---

    async def _void(self, transfer: Transfer) -> None:
        log.warning("forwarding.transfer_voided", transfer=transfer.transfer_id, txid=hex_of(transfer.newest.txid))

        def work(db: Database) -> None:
            transfers.void_transfer(db, transfer, now=int(self._clock()))
            tip_height = chain.load_tip_height(db)
            for coin in transfer.coins:  # a sweep's are of several forwards
                forwards.wake(db, coin.scripthash, tip_height=tip_height)

        await self._store.transact(work)

    async def _bump(self, transfer: Transfer, tip_height: int, fee_rate: float) -> bool:
        """Sign a version that pays more, of the very same coins; False if none can be had: once a tip that is tried."""
        if self._held.get(transfer.transfer_id) == tip_height:
            return False
        newest = transfer.newest
        terms = await self._store.read(partial(self._terms_of, transfer=transfer))
        # By the size that the new one may have at most: its signatures may be a byte longer.
        least_sat = least_bump_sat(newest.fee_sat, vbytes_of(len(transfer.coins), terms.scripts))
        plan = self._purse.plan(transfer.coins, terms, fee_rate=fee_rate, least_fee_sat=least_sat)
        if isinstance(plan, Hold):
            await self._hold_bump(transfer, FEE_TOO_HIGH, tip_height)
            return False
        signed = await self._purse.sign(transfer.coins, plan)
        if isinstance(signed, Hold):
            await self._hold_bump(transfer, signed.reason, tip_height)
            return False

        def work(db: Database, plan: Plan = plan) -> Transfer | None:
            view = _view_of(db, transfer)
            if view.mined_txid is not None or view.has_lost_coin:
                return None  # while it was signed
            transfers.add_version(
                db,
                transfer.transfer_id,
                signed,
                fee_sat=plan.fee_sat,
                value_sat=plan.value_sat,
                tip_height=tip_height,
                now=int(self._clock()),
            )
            return transfers.load_transfer(db, transfer.transfer_id)

        bumped = await self._store.transact(work)
        if bumped is None:
            return True
        log.info(
            "forwarding.transfer_bumped", transfer=transfer.transfer_id, txid=hex_of(signed.txid), fee_sat=plan.fee_sat
        )
        await self.hand_over(bumped, bumped.newest)
        return True

    async def _hold_bump(self, transfer: Transfer, reason: str, tip_height: int) -> None:
        self._held[transfer.transfer_id] = tip_height
        if transfer.trouble != reason:
            log.warning("forwarding.bump_held", transfer=transfer.transfer_id, reason=reason)
        await self._store.transact(lambda db: transfers.save_trouble(db, transfer.transfer_id, reason))

    def _terms_of(self, db: Database, transfer: Transfer) -> PassingTerms:
        forward = None if transfer.forward_id is None else forwards.load_forward(db, transfer.forward_id)
        if forward is not None:
            return self._purse.terms_of(forward.terms)
        return PassingTerms(destination=self._purse.script_of(transfer.destination))


def _view_of(db: Database, transfer: Transfer) -> View:
    return View(
        transfer=transfer,
        entries=transfers.load_own_entries(db, transfer),
        has_lost_coin=any(transfers.is_coin_lost(db, transfer, coin) for coin in transfer.coins),
        tip_height=chain.load_tip_height(db),
    )
