"""What proves itself: transactions, branches, and the outputs that are spent; any server may supply them.

One that supplies a false one is reported, and the next is asked.
"""

import contextlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import structlog
import trio

from lightipn.bitcoin.hashes import ScriptHash, Txid, hex_of, scripthash_of
from lightipn.bitcoin.header import BlockHeader, parse_header
from lightipn.bitcoin.transaction import AMBIGUOUS_BYTES, Outpoint, Transaction, TxOutput
from lightipn.chain.history import HistoryEntry
from lightipn.chain.source import ChainSource, MerkleBranch, Misbehaviour
from lightipn.chain.verifier import Confirmed, accept_branch, accept_transaction
from lightipn.errors import (
    MerkleBranchError,
    SourceError,
    SourceRefusedError,
    SourceUnavailableError,
    TransactionError,
)
from lightipn.tracker.chain_follower import ChainFollower

PREVOUTS_TIMEOUT_S = 2.0
SILENCE_S = 5.0
MOST_PREVOUTS = 100
PARENTS_KEPT = 200

log = structlog.get_logger("tracker")


@dataclass(frozen=True, slots=True)
class Prevout:
    """An output that a payment spends."""

    outpoint: Outpoint
    output: TxOutput

    @property
    def scripthash(self) -> ScriptHash:
        """The scripthash of its script."""
        return scripthash_of(self.output.script)


@dataclass(frozen=True, slots=True)
class Proof:
    """A branch, and the header of our chain that it leads to."""

    branch: MerkleBranch
    header: BlockHeader


class ProofFetcher:
    """Fetches what needs no witness, and refuses what does not hold."""

    def __init__(self, source: ChainSource, follower: ChainFollower) -> None:
        self._source = source
        self._follower = follower
        self._parents: OrderedDict[Txid, Transaction] = OrderedDict()
        self._silent_until: dict[Txid, float] = {}

    # --- transactions ---

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
                self.report_transaction(answer.server, txid, error, answer.raw)
                avoid.add(answer.server)

    def report_transaction(self, server: str, txid: Txid, error: TransactionError, raw: bytes) -> None:
        """Report a server whose bytes are not the transaction that was asked for."""
        self._source.report(
            Misbehaviour(
                server=server,
                kind="false-transaction",
                claim=f"raw bytes of transaction {hex_of(txid)}",
                contradiction=str(error),
                raw=raw,
            )
        )

    async def prevouts_of(
        self, spends: Sequence[Outpoint], server: str, *, timeout_s: float = PREVOUTS_TIMEOUT_S
    ) -> tuple[list[Prevout], str]:
        """Return the outputs that are spent, as far as they can be had in time, and what is wrong with one of them."""
        outputs = await self._unspent_of(spends[:MOST_PREVOUTS], timeout_s)
        wanted = dict.fromkeys(outpoint.txid for outpoint in spends[:MOST_PREVOUTS] if outpoint not in outputs)
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
            if outpoint in outputs:
                prevouts.append(Prevout(outpoint, outputs[outpoint]))
                continue
            parent = parents.get(outpoint.txid)
            if parent is None:
                continue
            if outpoint.index >= len(parent.outputs):
                flaws.append("it spends an output that does not exist")
                continue
            prevouts.append(Prevout(outpoint, parent.outputs[outpoint.index]))
        return prevouts, flaws[0] if flaws else ""

    async def _unspent_of(self, spends: Sequence[Outpoint], timeout_s: float) -> dict[Outpoint, TxOutput]:
        """Return the outputs that the source itself keeps, where it is one's own node."""
        outputs: dict[Outpoint, TxOutput] = {}
        with trio.move_on_after(timeout_s), contextlib.suppress(SourceError):
            for outpoint in spends:
                output = await self._source.fetch_output(outpoint)
                if output is not None:
                    outputs[outpoint] = output
        return outputs

    async def _parent(self, txid: Txid, server: str) -> Transaction:
        """Return a transaction that is spent from; the last few are kept, since spend watching asks for them again."""
        found = self._parents.get(txid)
        if found is None:
            found = self._parents[txid] = await self.transaction(txid, server)
            if len(self._parents) > PARENTS_KEPT:
                self._parents.popitem(last=False)
        return found

    # --- branches ---

    async def proof_of(self, claim: HistoryEntry, server: str) -> Proof | None:
        """Fetch the branch and the header that prove one claim, from any server; None if nobody proves it."""
        height = claim.height
        assert height is not None
        refuted: list[MerkleBranch] = []
        proof = None
        while proof is None:
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
            else:
                proof = Proof(branch, header)
        for branch in refuted:
            await self._judge_branch(claim.txid, height, branch.server)
        return proof

    async def proved_place(self, claim: HistoryEntry, server: str) -> Confirmed | None:
        """Return where a claimed transaction is proved to be, or None."""
        if claim.height is None:
            return None
        proof = await self.proof_of(claim, server)
        return None if proof is None else Confirmed(proof.header.block_hash, claim.height, proof.branch.position)

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
