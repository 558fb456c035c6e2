"""A process that dies at any moment: what it had answered is on disk."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lightipn.store import keys
from lightipn.store.database import open_store

CHILD = """
import sys
import trio
from pathlib import Path
from lightipn.store import keys
from lightipn.store.database import open_store

async def work(store, name):
    number = 0
    while True:
        secret = f"{name}-{number}"
        await store.transact(lambda db: keys.save_key(db, name=name, secret=secret, now=number))
        sys.stdout.write(secret + "\\n")
        sys.stdout.flush()
        number += 1

async def main():
    async with open_store(Path(sys.argv[1]), "regtest") as store:
        async with trio.open_nursery() as nursery:
            for name in ("a", "b", "c", "d"):
                nursery.start_soon(work, store, name)

trio.run(main)
"""


@pytest.mark.slow
async def test_every_answer_survives_kill_9(tmp_path: Path) -> None:
    """What a caller was told is on disk whenever the process is killed, and nothing else came in between."""
    path = tmp_path / "shop.db"
    chance = random.Random(8)
    last = dict.fromkeys("abcd", -1)
    for _ in range(6):
        path.unlink(missing_ok=True)
        for suffix in ("-wal", "-shm"):
            Path(f"{path}{suffix}").unlink(missing_ok=True)
        with subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            answered = [child.stdout.readline() for _ in range(chance.randrange(1, 400))]
            os.kill(child.pid, signal.SIGKILL)
            answered += child.stdout.readlines()
        complete = [line.strip() for line in answered if line.endswith("\n")]
        assert len(complete) > 0
        async with open_store(path, "regtest") as store:
            missing = [
                secret
                for secret in complete
                if await store.read(lambda db, s=secret: keys.load_owner(db, s)) is None  # type: ignore[misc]
            ]
            assert missing == []
            last = {name: len([s for s in complete if s.startswith(name)]) for name in last}
            counts = {name: 0 for name in last}
            for key in await store.read(keys.load_keys):
                assert key.created_at == counts[key.name]  # each caller's changes in order, without gaps
                counts[key.name] += 1
        # At most the one change that each caller was waiting for is on disk without having been answered.
        assert all(0 <= counts[name] - last[name] <= 1 for name in last)
