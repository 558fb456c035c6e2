"""What hooks show of a payment beside the payment: what it spends, and how it stands in the mempool.

Asked only for scripts that a hook is about, and never for long: what does not come in time is left out.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import structlog
import trio

from lightipn.bitcoin.hashes import Txid
from lightipn.bitcoin.transaction import Transaction, TxOutput, details_of
from lightipn.chain.source import FeeHistogram, ScriptHashChanged
from lightipn.chain.verifier import Unconfirmed, VerifiedEntry, VerifiedHistory
from lightipn.errors import SourceError
from lightipn.ledger.entries import Standing
from lightipn.ledger.transactions import KnownTransaction
from lightipn.store import hooks as hook_store
from lightipn.store import subscriptions as subscription_store
from lightipn.store.transactions import Background
from lightipn.tracker.proofs import ProofFetcher
from lightipn.tracker.wiring import Wiring

# Of a history so many new transactions are looked into; older ones of a long history are nobody's news.
MOST_LOOKED_INTO = 50
HISTOGRAM_TIMEOUT_S = 5.0
REFRESH_S = 30.0

log = structlog.get_logger("tracker")


Number = TypeVar("Number", int, float)


def median_of(claims: Sequence[Number]) -> Number:
    """Return the middle one of what servers claim, of two in the middle the lower one; there must be one."""
    return sorted(claims)[(len(claims) - 1) // 2]


class Backgrounds:
    """Finds out what hooks show."""

    def __init__(self, wiring: Wiring, proofs: ProofFetcher) -> None:
        self._wiring = wiring
        self._proofs = proofs
        self._histograms: list[FeeHistogram] = []

    async def run(self) -> None:
        """Keep what the servers say of their mempools fresh, while there are hooks: no payment waits for it."""
        while True:
            if await self._wiring.store.read(hook_store.has_hooks):
                await self.refresh()
            await trio.sleep(REFRESH_S)

    async def find(self, verified: VerifiedHistory, update: ScriptHashChanged) -> Mapping[Txid, Background]:
        """Return what could be found out about the new transactions of a history, if a hook is about its script."""
        new = [entry for entry in verified.entries if entry.transaction is not None][-MOST_LOOKED_INTO:]
        if not new or not await self._wiring.store.read(lambda db: subscription_store.has_hooks(db, update.scripthash)):
            return {}
        has_parent = {claim.txid for claim in update.history if claim.has_unconfirmed_parent}
        found: dict[Txid, Background] = {}
        async with trio.open_nursery() as nursery:
            for entry in new:
                nursery.start_soon(self._find_one, entry, entry.txid in has_parent, update.server, found)
        return found

    async def _find_one(
        self, entry: VerifiedEntry, has_parent: bool, server: str, found: dict[Txid, Background]
    ) -> None:
        transaction = entry.transaction
        assert transaction is not None  # the caller chose those that have one
        spent = await self.spent_by(transaction, server)
        fee_sat = KnownTransaction(transaction=transaction, spent=spent).fee_sat
        vbytes_ahead = None
        if fee_sat is not None and isinstance(entry.place, Unconfirmed):
            vbytes_ahead = self._vbytes_ahead(fee_sat / details_of(transaction).vbytes)
        standing = Standing(has_unconfirmed_parent=has_parent, vbytes_ahead=vbytes_ahead)
        found[entry.txid] = Background(spent=spent, standing=standing)

    async def spent_by(self, transaction: Transaction, server: str) -> tuple[TxOutput | None, ...]:
        """Return the outputs that a transaction spends, as far as they can be had within two seconds."""
        if transaction.is_coinbase:
            return (None,)
        prevouts, _ = await self._proofs.prevouts_of(transaction.spends, server)
        outputs = {prevout.outpoint: prevout.output for prevout in prevouts}
        return tuple(outputs.get(outpoint) for outpoint in transaction.spends)

    def _vbytes_ahead(self, fee_rate: float) -> int | None:
        """Return how much of the mempool pays more, by the median of what the servers say."""
        if not self._histograms:
            return None
        return median_of([histogram.vbytes_above(fee_rate) for histogram in self._histograms])

    async def refresh(self) -> None:
        """Ask all servers what their mempools pay; those that are silent are left out."""
        found: list[FeeHistogram] = []

        async def ask(server: str) -> None:
            try:
                found.append(await self._wiring.source.fetch_fee_histogram(server=server))
            except SourceError as error:
                log.info("tracker.histogram_unavailable", server=server, reason=str(error))

        with trio.move_on_after(HISTOGRAM_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for server in self._wiring.source.connected():
                    nursery.start_soon(ask, server)
        self._histograms = found
