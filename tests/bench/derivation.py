"""Addresses a second out of an extended key: LightIPN's over a bare loop of the elliptic-curve operation they need.

    python -m tests.bench.derivation [--addresses 2000] [--pairs 5]

Address N needs one addition of a point (BIP-32), P2TR one more (BIP-341); the bare loop makes these additions alone,
with the same library, so what is left is hashing, and embit's and our own Python. Last come the same derivations as
transactions of the database: how much longer its one writer is busy with them than with nothing.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from copy import copy
from pathlib import Path

import trio
from embit import bip32
from embit.util import secp256k1

from lightipn.bitcoin.extended_key import AddressChain, ScriptKind, parse_receive_chains
from lightipn.bitcoin.network import REGTEST
from lightipn.store.database import Database, open_store
from tests.bitcoin.keys import TPUB

ADDITIONS = {ScriptKind.P2PKH: 1, ScriptKind.P2SH_P2WPKH: 1, ScriptKind.P2WPKH: 1, ScriptKind.P2TR: 2}


def seconds_of(work: Callable[[], None]) -> float:
    """Return how long something took."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def bare_rate(addresses: int, additions: int) -> float:
    """Add to a point alone, so many times for each address, and return addresses a second."""
    point = bip32.HDKey.from_base58(TPUB).key._point

    def work() -> None:
        for index in range(addresses):
            tweak = (index + 1).to_bytes(32, "big")
            for _ in range(additions):
                secp256k1.ec_pubkey_add(copy(point), tweak)

    return addresses / seconds_of(work)


def lightipn_rate(chain: AddressChain, addresses: int) -> float:
    """Derive and return addresses a second."""

    def work() -> None:
        for index in range(addresses):
            chain.address_at(index)

    return addresses / seconds_of(work)


def measure(chain: AddressChain, addresses: int, pairs: int) -> None:
    """Print the rates of one kind."""
    assert chain.kind is not None
    bare, ours, ratios = [], [], []
    for _ in range(pairs):
        bare.append(bare_rate(addresses, ADDITIONS[chain.kind]))
        ours.append(lightipn_rate(chain, addresses))
        ratios.append(ours[-1] / bare[-1])
    print(
        f"{chain.kind.value:12} bare {statistics.median(bare):7.0f}/s   lightipn {statistics.median(ours):6.0f}/s"
        f" ({1000 / statistics.median(ours):.3f} ms each)   ratio, median of {pairs}: {statistics.median(ratios):.2f}"
    )


async def transact_all(path: Path, addresses: int, chain: AddressChain | None) -> float:
    """Make so many transactions at once, each with a derivation or with nothing, and return milliseconds for each."""
    async with open_store(path, REGTEST.name) as store:

        async def one(index: int) -> None:
            def work(db: Database) -> None:
                if chain is not None:
                    chain.address_at(index)

            await store.transact(work)

        started = time.perf_counter()
        async with trio.open_nursery() as nursery:
            for index in range(addresses):
                nursery.start_soon(one, index)
        return 1000 * (time.perf_counter() - started) / addresses


async def measure_writer(chains: tuple[AddressChain, ...], addresses: int, pairs: int) -> None:
    """Print what derivations cost in the database's writer thread."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "bench.db"
        await transact_all(path, addresses, None)
        for chain in chains:
            assert chain.kind is not None
            empty, derived = [], []
            for _ in range(pairs):
                empty.append(await transact_all(path, addresses, None))
                derived.append(await transact_all(path, addresses, chain))
            ratio = statistics.median(one / other for one, other in zip(derived, empty, strict=True))
            print(
                f"{chain.kind.value:12} a transaction with nothing {statistics.median(empty):.3f} ms,"
                f" with a derivation {statistics.median(derived):.3f} ms   ratio, median of {pairs}: {ratio:.1f}"
            )


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--addresses", type=int, default=2000)
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    _, chains = parse_receive_chains(TPUB, REGTEST)
    is_native = secp256k1.ec_pubkey_add.__module__.endswith("ctypes_secp256k1")
    print(f"elliptic curve: {'native libsecp256k1' if is_native else 'pure Python'}")
    for chain in chains:
        measure(chain, arguments.addresses, arguments.pairs)
    trio.run(measure_writer, chains, arguments.addresses, arguments.pairs)


if __name__ == "__main__":
    main()
