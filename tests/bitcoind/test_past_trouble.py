"""A search for the past that an error ends, or that the chain changes under, and blocks that are not to be had."""

from pathlib import Path
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.transaction import Outpoint
from tests.bitcoind.rig import (
    A_WHILE_S,
    PAID,
    PAYMENTS,
    SOMEBODY_SCRIPT,
    Life,
    in_the_middle,
    life_on,
    paid_in_many_blocks,
)
from tests.bitcoind.simulated_node import MISC_ERROR, RefusedCallError, SimulatedNode
from tests.tracker.rig import SHOP

LONG_S = 100.0


async def search(life: Life) -> None:
    """Watch the shop's script, and let the search for its past come to its end, with its retries."""
    await life.watch()
    await trio.sleep(LONG_S)
    assert life.source.past_progress == ""


@pytest.mark.parametrize("has_filters", [False, True])
async def test_search_goes_on_where_an_error_ended_it(
    has_filters: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A connection that breaks costs neither the scan nor the blocks that were searched until then."""
    node = SimulatedNode(paid_in_many_blocks(), has_filters=has_filters)

    async def lose_a_call() -> None:
        node.calls_to_lose = 1

    async with life_on(node, tmp_path / "a.db") as life:
        await trio.sleep(A_WHILE_S)
        in_the_middle(node, "getblock", 3, lose_a_call)
        await search(life)
        assert (await life.shown(), await life.coverage()) == (PAID, (None if has_filters else 10, 0))
        scans = node.calls.count("scanblocks"), node.calls.count("scantxoutset")
        assert [count for count in scans if count] == ([2] if has_filters else [1])  # also asked how far it is
        assert node.calls.count("getblock") == PAYMENTS + 1  # the one whose proof was interrupted is fetched again
        assert node.calls_to_lose == 0


@pytest.mark.parametrize("has_filters", [False, True])
async def test_search_begins_anew_when_the_chain_changed_under_it(
    has_filters: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What a scan said of a chain that was left is not worked in: the past is that of the chain that stands."""
    node = SimulatedNode(paid_in_many_blocks(), has_filters=has_filters)

    async def leave_the_chain() -> None:
        node.chain.reorg(5, remine=False)
        node.chain.mine(2)

    async with life_on(node, tmp_path / "a.db") as life:
        await trio.sleep(A_WHILE_S)
        in_the_middle(node, "getblock", 5, leave_the_chain)
        await search(life)
        expected = await life.entries()
        heights = sorted(node.chain.height_of(entry.txid) or 0 for entry in expected)
        assert (len(expected), heights) == (PAYMENTS, [2, 3, 4, 11, 11, 11])
        assert await life.shown() == PAID
        assert life.source.take_evidence() == []


@pytest.mark.parametrize("has_filters", [False, True])
async def test_coin_that_a_search_found_before_it_was_given_up_is_looked_after(
    has_filters: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What is written already is not searched for again, but who spends it is seen all the same."""
    node = SimulatedNode(paid_in_many_blocks(), has_filters=has_filters)

    async def leave_the_chain() -> None:
        node.chain.reorg(2)

    async with life_on(node, tmp_path / "a.db") as life:
        await trio.sleep(A_WHILE_S)
        in_the_middle(node, "getblock", 3, leave_the_chain)
        await search(life)
        assert await life.shown() == PAID
        [oldest] = [coin.outpoint for coin in node.chain.coins(SHOP) if coin.amount_sat == PAID[0][0]]
        node.chain.pay(SOMEBODY_SCRIPT, 500, spend=[Outpoint(oldest.txid, oldest.index)])
        node.chain.mine()
        await trio.sleep(A_WHILE_S)
        assert await life.shown() == [(-PAID[0][0], "Confirmed"), *PAID]


class LateNode(SimulatedNode):
    """A node that has not downloaded a block yet: it began with a snapshot, and fetches the past behind it."""

    missing: int | None = 4

    def _block_at(self, height: int) -> bytes:
        if height == self.missing:
            raise RefusedCallError(MISC_ERROR)
        return super()._block_at(height)


@pytest.mark.parametrize("has_filters", [False, True])
async def test_block_that_is_not_downloaded_yet_is_waited_for(
    has_filters: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The node says the same of it as of a pruned block; but it will have it, so the search is not over before."""
    node = LateNode(paid_in_many_blocks(), has_filters=has_filters)
    async with life_on(node, tmp_path / "a.db") as life:
        await life.watch()
        await trio.sleep(LONG_S)
        assert (life.source.past_progress != "", await life.coverage()) == (True, (10, 0))
        node.missing = None
        await trio.sleep(LONG_S)
        assert (await life.shown(), await life.coverage()) == (PAID, (None if has_filters else 10, 0))


async def test_pruned_block_that_filters_name_bounds_what_is_whole(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Blocks that are there show what they pay; what a pruned coin was spent for they may not show, so it is said."""
    node = SimulatedNode(paid_in_many_blocks(), has_filters=True)
    node.prune_height = 4
    async with life_on(node, tmp_path / "a.db") as life:
        await search(life)
        assert await life.shown() == PAID[2:]
        assert await life.coverage() == (10, 1_000 + 2_000)
        assert life.source.take_evidence() == []


class ForkedNode(SimulatedNode):
    """A node that was on another branch while it scanned its outputs."""

    def _scantxoutset(self, action: str, descriptors: list[str] | None = None) -> Any:
        answer = super()._scantxoutset(action, descriptors)
        if action == "start" and self.calls.count("scantxoutset") == 1:
            return answer | {"bestblock": hex_of(b"\x07" * 32), "unspents": []}
        return answer


async def test_scan_of_another_branch_is_no_result(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A scan says of which block it speaks; where that is not in our chain nothing is concluded, and it is repeated."""
    node = ForkedNode(paid_in_many_blocks(), has_filters=False)
    async with life_on(node, tmp_path / "a.db") as life:
        await search(life)
        assert await life.shown() == PAID
        assert node.calls.count("scantxoutset") == 2
