"""What only witnesses can tell: which servers hold a transaction, and which list it.

Silence is neither a yes nor a no.
"""

import contextlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import trio

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.bitcoin.transaction import AMBIGUOUS_BYTES, Transaction
from lightipn.chain.source import ChainSource
from lightipn.chain.verifier import accept_transaction
from lightipn.errors import SourceError, SourceRefusedError, TransactionError
from lightipn.tracker.proofs import ProofFetcher

HEARING_TIMEOUT_S = 5.0


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


class Witnesses:
    """Asks servers side by side about transactions that no block proves.

    Args:
        min_seen_by: servers that must hold an unconfirmed payment; fewer where fewer can be asked.
    """

    def __init__(self, source: ChainSource, proofs: ProofFetcher, *, min_seen_by: int) -> None:
        self._source = source
        self._proofs = proofs
        self._min_seen_by = min_seen_by

    @property
    def needed(self) -> int:
        """How many servers must hold an unconfirmed payment now."""
        return max(1, min(self._min_seen_by, self._source.voices()))

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
                self._proofs.report_transaction(server, txid, error, raw)
        except SourceRefusedError:
            hearing.denying.add(server)
        except SourceError:
            pass  # gone: neither a yes nor a no
        if enough is not None and len(hearing.holding) >= enough:
            scope.cancel()

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
