"""What becomes of unconfirmed payments: replaced by a transaction that pays somebody else, or dropped by every server.

The outputs that a payment spends belong to scripts of their own. Those are watched as long as the payment is
unconfirmed, for their history names whoever spends them. A rival takes over only when a block proves it, or when enough
servers hold it that do not hold the payment any more. What made a payment believed also keeps it: it is dropped once
too few servers are left that may still hold it, and enough deny it, for ``drop_after_s`` without a gap. So one server
that clings to it keeps nothing alive.
"""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

import structlog
import trio

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.bitcoin.transaction import Outpoint
from lightipn.chain.history import UNKNOWN, HistoryEntry
from lightipn.chain.source import ScriptHashChanged
from lightipn.chain.verifier import Place, Unconfirmed, VerifiedEntry
from lightipn.errors import SourceError
from lightipn.ledger import rules
from lightipn.ledger.entries import LedgerEntry
from lightipn.ledger.events import PaymentEvent
from lightipn.store import ledger as ledger_store
from lightipn.store import spends as spend_store
from lightipn.store import transactions as transaction_store
from lightipn.store.database import Database
from lightipn.tracker.chain_follower import ChainFollower
from lightipn.tracker.proofs import ProofFetcher
from lightipn.tracker.recording import record_delta
from lightipn.tracker.wiring import Wiring
from lightipn.tracker.witnesses import Witnesses

# Where a server does not say in which block the output is, a rival is looked for this far below the payment.
RIVAL_DEPTH_BLOCKS = 10
# The history of a busy script is long and changes all the time; a payment that spends from one is only asked for.
LONGEST_HISTORY = 1000
MOST_CANDIDATES = 100
SPENDS_KEPT = 2000
EXAMINATION_TIMEOUT_S = 12.0
FIRST_RECHECK_S = 1.0
LONGEST_RECHECK_S = 60.0
ASK_AT_MOST = 500
ROUNDS_PER_DROP = 10
FIRST_LOOK_S = 5.0
ROUNDS_BETWEEN_FULL_LOOKS = 5
ARM_PAGE = 200
ARMING_TIMEOUT_S = 20.0

log = structlog.get_logger("tracker")


class SpendWatcher:
    """Watches what unconfirmed payments spend.

    Args:
        drop_after_s: for so long servers must deny a payment before it is dropped.
    """

    def __init__(
        self,
        wiring: Wiring,
        *,
        follower: ChainFollower,
        proofs: ProofFetcher,
        witnesses: Witnesses,
        drop_after_s: float,
    ) -> None:
        self._wiring = wiring
        self._follower = follower
        self._proofs = proofs
        self._witnesses = witnesses
        self._drop_after_s = drop_after_s
        self._spends: OrderedDict[Txid, frozenset[Outpoint]] = OrderedDict()  # of candidates looked at before
        self._rechecks: dict[tuple[str, ScriptHash], int] = {}
        self._busy: dict[ScriptHash, set[str]] = {}  # and which servers say so
        self._armed: set[Txid] = set()
        self._suspects: dict[Txid, float | None] = {}  # and since when, on Trio's clock, it is denied
        self._to_arm: dict[Txid, tuple[Outpoint, ...]] = {}
        self._arm_bell = trio.Event()

    async def run(self) -> None:
        """Arm payments, and ask for those that may have vanished, for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._arm)
            nursery.start_soon(self._ask_for_vanishing)

    # --- arming ---

    def arm(self, entries: Iterable[LedgerEntry]) -> None:
        """Watch what unconfirmed payments spend, as soon as there is time: nothing waits for it."""
        for entry in entries:
            if not entry.is_coinbase and entry.txid not in self._armed:
                self._to_arm[entry.txid] = entry.spends
                self._armed.add(entry.txid)
        self._arm_bell.set()

    def disarm(self, txids: Iterable[Txid]) -> None:
        """Forget that confirmed payments were armed.

        A reorg that spends their coins elsewhere shows its rivals before we follow it, while they are settled for us.
        So the scripts must be looked at again once they are unconfirmed again.
        """
        self._armed.difference_update(txids)

    async def _arm(self) -> None:
        while True:
            self._arm_bell = trio.Event()
            page = [(txid, self._to_arm.pop(txid)) for txid in list(self._to_arm)[:ARM_PAGE]]
            async with trio.open_nursery() as nursery:
                for txid, spends in page:
                    nursery.start_soon(self._arm_one, txid, spends)
            if not page:
                await self._arm_bell.wait()

    async def _arm_one(self, txid: Txid, spends: tuple[Outpoint, ...]) -> None:
        """Note what a payment spends, and watch it."""
        prevouts, _ = await self._proofs.prevouts_of(spends, "", timeout_s=ARMING_TIMEOUT_S)
        spent = [
            spend_store.SpentOutput(
                outpoint=prevout.outpoint,
                scripthash=prevout.scripthash,
                spender=txid,
                since_height=self._follower.chain.tip_height,
            )
            for prevout in prevouts
        ]

        def work(db: Database) -> bool:
            if not ledger_store.load_scripts_of(db, txid):  # settled meanwhile
                return False
            spend_store.save_spent_outputs(db, spent)
            return True

        if not spent or not await self._wiring.store.transact(work):
            return
        for scripthash in dict.fromkeys(one.scripthash for one in spent):
            if not self._wiring.source.watch(scripthash, UNKNOWN):
                # What it told before was not looked at for this payment.
                self._wiring.source.recheck(scripthash, after_s=0.0)

    # --- rivals ---

    async def examine(self, update: ScriptHashChanged) -> bool | None:
        """Look for rivals of payments in the history of a script that they spend from.

        Returns:
            None where no payment spends from it; else whether everything in it could be judged. If not, ``ask_again``.
        """
        spent = await self._wiring.store.read(lambda db: spend_store.load_spent_outputs(db, update.scripthash))
        if not spent:
            return None
        if len(update.history) > LONGEST_HISTORY:
            await self._note_busy(update)
            return True
        lowest = _lowest_rival_height(update, spent)
        claims = [
            claim
            for claim in update.history
            if claim.height is None or claim.height >= lowest  # also payments: one may be another's rival
        ][-MOST_CANDIDATES:]
        verdicts: list[bool] = []
        with trio.move_on_after(EXAMINATION_TIMEOUT_S) as scope:
            async with trio.open_nursery() as nursery:
                for claim in claims:
                    nursery.start_soon(self._examine_one, claim, spent, update.server, verdicts)
        is_settled = all(verdicts) and not scope.cancelled_caught
        if is_settled:
            self._rechecks.pop((update.server, update.scripthash), None)
        return is_settled

    def ask_again(self, update: ScriptHashChanged, *, server: str) -> None:
        """Have a history come again in which something could not be judged yet; from all where no server is named."""
        key = update.server, update.scripthash
        tries = self._rechecks[key] = self._rechecks.get(key, 0) + 1
        pause_s = min(FIRST_RECHECK_S * 2.0 ** min(tries - 1, 10), LONGEST_RECHECK_S)
        self._wiring.source.recheck(update.scripthash, after_s=pause_s, server=server)

    async def _examine_one(
        self, claim: HistoryEntry, spent: Sequence[spend_store.SpentOutput], server: str, verdicts: list[bool]
    ) -> None:
        try:
            spends = await self._spends_of(claim.txid, server)
        except SourceError:
            verdicts.append(False)
            return
        for spender in {one.spender for one in spent if one.outpoint in spends} - {claim.txid}:
            verdicts += [await self._judge(spender, claim, server)]

    async def _note_busy(self, update: ScriptHashChanged) -> None:
        """Give up a script that has too much history; but not on the word of one server, where there are several."""
        said_by = self._busy.setdefault(update.scripthash, set())
        said_by.add(update.server)
        if len(said_by) < self._witnesses.needed:
            return
        del self._busy[update.scripthash]
        await self._wiring.store.transact(lambda db: spend_store.drop_spends_from(db, update.scripthash))
        if not await self._wiring.store.read(lambda db: ledger_store.load_script(db, update.scripthash)):
            self._wiring.source.unwatch(update.scripthash)

    async def _spends_of(self, txid: Txid, server: str) -> frozenset[Outpoint]:
        """Return what a candidate spends; the last few are kept, for a history is looked at again and again."""
        found = self._spends.get(txid)
        if found is None:
            found = self._spends[txid] = frozenset((await self._proofs.transaction(txid, server)).spends)
            if len(self._spends) > SPENDS_KEPT:
                self._spends.popitem(last=False)
        return found

    async def _judge(self, txid: Txid, claim: HistoryEntry, server: str) -> bool:
        """Replace a payment by its rival if that is proved, or widely held; False if it must be asked again."""
        scripthashes = await self._wiring.store.read(lambda db: ledger_store.load_scripts_of(db, txid))
        if not scripthashes:
            return True
        place: Place | None = None
        if claim.height is not None:
            place = await self._proofs.proved_place(claim, server)
        else:
            holding = await self._witnesses.holders_without(claim.txid, txid, scripthashes[0])
            if len(holding) >= self._witnesses.needed:
                place = Unconfirmed(len(holding))
            else:
                await self._wiring.store.transact(lambda db: transaction_store.mark_contested(db, txid))
        if place is None:
            return False
        try:
            rival = await self._proofs.transaction(claim.txid, server)
        except SourceError:
            return False
        return await self._replace(txid, VerifiedEntry(txid=rival.txid, place=place, transaction=rival))

    async def _replace(self, txid: Txid, by: VerifiedEntry) -> bool:
        """Replace a payment; False if a reorg took the rival's block meanwhile."""

        def work(db: Database) -> tuple[list[PaymentEvent], bool, bool]:
            events: list[PaymentEvent] = []
            is_due = False
            now = self._wiring.clock()
            if not self._follower.holds(db, by.place):
                return [], False, False
            for scripthash in ledger_store.load_scripts_of(db, txid):
                payments = ledger_store.load_payments(db, scripthash)
                assert payments is not None  # an entry's script is there
                delta = self._wiring.attested(rules.replaced(payments, txid, by, now=int(now)))
                rival = [by.transaction] if by.transaction is not None else []
                is_due |= record_delta(db, self._wiring.policies, payments, delta, now=now, transactions=rival)
                events += delta.events
            return events, is_due, True

        async with self._follower.gate.shared():
            events, is_due, is_done = await self._wiring.store.transact(work)
        await self._wiring.tell(events, is_due=is_due)
        return is_done

    # --- vanishing ---

    def suspect(self, txids: Iterable[Txid]) -> None:
        """Say that a server does not list these payments, so that all are asked for them."""
        for txid in txids:
            self._suspects.setdefault(txid, None)

    async def _ask_for_vanishing(self) -> None:
        rounds = 0
        pause_s = self._drop_after_s / ROUNDS_PER_DROP
        await trio.sleep(min(pause_s, FIRST_LOOK_S))  # until servers are there
        while True:
            unconfirmed = await self._wiring.store.read(spend_store.load_unconfirmed)
            if rounds % ROUNDS_BETWEEN_FULL_LOOKS == 0:
                # A server may hide an eviction, and the only one there is may forget to tell of it.
                self.suspect(unconfirmed)
                self._to_arm |= await self._wiring.store.read(spend_store.load_unarmed)
                self._arm_bell.set()
            rounds += 1
            still = set(unconfirmed)
            self._suspects = {txid: since for txid, since in self._suspects.items() if txid in still}
            self._armed &= still
            for scripthash in await self._wiring.store.transact(spend_store.drop_settled_spends):
                self._wiring.source.unwatch(scripthash)
            async with trio.open_nursery() as nursery:
                for txid in list(self._suspects)[:ASK_AT_MOST]:
                    nursery.start_soon(self._ask_for, txid)
            await trio.sleep(pause_s)

    async def _ask_for(self, txid: Txid) -> None:
        """Ask every server for a payment; drop it once enough have denied it for long enough."""
        scripthashes = await self._wiring.store.read(lambda db: ledger_store.load_scripts_of(db, txid))
        if not scripthashes:
            self._suspects.pop(txid, None)
            return
        asked = len(self._wiring.source.connected())
        hearing = await self._witnesses.listed(txid, scripthashes[0])
        denied_since, now = self._suspects.pop(txid, None), trio.current_time()
        needed, denying = self._witnesses.needed, len(hearing.denying)
        if len(hearing.holding) >= needed:
            return
        if denying < needed or asked - denying >= needed:  # silence is no denial
            self._suspects[txid] = None
        elif denied_since is None or now - denied_since < self._drop_after_s:
            self._suspects[txid] = now if denied_since is None else denied_since
        else:
            await self._drop(txid, denied_by=len(hearing.denying))

    async def _drop(self, txid: Txid, *, denied_by: int) -> None:
        def work(db: Database) -> tuple[list[PaymentEvent], bool, list[ScriptHash]]:
            events: list[PaymentEvent] = []
            is_due = False
            now = self._wiring.clock()
            scripthashes = ledger_store.load_scripts_of(db, txid)
            # It may come back under the very status that was absorbed.
            ledger_store.forget_status(db, scripthashes)
            for scripthash in scripthashes:
                payments = ledger_store.load_payments(db, scripthash)
                assert payments is not None  # an entry's script is there
                delta = self._wiring.attested(rules.dropped(payments, txid, denied_by=denied_by, now=int(now)))
                is_due |= record_delta(db, self._wiring.policies, payments, delta, now=now)
                events += delta.events
            return events, is_due, scripthashes

        events, is_due, scripthashes = await self._wiring.store.transact(work)
        await self._wiring.tell(events, is_due=is_due)
        for scripthash in scripthashes:
            self._wiring.source.recheck(scripthash, after_s=0.0)


def _lowest_rival_height(update: ScriptHashChanged, spent: Sequence[spend_store.SpentOutput]) -> int:
    """Return from which height on a rival may be: an output is not spent before the block that it is in."""
    heights = {claim.txid: claim.height for claim in update.history}
    return min(heights.get(one.outpoint.txid) or one.since_height - RIVAL_DEPTH_BLOCKS for one in spent)
