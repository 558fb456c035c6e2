"""Headers for proofs: above our tip, on our chain, and below the last checkpoint."""

import pytest

from lightipn.bitcoin.header import RETARGET_BLOCKS, parse_header
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.checkpoint import Checkpoint, Checkpoints
from lightipn.errors import HeaderError
from lightipn.simulator.blocks import SimulatedChain
from tests.tracker.rig import GENESIS, ONE, TWO, OpenSpine, Spine


async def test_header_above_the_tip_is_asked_for(spine: Spine) -> None:
    """A header above our tip is fetched and the chain extended to it; where there is none, the answer is None."""
    spine.chain.mine(2)
    header = await spine.tracker.follower.header_at(22, ONE)
    assert header == parse_header(spine.chain.header_at(22))
    assert await spine.is_followed()
    assert await spine.tracker.follower.header_at(23, ONE) is None


async def test_header_of_genesis_is_known(spine: Spine) -> None:
    """The header at height 0 is known without asking."""
    spine.server.pages.clear()
    assert await spine.tracker.follower.header_at(0, ONE) == parse_header(REGTEST.genesis_header)
    assert spine.source.pages == []


@pytest.fixture(scope="module")
def long_chain() -> SimulatedChain:
    """Two whole periods and a little more."""
    chain = SimulatedChain()
    chain.mine(2 * RETARGET_BLOCKS + 10)
    return chain


def checkpoints_of(chain: SimulatedChain) -> Checkpoints:
    """Return the checkpoints at the ends of the first two periods."""
    ends = [
        Checkpoint(height=height, block_hash=chain.block_at(height).block_hash, next_bits=REGTEST.pow_limit_bits)
        for height in (2015, 4031)
    ]
    return Checkpoints((GENESIS, *ends))


@pytest.mark.slow
@pytest.mark.parametrize(("height", "start"), [(1, 0), (2015, 0), (2016, 2016), (3000, 2016), (4031, 2016)], ids=str)
async def test_old_header_is_proved_by_its_period(
    open_spine: OpenSpine, long_chain: SimulatedChain, height: int, start: int
) -> None:
    """A header below the last checkpoint is proved by its whole period, which is fetched once and kept on disk."""
    spine = await open_spine(long_chain, checkpoints_of(long_chain))
    wanted = parse_header(long_chain.header_at(height))
    assert await spine.tracker.follower.header_at(height, ONE) == wanted
    assert spine.source.pages == [(start, 2016)]
    again = await open_spine(long_chain, checkpoints_of(long_chain))
    assert await again.tracker.follower.header_at(height, ONE) == wanted
    assert await again.tracker.follower.header_at(start + 100, ONE) == parse_header(long_chain.header_at(start + 100))
    assert again.server.pages == []


@pytest.mark.slow
@pytest.mark.parametrize("trouble", ["false", "gone", "silent"])
async def test_period_is_taken_from_whoever_has_it(
    open_spine: OpenSpine, long_chain: SimulatedChain, autojump_clock: object, trouble: str
) -> None:
    """A period proves itself: where one server's is false or cannot be had, the next one's is taken."""
    spine = await open_spine(long_chain, checkpoints_of(long_chain), servers=3)
    server = spine.source.named[TWO]
    if trouble == "false":
        server.headers_of = lambda start, count: long_chain.headers_from(start + 1, count)
    server.is_gone, server.is_silent = trouble == "gone", trouble == "silent"
    assert await spine.tracker.follower.header_at(5, TWO) == parse_header(long_chain.header_at(5))
    assert spine.source.verdicts == ([(TWO, "false-header")] if trouble == "false" else [])


@pytest.mark.slow
async def test_false_period_is_reported(open_spine: OpenSpine, long_chain: SimulatedChain) -> None:
    """A period that does not end in its checkpoint is reported, and nothing of it is kept."""
    spine = await open_spine(long_chain, checkpoints_of(long_chain))
    other = SimulatedChain(seed=8)
    other.mine(RETARGET_BLOCKS)
    for headers in (other.headers_from(0, 2016), long_chain.headers_from(0, 2015), []):
        spine.server.headers_of = lambda start, count, run=headers: run
        with pytest.raises(HeaderError):
            await spine.tracker.follower.header_at(5, ONE)
    assert len(spine.source.reports) == 3
    spine.server.headers_of = None
    assert await spine.tracker.follower.header_at(5, ONE) == parse_header(long_chain.header_at(5))
