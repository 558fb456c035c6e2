"""What was found in the blocks of one's own bitcoind: which transactions concern which scripts, and what proves them.

A node has no index of addresses. So what its blocks showed is kept here, each block's findings in one transaction with
the height that was reached; histories are read from it. The ledger stays what was *proved*; this is evidence.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlite_utils import Database

from lightipn.bitcoin.hashes import BlockHash, ScriptHash, Txid
from lightipn.bitcoin.transaction import packed_outpoint
from lightipn.chain.history import UNKNOWN
from lightipn.chain.verifier import Confirmed
from lightipn.store import chain as chain_store
from lightipn.store.ledger import load_payments

# Blocks whose hashes are kept to find where a reorg begins, and whose transactions keep their proofs: more than the 288
# that a pruned node is sure to have.
BLOCKS_KEPT = 2016
# So many blocks below our own tip are looked through again when the source of evidence changes: no coinbase matures
# faster, and no reorg of mainnet was deeper.
LOOKED_THROUGH_AGAIN = 100
_HASH_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundTransaction:
    """A transaction of a block that concerns scripts.

    Args:
        position: in its block, from 0.
        siblings: its merkle branch, from the leaf upwards.
        outputs: packed outpoints (36 bytes) that belong to scripts, each with the script's hash.
        spends: packed outpoints of scripts that it spends, likewise.
    """

    txid: Txid
    height: int
    position: int
    siblings: tuple[bytes, ...]
    raw: bytes
    outputs: Mapping[bytes, ScriptHash]
    spends: Mapping[bytes, ScriptHash]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownProof:
    """Where a transaction was found, and what proves it; both None once it is deep in the chain."""

    height: int
    position: int
    siblings: tuple[bytes, ...] | None
    raw: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeScript:
    """A script that blocks are searched for.

    Args:
        script: None where only outputs of it are looked after, which an unconfirmed payment spends.
    """

    scripthash: ScriptHash
    script: bytes | None
    is_past_known: bool


# --- how far the blocks were looked through ---


def load_position(db: Database) -> tuple[int, BlockHash] | None:
    """Return the last block that was looked through, or None before the first."""
    row = db.execute("SELECT height, block_hash FROM node_block ORDER BY height DESC LIMIT 1").fetchone()
    return None if row is None else (row[0], BlockHash(row[1]))


def load_block_hash(db: Database, height: int) -> BlockHash | None:
    """Return the hash of a block that was looked through."""
    row = db.execute("SELECT block_hash FROM node_block WHERE height = ?", [height]).fetchone()
    return None if row is None else BlockHash(row[0])


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
        _save_outputs(db, {packed_outpoint(entry.txid, index): scripthash for index, _ in entry.outputs})
    for entry, place in final:
        _mark_spent(db, [packed_outpoint(spend.txid, spend.index) for spend in entry.spends], place.height)


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


def save_found(db: Database, found: Iterable[FoundTransaction]) -> None:
    """Record transactions of blocks."""
    for one in found:
        db.execute(
            "INSERT OR REPLACE INTO node_transaction (txid, height, position, siblings, raw) VALUES (?, ?, ?, ?, ?)",
            [one.txid, one.height, one.position, b"".join(one.siblings), one.raw],
        )
        db.conn.executemany(
            "INSERT OR IGNORE INTO node_entry (scripthash, txid) VALUES (?, ?)",
            [(scripthash, one.txid) for scripthash in {*one.outputs.values(), *one.spends.values()}],
        )
        _save_outputs(db, one.outputs)
        _mark_spent(db, one.spends, one.height)
        _recount_unproved(db, {*one.outputs.values(), *one.spends.values()})


def _save_outputs(db: Database, outputs: Mapping[bytes, ScriptHash]) -> None:
    db.conn.executemany(
        "INSERT INTO node_output (outpoint, scripthash) VALUES (?, ?)"
        " ON CONFLICT (outpoint) DO UPDATE SET unproved_sat = NULL",
        list(outputs.items()),
    )


def _mark_spent(db: Database, outpoints: Iterable[bytes], height: int) -> None:
    db.conn.executemany(
        "UPDATE node_output SET spent_height = ? WHERE outpoint = ?", [(height, outpoint) for outpoint in outpoints]
    )


def _recount_unproved(db: Database, scripthashes: Iterable[ScriptHash]) -> None:
    db.conn.executemany(
        "UPDATE script SET unproved_sat = (SELECT coalesce(sum(node_output.unproved_sat), 0) FROM node_output"
        " WHERE node_output.scripthash = ?1 AND node_output.unproved_sat IS NOT NULL AND spent_height IS NULL)"
        " WHERE scripthash = ?1 AND (unproved_sat > 0 OR EXISTS"
        " (SELECT 1 FROM node_output WHERE node_output.scripthash = ?1 AND node_output.unproved_sat IS NOT NULL))",
        [(scripthash,) for scripthash in scripthashes],
    )


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
    _drop_transactions(db, [Txid(row[0]) for row in lost])
    db.execute("UPDATE node_output SET spent_height = NULL WHERE spent_height > ?", [fork_height])
    db.execute("DELETE FROM node_block WHERE height > ?", [fork_height])
    touched = [ScriptHash(row[0]) for row in rows]
    _recount_unproved(db, touched)
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


def _drop_transactions(db: Database, txids: Sequence[Txid]) -> None:
    for txid in txids:
        db.execute("DELETE FROM node_entry WHERE txid = ?", [txid])
        db.execute("DELETE FROM node_transaction WHERE txid = ?", [txid])
        # Outpoints begin with their txid: a range is a look at the key.
        db.execute("DELETE FROM node_output WHERE outpoint BETWEEN ? AND ?", [txid, txid + b"\xff" * 4])


def _save_hashes(db: Database, height: int, hashes: Sequence[BlockHash]) -> None:
    db.conn.executemany(
        "INSERT INTO node_block (height, block_hash) VALUES (?, ?)", enumerate(hashes, height - len(hashes) + 1)
    )


def skip_to(db: Database, height: int, hashes: Sequence[BlockHash]) -> None:
    """Go on behind blocks that the node has pruned before they were looked through: no history is whole any more.

    Args:
        hashes: as ``begin`` takes them.
    """
    db.execute("DELETE FROM node_block")
    _save_hashes(db, height, hashes)
    db.execute("UPDATE node_script SET is_past_known = 0, from_height = ?", [height])
    db.execute("UPDATE script SET history_from = ?", [height + 1])


# --- scripts ---


def register(db: Database, scripthashes: Sequence[ScriptHash], *, height: int) -> list[NodeScript]:
    """Take scripts up, and return what is known of each; a new one is known from the next block on.

    Args:
        height: of the last block that was looked through.
    """
    registered = []
    for scripthash in scripthashes:
        row = db.execute(
            "SELECT script, is_past_known FROM script LEFT JOIN node_script USING (scripthash) WHERE scripthash = ?",
            [scripthash],
        ).fetchone()
        script, is_past_known = row if row is not None else (None, 1)
        if is_past_known is None:
            db.execute(
                "INSERT INTO node_script (scripthash, is_past_known, from_height) VALUES (?, 0, ?)",
                [scripthash, height],
            )
            db.execute("UPDATE script SET history_from = ? WHERE scripthash = ?", [height + 1, scripthash])
        registered.append(NodeScript(scripthash=scripthash, script=script, is_past_known=bool(is_past_known)))
    return registered


def drop_stale_scripts(db: Database) -> None:
    """Forget scripts that nobody watches any more."""
    rows = db.execute(
        "SELECT scripthash FROM (SELECT scripthash FROM node_script UNION SELECT scripthash FROM node_entry) AS known"
        " WHERE NOT EXISTS (SELECT 1 FROM script WHERE script.scripthash = known.scripthash)"
        " AND NOT EXISTS (SELECT 1 FROM spent_output WHERE spent_output.scripthash = known.scripthash)"
    ).fetchall()
    for (scripthash,) in rows:
        drop_script(db, ScriptHash(scripthash))


def drop_script(db: Database, scripthash: ScriptHash) -> None:
    """Forget a script, with what was found of it alone."""
    txids = db.execute("SELECT txid FROM node_entry WHERE scripthash = ?", [scripthash]).fetchall()
    db.execute("DELETE FROM node_script WHERE scripthash = ?", [scripthash])
    db.execute("DELETE FROM node_entry WHERE scripthash = ?", [scripthash])
    db.execute("DELETE FROM node_output WHERE scripthash = ?", [scripthash])
    db.conn.executemany(
        "DELETE FROM node_transaction WHERE txid = ?1 AND NOT EXISTS (SELECT 1 FROM node_entry WHERE txid = ?1)",
        txids,
    )


def load_outputs(db: Database) -> list[tuple[bytes, ScriptHash]]:
    """Return the packed outpoints whose spending concerns a script, but for those that were spent long ago."""
    position = load_position(db)
    lowest = position[0] - BLOCKS_KEPT if position is not None else 0
    rows = db.execute(
        "SELECT outpoint, scripthash FROM node_output WHERE spent_height IS NULL OR spent_height > ?", [lowest]
    ).fetchall()
    return [(row[0], ScriptHash(row[1])) for row in rows]


def known_outputs_of(db: Database, outpoints: Iterable[bytes]) -> set[bytes]:
    """Return those of some packed outpoints that are proved."""
    return {
        outpoint
        for outpoint in outpoints
        if db.execute("SELECT 1 FROM node_output WHERE outpoint = ? AND unproved_sat IS NULL", [outpoint]).fetchone()
        is not None
    }


def load_contested(db: Database) -> list[tuple[bytes, ScriptHash]]:
    """Return the packed outpoints that unconfirmed payments spend, each with the script that it belongs to."""
    rows = db.execute(
        "SELECT txid, output_index, scripthash FROM spent_output WHERE length(scripthash) = ?", [_HASH_BYTES]
    ).fetchall()
    return [(packed_outpoint(row[0], row[1]), ScriptHash(row[2])) for row in rows]


# --- histories ---


def load_histories(db: Database, scripthashes: Sequence[ScriptHash]) -> dict[ScriptHash, list[tuple[int, int, Txid]]]:
    """Return what blocks show of each script: height, position and txid, in the chain's order."""
    return {
        scripthash: [
            (row[0], row[1], Txid(row[2]))
            for row in db.execute(
                "SELECT height, position, txid FROM node_entry JOIN node_transaction USING (txid)"
                " WHERE scripthash = ? ORDER BY height, position",
                [scripthash],
            ).fetchall()
        ]
        for scripthash in scripthashes
    }


def load_proof(db: Database, txid: Txid) -> KnownProof | None:
    """Return where a transaction was found, or None."""
    row = db.execute("SELECT height, position, siblings, raw FROM node_transaction WHERE txid = ?", [txid]).fetchone()
    if row is None:
        return None
    siblings = None
    if row[2] is not None:
        siblings = tuple(row[2][at : at + _HASH_BYTES] for at in range(0, len(row[2]), _HASH_BYTES))
    return KnownProof(height=row[0], position=row[1], siblings=siblings, raw=row[3])


# --- the past of scripts ---


def load_pending(db: Database, *, limit: int) -> list[NodeScript]:
    """Return scripts whose past is still to be looked for."""
    rows = db.execute(
        "SELECT scripthash, script FROM node_script JOIN script USING (scripthash) WHERE is_past_known = 0 LIMIT ?",
        [limit],
    ).fetchall()
    return [NodeScript(scripthash=ScriptHash(row[0]), script=row[1], is_past_known=False) for row in rows]


def count_pending(db: Database) -> int:
    """Return how many scripts' past is still to be looked for."""
    return int(db.execute("SELECT count(*) FROM node_script WHERE is_past_known = 0").fetchone()[0])


def save_strays(
    db: Database, strays: Mapping[bytes, tuple[ScriptHash, int]], *, spent_height: int | None = None
) -> None:
    """Record outputs of scripts that nothing proves, each with its script's hash and its satoshis.

    Args:
        spent_height: of the block that spends them.
    """
    db.conn.executemany(
        "INSERT OR IGNORE INTO node_output (outpoint, scripthash, unproved_sat, spent_height) SELECT ?1, ?2, ?3, ?4"
        " WHERE EXISTS (SELECT 1 FROM script WHERE scripthash = ?2)",
        [(outpoint, owner, amount_sat, spent_height) for outpoint, (owner, amount_sat) in strays.items()],
    )


def has_unproved(db: Database, scripthash: ScriptHash) -> bool:
    """Tell whether a script holds what nothing proves."""
    row = db.execute("SELECT 1 FROM script WHERE scripthash = ? AND unproved_sat > 0", [scripthash]).fetchone()
    return row is not None


def is_unproved(db: Database, txid: Txid) -> bool:
    """Tell whether a transaction paid a script in a block, though nothing proves it."""
    row = db.execute(
        "SELECT 1 FROM node_output WHERE outpoint BETWEEN ? AND ? AND unproved_sat IS NOT NULL LIMIT 1",
        [txid, txid + b"\xff" * 4],
    ).fetchone()
    return row is not None


def settle_past(
    db: Database,
    scripthashes: Iterable[ScriptHash],
    *,
    reached: int,
    history_from: int | None,
    unproved: Mapping[bytes, tuple[ScriptHash, int]],
) -> list[ScriptHash]:
    """Record that a script's past was looked for, and return for which that is the whole of it.

    Args:
        reached: height up to which it was looked for. Who was let go of and watched again since then, and is searched
            for from a higher block on, has to wait for another search.
        history_from: the height from which on it is whole; None where all of it is.
        unproved: packed outpoints that are unspent and cannot be proved, each with its script's hash and its satoshis.
    """
    save_strays(db, unproved)
    settled = []
    for scripthash in scripthashes:
        cursor = db.execute(
            "UPDATE node_script SET is_past_known = 1 WHERE scripthash = ? AND from_height <= ?", [scripthash, reached]
        )
        if cursor.rowcount:
            settled.append(scripthash)
            db.execute("UPDATE script SET history_from = ? WHERE scripthash = ?", [history_from, scripthash])
            # What was found is not in the ledger yet: until it is, nobody is told that this is all.
            db.execute(
                "UPDATE script SET absorbed_at = NULL WHERE scripthash = ? AND EXISTS (SELECT 1 FROM node_entry"
                " WHERE node_entry.scripthash = script.scripthash AND NOT EXISTS (SELECT 1 FROM ledger_entry"
                " WHERE ledger_entry.scripthash = node_entry.scripthash AND ledger_entry.txid = node_entry.txid"
                " AND state = 'confirmed'))",
                [scripthash],
            )
    _recount_unproved(db, settled)
    return settled
