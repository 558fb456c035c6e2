"""What a client of the blockcypher dialect does, what happens on its chain, and a network that the test decides."""

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from lightipn.bitcoin.address import Address
from lightipn.bitcoin.hashes import Txid
from lightipn.bitcoin.header import BlockHeader
from lightipn.bitcoin.transaction import Outpoint, Transaction, TxOutput
from lightipn.chain.history import Status
from lightipn.chain.verifier import Confirmed
from lightipn.errors import SourceError, SourceRefusedError
from lightipn.ledger.entries import LedgerEntry, PaymentState
from lightipn.outbox.messages import OutgoingRequest
from lightipn.outbox.verdict import Answer
from lightipn.store import chain, ledger, reviews, subscriptions, transactions
from lightipn.store.database import Database
from lightipn.store.transactions import Background
from tests.builders import SEEN_AT, entry_of, payment
from tests.dialects.rig import ADDRESS, OK, Caller
from tests.store import tips

V1 = "/v1/btc/regtest"
HOOKS = f"{V1}/hooks"
URL = "https://shop.example/hook?order=7"
EVENTS = ("unconfirmed-tx", "new-block", "confirmed-tx", "tx-confirmation", "double-spend-tx", "tx-confidence")
UNKNOWN_ID = "51253edb-1652-4907-b4dc-934bccfe2dbe"
PLAIN = {"Content-Type": "text/plain"}

OpenCaller = Callable[..., AbstractAsyncContextManager[Caller]]


@dataclass
class FakeOutside:
    """A network that knows what the test puts there.

    Args:
        known: transactions by txid.
        spent: outputs by outpoint; what is not there cannot be had.
        rates: fee rates by target, in satoshis a virtual byte.
        trouble: makes the error in which every question ends; None for answers.
        hides_inputs: only the question for what is spent ends in the trouble.
        asked: what was asked for, in order.
    """

    known: dict[Txid, Transaction] = field(default_factory=dict)
    spent: dict[Outpoint, TxOutput] = field(default_factory=dict)
    rates: dict[int, float] = field(default_factory=dict)
    trouble: Callable[[], SourceError] | None = None
    hides_inputs: bool = False
    asked: list[Txid] = field(default_factory=list)
    broadcasts: list[bytes] = field(default_factory=list)

    async def transaction(self, txid: Txid) -> Transaction:
        """Return what is known."""
        self.asked.append(txid)
        self._fail()
        if txid not in self.known:
            raise SourceRefusedError("unknown", code=2, source="one")
        return self.known[txid]

    async def spent_by(self, transaction: Transaction) -> tuple[TxOutput | None, ...]:
        """Return the outputs that are known."""
        if self.hides_inputs and self.trouble is not None:
            raise self.trouble()
        return tuple(self.spent.get(outpoint) for outpoint in transaction.spends)

    async def broadcast(self, transaction: Transaction) -> None:
        """Take a transaction."""
        self._fail()
        self.broadcasts.append(transaction.raw)

    async def fee_rate(self, target_blocks: int) -> float | None:
        """Return the rate that the test set."""
        self._fail()
        return self.rates.get(target_blocks)

    def _fail(self) -> None:
        if self.trouble is not None and not self.hides_inputs:
            raise self.trouble()


# --- hooks -------------------------------------------------------------------------------------------------------


async def hook(caller: Caller, event: str = "tx-confirmation", **more: Any) -> str:
    """Add a hook, about the shop's address unless something else is said, and return its id."""
    about = {} if {"address", "wallet_name"} & more.keys() else {"address": ADDRESS.text}
    made = await caller.call("POST", HOOKS, json={"event": event, "url": URL, **about, **more})
    return str(made["id"])


async def shown(caller: Caller, hook_id: str) -> dict[str, Any]:
    """Return a hook as it is shown."""
    return dict(await caller.call("GET", f"{HOOKS}/{hook_id}"))


async def refused(caller: Caller, method: str, path: str, **more: Any) -> tuple[int, str]:
    """Call what must be refused in the dialect's shape, and return status and text."""
    status, body = await caller.refusal(method, path, **more)
    assert list(body) == ["error"]
    assert 0 < len(body["error"]) < 400
    return status, str(body["error"])


# --- what happens on the chain -----------------------------------------------------------------------------------


def entry_for(
    transaction: Transaction,
    *,
    state: PaymentState | None = None,
    script: bytes = ADDRESS.script,
    sent_sat: int = 0,
    seen_at: int = SEEN_AT,
    gone_at: int | None = None,
) -> LedgerEntry:
    """Return what a transaction did to a script."""
    plain = entry_of(state=state, sent_sat=sent_sat, is_coinbase=transaction.is_coinbase, spends=transaction.spends)
    return replace(
        plain,
        txid=transaction.txid,
        outputs=tuple(transaction.received_by(script).items()),
        signals_rbf=transaction.signals_rbf,
        seen_at=seen_at,
        gone_at=gone_at,
    )


async def happen(
    caller: Caller,
    transaction: Transaction,
    state: PaymentState | None = None,
    *,
    address: Address = ADDRESS,
    background: Background | None = None,
    sent_sat: int = 0,
    gone_at: int | None = None,
    tip_height: int | None = None,
) -> None:
    """Write where a transaction is, as the tracker does; unconfirmed unless a state is given."""
    entry = entry_for(
        transaction, state=state, script=address.script, sent_sat=sent_sat, seen_at=int(caller.now), gone_at=gone_at
    )

    def work(db: Database) -> None:
        before = ledger.load_payments(db, address.scripthash)
        known = None if before is None else before.entries.get(transaction.txid)
        kept = entry if known is None else replace(entry, seen_at=known.seen_at)
        ledger.save_entries(db, address.scripthash, [kept])
        transactions.save_transactions(db, [transaction], {transaction.txid: background} if background else None)
        ledger.save_status(db, address.scripthash, Status(b"\x01" * 32), now=int(caller.now))
        height = chain.load_tip_height(db) if tip_height is None else tip_height
        reviews.review_script(db, caller.policies, address.scripthash, tip_height=height, now=caller.now)

    await caller.store.transact(work)


async def looked_at(caller: Caller, address: Address = ADDRESS) -> None:
    """Watch an address, whose history was worked in."""

    def work(db: Database) -> None:
        ledger.add_script(db, address)
        ledger.want_for_good(db, address.scripthash)
        ledger.save_status(db, address.scripthash, None, now=int(caller.now))

    await caller.store.transact(work)


async def mine(caller: Caller, count: int = 1) -> list[BlockHeader]:
    """Add blocks to the chain, all as one tip, and wake what waited for it."""
    return await reorg(caller, 0, count, branch=0)


async def reorg(caller: Caller, depth: int, count: int, *, branch: int = 1) -> list[BlockHeader]:
    """Take blocks away and put others in their place; what became of their payments the test says next."""

    def work(db: Database) -> list[BlockHeader]:
        headers = tips.reorg(db, depth, count, branch=branch, policies=caller.policies)
        while reviews.wake_for_tip(db, caller.policies, now=caller.now)[1]:
            pass
        return headers

    return await caller.store.transact(work)


def placed(header: BlockHeader, height: int, *, position: int = 1) -> Confirmed:
    """Return a place in a block of our chain."""
    return Confirmed(header.block_hash, height, position)


async def paid_at(caller: Caller, number: int = 0, **more: Any) -> Transaction:
    """Have the shop's address paid in the next block, which nobody announced before."""
    transaction = payment(number)
    (header,) = await mine(caller)
    height = await caller.store.read(chain.load_tip_height)
    await happen(caller, transaction, placed(header, height), **more)
    return transaction


# --- what is told ------------------------------------------------------------------------------------------------


def said(request: OutgoingRequest) -> dict[str, Any]:
    """Return a webhook's body."""
    return dict(json.loads(request.body))


async def told(caller: Caller, answer: Answer = OK) -> list[dict[str, Any]]:
    """Deliver all that is due now, one after the other, and return the bodies in the order in which they were sent."""
    found: list[dict[str, Any]] = []
    while requests := await caller.send(answer):
        found += [said(request) for request in requests]
    return found


def brief(bodies: list[dict[str, Any]]) -> list[tuple[str, int]]:
    """Return of each webhook its event and its confirmations."""
    return [(body["event"], body["confirmations"]) for body in bodies]


async def rows_of(caller: Caller, sql: str) -> list[tuple[Any, ...]]:
    """Return what a query finds, where no function of the service shows it."""
    return await caller.store.read(lambda db: list(db.execute(sql).fetchall()))


async def watched(caller: Caller, address: Address) -> bool:
    """Tell whether an address is watched by anybody."""
    return await caller.store.read(lambda db: ledger.is_watched(db, address.scripthash))


async def live_addresses(caller: Caller) -> list[str]:
    """Return the addresses that live subscriptions are about."""

    def work(db: Database) -> list[str]:
        return [
            one.address
            for one in subscriptions.load_subscriptions(db)
            if subscriptions.is_watching(db, one.subscription_id)
        ]

    return sorted(await caller.store.read(work))


def without(found: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """Return a table without some of its fields, which must be there."""
    assert set(names) <= found.keys()
    return {name: value for name, value in found.items() if name not in names}
