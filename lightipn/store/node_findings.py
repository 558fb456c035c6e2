"""What was found in the blocks of one's own bitcoind: which transactions concern which scripts, and what proves them.

A node has no index of addresses. So what its blocks showed is kept here, and histories are read from it. The ledger
stays what was *proved*; this is evidence.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlite_utils import Database

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.bitcoin.transaction import Outpoint, PackedOutpoint, packed_outpoint
from lightipn.chain.verifier import Unconfirmed
from lightipn.store.ledger import load_payments, load_scripts_of

# Blocks whose hashes are kept to find where a reorg begins, and whose transactions keep their proofs: more than the 288
# that a pruned node is sure to have.
BLOCKS_KEPT = 2016
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


# --- transactions ---


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
        save_outputs(db, one.outputs)
        mark_spent(db, one.spends, one.height)
        recount_unproved(db, {*one.outputs.values(), *one.spends.values()})


def drop_transactions(db: Database, txids: Sequence[Txid]) -> None:
    """Forget transactions, with the outputs that they made."""
    for txid in txids:
        db.execute("DELETE FROM node_entry WHERE txid = ?", [txid])
        db.execute("DELETE FROM node_transaction WHERE txid = ?", [txid])
        # Outpoints begin with their txid: a range is a look at the key.
        db.execute("DELETE FROM node_output WHERE outpoint BETWEEN ? AND ?", [txid, txid + b"\xff" * 4])


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


def is_ahead_of_ledger(db: Database, scripthash: ScriptHash) -> bool:
    """Tell whether blocks show payments of a script that the ledger does not hold as confirmed yet.

    While it is so, nobody may take what the ledger holds for all, whatever was absorbed: what is found in blocks is
    written before it is told. What lies below the height from which on the history is whole may be missing.
    """
    row = db.execute(
        "SELECT 1 FROM node_entry JOIN node_transaction USING (txid) LEFT JOIN script USING (scripthash)"
        " WHERE node_entry.scripthash = ? AND height >= coalesce(script.history_from, 0)"
        " AND NOT EXISTS (SELECT 1 FROM ledger_entry WHERE ledger_entry.scripthash = node_entry.scripthash"
        " AND ledger_entry.txid = node_entry.txid AND state = 'confirmed') LIMIT 1",
        [scripthash],
    ).fetchone()
    return row is not None


# --- outputs ---


def save_outputs(db: Database, outputs: Mapping[bytes, ScriptHash]) -> None:
    """Record outputs that are proved: packed outpoints, each with the hash of the script that it belongs to."""
    db.conn.executemany(
        "INSERT INTO node_output (outpoint, scripthash) VALUES (?, ?)"
        " ON CONFLICT (outpoint) DO UPDATE SET unproved_sat = NULL",
        list(outputs.items()),
    )


def mark_spent(db: Database, outpoints: Iterable[bytes], height: int) -> None:
    """Record that a block of this height spends outputs."""
    db.conn.executemany(
        "UPDATE node_output SET spent_height = ? WHERE outpoint = ?", [(height, outpoint) for outpoint in outpoints]
    )


def load_outputs(db: Database) -> list[tuple[bytes, ScriptHash]]:
    """Return the packed outpoints whose spending concerns a script, but for those that were spent long ago."""
    rows = db.execute(
        "SELECT outpoint, scripthash FROM node_output WHERE spent_height IS NULL"
        " OR spent_height > (SELECT max(height) FROM node_block) - ?",
        [BLOCKS_KEPT],
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


# --- outputs that nothing proves ---


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


def recount_unproved(db: Database, scripthashes: Iterable[ScriptHash]) -> None:
    """Sum up anew what these scripts hold unspent that nothing proves."""
    db.conn.executemany(
        # What the ledger holds as a payment, if only as an unconfirmed one, is not counted twice.
        "UPDATE script SET unproved_sat = (SELECT coalesce(sum(node_output.unproved_sat), 0) FROM node_output"
        " WHERE node_output.scripthash = ?1 AND node_output.unproved_sat IS NOT NULL AND spent_height IS NULL"
        " AND NOT EXISTS (SELECT 1 FROM ledger_entry WHERE ledger_entry.scripthash = ?1"
        " AND ledger_entry.txid = substr(node_output.outpoint, 1, 32) AND state IN ('confirmed', 'unconfirmed')))"
        " WHERE scripthash = ?1 AND (unproved_sat > 0 OR EXISTS"
        " (SELECT 1 FROM node_output WHERE node_output.scripthash = ?1 AND node_output.unproved_sat IS NOT NULL))",
        [(scripthash,) for scripthash in scripthashes],
    )


def keep_unconfirmed(db: Database) -> dict[PackedOutpoint, ScriptHash]:
    """Record what unconfirmed payments pay as what nothing proves, and return it.

    For blocks that nobody looked through: such a payment may be in one of them. That it is not shown is no denial.
    """
    kept: dict[PackedOutpoint, ScriptHash] = {}
    rows = db.execute(
        "SELECT DISTINCT scripthash FROM ledger_entry JOIN node_script USING (scripthash) WHERE state = 'unconfirmed'"
    ).fetchall()
    for (scripthash,) in rows:
        payments = load_payments(db, ScriptHash(scripthash))
        assert payments is not None  # an entry's script is there
        for entry in payments.entries.values():
            if isinstance(entry.state, Unconfirmed):
                strays = {
                    packed_outpoint(entry.txid, index): (payments.scripthash, amount_sat)
                    for index, amount_sat in entry.outputs
                }
                save_strays(db, strays)
                kept |= dict.fromkeys(strays, payments.scripthash)
    return kept


def drop_strays_of(db: Database, txid: Txid) -> None:
    """Forget outputs of a transaction that nothing proved: it waits for its block, so it stands in none."""
    rows = db.execute(
        "DELETE FROM node_output WHERE outpoint BETWEEN ? AND ? AND unproved_sat IS NOT NULL RETURNING scripthash",
        [txid, txid + b"\xff" * 4],
    ).fetchall()
    recount_unproved(db, {ScriptHash(row[0]) for row in rows})


def load_undeniable(db: Database, scripthash: ScriptHash) -> list[Txid]:
    """Return unconfirmed payments of a script that stand, or may stand, in blocks that nobody can show."""
    rows = db.execute(
        "SELECT DISTINCT ledger_entry.txid FROM ledger_entry JOIN node_output ON substr(outpoint, 1, 32) = txid"
        " WHERE ledger_entry.scripthash = ?1 AND node_output.scripthash = ?1 AND unproved_sat IS NOT NULL"
        " AND state = 'unconfirmed' ORDER BY ledger_entry.txid",
        [scripthash],
    ).fetchall()
    return [Txid(row[0]) for row in rows]


def load_all_undeniable(db: Database) -> list[Txid]:
    """Return unconfirmed payments that stand, or may stand, in blocks that nobody can show."""
    rows = db.execute(  # from the few that are unconfirmed to their outputs, not the other way round
        "SELECT DISTINCT ledger_entry.txid FROM ledger_entry CROSS JOIN node_output"
        " WHERE state = 'unconfirmed' AND node_output.scripthash = ledger_entry.scripthash"
        " AND unproved_sat IS NOT NULL AND substr(outpoint, 1, 32) = ledger_entry.txid"
    ).fetchall()
    return [Txid(row[0]) for row in rows]


def load_spends(db: Database, txid: Txid) -> tuple[Outpoint, ...]:
    """Return what a payment spends; nothing if it is known no more."""
    for scripthash in load_scripts_of(db, txid):
        payments = load_payments(db, scripthash)
        if payments is not None and txid in payments.entries:
            return payments.entries[txid].spends
    return ()


def mark_gone(
    db: Database, scripthashes: Iterable[ScriptHash], *, unspent: Collection[PackedOutpoint], height: int
) -> None:
    """Record that outputs which nothing proves, and which are not unspent any more, were spent unseen.

    Args:
        unspent: what a scan found of the scripts.
        height: as of which they are spent.
    """
    for scripthash in scripthashes:
        rows = db.execute(
            "SELECT outpoint FROM node_output WHERE scripthash = ?1 AND unproved_sat IS NOT NULL"
            " AND spent_height IS NULL AND NOT EXISTS (SELECT 1 FROM ledger_entry WHERE ledger_entry.scripthash = ?1"
            " AND txid = substr(outpoint, 1, 32) AND state = 'unconfirmed')",
            [scripthash],
        ).fetchall()
        mark_spent(db, [row[0] for row in rows if row[0] not in unspent], height)


def is_unproved(db: Database, txid: Txid) -> bool:
    """Tell whether a transaction paid a script in a block, though nothing proves it."""
    row = db.execute(
        "SELECT 1 FROM node_output WHERE outpoint BETWEEN ? AND ? AND unproved_sat IS NOT NULL LIMIT 1",
        [txid, txid + b"\xff" * 4],
    ).fetchone()
    return row is not None
