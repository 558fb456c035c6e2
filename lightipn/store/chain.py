"""Headers on disk: our best chain, and old periods proved against checkpoints."""

from sqlite_utils import Database

from lightipn.bitcoin.hashes import BlockHash
from lightipn.bitcoin.header import HEADER_BYTES, RETARGET_BLOCKS, parse_header
from lightipn.chain.headers import ChainDelta


def load_headers(db: Database) -> tuple[int | None, list[bytes]]:
    """Return the height of the lowest stored header (None without any) and all raw headers from there up."""
    rows = db.execute("SELECT height, raw FROM header ORDER BY height").fetchall()
    return (rows[0][0] if rows else None), [row[1] for row in rows]


def save_delta(db: Database, delta: ChainDelta) -> None:
    """Write a chain change: what leaves goes, what enters stands."""
    db.execute("DELETE FROM header WHERE height > ?", [delta.fork_height])
    db.conn.executemany(
        "INSERT INTO header (height, block_hash, raw) VALUES (?, ?, ?)",
        [(delta.fork_height + 1 + i, header.block_hash, header.raw) for i, header in enumerate(delta.connected)],
    )
    db.execute(
        "INSERT INTO setting (name, value) VALUES ('tip_number', '1')"
        " ON CONFLICT DO UPDATE SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT)"
    )


def load_tip_number(db: Database) -> int:
    """Return how many tips our chain has had: blocks that came together were one."""
    row = db.execute("SELECT value FROM setting WHERE name = 'tip_number'").fetchone()
    return int(row[0]) if row else 0


def load_tip(db: Database) -> tuple[int, BlockHash, bytes] | None:
    """Return height, hash and raw header of the tip, or None before the first header."""
    row = db.execute("SELECT height, block_hash, raw FROM header ORDER BY height DESC LIMIT 1").fetchone()
    return (row[0], BlockHash(row[1]), row[2]) if row else None


def load_block_hash(db: Database, height: int) -> BlockHash | None:
    """Return the hash at a height of our chain; None where no header is stored."""
    row = db.execute("SELECT block_hash FROM header WHERE height = ?", [height]).fetchone()
    return BlockHash(row[0]) if row else None


def load_block(db: Database, height: int) -> tuple[BlockHash, bytes] | None:
    """Return hash and raw header at a height of our chain; None where no header is stored."""
    row = db.execute("SELECT block_hash, raw FROM header WHERE height = ?", [height]).fetchone()
    return (BlockHash(row[0]), row[1]) if row else None


def load_time(db: Database, height: int) -> int | None:
    """Return what the header at a height of our chain says of its time, in unix seconds; None where none is kept."""
    found = load_block(db, height)
    raw = load_old_header(db, height) if found is None else found[1]
    return None if raw is None else parse_header(raw).time


def load_height_at(db: Database, time: int) -> int:
    """Return the height that our chain had at a time, as its headers say.

    Args:
        time: unix seconds.
    """
    rows = db.execute("SELECT height, raw FROM header ORDER BY height DESC")
    height = next((row[0] for row in rows if parse_header(row[1]).time <= time), None)
    return load_base_height(db) if height is None else int(height)


def save_period(db: Database, period: int, raw_headers: bytes) -> None:
    """Write a proved period: 2016 raw headers, end to end."""
    db.execute("INSERT OR REPLACE INTO proved_period (period, raw_headers) VALUES (?, ?)", [period, raw_headers])


def load_old_header(db: Database, height: int) -> bytes | None:
    """Return the raw header at a height of a proved period, or None."""
    period, index = divmod(height, RETARGET_BLOCKS)
    row = db.execute(
        "SELECT substr(raw_headers, ?, ?) FROM proved_period WHERE period = ?",
        [index * HEADER_BYTES + 1, HEADER_BYTES, period],
    ).fetchone()
    return bytes(row[0]) if row else None


def save_base_height(db: Database, height: int) -> None:
    """Record the height of the checkpoint that the stored headers stand on."""
    db.execute("INSERT OR REPLACE INTO setting (name, value) VALUES ('base_height', ?)", [str(height)])


def load_base_height(db: Database) -> int:
    """Return the height of the checkpoint that the stored headers stand on."""
    row = db.execute("SELECT value FROM setting WHERE name = 'base_height'").fetchone()
    return int(row[0]) if row else 0


def save_followed_height(db: Database, height: int) -> None:
    """Record that servers have told every history up to a height of our chain."""
    db.execute("INSERT OR REPLACE INTO setting (name, value) VALUES ('followed_height', ?)", [str(height)])


def load_followed_height(db: Database) -> int | None:
    """Return the height up to which every history was told, as of a minute before the last end; None if never."""
    row = db.execute("SELECT value FROM setting WHERE name = 'followed_height'").fetchone()
    return None if row is None else int(row[0])


def load_tip_height(db: Database) -> int:
    """Return the height of our tip: of the highest header, or of the checkpoint before the first one came."""
    row = db.execute("SELECT max(height) FROM header").fetchone()
    return load_base_height(db) if row[0] is None else int(row[0])
