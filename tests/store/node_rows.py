"""Blocks of one's own node and what was found in them, for tests of what the store keeps of it."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from lightipn.bitcoin.hashes import BlockHash, ScriptHash
from lightipn.bitcoin.transaction import PackedOutpoint, packed_outpoint
from lightipn.chain.history import Status
from lightipn.ledger.entries import LedgerEntry
from lightipn.store import chain, ledger, node_blocks, node_findings, node_scripts
from lightipn.store.database import Database
from lightipn.store.node_findings import FoundTransaction
from lightipn.store.node_scripts import NodeScript
from tests.builders import block_hash_of, txid_of
from tests.store.rows import NOW, TIP, regtest_address

STATUS = Status(b"\x05" * 32)
NODE_TABLES = ("node_block", "node_script", "node_transaction", "node_entry", "node_output")


def rows_in(db: Database) -> dict[str, list[tuple[object, ...]]]:
    """Return all that was kept of the node."""
    return {table: sorted(db.execute(f"SELECT * FROM {table}").fetchall(), key=repr) for table in NODE_TABLES}


def hashes_to(height: int, *, count: int = 1, branch: int = 0) -> list[BlockHash]:
    """Return the hashes of a block and of those before it, the lowest first."""
    return [block_hash_of(each, branch=branch) for each in range(height + 1 - count, height + 1)]


def scripthash_of(number: int) -> ScriptHash:
    """Return the hash of the script of the address with this number."""
    return regtest_address(number).scripthash


def coin(number: int, index: int = 0) -> PackedOutpoint:
    """Return an output of the transaction with this number."""
    return packed_outpoint(txid_of(number), index)


def found(
    number: int,
    height: int,
    *,
    position: int = 1,
    pays: Sequence[int] = (),
    spends: Mapping[PackedOutpoint, int] | None = None,
) -> FoundTransaction:
    """Return a transaction of a block.

    Args:
        pays: numbers of the addresses that its outputs pay, in order.
        spends: what it spends, each with the number of the address that it belongs to.
    """
    return FoundTransaction(
        txid=txid_of(number),
        height=height,
        position=position,
        siblings=tuple(hashlib.sha256(f"sibling {number} {level}".encode()).digest() for level in range(position)),
        raw=f"raw {number}".encode(),
        outputs={coin(number, index): scripthash_of(payee) for index, payee in enumerate(pays)},
        spends={outpoint: scripthash_of(owner) for outpoint, owner in (spends or {}).items()},
    )


def begin(db: Database, height: int = TIP, *, count: int = 1) -> None:
    """Begin behind a block, with the hashes of so many; our own tip is there unless the test has set one."""
    if not chain.load_tip_height(db):
        chain.save_base_height(db, height)
    if chain.load_followed_height(db) is None:
        chain.save_followed_height(db, chain.load_tip_height(db))
    node_blocks.begin(db, height, hashes_to(height, count=count))


def save_block(db: Database, height: int, *items: FoundTransaction, branch: int = 0) -> None:
    """Look through a block."""
    node_blocks.save_block(db, height, block_hash_of(height, branch=branch), items)


def register(db: Database, *numbers: int, height: int = TIP) -> list[NodeScript]:
    """Watch addresses, and take up their scripts."""
    for number in numbers:
        ledger.add_script(db, regtest_address(number))
    return node_scripts.register(db, [scripthash_of(number) for number in numbers], height=height)


def settle_past(
    db: Database,
    scripthashes: Iterable[ScriptHash],
    *,
    history_from: int | None,
    reached: int = TIP + 900,
    unproved: Mapping[PackedOutpoint, tuple[ScriptHash, int]] | None = None,
) -> list[ScriptHash]:
    """Do what the end of a search does, with what it found that nothing proves."""
    node_findings.save_strays(db, unproved or {})
    return node_scripts.settle_past(db, scripthashes, reached=reached, history_from=history_from)


def absorb(db: Database, number: int, *entries: LedgerEntry) -> None:
    """Have other servers show the history of an address, and prove it."""
    ledger.add_script(db, regtest_address(number))
    ledger.save_entries(db, scripthash_of(number), entries)
    ledger.save_status(db, scripthash_of(number), STATUS if entries else None, now=NOW)


def history_of(db: Database, number: int) -> list[tuple[int, int, bytes]]:
    """Return what blocks show of an address: height, position and txid."""
    ((_, history),) = node_findings.load_histories(db, [scripthash_of(number)]).items()
    return list(history)


def coverage_of(db: Database, number: int) -> tuple[int | None, int]:
    """Return from which height on an address's history is whole (None: all of it), and what cannot be proved."""
    row = db.execute("SELECT history_from, unproved_sat FROM script WHERE scripthash = ?", [scripthash_of(number)])
    history_from, unproved_sat = row.fetchone()
    return history_from, unproved_sat


def is_past_known(db: Database, number: int, *, height: int = TIP) -> bool:
    """Tell whether an address's past needs no search."""
    (script,) = node_scripts.register(db, [scripthash_of(number)], height=height)
    return script.is_past_known
