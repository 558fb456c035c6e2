"""The histories' side of the spine: fetch what would prove a claim, judge it, commit what holds.

What could not be proved is kept as unconfirmed and asked again, with growing pauses: "not yet" is never a verdict.
"""

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import structlog
import trio

from lightipn.bitcoin.hashes import ScriptHash, Txid, hex_of
from lightipn.chain.history import HistoryEntry
from lightipn.chain.source import ChainSource, ScriptHashChanged, SourceLost, TipChanged
from lightipn.chain.verifier import (
    Confirmed,
    Evidence,
    Missing,
    Place,
    Unconfirmed,
    VerifiedHistory,
    accept_branch,
    accept_transaction,
    missing_of,
    verify,
)
from lightipn.errors import MerkleBranchError, SourceError, TransactionError
from lightipn.ledger import rules
from lightipn.ledger.entries import LedgerEntry
from lightipn.ledger.events import PaymentEvent
from lightipn.outbox.messages import Policy
from lightipn.store import chain as chain_store
from lightipn.store import ledger as ledger_store
from lightipn.store import reviews
from lightipn.store.database import Database, Store
from lightipn.tracker.chain_follower import ChainFollower
from lightipn.tracker.events import log_events

HISTORY_WORKERS = 64
# So many transactions or branches of one history are asked for at a time: a long history costs no task per entry.
EVIDENCE_PAGE = 500
FIRST_RECHECK_S = 2.0
LONGEST_RECHECK_S = 300.0
MAX_LOOKUP_HISTORY = 1000
# So often a branch may fail to prove its claim before the server is blamed for it: two reorgs in a row are rare.
PATIENT_RECHECKS = 3

log = structlog.get_logger("tracker")


@dataclass(frozen=True, slots=True)
class _Recorded:
    """What a transaction did: the events, whether a message is due because of it, and whether all was proved."""

    events: tuple[PaymentEvent, ...]
    is_due: bool
    is_complete: bool


class Tracker:
    """Works the source's updates into the store.

    Args:
        ring: called after a commit that made a message due.
        clock: unix seconds.
    """

    def __init__(
        self,
        *,
        source: ChainSource,
        store: Store,
        follower: ChainFollower,
        policies: Mapping[str, Policy],
        ring: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._source = source
        self._store = store
        self._follower = follower
        self._policies = policies
        self._ring = ring
        self._clock = clock
        self._gate = follower.gate
        self._progress = trio.Event()
        self._rechecks: dict[ScriptHash, int] = {}
        # scripts under way → the newest update that came meanwhile
        self._under_way: dict[ScriptHash, ScriptHashChanged | None] = {}

    async def run(self) -> None:
        """Work on updates for ever: histories side by side, the chain by one task."""
        send, receive = trio.open_memory_channel[ScriptHashChanged](0)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._follower.run)
            for _ in range(HISTORY_WORKERS):
                nursery.start_soon(self._work, receive.clone())
            async for update in self._source.updates():
                match update:
                    case TipChanged():
                        self._follower.tell_tip(update)
                    case ScriptHashChanged():
                        await send.send(update)
                    case SourceLost():
                        pass  # the source reconnects by itself; what waits there shows in its statistics

    def progress(self) -> trio.Event:
        """Return an event that is set when the next history has been committed."""
        return self._progress

    def _tell_progress(self) -> None:
        self._progress.set()
        self._progress = trio.Event()

    async def _work(self, receive: trio.MemoryReceiveChannel[ScriptHashChanged]) -> None:
        async for update in receive:
            if update.scripthash in self._under_way:
                # One at a time for each script, in the order received: what is known when evidence is fetched must
                # still be what is known when it is committed.
                self._under_way[update.scripthash] = update
                continue
            following: ScriptHashChanged | None = update
            while following is not None:
                self._under_way[update.scripthash] = None
                await self._absorb(following)
                following = self._under_way.pop(update.scripthash)

    def _recheck(self, scripthash: ScriptHash, *, reason: str) -> None:
        """Ask again later: something of the history could not be fetched or proved."""
        tries = self._rechecks[scripthash] = self._rechecks.get(scripthash, 0) + 1
        pause_s = min(FIRST_RECHECK_S * 2.0 ** min(tries - 1, 20), LONGEST_RECHECK_S)
        log.info("tracker.proof_postponed", scripthash=hex_of(scripthash), reason=reason, again_in_s=pause_s)
        self._source.recheck(scripthash, after_s=pause_s)

    async def _absorb(self, update: ScriptHashChanged) -> None:
        """Prove what a server claims about a script, and commit what holds."""
        record, payments = await self._store.read(
            lambda db: (
                ledger_store.load_script(db, update.scripthash),
                ledger_store.load_payments(db, update.scripthash),
            )
        )
        if record is None or payments is None:  # removed meanwhile; whoever removed it has the source told
            self._rechecks.pop(update.scripthash, None)
            return
        if record.wanted_until is not None and len(update.history) > MAX_LOOKUP_HISTORY:
            await self._store.transact(lambda db: ledger_store.save_trouble(db, update.scripthash, "history-too-long"))
            self._source.absorbed(update.scripthash, update.status)
            self._tell_progress()
            return
        listed = {claim.txid for claim in update.history}
        vanished = sum(isinstance(e.state, Confirmed) and txid not in listed for txid, e in payments.entries.items())
        if vanished:  # a server's limit (Fulcrum serves a huge history as none), or a lie; what was proved stands
            log.warning(
                "tracker.proved_payments_unlisted", server=update.server, address=record.address, count=vanished
            )
        known = {txid: _place_of(entry) for txid, entry in payments.entries.items()}
        is_patient = self._rechecks.get(update.scripthash, 0) < PATIENT_RECHECKS
        evidence = await self._fetch_evidence(missing_of(update.history, known), update.server, is_patient=is_patient)
        verified = verify(update.history, known, evidence)
        async with self._gate.shared():
            recorded = await self._store.transact(lambda db: self._record_history(db, update, verified))
            if recorded.is_complete:
                self._rechecks.pop(update.scripthash, None)
                self._source.absorbed(update.scripthash, update.status)
            else:
                self._recheck(update.scripthash, reason="not all of it is proved yet")
        log_events(recorded.events)
        if recorded.is_due:
            self._ring()
        self._tell_progress()

    def _record_history(self, db: Database, update: ScriptHashChanged, verified: VerifiedHistory) -> _Recorded:
        payments = ledger_store.load_payments(db, update.scripthash)
        if payments is None:  # removed meanwhile
            return _Recorded((), is_due=False, is_complete=True)
        if any(fact.transaction is None and fact.txid not in payments.entries for fact in verified.entries):
            # removed and added again meanwhile: what was known when the evidence was fetched is known no more
            return _Recorded((), is_due=False, is_complete=False)
        now = self._clock()
        held = self._held_by_stored_chain(db, verified)
        delta = rules.absorbed(payments, held, now=int(now))
        ledger_store.save_entries(db, update.scripthash, delta.entries)
        is_complete = not held.unproved
        ledger_store.save_status(db, update.scripthash, update.status, is_complete=is_complete, now=int(now))
        after = replace(payments, entries=payments.entries | {entry.txid: entry for entry in delta.entries})
        is_due = bool(delta.entries) and reviews.review_payments(
            db, self._policies, after, tip_height=chain_store.load_tip_height(db), now=now
        )
        return _Recorded(delta.events, is_due=is_due, is_complete=is_complete)

    def _held_by_stored_chain(self, db: Database, verified: VerifiedHistory) -> VerifiedHistory:
        """Take back confirmations in blocks that left the chain since they were proved (a reorg in between)."""
        entries, unproved = [], list(verified.unproved)
        for entry in verified.entries:
            place = entry.place
            if (
                isinstance(place, Confirmed)
                and place.height > self._follower.chain.base.height
                and chain_store.load_block_hash(db, place.height) != place.block_hash
            ):
                unproved.append(entry.txid)
                entries.append(replace(entry, place=Unconfirmed()))
            else:
                entries.append(entry)
        return VerifiedHistory(entries=tuple(entries), unproved=tuple(unproved))

    # --- evidence ---

    async def _fetch_evidence(self, missing: Missing, server: str, *, is_patient: bool) -> Evidence:
        """Fetch what is missing, all at once; what cannot be had leaves its entry unproved, and no other."""
        evidence = Evidence()
        for page in itertools.count(0, EVIDENCE_PAGE):
            transactions = missing.transactions[page : page + EVIDENCE_PAGE]
            branches = missing.branches[page : page + EVIDENCE_PAGE]
            if not transactions and not branches:
                break
            async with trio.open_nursery() as nursery:
                for txid in transactions:
                    nursery.start_soon(self._fetch_transaction, txid, evidence, server)
                for claim in branches:
                    nursery.start_soon(self._fetch_proof, claim, evidence, server, is_patient)
        return evidence

    async def _fetch_transaction(self, txid: Txid, evidence: Evidence, server: str) -> None:
        raw = b""
        try:
            raw = await self._source.fetch_transaction(txid)
            evidence.transactions[txid] = accept_transaction(txid, raw)
        except TransactionError as error:
            self._source.report(server, f"transaction: {error}", raw)
        except SourceError as error:
            log.info("tracker.transaction_unavailable", server=server, txid=hex_of(txid), reason=str(error))

    async def _fetch_proof(self, claim: HistoryEntry, evidence: Evidence, server: str, is_patient: bool) -> None:
        """Fetch the branch and the header that would prove one claim."""
        height = claim.height
        assert height is not None
        try:
            branch = await self._source.fetch_merkle_branch(claim.txid, height)
            header = await self._follower.header_at(height, server)
            if header is None:
                return
            accept_branch(claim.txid, branch, header)
        except MerkleBranchError as error:
            # Often a reorg between two answers, so no server is blamed at once: the claim stays unproved, and a
            # recheck asks for branch and height anew. One that still does not prove it then is of no use.
            log.warning("tracker.branch_refused", server=server, txid=hex_of(claim.txid), reason=str(error))
            if not is_patient:
                self._source.report(server, f"branch: {error}")
            return
        except SourceError as error:
            log.info("tracker.branch_unavailable", server=server, txid=hex_of(claim.txid), reason=str(error))
            return
        evidence.branches[claim.txid] = branch
        evidence.headers[height] = header


def _place_of(entry: LedgerEntry) -> Place:
    return entry.state if isinstance(entry.state, Confirmed) else Unconfirmed()
