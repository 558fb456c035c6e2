"""Forgetting what was found of a script in the blocks of one's own bitcoind."""

from sqlite_utils import Database

from lightipn.bitcoin.hashes import ScriptHash


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
