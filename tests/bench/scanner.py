"""Blocks a second through the scanner of the bitcoind backend, with nothing, 10,000 and 1,000,000 scripts watched.

    python -m tests.bench.scanner [--rounds 31] [--hits half] [--coins 0.1]

The block has the greatest weight that is allowed, and holds payments of one input and two outputs (P2WPKH) alone. Half
of its outputs belong to watched scripts, or with ``--hits all`` every one. One script in ten holds a coin, whose
outpoint is watched as well; with ``--coins 1`` each of them.
A round is one turn of each: embit, which merely reads the transactions; our parser with txids and merkle root, and
nothing watched; and the same with each number of scripts. So all ratios are of one run. Printed last is what comes
on top where half of a block is ours, which no real block is: proofs, and what the store is given.
"""

import argparse
import gc
import io
import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random

from embit.transaction import Transaction as EmbitTransaction

from lightipn.bitcoin.block import parse_block
from lightipn.bitcoin.hashes import ScriptHash, Txid, sha256d
from lightipn.bitcoin.header import HEADER_BYTES
from lightipn.bitcoin.merkle import branch_in, merkle_tree_of
from lightipn.bitcoind.scanner import matches_of, scan_block

MOST_WEIGHT = 4_000_000
WATCHED = (10_000, 1_000_000)
MIB = 1 << 20
WITNESS_BYTES = 2 + 2 + 72 + 1 + 33  # marker and flag, two items, signature, key
EMBIT_EVERY = 3


def transaction_of(chance: Random) -> bytes:
    """Return a transaction with one input and two outputs, all P2WPKH; 561 weight units."""
    spend = chance.randbytes(32) + chance.randrange(4).to_bytes(4, "little") + b"\x00" + b"\xfd\xff\xff\xff"
    outputs = [
        (chance.randrange(1, 10**9)).to_bytes(8, "little") + b"\x16\x00\x14" + chance.randbytes(20) for _ in "ab"
    ]
    witness = b"\x02\x48" + chance.randbytes(72) + b"\x21" + chance.randbytes(33)
    body = b"\x01" + spend + b"\x02" + b"".join(outputs)
    return b"\x02\x00\x00\x00" + b"\x00\x01" + body + witness + bytes(4)


def full_block() -> tuple[bytes, list[bytes]]:
    """Return a block of the greatest weight, and its transactions; its header has its root, and no work."""
    chance = Random(6)
    raw: list[bytes] = []
    weight = HEADER_BYTES * 4 + 3 * 4
    while True:
        transaction = transaction_of(chance)
        weight += 4 * (len(transaction) - WITNESS_BYTES) + WITNESS_BYTES
        if weight > MOST_WEIGHT:
            break
        raw.append(transaction)
    txids = [Txid(sha256d(one[:4] + one[6 : -WITNESS_BYTES - 2] + one[-4:])) for one in raw]
    root = merkle_tree_of(txids)[-1][0]
    header = bytes(36) + root + bytes(12)
    return header + b"\xfd" + len(raw).to_bytes(2, "little") + b"".join(raw), raw


def watched_of(count: int, ours: list[bytes], *, coins: float) -> tuple[set[bytes], dict[bytes, ScriptHash]]:
    """Return so many scripts, those of the block among them, and the outpoints of their coins."""
    scripts = set(ours[:count])
    while len(scripts) < count:
        scripts.add(b"\x00\x14" + os.urandom(20))
    owner = ScriptHash(bytes(32))
    return scripts, {os.urandom(36): owner for _ in range(round(coins * count))}


def resident_mib() -> float:
    """Return the resident memory of this process in MiB."""
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long something took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def report(raw: bytes, transactions: Sequence[bytes], times: Mapping[str, Sequence[float]]) -> None:
    """Print the rates, and how they compare."""
    size_mib = len(raw) / MIB
    print(f"block: {len(raw)} bytes, {len(transactions)} transactions")
    none, embit = statistics.median(times["0"]), statistics.median(times["embit"])
    for name, taken in times.items():
        median = statistics.median(taken)
        print(
            f"{name:>8}{'' if name == 'embit' else ' watched'}: {1 / median:5.1f} blocks/s, {size_mib / median:5.1f}"
            f" MiB/s; over none watched {none / median:.3f}, over embit {embit / median:.2f}"
        )


def main(rounds: int, *, are_all_hit: bool, coins: float) -> None:
    """Run the benchmark."""
    raw, transactions = full_block()
    block = parse_block(raw)
    ours = block.scripts if are_all_hit else block.scripts[::2]
    memory = [resident_mib()]
    watches = {}
    for count in WATCHED:
        watches[count] = watched_of(count, list(ours), coins=coins)
        memory.append(resident_mib())

    def read_with_embit() -> None:
        stream = io.BytesIO(b"".join(transactions))
        for _ in transactions:
            EmbitTransaction.read_from(stream)

    acts: dict[str, Callable[[], object]] = {"0": lambda: scan_block(parse_block(raw), frozenset(), {})}
    for count, (scripts, outpoints) in watches.items():
        acts[str(count)] = lambda scripts=scripts, outpoints=outpoints: scan_block(parse_block(raw), scripts, outpoints)
    times: dict[str, list[float]] = {name: [] for name in ("embit", *acts)}
    for number in range(rounds):
        if number % EMBIT_EVERY == 0:
            times["embit"].append(seconds_of(read_with_embit))
        for name, act in acts.items():
            times[name].append(seconds_of(act))

    report(raw, transactions, times)
    for count, before, after in zip(WATCHED, memory, memory[1:], strict=False):
        print(f"memory of {count} scripts and {round(coins * count)} outpoints: {after - before:.1f} MiB")
    scripts, outpoints = watches[WATCHED[-1]]

    def work_out() -> None:
        matches = matches_of(block, scan_block(block, scripts, outpoints), outpoints)
        levels = merkle_tree_of(block.txids)
        for position in matches:
            branch_in(levels, position)
            block.transaction(position)

    print(f"working out the {len(ours)} hits, with a proof each: {seconds_of(work_out) * 1000:.0f} ms more")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--hits", choices=("half", "all"), default="half")
    parser.add_argument("--coins", type=float, default=0.1)
    arguments = parser.parse_args()
    main(arguments.rounds, are_all_hit=arguments.hits == "all", coins=arguments.coins)
