"""The scripts that the blocks of one's own bitcoind are searched for, and whether their past was looked for."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from sqlite_utils import Database

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.store.node_findings import recount_unproved
from lightipn.store.node_rows import drop_script


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeScript:
    """A script that blocks are searched for.

    Args:
        is_new: it was taken up just now.
        script: None where only outputs of it are looked after, which an unconfirmed payment spends.
    """

    scripthash: ScriptHash
    script: bytes | None
    is_past_known: bool
    is_new: bool = field(default=False, compare=False)


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
        is_new = is_past_known is None
        if is_new:
            drop_script(db, scripthash)  # what was found of it as a payer's is no beginning of its own history
            db.execute(
                "INSERT INTO node_script (scripthash, is_past_known, from_height) VALUES (?, 0, ?)",
                [scripthash, height],
            )
            db.execute("UPDATE script SET history_from = ? WHERE scripthash = ?", [height + 1, scripthash])
        registered.append(
            NodeScript(scripthash=scripthash, script=script, is_past_known=bool(is_past_known), is_new=is_new)
        )
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


# --- the past ---


def load_pending(db: Database, *, limit: int) -> list[NodeScript]:
    """Return scripts whose past is still to be looked for."""
    rows = db.execute(
        "SELECT scripthash, script FROM node_script JOIN script USING (scripthash) WHERE is_past_known = 0 LIMIT ?",
        [limit],
    ).fetchall()
    return [NodeScript(scripthash=ScriptHash(row[0]), script=row[1], is_past_known=False) for row in rows]


def load_all_pending(db: Database) -> set[ScriptHash]:
    """Return the hashes of all those scripts."""
    rows = db.execute("SELECT scripthash FROM node_script JOIN script USING (scripthash) WHERE is_past_known = 0")
    return {ScriptHash(row[0]) for row in rows.fetchall()}


def is_past_pending(db: Database, scripthash: ScriptHash) -> bool:
    """Tell whether a script's past is still to be looked for."""
    row = db.execute("SELECT 1 FROM node_script WHERE scripthash = ? AND is_past_known = 0", [scripthash]).fetchone()
    return row is not None


def count_pending(db: Database) -> int:
    """Return how many scripts' past is still to be looked for."""
    return int(db.execute("SELECT count(*) FROM node_script WHERE is_past_known = 0").fetchone()[0])


def settle_past(
    db: Database,
    scripthashes: Iterable[ScriptHash],
    *,
    reached: int,
    history_from: int | None,
) -> list[ScriptHash]:
    """Record that a script's past was looked for, and return for which that is the whole of it.

    Args:
        reached: height up to which it was looked for. Who was let go of and watched again since then, and is searched
            for from a higher block on, has to wait for another search.
        history_from: the height from which on it is whole; None where all of it is.
    """
    settled = []
    for scripthash in scripthashes:
        cursor = db.execute(
            "UPDATE node_script SET is_past_known = 1 WHERE scripthash = ? AND from_height <= ?", [scripthash, reached]
        )
        if cursor.rowcount:
            settled.append(scripthash)
            db.execute("UPDATE script SET history_from = ? WHERE scripthash = ?", [history_from, scripthash])
    if history_from is None:  # what no block shows stands in none
        db.conn.executemany(
            "DELETE FROM node_output WHERE scripthash = ? AND unproved_sat IS NOT NULL", [(each,) for each in settled]
        )
    recount_unproved(db, settled)
    return settled
