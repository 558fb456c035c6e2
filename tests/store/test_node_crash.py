"""A process that dies while it writes down what a node's blocks showed: all of a change is there, or nothing of it."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightipn.store import node_blocks
from lightipn.store.database import Database, open_store
from lightipn.store.node_findings import FoundTransaction
from tests.builders import block_hash_of, confirmed, entry_of
from tests.store.node_rows import absorb, begin, coin, found, register, rows_in, save_block, scripthash_of
from tests.store.rows import TIP

# Runs one change, counts its statements and takes it back; then runs it once more, and dies before one of them.
CHILD = """
import os
import signal
import sys
import trio
from pathlib import Path
from lightipn.store import node_blocks, node_findings, node_rows, node_scripts
from lightipn.store.database import open_store
from lightipn.store.node_findings import FoundTransaction

HASH = b"\\x01" * 32
SCRIPTS = [bytes.fromhex(text) for text in sys.argv[4].split(",")]
FOUND = [
    FoundTransaction(txid=bytes([number]) * 32, height=1003, position=number, siblings=(HASH,), raw=b"raw",
                     outputs={bytes([number]) * 36: SCRIPTS[0]}, spends={})
    for number in range(1, 4)
]
CHANGES = {
    "begin": lambda db: (node_blocks.clear(db), node_blocks.begin(db, 1000, [HASH])),
    "save_block": lambda db: node_blocks.save_block(db, 1003, HASH, FOUND),
    "disconnect": lambda db: node_blocks.disconnect(db, 1000),
    "skip_to": lambda db: node_blocks.skip_to(db, 1500, [HASH]),
    "drop_script": lambda db: node_rows.drop_script(db, SCRIPTS[0]),
    "settle_past": lambda db: (
        node_findings.save_strays(db, {HASH + bytes(4): (SCRIPTS[1], 8)}),
        node_scripts.settle_past(db, SCRIPTS, reached=9000, history_from=7),
    ),
    "clear": node_blocks.clear,
}

class TakenBack(Exception):
    pass

async def main():
    change, share, counts = CHANGES[sys.argv[2]], float(sys.argv[3]), []
    async with open_store(Path(sys.argv[1]), "regtest") as store:
        def count(db):
            db.conn.set_trace_callback(counts.append)
            change(db)
            db.conn.set_trace_callback(None)
            raise TakenBack
        def die(db):
            left = [max(1, round(share * len(counts)))]
            def step(statement):
                left[0] -= 1
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
            db.conn.set_trace_callback(step)
            change(db)
        try:
            await store.transact(count)
        except TakenBack:
            pass
        print(len(counts), flush=True)
        await store.transact(die)

trio.run(main)
"""


def scripts_in(db: Database) -> list[tuple[object, ...]]:
    """Return the scripts, with what is known of their pasts."""
    return sorted(db.execute("SELECT * FROM script").fetchall(), key=repr)


def fill(db: Database) -> None:
    """Follow a node for two blocks above what it took over, with two scripts whose pasts are not known."""
    absorb(db, 0, entry_of(1, state=confirmed(TIP - 5)), entry_of(2, state=confirmed(TIP - 4)))
    begin(db)
    register(db, 1, 2)
    save_block(db, TIP + 1, found(3, TIP + 1, pays=[0, 1]), found(4, TIP + 1, position=2, spends={coin(1): 0}))
    save_block(db, TIP + 2, found(5, TIP + 2, pays=[2], spends={coin(3): 0}))


def run_child(path: Path, change: str, share: float) -> subprocess.CompletedProcess[str]:
    """Have a process make a change, and die before the statement that stands at a share of all."""
    scripts = ",".join(scripthash_of(number).hex() for number in (0, 1))
    return subprocess.run(
        [sys.executable, "-c", CHILD, str(path), change, str(share), scripts], capture_output=True, text=True
    )


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.5, 1.0], ids=["in the middle", "at the end"])
@pytest.mark.parametrize(
    "change", ["begin", "save_block", "disconnect", "skip_to", "drop_script", "settle_past", "clear"]
)
async def test_change_that_is_killed_leaves_nothing(tmp_path: Path, change: str, share: float) -> None:
    """Whatever is written of a node is written whole: a kill before its last statement leaves what was there before."""
    path = tmp_path / "shop.db"
    async with open_store(path, "regtest") as store:
        await store.transact(fill)
        before = await store.read(rows_in), await store.read(scripts_in)
    child = run_child(path, change, share)
    assert child.stderr == ""
    assert child.returncode == -signal.SIGKILL
    assert int(child.stdout) > 2  # there is a middle
    async with open_store(path, "regtest") as store:
        assert (await store.read(rows_in), await store.read(scripts_in)) == before
        assert await store.read(node_blocks.load_position) == (TIP + 2, block_hash_of(TIP + 2))


async def test_block_that_cannot_be_finished_leaves_nothing(tmp_path: Path) -> None:
    """Position and findings of a block are one change: when it fails in the middle, neither is there."""

    def breaking() -> Iterator[FoundTransaction]:
        yield found(6, TIP + 3, pays=[0])
        raise RuntimeError("the power fails")

    items = breaking()
    async with open_store(tmp_path / "shop.db", "regtest", threaded=False) as store:
        await store.transact(fill)
        before = await store.read(rows_in)
        with pytest.raises(RuntimeError, match="the power fails"):
            await store.transact(lambda db: node_blocks.save_block(db, TIP + 3, block_hash_of(TIP + 3), items))
        assert await store.read(rows_in) == before
        await store.transact(lambda db: save_block(db, TIP + 3, found(6, TIP + 3, pays=[0])))
        assert await store.read(node_blocks.load_position) == (TIP + 3, block_hash_of(TIP + 3))
