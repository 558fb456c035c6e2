"""Transactions, of watched addresses or not: what they say, where they are; and handing one to the network."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import trio

from lightipn.bitcoin.address import address_of, parse_address
from lightipn.bitcoin.hashes import Txid, hex_of
from lightipn.bitcoin.transaction import Transaction, parse_transaction
from lightipn.chain.verifier import Confirmed
from lightipn.errors import RequestError, SourceError, SourceRefusedError, TransactionError
from lightipn.ledger.entries import UNKNOWN_STANDING, LedgerEntry, Standing
from lightipn.ledger.standing import confidence_of
from lightipn.ledger.transactions import KnownTransaction
from lightipn.service.ground import Ground
from lightipn.service.lookups import KnownPayments, Lookups
from lightipn.store import chain, ledger, transactions
from lightipn.store.database import Database

MOST_PUSHED_BYTES = 400_000
MOST_OUTPUTS_TRIED = 5
FETCHES_AT_ONCE = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacedTransaction:
    """A transaction, and where it is.

    Args:
        entry: what it did to one of its scripts; its state says where it is, and is proved as every payment is.
        confirmations: 0 outside a block.
        block_time: unix seconds, as its block's header says; None outside a block.
        confidence: from 0 to 1.
    """

    known: KnownTransaction
    entry: LedgerEntry
    confirmations: int
    block_time: int | None
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Tip:
    """Our tip: height, and what it and the block before are called."""

    height: int
    block_hash: bytes
    previous_hash: bytes
    time: int


class Transactions:
    """What transactions say."""

    def __init__(self, ground: Ground, lookups: Lookups) -> None:
        self._ground = ground
        self._store = ground.store
        self._lookups = lookups
        self._fetches = trio.CapacityLimiter(FETCHES_AT_ONCE)

    async def tip(self) -> Tip:
        """Return our tip.

        Raises:
            RequestError: 503 ``not-ready`` before the first header.
        """
        found = await self._store.read(chain.load_tip)
        if found is None:
            raise RequestError("no block is known yet; ask again in a while", code="not-ready", status_hint=503)
        height, block_hash, raw = found
        time = await self._store.read(lambda db: chain.load_time(db, height))
        assert time is not None  # the tip's header is kept
        return Tip(height=height, block_hash=block_hash, previous_hash=raw[4:36], time=time)

    async def show(self, txid: Txid) -> PlacedTransaction:
        """Return a transaction of anybody's, with where it is proved to be.

        Raises:
            RequestError: 404 ``unknown-transaction``; 503 where no server answers, or its place cannot be looked up.
        """
        known = await self._known(txid)
        scripts = [output.script for output in known.transaction.outputs]
        addresses = dict.fromkeys(address_of(script, self._ground.network) for script in scripts)
        refusal = RequestError(
            "none of its outputs can be looked up, so nobody knows where it is", code="no-place", status_hint=503
        )
        tried = [text for text in addresses if text is not None][:MOST_OUTPUTS_TRIED]
        for text in await self._watched_first(tried):
            try:
                payments = await self._lookups.payments(parse_address(text, self._ground.network))
            except RequestError as error:
                refusal = error
                continue
            entry = payments.payments.entries.get(txid)
            if entry is not None:
                return await self._placed(known, entry, payments)
        raise refusal

    async def _watched_first(self, addresses: Sequence[str]) -> Sequence[str]:
        """Order addresses so that those come first whose payments are known already."""

        def work(db: Database) -> list[str]:
            def is_strange(text: str) -> bool:
                return ledger.load_script(db, parse_address(text, self._ground.network).scripthash) is None

            return sorted(addresses, key=is_strange)

        return await self._store.read(work)

    async def show_all(self, payments: KnownPayments, entries: Sequence[LedgerEntry]) -> Sequence[PlacedTransaction]:
        """Return the transactions of payments; those that cannot be had now are left out."""
        found: dict[Txid, PlacedTransaction] = {}

        async def one(entry: LedgerEntry) -> None:
            async with self._fetches:
                try:
                    known = await self._known(entry.txid)
                except RequestError:
                    return
            found[entry.txid] = await self._placed(known, entry, payments)

        async with trio.open_nursery() as nursery:
            for entry in entries:
                nursery.start_soon(one, entry)
        return [found[entry.txid] for entry in entries if entry.txid in found]

    async def times_of(self, entries: Sequence[LedgerEntry]) -> Mapping[int, int]:
        """Return the times of the blocks of payments by height, in unix seconds, as far as their headers are kept."""
        heights = {entry.state.height for entry in entries if isinstance(entry.state, Confirmed)}

        def work(db: Database) -> dict[int, int]:
            times = {height: chain.load_time(db, height) for height in heights}
            return {height: time for height, time in times.items() if time is not None}

        return await self._store.read(work)

    async def confidences_of(self, entries: Sequence[LedgerEntry]) -> Mapping[Txid, float]:
        """Return the confidence of unconfirmed payments."""
        txids = [entry.txid for entry in entries]
        standings = await self._store.read(lambda db: transactions.load_standings(db, txids))
        now = self._ground.clock()
        return {
            entry.txid: confidence_of(entry, standings.get(entry.txid, UNKNOWN_STANDING), now=now) for entry in entries
        }

    async def _placed(self, known: KnownTransaction, entry: LedgerEntry, payments: KnownPayments) -> PlacedTransaction:
        def work(db: Database) -> tuple[int | None, Standing]:
            height = entry.state.height if isinstance(entry.state, Confirmed) else None
            time = None if height is None else chain.load_time(db, height)
            return time, transactions.load_standings(db, [entry.txid]).get(entry.txid, UNKNOWN_STANDING)

        block_time, standing = await self._store.read(work)
        is_confirmed = isinstance(entry.state, Confirmed)
        return PlacedTransaction(
            known=known,
            entry=entry,
            confirmations=payments.tip_height - entry.state.height + 1 if isinstance(entry.state, Confirmed) else 0,
            block_time=block_time if is_confirmed else None,
            confidence=confidence_of(entry, standing, now=self._ground.clock()),
        )

    async def _known(self, txid: Txid) -> KnownTransaction:
        """Return a transaction out of the database, or from the servers; with what it spends, as far as it is had."""
        stored = await self._store.read(lambda db: transactions.load_transaction(db, txid))
        if stored is not None and None not in stored.spent:
            return stored
        try:
            return await self.with_inputs(
                await self._ground.outside.transaction(txid) if stored is None else stored.transaction
            )
        except SourceRefusedError as error:
            raise RequestError(
                f"no server knows transaction {hex_of(txid)}", code="unknown-transaction", status_hint=404
            ) from error
        except SourceError as error:
            if stored is not None:
                return stored
            raise RequestError("no server answers", code="no-server", status_hint=503) from error

    async def with_inputs(self, transaction: Transaction) -> KnownTransaction:
        """Return a transaction with what it spends, as far as that can be had in time.

        Raises:
            SourceError: nobody answers.
        """
        return KnownTransaction(transaction=transaction, spent=await self._ground.outside.spent_by(transaction))

    async def with_inputs_if_any(self, transaction: Transaction) -> KnownTransaction:
        """Do the same, and without what it spends where nobody answers."""
        try:
            return await self.with_inputs(transaction)
        except SourceError:
            return KnownTransaction(transaction=transaction, spent=(None,) * len(transaction.spends))

    async def push(self, raw: bytes) -> Transaction:
        """Hand a signed transaction to the network, and return it.

        Raises:
            RequestError: ``bad-transaction``; ``refused`` where no server takes it; 503 ``no-server``.
        """
        if len(raw) > MOST_PUSHED_BYTES:
            raise RequestError(f"tx has {len(raw)} bytes, want at most {MOST_PUSHED_BYTES}", code="bad-transaction")
        try:
            transaction = parse_transaction(raw)
        except TransactionError as error:
            raise RequestError(f"tx is no transaction: {error}", code="bad-transaction") from error
        try:
            await self._ground.outside.broadcast(transaction)
        except SourceRefusedError as error:
            raise RequestError(
                "the servers refuse the transaction: is it signed, is its fee enough, are its inputs unspent?",
                code="refused",
            ) from error
        except SourceError as error:
            raise RequestError("no server answers", code="no-server", status_hint=503) from error
        return transaction

    async def fee_rates(self, targets: Sequence[int]) -> Mapping[int, float]:
        """Return the fee rates that are said to be enough within so many blocks, in satoshis a virtual byte.

        Returns:
            By number of blocks; without those for which nobody has an estimate.
        """
        found: dict[int, float] = {}

        async def ask(target_blocks: int) -> None:
            with contextlib.suppress(SourceError):
                rate = await self._ground.outside.fee_rate(target_blocks)
                if rate is not None:
                    found[target_blocks] = rate

        async with trio.open_nursery() as nursery:
            for target_blocks in targets:
                nursery.start_soon(ask, target_blocks)
        return found
