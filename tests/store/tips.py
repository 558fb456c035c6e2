"""Blocks that come and go, written as the tracker does it: headers, then what they do to the outbox."""

from collections.abc import Mapping

from lightipn.bitcoin.header import BlockHeader, parse_header
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.headers import ChainDelta
from lightipn.outbox.policy import Policy
from lightipn.store import chain, outbox, reviews, subscriptions
from lightipn.store.database import Database
from tests.builders import genesis_of, mined_run
from tests.store.rows import NOW, POLICIES, TIP


def stand_at_tip(db: Database) -> None:
    """Have our chain end at ``TIP``, one block above its checkpoint."""
    chain.save_base_height(db, TIP - 1)
    grow(db)


def grow(db: Database, count: int = 1, *, branch: int = 0) -> list[BlockHeader]:
    """Add blocks on top, all as one tip, and return them; another ``branch`` gives other hashes."""
    return reorg(db, 0, count, branch=branch)


def reorg(
    db: Database, depth: int, count: int, *, branch: int = 1, policies: Mapping[str, Policy] = POLICIES
) -> list[BlockHeader]:
    """Take the highest blocks away and put others in their place, all as one tip; return these."""
    tip_height = chain.load_tip_height(db)
    fork_height = tip_height - depth
    found = chain.load_block(db, fork_height)
    previous = parse_header(found[1]) if found else genesis_of(REGTEST)
    leaving = [chain.load_block(db, height) for height in range(fork_height + 1, tip_height + 1)]
    delta = ChainDelta(
        fork_height=fork_height,
        disconnected=tuple(parse_header(block[1]) for block in leaving if block is not None),
        connected=tuple(parse_header(raw) for raw in mined_run(previous, count, branch=branch)),
    )
    connect(db, delta, policies)
    return list(delta.connected)


def connect(db: Database, delta: ChainDelta, policies: Mapping[str, Policy] = POLICIES) -> None:
    """Write a chain change."""
    if delta.disconnected:
        reviews.freeze_past(db, policies, delta.fork_height)
    chain.save_delta(db, delta)
    outbox.withdraw_blocks(db, delta)
    subscriptions.rewind_blocks(db, delta.fork_height)


def wake(db: Database, *, now: float = NOW) -> bool:
    """Make due what waited for our tip, all pages of it; True if anything was."""
    is_any_due, is_more = False, True
    while is_more:
        is_due, is_more = reviews.wake_for_tip(db, POLICIES, now=now)
        is_any_due |= is_due
    return is_any_due
