"""What unconfirmed payments spend: whoever else spends it replaces them."""

from collections.abc import Iterable
from dataclasses import dataclass

from sqlite_utils import Database

from lightipn.bitcoin.hashes import ScriptHash, Txid
from lightipn.bitcoin.transaction import Outpoint
from lightipn.store.ledger import is_watched, outpoints_of


@dataclass(frozen=True, slots=True, kw_only=True)
class SpentOutput:
    """An output that an unconfirmed payment spends.

    Args:
        scripthash: of the output's own script: its history names whoever spends it.
        spender: the payment.
        since_height: our tip when it was noted; a rival cannot be much older.
    """

    outpoint: Outpoint
    scripthash: ScriptHash
    spender: Txid
    since_height: int


def save_spent_outputs(db: Database, spent: Iterable[SpentOutput]) -> None:
    """Note what a payment spends."""
    db.conn.executemany(
        "INSERT OR REPLACE INTO spent_output (txid, output_index, scripthash, spender, since_height)"
        " VALUES (?, ?, ?, ?, ?)",
        [(one.outpoint.txid, one.outpoint.index, one.scripthash, one.spender, one.since_height) for one in spent],
    )


def load_spent_outputs(db: Database, scripthash: ScriptHash) -> list[SpentOutput]:
    """Return the outputs of a script that unconfirmed payments spend."""
    rows = db.execute(
        "SELECT txid, output_index, scripthash, spender, since_height FROM spent_output WHERE scripthash = ?",
        [scripthash],
    ).fetchall()
    return [
        SpentOutput(
            outpoint=Outpoint(Txid(row[0]), row[1]),
            scripthash=ScriptHash(row[2]),
            spender=Txid(row[3]),
            since_height=row[4],
        )
        for row in rows
    ]


def load_unarmed(db: Database) -> dict[Txid, tuple[Outpoint, ...]]:
    """Return unconfirmed payments of which not all is noted, each with the outpoints that it spends."""
    rows = db.execute(
        "SELECT DISTINCT txid, spends FROM ledger_entry WHERE state = 'unconfirmed' AND is_coinbase = 0"
        " AND length(spends) / 36 > (SELECT count(*) FROM spent_output WHERE spender = ledger_entry.txid)"
    ).fetchall()
    return {Txid(txid): outpoints_of(packed) for txid, packed in rows}


def drop_settled_spends(db: Database) -> list[ScriptHash]:
    """Forget what settled payments spend, and return the scripts that need no longer be watched."""
    settled = "NOT EXISTS (SELECT 1 FROM ledger_entry WHERE txid = spent_output.spender AND state = 'unconfirmed')"
    rows = db.execute(f"SELECT DISTINCT scripthash FROM spent_output WHERE {settled}").fetchall()
    if not rows:
        return []
    db.execute(f"DELETE FROM spent_output WHERE {settled}")
    return [ScriptHash(row[0]) for row in rows if row[0] and not is_watched(db, ScriptHash(row[0]))]


def drop_spends_from(db: Database, scripthash: ScriptHash) -> None:
    """Forget an output script that cannot be watched."""
    db.execute("UPDATE spent_output SET scripthash = x'' WHERE scripthash = ?", [scripthash])


def load_unconfirmed(db: Database) -> list[Txid]:
    """Return all unconfirmed payments, the earliest first."""
    rows = db.execute(
        "SELECT txid FROM ledger_entry WHERE state = 'unconfirmed' GROUP BY txid ORDER BY min(seen_at)"
    ).fetchall()
    return [Txid(row[0]) for row in rows]
