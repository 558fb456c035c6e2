"""The histories' side of the spine: fetch what would prove a claim, judge it, commit what holds.

What could not be proved is not believed, and asked again with growing pauses: "not yet" is never a verdict.
"""

from dataclasses import dataclass, replace

import structlog
import trio

from lightipn.bitcoin.hashes import ScriptHash, Txid, hex_of
from lightipn.chain.source import Misbehaviour, ScriptHashChanged, SourceLost, TipChanged
from lightipn.chain.verifier import Confirmed, Known, Unconfirmed, VerifiedHistory, missing_of, verify
from lightipn.errors import SourceError
from lightipn.ledger import rules
from lightipn.ledger.entries import GONE, LedgerEntry, ScriptPayments
from lightipn.ledger.events import PaymentEvent
from lightipn.store import ledger as ledger_store
from lightipn.store.database import Database
from lightipn.store.ledger import ScriptRecord
from lightipn.tracker.chain_follower import ChainFollower
from lightipn.tracker.evidence import EvidenceFetcher
from lightipn.tracker.recording import record_delta
from lightipn.tracker.spends import SpendWatcher
from lightipn.tracker.wiring import Wiring

# A payment that the other servers do not hold yet reaches them within a second or two.
FIRST_WITNESS_RECHECK_S = 0.5
FIRST_RECHECK_S = 2.0
LONGEST_RECHECK_S = 300.0
MAX_LOOKUP_HISTORY = 1000
# So often a server may leave out a proved payment before it is judged: a minute and more, and several blocks' races.
PATIENT_RECHECKS = 5

log = structlog.get_logger("tracker")


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What a transaction did: the events, whether a message is due, whether all was proved, and what is unconfirmed."""

    events: tuple[PaymentEvent, ...]
    is_due: bool
    is_complete: bool
    unconfirmed: tuple[LedgerEntry, ...] = ()


class Tracker:
    """Works the source's updates into the store."""

    def __init__(
        self, wiring: Wiring, *, follower: ChainFollower, fetcher: EvidenceFetcher, spends: SpendWatcher
    ) -> None:
        self._wiring = wiring
        self._follower = follower
        self._fetcher = fetcher
        self._spends = spends
        self._gate = follower.gate
        self._progress = trio.Event()
        self._rechecks: dict[tuple[str, ScriptHash], int] = {}
        # scripts under way → the newest update of each server that came meanwhile
        self._under_way: dict[ScriptHash, dict[str, ScriptHashChanged]] = {}

    async def run(self) -> None:
        """Work on updates for ever: each in a task of its own. The source limits how many of a server are under way."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follower.run)
            nursery.start_soon(self._spends.run)
            async for update in self._wiring.source.updates():
                match update:
                    case TipChanged():
                        self._follower.tell_tip(update)
                    case ScriptHashChanged():
                        nursery.start_soon(self._work, update)
                    case SourceLost():
                        self._follower.forget_tip(update.server)
                        self._rechecks = {key: n for key, n in self._rechecks.items() if key[0] != update.server}

    def progress(self) -> trio.Event:
        """Return an event that is set when the next history has been committed."""
        return self._progress

    def _tell_progress(self) -> None:
        self._progress.set()
        self._progress = trio.Event()

    async def _work(self, update: ScriptHashChanged) -> None:
        if update.scripthash in self._under_way:
            # One at a time for each script, and each server's newest: what is known when evidence is fetched must
            # still be what is known when it is committed.
            self._under_way[update.scripthash][update.server] = update
            return
        waiting = self._under_way[update.scripthash] = {update.server: update}
        while waiting:
            await self._take_in(waiting.pop(next(iter(waiting))))
        del self._under_way[update.scripthash]

    async def _take_in(self, update: ScriptHashChanged) -> None:
        is_examined = await self._spends.examine(update)
        record, payments = await self._wiring.store.read(
            lambda db: (
                ledger_store.load_script(db, update.scripthash),
                ledger_store.load_payments(db, update.scripthash),
            )
        )
        if record is not None and payments is not None:
            await self._absorb(update, record, payments)
        elif is_examined:  # watched only because a payment spends from it
            self._wiring.source.absorbed(update.scripthash, update.status, server=update.server, is_news=True)
        else:  # removed meanwhile; whoever removed it has the source told
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

    async def _absorb(self, update: ScriptHashChanged, record: ScriptRecord, payments: ScriptPayments) -> None:
        """Prove what a server claims about a script, and commit what holds."""
        if record.wanted_until is not None and len(update.history) > MAX_LOOKUP_HISTORY:
            await self._wiring.store.transact(
                lambda db: ledger_store.save_trouble(db, update.scripthash, "history-too-long")
            )
            self._wiring.source.absorbed(update.scripthash, update.status, server=update.server, is_news=True)
            self._tell_progress()
            return
        known = {txid: _place_of(entry) for txid, entry in payments.entries.items()}
        verified = await self._verify(update, known, payments)
        unlisted = _unlisted(update, payments)
        async with self._gate.shared():
            recorded = await self._wiring.store.transact(lambda db: self._record_history(db, update, verified, known))
            if recorded.is_complete and not unlisted.proved:
                self._rechecks.pop((update.server, update.scripthash), None)
                is_news = bool(recorded.events) or not payments.entries
                self._wiring.source.absorbed(update.scripthash, update.status, server=update.server, is_news=is_news)
            elif recorded.is_complete:
                self._recheck(update, reason="proved payments are not listed")
            elif verified.unproved:
                self._recheck(update, reason="not all of it is proved yet")
            else:
                self._recheck(update, reason="too few servers hold all of it", first_s=FIRST_WITNESS_RECHECK_S)
        self._spends.suspect(unlisted.claimed)
        self._spends.arm(recorded.unconfirmed)
        self._wiring.tell(recorded.events, is_due=recorded.is_due)
        self._tell_progress()
        if unlisted.proved:
            await self._judge_omission(update, record, payments, unlisted.proved)

    async def _verify(self, update: ScriptHashChanged, known: Known, payments: ScriptPayments) -> VerifiedHistory:
        missing = missing_of(update.history, known)
        held = list(payments.entries.values())
        evidence = await self._fetcher.fetch(missing, held, update.server)
        verified = verify(update.history, known, evidence)
        # What is said to be confirmed and cannot be proved may still be unconfirmed, if others say so.
        late = [txid for txid in verified.unwitnessed if txid not in missing.witnesses]
        for txid in late:
            await self._fetcher.admit(txid, evidence, held, update.server)
        return verify(update.history, known, evidence) if late else verified

    def _record_history(
        self, db: Database, update: ScriptHashChanged, verified: VerifiedHistory, known: Known
    ) -> _Recorded:
        payments = ledger_store.load_payments(db, update.scripthash)
        if payments is None:  # removed meanwhile
            return _Recorded((), is_due=False, is_complete=True)
        if _has_moved(payments, verified, known):
            return _Recorded((), is_due=False, is_complete=False)
        now = self._wiring.clock()
        held = self._held_by_stored_chain(db, verified, payments)
        delta = rules.absorbed(payments, held, now=int(now))
        is_due = record_delta(db, self._wiring.policies, payments, delta, now=now)
        ledger_store.save_status(db, update.scripthash, update.status, is_complete=held.is_complete, now=int(now))
        return _Recorded(
            delta.events,
            is_due=is_due,
            is_complete=held.is_complete,
            unconfirmed=tuple(entry for entry in delta.entries if isinstance(entry.state, Unconfirmed)),
        )

    def _held_by_stored_chain(
        self, db: Database, verified: VerifiedHistory, payments: ScriptPayments
    ) -> VerifiedHistory:
        """Take back confirmations in blocks that left the chain since they were proved (a reorg in between)."""
        entries, unproved = [], list(verified.unproved)
        for entry in verified.entries:
            if self._follower.holds(db, entry.place):
                entries.append(entry)
                continue
            unproved.append(entry.txid)
            before = payments.entries.get(entry.txid)
            if before is not None and isinstance(before.state, Unconfirmed):
                entries.append(replace(entry, place=before.state))
        return replace(verified, entries=tuple(entries), unproved=tuple(unproved))

    async def _judge_omission(
        self, update: ScriptHashChanged, record: ScriptRecord, payments: ScriptPayments, proved: list[LedgerEntry]
    ) -> None:
        """Judge a server that does not list what is proved: it is behind, cuts histories short, or hides payments."""
        log.warning("tracker.proved_payments_unlisted", server=update.server, address=record.address, count=len(proved))
        if self._rechecks.get((update.server, update.scripthash), 0) < PATIENT_RECHECKS:
            return
        if not update.history:  # some servers serve a history above their limit as an empty one
            log.error("tracker.history_truncated", server=update.server, address=record.address)
            return
        place = proved[0].state
        assert isinstance(place, Confirmed)
        try:
            headers = await self._wiring.source.fetch_headers(place.height, 1, server=update.server)
        except SourceError:
            return
        if headers and self._follower.is_header(place.height, headers[0], place.block_hash):
            self._wiring.source.report(
                Misbehaviour(
                    server=update.server,
                    kind="omits-payment",
                    claim=f"the whole history of {record.address}, without {hex_of(proved[0].txid)}",
                    contradiction=f"a merkle branch proves it in block {place.height}, which the server has",
                )
            )


@dataclass(frozen=True, slots=True)
class _Unlisted:
    """What stands and a history does not list: proved payments, and claimed ones."""

    proved: list[LedgerEntry]
    claimed: list[Txid]


def _unlisted(update: ScriptHashChanged, payments: ScriptPayments) -> _Unlisted:
    listed = {claim.txid for claim in update.history}
    missing = [entry for txid, entry in payments.entries.items() if txid not in listed]
    return _Unlisted(
        proved=[entry for entry in missing if isinstance(entry.state, Confirmed)],
        claimed=[entry.txid for entry in missing if isinstance(entry.state, Unconfirmed)],
    )


def _has_moved(payments: ScriptPayments, verified: VerifiedHistory, known: Known) -> bool:
    """Tell whether what was known when the evidence was fetched is known no more."""
    for fact in verified.entries:
        entry = payments.entries.get(fact.txid)
        if entry is None and fact.transaction is None:
            return True  # removed and added again meanwhile
        if entry is not None and isinstance(entry.state, GONE) and known.get(fact.txid) is not None:
            return True  # replaced or dropped meanwhile
    return False


def _place_of(entry: LedgerEntry) -> Confirmed | Unconfirmed | None:
    return None if isinstance(entry.state, GONE) else entry.state
