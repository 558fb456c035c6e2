"""The histories' side of the spine: fetch what would prove a claim, judge it, commit what holds.

    proofs (what proves itself) ─┐
    witnesses (who else says so) ┴─► evidence ─► verify ─► record ─► spends (what it spends, from now on)

What could not be proved is not believed, and asked again with growing pauses: "not yet" is never a verdict.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import structlog
import trio

from lightipn.bitcoin.hashes import ScriptHash, Txid, hex_of
from lightipn.bitcoin.network import Network
from lightipn.chain.checkpoint import Checkpoints
from lightipn.chain.headers import HeaderChain
from lightipn.chain.history import UNKNOWN, History
from lightipn.chain.source import ScriptHashChanged, SourceLost, TipChanged
from lightipn.chain.verifier import Confirmed, Known, Unconfirmed, VerifiedHistory, missing_of, verify
from lightipn.ledger import rules
from lightipn.ledger.entries import GONE, LedgerEntry, ScriptPayments
from lightipn.ledger.events import EventKind, PaymentEvent
from lightipn.store import chain as chain_store
from lightipn.store import ledger as ledger_store
from lightipn.store.database import Database
from lightipn.store.ledger import ScriptRecord
from lightipn.store.transactions import Background
from lightipn.tracker.backgrounds import Backgrounds
from lightipn.tracker.chain_follower import ChainFollower, open_chain
from lightipn.tracker.evidence import EvidenceFetcher
from lightipn.tracker.omissions import NOTHING, Omissions, Unlisted, unlisted_of
from lightipn.tracker.proofs import ProofFetcher
from lightipn.tracker.questions import Questions
from lightipn.tracker.recording import record_delta
from lightipn.tracker.spends import SpendWatcher
from lightipn.tracker.wiring import Wiring
from lightipn.tracker.witnesses import Witnesses

# A payment that the other servers do not hold yet reaches them within a second or two.
FIRST_WITNESS_RECHECK_S = 0.5
NEXT_WITNESSES_S = 0.1
FIRST_RECHECK_S = 2.0
LONGEST_RECHECK_S = 300.0
MAX_LOOKUP_HISTORY = 1000
# So many entries of a history are proved and committed at a time.
PART = 500
# How long the first answer of a lookup waits for what other servers say.
LOOKUP_GRACE_S = 2.0

log = structlog.get_logger("tracker")


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What a transaction did: the events, whether a message is due, whether all was proved, and what is unconfirmed."""

    events: tuple[PaymentEvent, ...]
    is_due: bool
    is_complete: bool
    unconfirmed: tuple[LedgerEntry, ...] = ()
    unlisted: Unlisted = NOTHING


class Tracker:
    """Works the source's updates into the store.

    Args:
        chain: as the store holds it.
        min_seen_by: servers that must hold an unconfirmed payment.
        drop_after_s: for so long servers must deny a payment before it is dropped.
    """

    def __init__(
        self, wiring: Wiring, *, chain: HeaderChain, checkpoints: Checkpoints, min_seen_by: int, drop_after_s: float
    ) -> None:
        self._wiring = wiring
        self.follower = ChainFollower(wiring, chain=chain, checkpoints=checkpoints)
        self.proofs = ProofFetcher(wiring.source, self.follower)
        self.witnesses = Witnesses(wiring.source, self.proofs, min_seen_by=min_seen_by)
        self._backgrounds = Backgrounds(wiring, self.proofs)
        self._evidence = EvidenceFetcher(wiring.source, self.proofs, self.witnesses)
        self._spends = SpendWatcher(
            wiring, follower=self.follower, proofs=self.proofs, witnesses=self.witnesses, drop_after_s=drop_after_s
        )
        self.questions = Questions(wiring.source, self.proofs, self._backgrounds)
        self._gate = self.follower.gate
        self._progress = trio.Event()
        self._rechecks: dict[tuple[str, ScriptHash], int] = {}
        # (server, script) under way → the newest update that came meanwhile
        self._under_way: dict[tuple[str, ScriptHash], ScriptHashChanged | None] = {}
        self._omissions = Omissions(wiring, self.follower)
        self._too_long: dict[ScriptHash, set[str]] = {}  # looked-up scripts, and which servers say so

    async def run(self) -> None:
        """Work on updates for ever: each in a task of its own. The source limits how many of a server are under way."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.follower.run)
            nursery.start_soon(self._spends.run)
            nursery.start_soon(self._backgrounds.run)
            async for update in self._wiring.source.updates():
                match update:
                    case TipChanged():
                        self.follower.tell_tip(update)
                    case ScriptHashChanged():
                        nursery.start_soon(self._work, update, nursery)
                    case SourceLost():
                        self.follower.forget_tip(update.server)
                        self._omissions.forget(update.server)
                        for key in [key for key in self._rechecks if key[0] == update.server]:
                            del self._rechecks[key]

    def progress(self) -> trio.Event:
        """Return an event that is set when the next history has been committed."""
        return self._progress

    def _tell_progress(self) -> None:
        self._progress.set()
        self._progress = trio.Event()

    async def _work(self, update: ScriptHashChanged, nursery: trio.Nursery) -> None:
        """Take in a server's updates of a script one after the other; other servers' are taken in beside them."""
        key = update.server, update.scripthash
        if key in self._under_way:
            self._under_way[key] = update
            return
        following: ScriptHashChanged | None = update
        while following is not None:
            self._under_way[key] = None
            await self._take_in(following, nursery)
            following = self._under_way.pop(key)

    async def _take_in(self, update: ScriptHashChanged, nursery: trio.Nursery) -> None:
        record = await self._wiring.store.read(lambda db: ledger_store.load_script(db, update.scripthash))
        if record is not None:
            await self._absorb(update, record, nursery)
        is_examined = await self._spends.examine(update)  # afterwards: it never delays what the script was paid
        if is_examined is False:
            # What is absorbed by now is not told again by one server alone.
            self._spends.ask_again(update, server=update.server if record is None else "")
        elif record is None and is_examined:  # watched only because a payment spends from it
            self._wiring.source.absorbed(update.scripthash, update.status, server=update.server, is_news=True)
        elif record is None:  # removed meanwhile; whoever removed it has the source told
            self._rechecks.pop((update.server, update.scripthash), None)

    def _recheck(self, update: ScriptHashChanged, *, reason: str, first_s: float = FIRST_RECHECK_S) -> None:
        """Ask this server again later: something of its history could not be fetched, proved or believed."""
        key = update.server, update.scripthash
        tries = self._rechecks[key] = self._rechecks.get(key, 0) + 1
        pause_s = min(first_s * 2.0 ** min(tries - 1, 20), LONGEST_RECHECK_S)
        log.info(
            "tracker.proof_postponed",
            server=update.server,
            scripthash=hex_of(update.scripthash),
            reason=reason,
            again_in_s=pause_s,
        )
        self._wiring.source.recheck(update.scripthash, after_s=pause_s, server=update.server)

    async def _absorb(self, update: ScriptHashChanged, record: ScriptRecord, nursery: trio.Nursery) -> None:
        """Prove what a server claims about a script, and commit what holds, part by part."""
        if record.wanted_until is not None and len(update.history) > MAX_LOOKUP_HISTORY:
            await self._refuse_lookup(update)
            return
        is_complete, is_news, is_unwitnessed, is_progress = True, False, False, False
        parts = [update.history[at : at + PART] for at in range(0, len(update.history), PART)] or [()]
        for number, part in enumerate(parts):
            payments = await self._wiring.store.read(lambda db: ledger_store.load_payments(db, update.scripthash))
            if payments is None:
                break
            known = {txid: _place_of(entry) for txid, entry in payments.entries.items()}
            verified = await self._verify(update, part, known, payments)
            is_unwitnessed |= bool(verified.unwitnessed)
            is_complete &= verified.is_complete
            is_last = number == len(parts) - 1
            backgrounds = await self._backgrounds.find(verified, update)
            async with self._gate.shared():
                recorded = await self._wiring.store.transact(
                    partial(
                        self._record,
                        update=update,
                        verified=verified,
                        known=known,
                        backgrounds=backgrounds,
                        settles=is_last and is_complete,
                    )
                )
                is_complete &= recorded.is_complete
                is_progress |= bool(recorded.events)
                is_news |= is_progress or not payments.entries
                if is_last:
                    self._answer(
                        update,
                        recorded,
                        is_complete,
                        is_news=is_news,
                        is_unwitnessed=is_unwitnessed,
                        is_progress=is_progress,
                    )
            self._spends.disarm(event.txid for event in recorded.events if event.kind is EventKind.CONFIRMED)
            self._spends.arm(recorded.unconfirmed)
            await self._wiring.tell(recorded.events, is_due=recorded.is_due)
        if is_complete and record.wanted_until is not None and record.absorbed_at is None:
            nursery.start_soon(self._settle_lookup, update.scripthash)
        self._tell_progress()
        await self._omissions.judge(update, record)

    def _answer(
        self,
        update: ScriptHashChanged,
        recorded: _Recorded,
        is_complete: bool,
        *,
        is_news: bool,
        is_unwitnessed: bool,
        is_progress: bool,
    ) -> None:
        """Tell the source how far an update was worked in; inside the gate, so that no reorg comes in between.

        Args:
            is_progress: something of it is news that was believed.
        """
        key = update.server, update.scripthash
        self._spends.suspect(recorded.unlisted.claimed)
        if recorded.unlisted.proved:
            self._omissions.note(update)
            self._recheck(update, reason="proved payments are not listed")
        elif is_complete:
            self._rechecks.pop(key, None)
            self._omissions.clear(update)
            self._wiring.source.absorbed(update.scripthash, update.status, server=update.server, is_news=is_news)
        elif is_unwitnessed:
            if is_progress:  # so many are asked about at a time, and some of them were there: on with the next
                self._rechecks.pop(key, None)
            first_s = NEXT_WITNESSES_S if is_progress else FIRST_WITNESS_RECHECK_S
            self._recheck(update, reason="not all of it is seen by enough servers yet", first_s=first_s)
        else:
            self._recheck(update, reason="not all of it is proved yet")

    async def _settle_lookup(self, scripthash: ScriptHash) -> None:
        """Have a first answer wait for the other servers': one alone may leave out what it likes."""
        if self._wiring.source.voices() > 1:
            await trio.sleep(LOOKUP_GRACE_S)
        now = int(self._wiring.clock())
        await self._wiring.store.transact(lambda db: ledger_store.settle_lookup(db, scripthash, now=now))
        self._tell_progress()

    async def _refuse_lookup(self, update: ScriptHashChanged) -> None:
        """Give up a lookup whose history is too long; but not on the word of one server, where there are several."""
        said_by = self._too_long.setdefault(update.scripthash, set())
        said_by.add(update.server)
        if len(said_by) >= self.witnesses.needed:
            del self._too_long[update.scripthash]
            trouble = "history-too-long"
            await self._wiring.store.transact(lambda db: ledger_store.save_trouble(db, update.scripthash, trouble))
        self._wiring.source.absorbed(update.scripthash, update.status, server=update.server, is_news=False)
        self._tell_progress()

    async def _verify(
        self, update: ScriptHashChanged, part: History, known: Known, payments: ScriptPayments
    ) -> VerifiedHistory:
        missing = missing_of(part, known)
        evidence = await self._evidence.fetch(missing, payments, update.server)
        # What is said to be confirmed and cannot be proved may still be unconfirmed, if others say so.
        late = [txid for txid in verify(part, known, evidence).unwitnessed if txid not in missing.witnesses]
        unproved = [txid for txid in missing.transactions if txid not in evidence.branches]
        await self._evidence.admit_all([*late, *unproved], evidence, payments, update.server)
        await self._evidence.leave_out_unrelated(evidence, payments, update)
        return verify(part, known, evidence)

    def _record(
        self,
        db: Database,
        *,
        update: ScriptHashChanged,
        verified: VerifiedHistory,
        known: Known,
        backgrounds: Mapping[Txid, Background],
        settles: bool,
    ) -> _Recorded:
        payments = ledger_store.load_payments(db, update.scripthash)
        record = ledger_store.load_script(db, update.scripthash)
        if payments is None or record is None:  # removed meanwhile
            return _Recorded((), is_due=False, is_complete=True)
        unlisted = unlisted_of(update, payments)
        if _has_moved(payments, verified, known):
            return _Recorded((), is_due=False, is_complete=False, unlisted=unlisted)
        now = self._wiring.clock()
        held = self._held_by_stored_chain(db, verified, payments)
        listed = {claim.txid for claim in update.history}
        delta = self._wiring.attested(rules.absorbed(payments, held, now=int(now), listed=listed))
        new = [fact.transaction for fact in held.entries if fact.transaction is not None]
        is_due = record_delta(
            db, self._wiring.policies, payments, delta, now=now, transactions=new, backgrounds=backgrounds
        )
        is_complete = held.is_complete
        is_first = record.absorbed_at is None or record.known_status == UNKNOWN
        if settles and is_complete and (delta.entries or is_first):
            is_settled = record.wanted_until is None or record.absorbed_at is not None
            ledger_store.save_status(db, update.scripthash, update.status, now=int(now) if is_settled else None)
        after = payments.entries | {entry.txid: entry for entry in delta.entries}
        return _Recorded(
            delta.events,
            is_due=is_due,
            is_complete=is_complete,
            unconfirmed=tuple(entry for entry in after.values() if isinstance(entry.state, Unconfirmed)),
            unlisted=unlisted,
        )

    def _held_by_stored_chain(
        self, db: Database, verified: VerifiedHistory, payments: ScriptPayments
    ) -> VerifiedHistory:
        """Take back confirmations in blocks that left the chain since they were proved (a reorg in between)."""
        entries, unproved = [], list(verified.unproved)
        for entry in verified.entries:
            if self.follower.holds(db, entry.place):
                entries.append(entry)
                continue
            unproved.append(entry.txid)
            before = payments.entries.get(entry.txid)
            if before is not None and isinstance(before.state, Unconfirmed):
                entries.append(replace(entry, place=before.state))
        return replace(verified, entries=tuple(entries), unproved=tuple(unproved))


async def open_tracker(
    wiring: Wiring, *, network: Network, checkpoints: Checkpoints, min_seen_by: int, drop_after_s: float
) -> Tracker:
    """Build a tracker on the chain that the store holds, which begins at the last checkpoint where it holds none.

    Raises:
        StoreError: the stored headers contradict a checkpoint, or do not link.
    """
    await wiring.store.transact(lambda db: chain_store.save_base_height(db, checkpoints.last.height))
    lowest_height, raw_headers = await wiring.store.read(chain_store.load_headers)
    chain = open_chain(network, checkpoints, lowest_height, raw_headers)
    return Tracker(wiring, chain=chain, checkpoints=checkpoints, min_seen_by=min_seen_by, drop_after_s=drop_after_s)


def _has_moved(payments: ScriptPayments, verified: VerifiedHistory, known: Known) -> bool:
    """Tell whether what was known when the evidence was fetched is known no more."""
    for fact in verified.entries:
        entry = payments.entries.get(fact.txid)
        if entry is None and fact.transaction is None:
            return True  # removed and added again meanwhile
        if entry is not None and isinstance(entry.state, GONE) and known.get(fact.txid) is not None:
            return True  # replaced or dropped meanwhile
    fresh = [fact.transaction for fact in verified.entries if fact.transaction and isinstance(fact.place, Unconfirmed)]
    unheard = {
        outpoint
        for txid, entry in payments.entries.items()
        if txid not in known and not isinstance(entry.state, GONE)
        for outpoint in entry.spends
    }
    # A rival that another server brought meanwhile: whether it stands was not asked.
    return any(
        transaction.txid not in payments.entries and not unheard.isdisjoint(transaction.spends) for transaction in fresh
    )


def _place_of(entry: LedgerEntry) -> Confirmed | Unconfirmed | None:
    return None if isinstance(entry.state, GONE) else entry.state
