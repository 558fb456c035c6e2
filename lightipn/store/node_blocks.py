"""How far the blocks of one's own bitcoind were looked through; a block's hash is written with what was found in it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from sqlite_utils import Database

from lightipn.bitcoin.hashes import BlockHash, ScriptHash, Txid
from lightipn.bitcoin.transaction import PackedOutpoint, packed_outpoint
from lightipn.chain.history import UNKNOWN
from lightipn.chain.verifier import Confirmed
from lightipn.store import chain as chain_store
from lightipn.store.ledger import load_payments
from lightipn.store.node_findings import (
    BLOCKS_KEPT,
    FoundTransaction,
    drop_transactions,
    keep_unconfirmed,
    mark_spent,
    recount_unproved,
    save_found,
    save_outputs,
    save_strays,
)

# So many blocks below our own tip are looked through again when the source of evidence changes: no coinbase matures
# faster, and no reorg of mainnet was deeper.
LOOKED_THROUGH_AGAIN = 100


class Position(NamedTuple):
    """A block up to which all were looked through."""

    height: int
    block_hash: BlockHash


# --- where to begin ---


def first_position(db: Database, *, node_height: int, lowest: int) -> int:
    """Return from where a node is followed for the first time.

    Args:
        node_height: of the node's tip.
        lowest: the lowest block that the node has.

    Returns:
        A height; what lies above it will be looked through.
    """
    is_used = db.execute("SELECT 1 FROM script WHERE absorbed_at IS NOT NULL LIMIT 1").fetchone() is not None
    if not is_used:
        return node_height
    # What stands in the last blocks of our own chain may stand elsewhere by now, and is not taken over.
    last = chain_store.load_tip_height(db)
    told_up_to = _told_up_to(db)
    return max(0, lowest - 1, min(node_height, (last if told_up_to is None else told_up_to) - LOOKED_THROUGH_AGAIN))


def _told_up_to(db: Database) -> int | None:
    """Return the height up to which the ledger holds what servers told, None for nobody knows; headers may be ahead."""
    followed = chain_store.load_followed_height(db)
    return None if followed is None else min(followed, chain_store.load_tip_height(db))


def begin(db: Database, height: int, hashes: Sequence[BlockHash]) -> None:
    """Begin behind a block, with what the ledger holds proved up to there.

    Args:
        hashes: of that block and the ones before it, the lowest first: a reorg may reach below it.
    """
    _save_hashes(db, height, hashes)
    told_up_to = _told_up_to(db)
    has_gap = told_up_to is None or height > told_up_to  # what lies between, nobody looked through
    absorbed = db.execute(
        "SELECT scripthash, history_from IS NULL AND trouble = '' AND known_status IS NOT ? FROM script"
        " WHERE absorbed_at IS NOT NULL",
        [UNKNOWN],
    ).fetchall()
    for scripthash, is_whole in absorbed:
        _take_over(db, ScriptHash(scripthash), up_to=height, is_whole=is_whole and not has_gap)
    if has_gap:
        keep_unconfirmed(db)


def _take_over(db: Database, scripthash: ScriptHash, *, up_to: int, is_whole: bool) -> None:
    """Take over what the ledger holds of a script: what was proved may not be missing from what the node shows.

    Args:
        is_whole: other servers showed its whole history; else its past is to be looked for.
    """
    payments = load_payments(db, scripthash)
    assert payments is not None  # the caller has just read its row
    db.execute(
        "INSERT INTO node_script (scripthash, is_past_known, from_height) VALUES (?, ?, ?)",
        [scripthash, int(is_whole), up_to],
    )
    if not is_whole:
        db.execute("UPDATE script SET history_from = ? WHERE scripthash = ?", [up_to + 1, scripthash])
    proved = [(entry, entry.state) for entry in payments.entries.values() if isinstance(entry.state, Confirmed)]
    final = [(entry, place) for entry, place in proved if place.height <= up_to]
    for entry, place in final:
        db.execute(
            "INSERT OR IGNORE INTO node_transaction (txid, height, position) VALUES (?, ?, ?)",
            [entry.txid, place.height, place.position],
        )
        db.execute("INSERT OR IGNORE INTO node_entry (scripthash, txid) VALUES (?, ?)", [scripthash, entry.txid])
        save_outputs(db, {packed_outpoint(entry.txid, index): scripthash for index, _ in entry.outputs})
    for entry, place in final:
        mark_spent(db, [packed_outpoint(spend.txid, spend.index) for spend in entry.spends], place.height)


def clear(db: Database) -> None:
    """Forget all of it: other servers are asked now, who know the whole past of every script."""
    if db.execute("SELECT 1 FROM node_block LIMIT 1").fetchone() is None:
        return
    for table in ("node_block", "node_script", "node_transaction", "node_entry", "node_output"):
        db.execute(f"DELETE FROM {table}")
    db.execute(
        # not absorbed: before they are, nobody is told that all is known
        "UPDATE script SET known_status = ?, absorbed_at = NULL, history_from = NULL, unproved_sat = 0"
        " WHERE history_from IS NOT NULL OR unproved_sat > 0",
        [UNKNOWN],
    )


# --- block by block ---


def load_position(db: Database) -> Position | None:
    """Return the last block that was looked through, or None before the first."""
    row = db.execute("SELECT height, block_hash FROM node_block ORDER BY height DESC LIMIT 1").fetchone()
    return None if row is None else Position(row[0], BlockHash(row[1]))


def load_block_hash(db: Database, height: int) -> BlockHash | None:
    """Return the hash of a block that was looked through."""
    row = db.execute("SELECT block_hash FROM node_block WHERE height = ?", [height]).fetchone()
    return None if row is None else BlockHash(row[0])


def save_block(
    db: Database,
    height: int,
    block_hash: BlockHash,
    found: Iterable[FoundTransaction] = (),
    strays: Mapping[bytes, tuple[ScriptHash, int]] | None = None,
) -> None:
    """Record that a block was looked through, and what was found in it.

    Args:
        strays: outputs of scripts that it spends and that were not known, as ``save_strays`` takes them.
    """
    db.execute("INSERT INTO node_block (height, block_hash) VALUES (?, ?)", [height, block_hash])
    save_strays(db, strays or {}, spent_height=height)
    save_found(db, found)
    if height % 100 == 0:
        lowest = height - BLOCKS_KEPT
        db.execute("DELETE FROM node_block WHERE height < ?", [lowest])
        db.execute(
            "UPDATE node_transaction SET siblings = NULL, raw = NULL WHERE height < ? AND raw IS NOT NULL", [lowest]
        )


def load_found_above(db: Database, height: int) -> list[tuple[Txid, BlockHash]]:
    """Return what was found in blocks above a height, each with its block."""
    rows = db.execute(
        "SELECT txid, block_hash FROM node_transaction JOIN node_block USING (height) WHERE height > ?", [height]
    ).fetchall()
    return [(Txid(row[0]), BlockHash(row[1])) for row in rows]


def disconnect(db: Database, fork_height: int) -> tuple[list[ScriptHash], list[ScriptHash]]:
    """Take back what was found above a height.

    Returns:
        Whom that concerns; and whose past is to be looked for anew: their unspent outputs were those of a lost block,
        and what was spent then may be unspent, or wait in the mempool.
    """
    rows = db.execute(
        "SELECT DISTINCT scripthash FROM node_entry JOIN node_transaction USING (txid) WHERE height > ?", [fork_height]
    ).fetchall()
    lost = db.execute("SELECT txid FROM node_transaction WHERE height > ?", [fork_height]).fetchall()
    drop_transactions(db, [Txid(row[0]) for row in lost])
    db.execute("UPDATE node_output SET spent_height = NULL WHERE spent_height > ?", [fork_height])
    db.execute("DELETE FROM node_block WHERE height > ?", [fork_height])
    touched = [ScriptHash(row[0]) for row in rows]
    recount_unproved(db, touched)
    stale = [
        ScriptHash(row[0])
        for row in db.execute(
            "SELECT scripthash FROM script JOIN node_script USING (scripthash) WHERE history_from > ?",
            [fork_height + 1],
        ).fetchall()
    ]
    db.conn.executemany("UPDATE node_script SET is_past_known = 0 WHERE scripthash = ?", [(each,) for each in stale])
    db.execute("UPDATE node_script SET from_height = ?1 WHERE from_height > ?1", [fork_height])
    return touched, stale


def skip_to(db: Database, height: int, hashes: Sequence[BlockHash]) -> dict[PackedOutpoint, ScriptHash]:
    """Go on behind blocks that the node has pruned before they were looked through: no history is whole any more.

    Args:
        hashes: as ``begin`` takes them.

    Returns:
        The outputs of payments that may stand in one of those blocks.
    """
    db.execute("DELETE FROM node_block")
    _save_hashes(db, height, hashes)
    db.execute("UPDATE node_script SET is_past_known = 0, from_height = ?", [height])
    db.execute("UPDATE script SET history_from = ?", [height + 1])
    return keep_unconfirmed(db)


def _save_hashes(db: Database, height: int, hashes: Sequence[BlockHash]) -> None:
    db.conn.executemany(
        "INSERT INTO node_block (height, block_hash) VALUES (?, ?)", enumerate(hashes, height - len(hashes) + 1)
    )
