"""A search for the past that is taken up again, after an error or with other scripts, on a node that changed since."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from lightipn.errors import SourceUnavailableError
from tests.bitcoind.rig import A_WHILE_S, PAID, Life, in_the_middle, life_on, paid_in_many_blocks
from tests.bitcoind.simulated_node import SimulatedNode
from tests.tracker.rig import OTHER_SCRIPT

MOMENT_S = 0.01
LONG_S = 200.0
PAID_SAT = sum(amount_sat for amount_sat, _ in PAID)


async def past_of(life: Life) -> tuple[list[tuple[int, str]], tuple[int | None, int]]:
    """Return what the ledger holds of the shop, and how much of its history that is; no search is under way."""
    assert life.source.past_progress == ""
    return await life.shown(), await life.coverage()


# --- scripts that are let go of --------------------------------------------------------------------------------------


@pytest.mark.parametrize("has_filters", [False, True])
async def test_script_that_is_watched_again_at_once_during_its_search_loses_nothing(
    has_filters: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """What a search found of a script before it was let go of is found again, though no block came in between."""
    node = SimulatedNode(paid_in_many_blocks(), has_filters=has_filters)
    async with life_on(node, tmp_path / "a.db") as life:
        await trio.sleep(A_WHILE_S)

        async def change_of_mind() -> None:
            await life.unwatch()
            await trio.sleep(MOMENT_S)
            await life.watch()
            await trio.sleep(MOMENT_S)

        in_the_middle(node, "getblock", 3, change_of_mind)
        await life.watch()
        await trio.sleep(LONG_S)
        assert await past_of(life) == (PAID, (None if has_filters else 10, 0))


@pytest.mark.parametrize("has_filters", [False, True])
async def test_script_that_is_watched_again_before_its_search_goes_on_loses_nothing(
    has_filters: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A search that goes on after an error speaks no more for a script that was let go of in the pause."""
    node = SimulatedNode(paid_in_many_blocks(), has_filters=has_filters)
    async with life_on(node, tmp_path / "a.db") as life:
        await trio.sleep(A_WHILE_S)

        async def lose_a_call() -> None:
            node.calls_to_lose = 1

        in_the_middle(node, "getblock", 3, lose_a_call)
        await life.watch()
        await trio.sleep(0.5)  # the search goes on after a second
        assert life.source.past_progress != ""
        await life.unwatch()
        await trio.sleep(0.1)
        await life.watch()
        await trio.sleep(LONG_S)
        assert await past_of(life) == (PAID, (None if has_filters else 10, 0))


# --- scans that an error ends ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["scanblocks", "scantxoutset"])
async def test_scan_that_an_error_ended_is_made_again(method: str, tmp_path: Path, autojump_clock: MockClock) -> None:
    """What a scan would have said is not known before it was said: the next try begins with a scan, and that is all."""
    node = SimulatedNode(paid_in_many_blocks(), has_filters=method == "scanblocks")
    scans = []

    async def lose_the_first_answer() -> None:
        scans.append(trio.current_time())
        node.after[method] = lose_the_first_answer
        if len(scans) == 1:
            raise SourceUnavailableError("connection-closed")

    node.after[method] = lose_the_first_answer
    async with life_on(node, tmp_path / "a.db") as life:
        await life.watch()
        await trio.sleep(LONG_S)
        assert await past_of(life) == (PAID, (None if method == "scanblocks" else 10, 0))
        assert len(scans) == 2


async def test_filters_that_fell_behind_while_they_were_asked_are_waited_for(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A node that builds its filters anew after a restart is asked when they are there, not taken at its old word."""
    node = SimulatedNode(paid_in_many_blocks(), has_filters=True)
    async with life_on(node, tmp_path / "a.db") as life:
        await trio.sleep(A_WHILE_S)

        async def restart() -> None:
            node.filter_lag_blocks = 6  # of nine: the payments of blocks 4 to 7 would be passed over
            raise SourceUnavailableError("connection-closed")

        node.before["scanblocks"] = restart
        await life.watch()
        await trio.sleep(LONG_S)
        assert (life.source.past_progress != "", await life.coverage()) == (True, (10, 0))
        node.filter_lag_blocks = 0
        await trio.sleep(LONG_S)
        assert await past_of(life) == (PAID, (None, 0))


async def test_outputs_are_scanned_when_the_filters_are_gone(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A node that is started again without its filter index is asked for what it still has."""
    node = SimulatedNode(paid_in_many_blocks(), has_filters=True)
    async with life_on(node, tmp_path / "a.db") as life:
        await trio.sleep(A_WHILE_S)

        async def restart() -> None:
            node.has_filters = False
            raise SourceUnavailableError("connection-closed")

        node.before["scanblocks"] = restart
        await life.watch()
        await trio.sleep(LONG_S)
        assert await past_of(life) == (PAID, (10, 0))


# --- blocks that are pruned before a search goes on ------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("has_filters", [False, True])
async def test_search_begins_anew_when_its_next_blocks_were_pruned_while_the_node_was_away(
    has_filters: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It ends, with what was proved before, and what is watched later does not wait for it for ever."""
    node = SimulatedNode(paid_in_many_blocks(), has_filters=has_filters)
    async with life_on(node, tmp_path / "a.db") as life:
        await trio.sleep(A_WHILE_S)

        async def leave() -> None:
            node.trouble = "unreachable"

        in_the_middle(node, "getblock", 3, leave)
        await life.watch()
        await trio.sleep(A_WHILE_S)
        node.chain.mine(20)
        node.prune_height = 20
        node.trouble = ""
        await trio.sleep(LONG_S)
        shown, (history_from, unproved_sat) = await past_of(life)
        assert (shown, history_from) == (PAID[:2], 30)
        assert sum(amount_sat for amount_sat, _ in shown) + unproved_sat == PAID_SAT
        await life.watch(OTHER_SCRIPT)
        await trio.sleep(LONG_S)
        node.chain.pay(OTHER_SCRIPT, 50_000)
        node.chain.mine()
        await trio.sleep(A_WHILE_S)
        assert (await life.shown(OTHER_SCRIPT), life.source.past_progress) == ([(50_000, "Confirmed")], "")


@pytest.mark.slow
@pytest.mark.parametrize("has_filters", [False, True])
async def test_search_begins_anew_when_blocks_are_pruned_while_only_its_scan_fails(
    has_filters: bool, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The node goes on and is followed, its scans are ended by somebody, and its old blocks go: the search ends."""
    node = SimulatedNode(paid_in_many_blocks(), has_filters=has_filters)
    async with life_on(node, tmp_path / "a.db") as life:
        await trio.sleep(A_WHILE_S)
        node.ends_scans = False
        await life.watch()
        for _ in range(20):
            await trio.sleep(A_WHILE_S)
            node.chain.mine()
        assert life.source.past_progress != ""
        node.prune_height = 20
        node.ends_scans = True
        await trio.sleep(LONG_S)
        assert await past_of(life) == ([], (30, PAID_SAT))
        assert life.source.servers()[0].verdict == "connected"
