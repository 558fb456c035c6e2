"""What is asked of servers before a claim is judged: transactions, proofs, and who else says so.

Nobody is believed alone. A transaction and a branch prove themselves. An unconfirmed payment cannot be proved: it is
believed once enough servers hold it, its inputs are there, and nothing that stands contradicts it.
"""

from collections.abc import Sequence

import structlog
import trio

from lightipn.bitcoin.hashes import Txid, hex_of
from lightipn.bitcoin.transaction import Transaction
from lightipn.chain.history import HistoryEntry
from lightipn.chain.source import ChainSource, Misbehaviour, ScriptHashChanged
from lightipn.chain.verifier import Confirmed, Evidence, Missing, Unconfirmed
from lightipn.errors import SourceError
from lightipn.ledger.entries import ScriptPayments
from lightipn.ledger.relevance import unrelated_of
from lightipn.tracker.proofs import ProofFetcher
from lightipn.tracker.witnesses import Witnesses

# What one history may take before what was found is committed, and the rest asked again: a server that draws its
# answers out delays itself.
GATHERING_TIMEOUT_S = 12.0
# Claims without a block of one history that others are asked about at a time, and how many of one server may prove
# unfounded: 200 at once, and then one a second. Else one server's inventions would flood all others with questions.
MOST_WITNESSED = 25
MOST_LOOKED_INTO = 50
CREDIT = 200.0
CREDIT_A_SECOND = 1.0

log = structlog.get_logger("tracker")


class _Credit:
    """How many questions to others each server's claims may still cost."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}  # and when that was so

    def take(self, server: str) -> bool:
        now = trio.current_time()
        left, since = self._left.get(server, (CREDIT, now))
        left = min(CREDIT, left + (now - since) * CREDIT_A_SECOND)
        is_enough = left >= 1.0
        self._left[server] = (left - 1.0 if is_enough else left, now)
        return is_enough

    def give_back(self, server: str) -> None:
        left, since = self._left[server]
        self._left[server] = (left + 1.0, since)


class EvidenceFetcher:
    """Gathers what a verdict needs."""

    def __init__(self, source: ChainSource, proofs: ProofFetcher, witnesses: Witnesses) -> None:
        self._source = source
        self._proofs = proofs
        self._witnesses = witnesses
        self._credit = _Credit()

    async def fetch(self, missing: Missing, payments: ScriptPayments, server: str) -> Evidence:
        """Fetch what is missing, all at once; what cannot be had leaves its entry unproved, and no other.

        A transaction that is claimed to be confirmed is fetched only after its branch: invented ones cost nothing.

        Args:
            payments: what is known of the script.
            server: who made the claims; it is asked first.
        """
        evidence = Evidence()
        unknown = set(missing.transactions)
        with trio.move_on_after(GATHERING_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for claim in missing.branches:
                    nursery.start_soon(self._fetch_claim, claim, evidence, server, claim.txid in unknown)
                nursery.start_soon(self.admit_all, missing.witnesses, evidence, payments, server)
        return evidence

    async def _fetch_claim(self, claim: HistoryEntry, evidence: Evidence, server: str, is_unknown: bool) -> None:
        proof = await self._proofs.proof_of(claim, server)
        if proof is None or claim.height is None:
            return
        evidence.branches[claim.txid] = proof.branch
        evidence.headers[claim.height] = proof.header
        if is_unknown:
            await self._fetch_transaction(claim.txid, evidence, server)

    async def _fetch_transaction(self, txid: Txid, evidence: Evidence, server: str) -> None:
        try:
            evidence.transactions[txid] = await self._proofs.transaction(txid, server)
        except SourceError as error:
            log.info("tracker.transaction_unavailable", server=server, txid=hex_of(txid), reason=str(error))

    async def admit_all(self, txids: Sequence[Txid], evidence: Evidence, payments: ScriptPayments, server: str) -> None:
        """Admit claims side by side, as many as the server may still have the others be asked about."""
        with trio.move_on_after(GATHERING_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for txid in txids[:MOST_WITNESSED]:
                    if self._credit.take(server):
                        nursery.start_soon(self.admit, txid, evidence, payments, server)

    async def admit(self, txid: Txid, evidence: Evidence, payments: ScriptPayments, server: str) -> None:
        """Enter a transaction into the evidence where enough servers hold it and nothing contradicts it.

        Args:
            payments: what is known of the script; a transaction that spends what a proved one spent is refused, and one
                that would replace an unconfirmed one must be held by servers that do not list that any more.
        """
        needed = self._witnesses.needed
        hearing = await self._witnesses.hear(txid, enough=needed)
        transaction = hearing.transaction
        holding = hearing.holding
        if txid in payments.entries:
            # It is gone, perhaps with its block: a node may still know its bytes, so it must be listed again.
            holding = (await self._witnesses.listed(txid, payments.scripthash)).holding
        if transaction is None or transaction.is_coinbase or len(holding) < needed:
            self._log_refusal(txid, server, f"{len(holding)} servers hold it, want {needed}")
            return
        spends = set(transaction.spends)
        rivals = [
            entry for entry in payments.entries.values() if entry.txid != txid and spends.intersection(entry.spends)
        ]
        if any(isinstance(entry.state, Confirmed) for entry in rivals):
            self._log_refusal(txid, server, "it spends what a confirmed transaction spent")
            return
        for entry in rivals:
            if isinstance(entry.state, Unconfirmed):
                holding = await self._witnesses.holders_without(txid, entry.txid, payments.scripthash)
        if len(holding) < needed:
            self._log_refusal(txid, server, f"{len(holding)} servers hold it instead of another one, want {needed}")
            return
        flaw = await self._flaw_of(transaction, holding, server)
        if flaw:
            self._log_refusal(txid, server, flaw)
            return
        self._credit.give_back(server)
        evidence.transactions[txid] = transaction
        evidence.seen_by[txid] = len(holding)

    async def _flaw_of(self, transaction: Transaction, holding: set[str], server: str) -> str:
        """Say why a transaction cannot be real; empty if nothing is known against it."""
        prevouts, flaw = await self._proofs.prevouts_of(transaction.spends, server)
        if not flaw and len(prevouts) == len(transaction.spends):
            paid_sat = sum(output.amount_sat for output in transaction.outputs)
            if len(set(transaction.spends)) != len(transaction.spends):
                flaw = "it spends one output twice"
            elif sum(prevout.output.amount_sat for prevout in prevouts) < paid_sat:
                flaw = "it pays more than it spends"
            if flaw:
                for name in sorted(holding):
                    self._report_impossible(name, transaction, flaw)
        return flaw

    def _report_impossible(self, server: str, transaction: Transaction, flaw: str) -> None:
        self._source.report(
            Misbehaviour(
                server=server,
                kind="impossible-transaction",
                claim=f"transaction {hex_of(transaction.txid)} is in the mempool",
                contradiction=flaw,
                raw=transaction.raw,
            )
        )

    def _log_refusal(self, txid: Txid, server: str, reason: str) -> None:
        log.info("tracker.claim_not_believed", server=server, txid=hex_of(txid), reason=reason)

    async def leave_out_unrelated(
        self, evidence: Evidence, payments: ScriptPayments, update: ScriptHashChanged
    ) -> None:
        """Take out of the evidence what does not concern the script, or spends coins of it that the server hides."""
        fresh = {txid: tx for txid, tx in evidence.transactions.items() if txid not in payments.entries}
        unrelated = {transaction.txid for transaction in unrelated_of(payments, fresh)}
        doubtful = [tx for txid, tx in fresh.items() if txid in unrelated or len(fresh) <= MOST_LOOKED_INTO]
        listed = {claim.txid for claim in update.history} | payments.entries.keys()

        async def look_into(transaction: Transaction) -> None:
            prevouts, _ = await self._proofs.prevouts_of(transaction.spends, update.server)
            own = [prevout for prevout in prevouts if prevout.scripthash == payments.scripthash]
            if transaction.txid in unrelated and not own and len(prevouts) == len(transaction.spends):
                self._report_list(update.server, transaction, "it neither pays the script nor spends from it")
            elif any(
                prevout.outpoint.txid not in listed and prevout.outpoint not in payments.unproved for prevout in own
            ):
                unrelated.add(transaction.txid)
                if transaction.txid in evidence.branches:
                    self._report_list(update.server, transaction, "what it spends of the script is not listed")

        async with trio.open_nursery() as nursery:
            for transaction in doubtful[:MOST_LOOKED_INTO]:
                if not transaction.is_coinbase:
                    nursery.start_soon(look_into, transaction)
        for txid in unrelated:
            del evidence.transactions[txid]
            evidence.seen_by.pop(txid, None)

    def _report_list(self, server: str, transaction: Transaction, flaw: str) -> None:
        self._source.report(
            Misbehaviour(
                server=server,
                kind="false-list",
                claim=f"a history that lists {hex_of(transaction.txid)}",
                contradiction=flaw,
                raw=transaction.raw,
            )
        )
