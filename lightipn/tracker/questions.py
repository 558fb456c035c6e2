"""Questions that are no part of the data flow: what a caller of the API wants to know of the network, once."""

from collections.abc import Awaitable, Callable

import structlog
import trio

from lightipn.bitcoin.hashes import Txid, hex_of
from lightipn.bitcoin.transaction import Transaction, TxOutput
from lightipn.chain.source import ChainSource
from lightipn.errors import SourceError, SourceRefusedError, SourceUnavailableError
from lightipn.tracker.backgrounds import Backgrounds, median_of
from lightipn.tracker.proofs import ProofFetcher

ANSWER_TIMEOUT_S = 10.0
FEE_TIMEOUT_S = 3.0

log = structlog.get_logger("tracker")


class Questions:
    """Asks servers, and believes what proves itself; of fees the median."""

    def __init__(self, source: ChainSource, proofs: ProofFetcher, backgrounds: Backgrounds) -> None:
        self._source = source
        self._proofs = proofs
        self._backgrounds = backgrounds

    async def transaction(self, txid: Txid) -> Transaction:
        """Return a transaction that hashes to its txid.

        Raises:
            SourceError: nobody has it, or nobody answers.
        """
        with trio.move_on_after(ANSWER_TIMEOUT_S):
            return await self._proofs.transaction(txid, "")
        raise SourceUnavailableError("no server answered in time", source="")

    async def spent_by(self, transaction: Transaction) -> tuple[TxOutput | None, ...]:
        """Return the outputs that a transaction spends, in order, as far as they can be had within two seconds."""
        return await self._backgrounds.spent_by(transaction, "")

    async def broadcast(self, transaction: Transaction) -> None:
        """Hand a transaction to all servers; one that takes it, or has it already, is enough.

        Raises:
            SourceRefusedError: no server takes it.
            SourceUnavailableError: no server answers.
        """
        refusals: list[SourceError] = []
        takers: list[str] = []

        async def hand(server: str) -> None:
            try:
                await self._source.broadcast(transaction.raw, server=server)
            except SourceError as error:
                refusals.append(error)
            else:
                takers.append(server)

        await self._ask_all(hand, timeout_s=ANSWER_TIMEOUT_S)
        log.info(
            "tracker.transaction_broadcast",
            txid=hex_of(transaction.txid),
            taken_by=len(takers),
            refused_by=len(refusals),
        )
        if takers:
            return
        if any(isinstance(error, SourceRefusedError) for error in refusals):
            await self._check_known(transaction.txid)
            return
        raise SourceUnavailableError("no server answered in time", source="")

    async def _check_known(self, txid: Txid) -> None:
        """Servers refuse what they have already, in words of their own: whether they have it shows when it is asked.

        Raises:
            SourceError: they do not have it.
        """
        await self.transaction(txid)

    async def fee_rate(self, target_blocks: int) -> float | None:
        """Return the median of the servers' estimates, in satoshis a virtual byte; None where none has one.

        Raises:
            SourceUnavailableError: no server answers.
        """
        answers: list[float | None] = []

        async def ask(server: str) -> None:
            try:
                answers.append(await self._source.fetch_fee_rate(target_blocks, server=server))
            except SourceError as error:
                log.info("tracker.estimate_unavailable", server=server, reason=str(error))

        await self._ask_all(ask, timeout_s=FEE_TIMEOUT_S)
        if not answers:
            raise SourceUnavailableError("no server answered in time", source="")
        rates = [rate for rate in answers if rate is not None]
        return median_of(rates) if rates else None

    async def _ask_all(self, ask: Callable[[str], Awaitable[None]], *, timeout_s: float) -> None:
        with trio.move_on_after(timeout_s):
            async with trio.open_nursery() as nursery:
                for server in self._source.connected():
                    nursery.start_soon(ask, server)
