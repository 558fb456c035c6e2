"""What tests read from a simulated chain, past the code under test where that is possible."""

import hashlib
from typing import Any

from lightipn.bitcoin.hashes import Txid, hex_of, scripthash_of
from lightipn.bitcoin.network import REGTEST
from lightipn.bitcoin.transaction import Transaction, parse_transaction
from lightipn.chain.checkpoint import Checkpoint
from lightipn.chain.headers import HeaderChain
from lightipn.simulator import forge
from lightipn.simulator.blocks import SimulatedChain

SCRIPT = forge.made_up_script("shop")
SCRIPTHASH = scripthash_of(SCRIPT)
SHOP = hex_of(SCRIPTHASH)


def parsed(chain: SimulatedChain, txid: Txid) -> Transaction:
    """Return a transaction that the chain knows."""
    raw = chain.transaction(txid)
    assert raw is not None
    return parse_transaction(raw)


def chain_of_headers() -> HeaderChain:
    """Return a header chain that knows genesis alone."""
    return HeaderChain(REGTEST, Checkpoint(height=0, block_hash=REGTEST.genesis_hash, next_bits=None))


def shop_status(chain: SimulatedChain) -> str:
    """Return the shop's status as it is on the wire."""
    found = chain.status(SCRIPTHASH)
    assert found is not None
    return found.hex()


def confirmed_txid(chain: SimulatedChain) -> Txid:
    """Return the shop's payment in block 3."""
    return chain.history(SCRIPTHASH)[0].txid


def status_of_list(entries: list[dict[str, Any]]) -> str | None:
    """Return the status that goes with a history as it was told on the wire, computed without the code under test."""
    text = "".join(f"{entry['tx_hash']}:{entry['height']}:" for entry in entries)
    return hashlib.sha256(text.encode()).hexdigest() if text else None


def heights_of(entries: list[dict[str, Any]]) -> list[int]:
    """Return the heights of a history as it was told on the wire."""
    return [entry["height"] for entry in entries]
