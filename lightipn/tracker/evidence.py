"""What is asked of servers before a claim is judged: transactions, proofs, and who else says so.

Nobody is believed alone. A transaction and a branch prove themselves, so any server may supply them; one that supplies
a false one is reported, and the next is asked. An unconfirmed payment cannot be proved: it is believed once enough
servers hold it, its inputs are there, and nothing that stands contradicts it.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import structlog
import trio

from lightipn.bitcoin.hashes import ScriptHash, Txid, hex_of, scripthash_of
from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.transaction import AMBIGUOUS_BYTES, Outpoint, Transaction
from lightipn.chain.history import HistoryEntry
from lightipn.chain.source import ChainSource, MerkleBranch, Misbehaviour, ScriptHashChanged
from lightipn.chain.verifier import Confirmed, Evidence, Missing, Unconfirmed, accept_branch, accept_transaction
from lightipn.errors import (
    MerkleBranchError,
    SourceError,
    SourceRefusedError,
    SourceUnavailableError,
    TransactionError,
)
from lightipn.ledger.entries import ScriptPayments
from lightipn.ledger.relevance import unrelated_of
from lightipn.tracker.chain_follower import ChainFollower

# What one history may take before what was found is committed, and the rest asked again: a server that draws its
# answers out delays itself.
GATHERING_TIMEOUT_S = 12.0
# Claims without a block of one history that others are asked about at a time, and how many of one server may prove
# unfounded: 200 at once, and then one a second. Else one server's inventions would flood all others with questions.
MOST_WITNESSED = 25
MOST_LOOKED_INTO = 50
CREDIT = 200.0
CREDIT_A_SECOND = 1.0
HEARING_TIMEOUT_S = 5.0
PREVOUTS_TIMEOUT_S = 2.0
SILENCE_S = 5.0
MOST_PREVOUTS = 100
PARENTS_KEPT = 200

log = structlog.get_logger("tracker")


@dataclass(slots=True)
class Hearing:
    """Who holds a transaction.

    Args:
        transaction: None where nobody does.
        denying: servers that answered that they do not know it.
    """

    transaction: Transaction | None = None
    holding: set[str] = field(default_factory=set)
    denying: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class Prevout:
    """An output that a payment spends."""

    outpoint: Outpoint
    scripthash: ScriptHash
    amount_sat: int


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
    """Asks a source for what a verdict needs.

    Args:
        min_seen_by: servers that must hold an unconfirmed payment; fewer where fewer can be asked.
    """

    def __init__(self, source: ChainSource, follower: ChainFollower, *, min_seen_by: int) -> None:
        self._source = source
        self._follower = follower
        self._min_seen_by = min_seen_by
        self._parents: OrderedDict[Txid, Transaction] = OrderedDict()
        self._silent_until: dict[Txid, float] = {}
        self._credit = _Credit()

    @property
    def needed(self) -> int:
        """How many servers must hold an unconfirmed payment now."""
        return max(1, min(self._min_seen_by, self._source.voices()))

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
        await self._fetch_proof(claim, evidence, server)
        if is_unknown and claim.txid in evidence.branches:
            await self._fetch_transaction(claim.txid, evidence, server)

    async def admit_all(self, txids: Sequence[Txid], evidence: Evidence, payments: ScriptPayments, server: str) -> None:
        """Admit claims side by side, as many as the server may still have the others be asked about."""
        with trio.move_on_after(GATHERING_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for txid in txids[:MOST_WITNESSED]:
                    if self._credit.take(server):
                        nursery.start_soon(self.admit, txid, evidence, payments, server)

    # --- what proves itself ---

    async def transaction(self, txid: Txid, server: str) -> Transaction:
        """Return a transaction from any server, the named one first.

        Raises:
            SourceError: nobody has it, or nobody answers.
        """
        avoid: set[str] = set()
        while True:
            answer = await self._source.fetch_transaction(txid, prefer=server, avoid=avoid)
            try:
                return accept_transaction(txid, answer.raw)
            except TransactionError as error:
                if len(answer.raw) == AMBIGUOUS_BYTES:  # refused by us, and yet it may be what was asked for
                    raise SourceUnavailableError(str(error), source=answer.server) from error
                self._report_transaction(answer.server, txid, error, answer.raw)
                avoid.add(answer.server)

    def _report_transaction(self, server: str, txid: Txid, error: TransactionError, raw: bytes) -> None:
        self._source.report(
            Misbehaviour(
                server=server,
                kind="false-transaction",
                claim=f"raw bytes of transaction {hex_of(txid)}",
                contradiction=str(error),
                raw=raw,
            )
        )

    async def _fetch_transaction(self, txid: Txid, evidence: Evidence, server: str) -> None:
        try:
            evidence.transactions[txid] = await self.transaction(txid, server)
        except SourceError as error:
            log.info("tracker.transaction_unavailable", server=server, txid=hex_of(txid), reason=str(error))

    async def _fetch_proof(self, claim: HistoryEntry, evidence: Evidence, server: str) -> None:
        """Fetch the branch and the header that prove one claim, from any server."""
        height = claim.height
        assert height is not None
        refuted: list[MerkleBranch] = []
        while True:
            try:
                branch = await self._source.fetch_merkle_branch(
                    claim.txid, height, prefer=server, avoid={one.server for one in refuted}
                )
                header = await self._follower.header_at(height, server)
            except SourceError as error:
                log.info("tracker.branch_unavailable", server=server, txid=hex_of(claim.txid), reason=str(error))
                break
            if header is None:
                break
            try:
                accept_branch(claim.txid, branch, header)
            except MerkleBranchError as error:
                log.warning("tracker.branch_refused", server=branch.server, txid=hex_of(claim.txid), reason=str(error))
                refuted.append(branch)
                continue
            evidence.branches[claim.txid] = branch
            evidence.headers[height] = header
            break
        for branch in refuted:
            await self._judge_branch(claim.txid, height, branch.server)

    async def _judge_branch(self, txid: Txid, height: int, server: str) -> None:
        """Report a server whose branch does not lead to the very header that it and we have at that height.

        A reorg between two answers makes an honest branch look false. So it is asked again: header, branch, header.
        """
        try:
            before = await self._source.fetch_headers(height, 1, server=server)
            branch = await self._source.fetch_merkle_branch(txid, height, server=server)
            after = await self._source.fetch_headers(height, 1, server=server)
        except SourceError:
            return  # it shows nothing now, so it proves nothing against itself
        if not before or before != after:
            return
        try:
            accept_branch(txid, branch, parse_header(before[0]))
        except MerkleBranchError as error:
            self._source.report(
                Misbehaviour(
                    server=server,
                    kind="false-branch",
                    claim=f"transaction {hex_of(txid)} is in its block {height}",
                    contradiction=str(error),
                    raw=b"".join(branch.siblings),
                )
            )

    async def proved_place(self, claim: HistoryEntry, server: str) -> Confirmed | None:
        """Return where a claimed transaction is proved to be, or None."""
        evidence = Evidence()
        await self._fetch_proof(claim, evidence, server)
        branch = evidence.branches.get(claim.txid)
        if branch is None or claim.height is None:
            return None
        return Confirmed(evidence.headers[claim.height].block_hash, claim.height, branch.position)

    # --- what only witnesses can tell ---

    async def hear(self, txid: Txid, *, enough: int | None = None, servers: Sequence[str] | None = None) -> Hearing:
        """Ask servers whether they hold a transaction.

        Args:
            enough: stop once so many hold it; None asks all to the end.
            servers: None for all that are connected.
        """
        hearing = Hearing()
        with trio.move_on_after(HEARING_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for server in self._source.connected() if servers is None else servers:
                    nursery.start_soon(self._hear_one, txid, server, hearing, enough, nursery.cancel_scope)
        return hearing

    async def _hear_one(
        self, txid: Txid, server: str, hearing: Hearing, enough: int | None, scope: trio.CancelScope
    ) -> None:
        raw = b""
        try:
            raw = (await self._source.fetch_transaction(txid, server=server)).raw
            if hearing.transaction is None or hearing.transaction.raw != raw:
                hearing.transaction = accept_transaction(txid, raw)
            hearing.holding.add(server)
        except TransactionError as error:
            if len(raw) != AMBIGUOUS_BYTES:
                self._report_transaction(server, txid, error, raw)
        except SourceRefusedError:
            hearing.denying.add(server)
        except SourceError:
            pass  # gone: neither a yes nor a no
        if enough is not None and len(hearing.holding) >= enough:
            scope.cancel()

    async def admit(self, txid: Txid, evidence: Evidence, payments: ScriptPayments, server: str) -> None:
        """Enter a transaction into the evidence where enough servers hold it and nothing contradicts it.

        Args:
            payments: what is known of the script; a transaction that spends what a proved one spent is refused, and one
                that would replace an unconfirmed one must be held by servers that do not list that any more.
        """
        needed = self.needed
        hearing = await self.hear(txid, enough=needed)
        transaction = hearing.transaction
        holding = hearing.holding
        if txid in payments.entries:
            # It is gone, perhaps with its block: a node may still know its bytes, so it must be listed again.
            holding = (await self.listed(txid, payments.scripthash)).holding
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
                holding = await self.holders_without(txid, entry.txid, payments.scripthash)
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

    async def leave_out_unrelated(
        self, evidence: Evidence, payments: ScriptPayments, update: ScriptHashChanged
    ) -> None:
        """Take out of the evidence what does not concern the script, or spends coins of it that the server hides."""
        fresh = {txid: tx for txid, tx in evidence.transactions.items() if txid not in payments.entries}
        unrelated = {transaction.txid for transaction in unrelated_of(payments, fresh)}
        doubtful = [tx for txid, tx in fresh.items() if txid in unrelated or len(fresh) <= MOST_LOOKED_INTO]
        listed = {claim.txid for claim in update.history} | payments.entries.keys()

        async def look_into(transaction: Transaction) -> None:
            prevouts, _ = await self.prevouts_of(transaction.spends, update.server)
            own = [prevout for prevout in prevouts if prevout.scripthash == payments.scripthash]
            if transaction.txid in unrelated and not own and len(prevouts) == len(transaction.spends):
                self._report_list(update.server, transaction, "it neither pays the script nor spends from it")
            elif any(prevout.outpoint.txid not in listed for prevout in own):
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

    def _log_refusal(self, txid: Txid, server: str, reason: str) -> None:
        log.info("tracker.claim_not_believed", server=server, txid=hex_of(txid), reason=reason)

    async def listed(self, txid: Txid, scripthash: ScriptHash, *, servers: Iterable[str] | None = None) -> Hearing:
        """Ask servers, by default all, whether they list a transaction for a script.

        A node with an index of all transactions still has the bytes of one whose block left the chain; only a list says
        that it counts.
        """
        hearing = Hearing()

        async def ask(server: str) -> None:
            with contextlib.suppress(SourceError):  # gone, or the history is too large for it: neither a yes nor a no
                history = await self._source.fetch_history(scripthash, server=server)
                (hearing.holding if any(entry.txid == txid for entry in history) else hearing.denying).add(server)

        with trio.move_on_after(HEARING_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for server in self._source.connected() if servers is None else servers:
                    nursery.start_soon(ask, server)
        return hearing

    async def holders_without(self, txid: Txid, rival: Txid, scripthash: ScriptHash) -> set[str]:
        """Return the servers that hold a transaction and do not list its rival for the rival's script."""
        needed = self.needed
        first = (await self.hear(txid, enough=needed)).holding
        agreeing = (await self.listed(rival, scripthash, servers=first)).denying
        if len(agreeing) >= needed:
            return agreeing  # without waiting for those who are silent
        others = (await self.hear(txid)).holding - first
        return agreeing | (await self.listed(rival, scripthash, servers=others)).denying

    async def _flaw_of(self, transaction: Transaction, holding: set[str], server: str) -> str:
        """Say why a transaction cannot be real; empty if nothing is known against it."""
        prevouts, flaw = await self.prevouts_of(transaction.spends, server)
        if not flaw and len(prevouts) == len(transaction.spends):
            paid_sat = sum(output.amount_sat for output in transaction.outputs)
            if len(set(transaction.spends)) != len(transaction.spends):
                flaw = "it spends one output twice"
            elif sum(prevout.amount_sat for prevout in prevouts) < paid_sat:
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

    async def prevouts_of(
        self, spends: Sequence[Outpoint], server: str, *, timeout_s: float = PREVOUTS_TIMEOUT_S
    ) -> tuple[list[Prevout], str]:
        """Return the outputs that are spent, as far as they can be had in time, and what is wrong with one of them."""
        wanted = dict.fromkeys(outpoint.txid for outpoint in spends[:MOST_PREVOUTS])
        if timeout_s <= PREVOUTS_TIMEOUT_S:  # who has no time does not wait for the same silence twice
            wanted = {txid: None for txid in wanted if trio.current_time() > self._silent_until.get(txid, 0.0)}
        parents: dict[Txid, Transaction | None] = {}
        flaws: list[str] = []

        async def fetch(txid: Txid) -> None:
            try:
                parents[txid] = await self._parent(txid, server)
            except SourceRefusedError:
                flaws.append("no server knows a transaction that it spends from")
            except SourceError:
                pass  # unknown, and therefore no flaw

        with trio.move_on_after(timeout_s):
            async with trio.open_nursery() as nursery:
                for txid in wanted:
                    nursery.start_soon(fetch, txid)
        now = trio.current_time()
        self._silent_until = {txid: until for txid, until in self._silent_until.items() if until > now}
        self._silent_until |= dict.fromkeys(wanted.keys() - parents.keys(), now + SILENCE_S)
        prevouts = []
        for outpoint in spends[:MOST_PREVOUTS]:
            parent = parents.get(outpoint.txid)
            if parent is None:
                continue
            if outpoint.index >= len(parent.outputs):
                flaws.append("it spends an output that does not exist")
                continue
            output = parent.outputs[outpoint.index]
            prevouts.append(Prevout(outpoint, scripthash_of(output.script), output.amount_sat))
        return prevouts, flaws[0] if flaws else ""

    async def _parent(self, txid: Txid, server: str) -> Transaction:
        """Return a transaction that is spent from; the last few are kept, since spend watching asks for them again."""
        found = self._parents.get(txid)
        if found is None:
            found = self._parents[txid] = await self.transaction(txid, server)
            if len(self._parents) > PARENTS_KEPT:
                self._parents.popitem(last=False)
        return found
