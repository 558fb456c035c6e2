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
    """What a caller was told is on disk whenever the process is killed, in order and without gaps."""
    chance = random.Random(8)
    for number in range(5):
        path = tmp_path / f"{number}.db"
        with subprocess.Popen([sys.executable, "-c", CHILD, str(path)], stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            answered = [child.stdout.readline() for _ in range(chance.randrange(1, 400))]
            os.kill(child.pid, signal.SIGKILL)
            answered += child.stdout.readlines()
        answers = [line.strip() for line in answered if line.endswith("\n")]
        async with open_store(path, "regtest") as store:
            kept = await store.read(keys.load_keys)
            missing = await store.read(lambda db, a=answers: [s for s in a if keys.load_owner(db, s) is None])  # type: ignore[misc]
        assert missing == []
        for name in ("a", "b", "c", "d"):
            told = sum(answer.startswith(name) for answer in answers)
            written = [key.created_at for key in kept if key.name == name]
            assert written == list(range(len(written)))
            # At most the one change that a caller was waiting for is on disk without having been answered.
            assert told <= len(written) <= told + 1
