"""Notices without end: what a server pushes that wants its clients to drown. Each piece is new, and worth nothing."""

from collections.abc import Iterator, Sequence
from typing import Any

from lightipn.bitcoin.hashes import ScriptHash, sha256
from lightipn.bitcoin.header import parse_header
from lightipn.simulator import forge
from lightipn.simulator.view import ChainView

FLOOD_NOTICES = 1000  # at a time: endless, and yet a test comes to an end


def flood_of_tips(chain: ChainView, start: int) -> Iterator[dict[str, Any]]:
    """Yield headers that link to the chain, carry their work and rival the tip, as ``headers.subscribe`` tells them.

    Args:
        start: how many were pushed before; they do not come again.
    """
    height = max(chain.tip_height, 1)
    before = parse_header(chain.header_at(height - 1))
    for number in range(start, start + FLOOD_NOTICES):
        root = sha256(f"flood {number}".encode())
        header = forge.mined_header(before.block_hash, root, time=before.time + 600)
        yield {"hex": header.hex(), "height": height}


def flood_of_statuses(scripthashes: Sequence[ScriptHash], start: int) -> Iterator[tuple[ScriptHash, str]]:
    """Yield scripthashes in turn, each with a status that no history has; ``start`` as above."""
    for number in range(start, start + FLOOD_NOTICES):
        yield scripthashes[number % len(scripthashes)], sha256(f"flood {number}".encode()).hex()
