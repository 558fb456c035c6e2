"""The header chain: extensions, reorgs and the difficulty of every network.

Mainnet's and testnet4's rules run here at regtest's difficulty, so that a test can mine whole periods of 2016 blocks.
"""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.hashes import BlockHash
from lightipn.bitcoin.header import BlockHeader, parse_header, work_of
from lightipn.bitcoin.network import REGTEST, Network
from lightipn.chain.checkpoint import Checkpoint
from lightipn.chain.headers import ChainDelta, HeaderChain
from lightipn.errors import HeaderError
from tests.builders import (
    EASY_BITS,
    MINABLE_MAINNET,
    MINABLE_TESTNET4,
    chain_of,
    double_sha256,
    genesis_checkpoint_of,
    genesis_of,
    header_of,
    mined_run,
    raw_header,
)

GENESIS = genesis_of(REGTEST)
RUN = mined_run(GENESIS, 40)
FOUR_TIMES_HARDER = 0x201FFFFF  # a quarter of regtest's target 0x207fffff
SIXTEEN_TIMES_HARDER = 0x2007FFFF
FAST_S = 100  # six times faster than wanted: the next period is four times harder
TWENTY_MINUTES_S = 20 * 60


def parsed(run: Sequence[bytes]) -> tuple[BlockHeader, ...]:
    """Parse a run of headers."""
    return tuple(parse_header(raw) for raw in run)


def adopt(chain: HeaderChain, start: int, run: Sequence[bytes]) -> ChainDelta:
    """Extend the chain by a run that must be taken, and apply it."""
    delta = chain.extended_by(start, run)
    assert delta is not None
    chain.apply(delta)
    return delta


def contents_of(chain: HeaderChain) -> list[BlockHash | None]:
    """Return the hash at every height, with one below and one above."""
    return [chain.hash_at(height) for height in range(-1, chain.tip_height + 2)]


def hashes_of(run: Sequence[bytes]) -> list[bytes | None]:
    """Return what ``contents_of`` says of a regtest chain that holds this run."""
    return [None, GENESIS.block_hash, *map(double_sha256, run), None]


# --- extension, reorg, refusal -----------------------------------------------------------------------------------


def test_chain_without_headers_is_its_base() -> None:
    """A fresh chain has the base as its tip, and knows the base's header only where that is genesis."""
    chain = chain_of(REGTEST)
    assert (chain.tip_height, chain.tip_hash) == (0, REGTEST.genesis_hash)
    assert contents_of(chain) == hashes_of([])
    assert [chain.header_at(height) for height in (-1, 0, 1)] == [None, GENESIS, None]


def test_extension_disconnects_nothing() -> None:
    """Headers on top of the tip are connected, lowest first, and nothing leaves."""
    chain = chain_of(REGTEST, RUN[:10])
    delta = chain.extended_by(11, RUN[10:13])
    assert delta == ChainDelta(fork_height=10, disconnected=(), connected=parsed(RUN[10:13]))
    assert (delta.tip_height, delta.depth_blocks) == (13, 0)
    assert contents_of(chain) == hashes_of(RUN[:10])
    chain.apply(delta)
    assert contents_of(chain) == hashes_of(RUN[:13])
    assert [chain.header_at(height) for height in range(15)] == [GENESIS, *parsed(RUN[:13]), None]


@pytest.mark.parametrize("depth", range(1, 11))
def test_branch_with_more_work_replaces_what_it_outweighs(depth: int) -> None:
    """A reorg of any depth names exactly the headers that leave and those that enter."""
    chain = chain_of(REGTEST, RUN[:15])
    fork_height = 15 - depth
    branch = mined_run(header_of(chain, fork_height), depth + 1, branch=1)
    delta = chain.extended_by(fork_height + 1, branch)
    assert delta == ChainDelta(
        fork_height=fork_height, disconnected=parsed(RUN[fork_height:15]), connected=parsed(branch)
    )
    assert (delta.tip_height, delta.depth_blocks) == (16, depth)
    chain.apply(delta)
    assert contents_of(chain) == hashes_of([*RUN[:fork_height], *branch])


@pytest.mark.parametrize("length", [1, 2, 3])
def test_branch_without_more_work_is_ignored(length: int) -> None:
    """A branch with less work, or with as much, changes nothing: the first one seen stays."""
    chain = chain_of(REGTEST, RUN[:15])
    branch = mined_run(header_of(chain, 12), length, branch=1)
    assert chain.extended_by(13, branch) is None
    assert contents_of(chain) == hashes_of(RUN[:15])


def test_headers_that_are_held_already_are_skipped() -> None:
    """A run may begin with headers that we hold: only what is new is connected."""
    chain = chain_of(REGTEST, RUN[:15])
    assert chain.extended_by(5, RUN[4:17]) == ChainDelta(fork_height=15, disconnected=(), connected=parsed(RUN[15:17]))
    branch = mined_run(header_of(chain, 13), 3, branch=1)
    assert chain.extended_by(11, [*RUN[10:13], *branch]) == ChainDelta(
        fork_height=13, disconnected=parsed(RUN[13:15]), connected=parsed(branch)
    )


@pytest.mark.parametrize(("start", "run"), [(1, RUN[:15]), (15, RUN[14:15]), (3, RUN[2:9]), (16, [])])
def test_run_of_known_headers_changes_nothing(start: int, run: Sequence[bytes]) -> None:
    """What we hold already is no news, even where it ends below our tip."""
    assert chain_of(REGTEST, RUN[:15]).extended_by(start, run) is None


def test_connecting_header_is_recognized_at_its_height_only() -> None:
    """A header connects at a height if it names our block below it, be it at the tip or at a fork."""
    chain = chain_of(REGTEST, RUN[:15])
    assert chain.connects(16, RUN[15])
    assert chain.connects(3, RUN[2])
    assert chain.connects(1, mined_run(GENESIS, 1, branch=1)[0])
    assert not chain.connects(17, RUN[16])
    assert not chain.connects(15, RUN[15])
    assert not chain.connects(17, RUN[15])
    assert not chain.connects(0, REGTEST.genesis_header)


@pytest.mark.parametrize("start", [-5, 0, 17, 100])
def test_base_never_leaves_and_no_gap_is_left(start: int) -> None:
    """A branch that would replace the base, or that starts above the tip's successor, is refused."""
    chain = chain_of(REGTEST, RUN[:15])
    with pytest.raises(HeaderError, match=f"branch leaves the chain at {start - 1}, want 0 to 15"):
        chain.extended_by(start, RUN)


def test_checkpoint_as_base_never_leaves() -> None:
    """A branch from below a checkpoint is refused however much work it has; one from the checkpoint is judged."""
    base = Checkpoint(height=5, block_hash=BlockHash(double_sha256(RUN[4])), next_bits=None)
    chain = HeaderChain(REGTEST, base, RUN[5:8])
    assert [chain.hash_at(height) for height in (4, 5, 6)] == [None, base.block_hash, double_sha256(RUN[5])]
    assert [chain.header_at(height) for height in (4, 5, 6)] == [None, None, parse_header(RUN[5])]
    with pytest.raises(HeaderError, match="branch leaves the chain at 4, want 5 to 8"):
        chain.extended_by(5, mined_run(parse_header(RUN[3]), 30, branch=1))
    branch = mined_run(parse_header(RUN[4]), 4, branch=1)
    assert adopt(chain, 6, branch).depth_blocks == 3
    assert chain.tip_hash == double_sha256(branch[-1])


@pytest.mark.parametrize("missing", [0, 7, 13])
def test_stored_headers_that_do_not_link_are_refused(missing: int) -> None:
    """A gap in what the store holds is found when the chain is loaded."""
    stored = [*RUN[:missing], *RUN[missing + 1 : 15]]
    with pytest.raises(HeaderError, match=f"stored header {missing + 1} does not link to the one below it"):
        chain_of(REGTEST, stored)


def test_chain_loaded_from_the_store_equals_the_one_that_grew() -> None:
    """Loading the raw headers gives the same chain as receiving them in several runs."""
    grown = chain_of(REGTEST)
    for start in range(1, 36, 7):
        adopt(grown, start, RUN[start - 1 : start + 6])
    loaded = chain_of(REGTEST, RUN[:35])
    assert contents_of(grown) == contents_of(loaded) == hashes_of(RUN[:35])
    assert [grown.header_at(height) for height in range(36)] == [loaded.header_at(height) for height in range(36)]


TIP = parse_header(RUN[14])
MEDIAN_TIME = TIP.time - 5 * 600  # of the eleven up to the tip, 600 seconds apart

BROKEN = [
    pytest.param(raw_header(bytes(32), time=TIP.time + 1), "does not link", id="unknown predecessor"),
    pytest.param(raw_header(TIP.previous_hash, time=TIP.time + 1), "does not link", id="predecessor one below"),
    pytest.param(
        raw_header(TIP.block_hash, time=TIP.time + 1, bits=0x1F7FFFFF),
        "has bits 0x1f7fffff, want 0x207fffff",
        id="bits",
    ),
    pytest.param(
        raw_header(TIP.block_hash, time=TIP.time + 1, is_mined=False), "exceeds its target", id="no proof of work"
    ),
    pytest.param(raw_header(TIP.block_hash, time=MEDIAN_TIME), "not later than the median", id="time of the median"),
    pytest.param(raw_header(TIP.block_hash, time=MEDIAN_TIME - 1), "not later than the median", id="earlier"),
    pytest.param(bytes(79), "header has 79 bytes", id="79 bytes"),
]


@pytest.mark.parametrize(("raw", "reason"), BROKEN)
def test_header_that_breaks_a_rule_is_refused(raw: bytes, reason: str) -> None:
    """A header enters only with the right predecessor, bits, work and time, first in its run or later."""
    chain = chain_of(REGTEST, RUN[:15])
    with pytest.raises(HeaderError, match=reason):
        chain.extended_by(16, [raw])
    with pytest.raises(HeaderError, match=reason):
        chain_of(REGTEST, RUN[:13]).extended_by(14, [*RUN[13:15], raw])
    assert contents_of(chain) == hashes_of(RUN[:15])


def test_one_bad_header_spoils_its_whole_run() -> None:
    """A run with a broken link in the middle is refused as a whole, and the chain stays as it was."""
    chain = chain_of(REGTEST, RUN[:15])
    with pytest.raises(HeaderError, match="header 18 does not link"):
        chain.extended_by(16, [*RUN[15:17], *RUN[18:20]])
    assert contents_of(chain) == hashes_of(RUN[:15])


def test_time_just_above_the_median_passes() -> None:
    """One second later than the median of the last eleven is late enough, though it is before the tip."""
    chain = chain_of(REGTEST, RUN[:15])
    assert adopt(chain, 16, [raw_header(TIP.block_hash, time=MEDIAN_TIME + 1)]).tip_height == 16


def test_median_of_a_young_chain_counts_what_there_is() -> None:
    """Above genesis, fewer than eleven blocks exist, and their median holds."""
    with pytest.raises(HeaderError, match="not later than the median"):
        chain_of(REGTEST).extended_by(1, [raw_header(GENESIS.block_hash, time=GENESIS.time)])
    chain = chain_of(REGTEST, RUN[:2])
    second = header_of(chain, 1).time  # the middle one of genesis and two more
    with pytest.raises(HeaderError, match="not later than the median"):
        chain.extended_by(3, [raw_header(chain.tip_hash, time=second)])
    assert chain.extended_by(3, [raw_header(chain.tip_hash, time=second + 1)]) is not None


def test_median_above_a_checkpoint_waits_for_eleven_headers() -> None:
    """Above a checkpoint the times below are unknown, so the rule starts when eleven headers are held."""
    base = Checkpoint(height=5, block_hash=BlockHash(double_sha256(RUN[4])), next_bits=None)
    ten, eleven = HeaderChain(REGTEST, base, RUN[5:15]), HeaderChain(REGTEST, base, RUN[5:16])
    assert ten.extended_by(16, [raw_header(ten.tip_hash, time=1)]) is not None
    with pytest.raises(HeaderError, match="not later than the median"):
        eleven.extended_by(17, [raw_header(eleven.tip_hash, time=1)])


# --- laws --------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(1, 7)), max_size=8))
@settings(deadline=None, max_examples=60)
def test_chain_agrees_with_a_plain_list(steps: list[tuple[int, int]]) -> None:
    """Whatever branches arrive, the chain holds what a list would that takes every longer branch.

    Each step is a branch that forks so many blocks below the tip and has so many headers. All have the same work, so
    a branch wins exactly if it is longer than what it replaces.
    """
    chain, model = chain_of(REGTEST, RUN[:3]), list(RUN[:3])
    for number, (depth, length) in enumerate(steps, start=1):
        fork_height = max(0, len(model) - depth)
        fork = parse_header(model[fork_height - 1]) if fork_height else GENESIS
        branch = mined_run(fork, length, branch=number)
        delta = chain.extended_by(fork_height + 1, branch)
        assert (delta is not None) == (fork_height + length > len(model))
        if delta is not None:
            assert [header.raw for header in delta.disconnected] == model[fork_height:]
            chain.apply(delta)
            model[fork_height:] = branch
        assert contents_of(chain) == hashes_of(model)


@given(st.integers(1, 10))
@settings(deadline=None, max_examples=10)
def test_reorg_and_back_again_leaves_the_first_branch(depth: int) -> None:
    """After a reorg, the old branch with one more header than the new one returns, and every hash is its own again."""
    chain = chain_of(REGTEST, RUN[:15])
    fork_height = 15 - depth
    away = adopt(chain, fork_height + 1, mined_run(header_of(chain, fork_height), depth + 1, branch=1))
    back = adopt(chain, fork_height + 1, RUN[fork_height:17])
    assert back.disconnected == away.connected
    assert back.connected[:depth] == away.disconnected
    assert contents_of(chain) == hashes_of(RUN[:17])


# --- mainnet's rule ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fast_period() -> list[bytes]:
    """Headers 1 to 2015, six times faster than wanted, at the easiest difficulty."""
    return mined_run(GENESIS, 2015, spacing_s=FAST_S)


@pytest.fixture(scope="module")
def harder_period(fast_period: list[bytes]) -> list[bytes]:
    """Headers 2016 to 4031 on top of it: four times harder, and again too fast."""
    return mined_run(parse_header(fast_period[-1]), 2016, bits=FOUR_TIMES_HARDER, spacing_s=FAST_S)


@pytest.mark.parametrize("network", [MINABLE_MAINNET, MINABLE_TESTNET4], ids=["mainnet", "testnet4"])
def test_period_of_2016_blocks_is_followed_by_its_retarget(network: Network, fast_period: list[bytes]) -> None:
    """After a period in less than a quarter of two weeks, block 2016 is four times harder, neither more nor less."""
    chain = chain_of(network, fast_period)
    tip = header_of(chain, 2015)
    for bits in (EASY_BITS, FOUR_TIMES_HARDER - 1, SIXTEEN_TIMES_HARDER):
        with pytest.raises(HeaderError, match=f"header 2016 has bits {bits:#010x}, want 0x201fffff"):
            chain.extended_by(2016, [raw_header(tip.block_hash, time=tip.time + FAST_S, bits=bits)])
    run = mined_run(tip, 3, bits=FOUR_TIMES_HARDER, spacing_s=FAST_S)
    assert adopt(chain, 2016, run).connected == parsed(run)


def test_retarget_follows_the_time_that_the_period_took(fast_period: list[bytes]) -> None:
    """A period in half of two weeks makes the target half as large: both ends of the period are the right blocks."""
    chain = chain_of(MINABLE_MAINNET, fast_period[:2014])
    last = raw_header(chain.tip_hash, time=GENESIS.time + 7 * 24 * 60 * 60)
    run = [last, *mined_run(parse_header(last), 1, bits=0x203FFFFF)]
    assert adopt(chain, 2015, run).tip_height == 2016


def test_bits_stay_within_a_period(fast_period: list[bytes]) -> None:
    """Before the period's end, no other bits are accepted, not even harder ones."""
    chain = chain_of(MINABLE_MAINNET, fast_period[:2014])
    with pytest.raises(HeaderError, match="header 2015 has bits 0x201fffff, want 0x207fffff"):
        chain.extended_by(2015, mined_run(header_of(chain, 2014), 1, bits=FOUR_TIMES_HARDER))


def test_minimum_difficulty_is_no_exception_on_mainnet(fast_period: list[bytes]) -> None:
    """On mainnet, waiting longer than 20 minutes makes nothing easier."""
    chain = chain_of(MINABLE_MAINNET, fast_period)
    adopt(chain, 2016, mined_run(header_of(chain, 2015), 1, bits=FOUR_TIMES_HARDER))
    with pytest.raises(HeaderError, match="header 2017 has bits 0x207fffff, want 0x201fffff"):
        chain.extended_by(2017, mined_run(header_of(chain, 2016), 1, spacing_s=10_000))


def test_headers_across_two_retargets_arrive_in_one_run(fast_period: list[bytes], harder_period: list[bytes]) -> None:
    """A run over two period ends is judged with the headers that it brings itself."""
    chain = chain_of(MINABLE_MAINNET)
    last = mined_run(parse_header(harder_period[-1]), 1, bits=SIXTEEN_TIMES_HARDER)
    delta = adopt(chain, 1, [*fast_period, *harder_period, *last])
    assert (delta.fork_height, delta.tip_height) == (0, 4032)


def test_bits_above_a_checkpoint_are_those_it_recorded(fast_period: list[bytes], harder_period: list[bytes]) -> None:
    """The first header above a checkpoint has the recorded bits, and the next retarget starts from there."""
    base = Checkpoint(height=2015, block_hash=BlockHash(double_sha256(fast_period[-1])), next_bits=FOUR_TIMES_HARDER)
    chain = HeaderChain(MINABLE_MAINNET, base)
    with pytest.raises(HeaderError, match="header 2016 has bits 0x207fffff, want 0x201fffff"):
        chain.extended_by(2016, mined_run(parse_header(fast_period[-1]), 1))
    adopt(chain, 2016, harder_period)
    tip = header_of(chain, 4031)
    with pytest.raises(HeaderError, match="header 4032 has bits 0x201fffff, want 0x2007ffff"):
        chain.extended_by(4032, mined_run(tip, 1, bits=FOUR_TIMES_HARDER))
    assert adopt(chain, 4032, mined_run(tip, 1, bits=SIXTEEN_TIMES_HARDER)).tip_height == 4032


def test_bits_above_a_checkpoint_that_recorded_none_are_taken(fast_period: list[bytes]) -> None:
    """Where the checkpoint did not record the next bits, the first header chooses them for its period."""
    base = Checkpoint(height=2015, block_hash=BlockHash(double_sha256(fast_period[-1])), next_bits=None)
    chain = HeaderChain(MINABLE_MAINNET, base)
    adopt(chain, 2016, mined_run(parse_header(fast_period[-1]), 1, bits=SIXTEEN_TIMES_HARDER))
    with pytest.raises(HeaderError, match="header 2017 has bits 0x207fffff, want 0x2007ffff"):
        chain.extended_by(2017, mined_run(header_of(chain, 2016), 1))


def test_shorter_branch_with_more_work_wins(fast_period: list[bytes]) -> None:
    """Work decides, not length: two blocks after a hard retarget outweigh three after an easy one.

    ::

        2014 o---o 2015, two months late ---o 2016, easy ---o 2017, easy      work 2 + 2 + 2
             |
             +---o 2015, in time ---o 2016, four times harder                 work 2 + 8
    """
    chain = chain_of(MINABLE_MAINNET, fast_period[:2014])
    late = raw_header(chain.tip_hash, time=header_of(chain, 2014).time + 60 * 24 * 60 * 60)
    easy = [late, *mined_run(parse_header(late), 2)]
    adopt(chain, 2015, easy)
    hard = [fast_period[2014], *mined_run(parse_header(fast_period[2014]), 1, bits=FOUR_TIMES_HARDER)]
    assert [work_of(header.bits) for header in parsed(easy)] == [2, 2, 2]
    assert [work_of(header.bits) for header in parsed(hard)] == [2, 8]
    delta = adopt(chain, 2015, hard)
    assert delta == ChainDelta(fork_height=2014, disconnected=parsed(easy), connected=parsed(hard))
    assert chain.tip_height == 2016
    assert chain.extended_by(2015, easy) is None


# --- testnet4's rules --------------------------------------------------------------------------------------------


@pytest.fixture
def testnet4(fast_period: list[bytes]) -> HeaderChain:
    """A testnet4-like chain up to block 2016, the first of its four times harder period."""
    chain = chain_of(MINABLE_TESTNET4, fast_period)
    adopt(chain, 2016, mined_run(header_of(chain, 2015), 1, bits=FOUR_TIMES_HARDER, spacing_s=FAST_S))
    return chain


def next_header(chain: HeaderChain, *, after_s: int, bits: int) -> bytes:
    """Mine a header on the chain's tip."""
    tip = header_of(chain, chain.tip_height)
    return raw_header(tip.block_hash, time=tip.time + after_s, bits=bits)


def test_block_after_more_than_20_minutes_has_minimum_difficulty(testnet4: HeaderChain) -> None:
    """On testnet4, a block more than 20 minutes after its predecessor has the easiest bits, and must have them."""
    with pytest.raises(HeaderError, match="header 2017 has bits 0x201fffff, want 0x207fffff"):
        testnet4.extended_by(2017, [next_header(testnet4, after_s=TWENTY_MINUTES_S + 1, bits=FOUR_TIMES_HARDER)])
    easy = next_header(testnet4, after_s=TWENTY_MINUTES_S + 1, bits=EASY_BITS)
    assert adopt(testnet4, 2017, [easy]).tip_height == 2017


def test_block_after_exactly_20_minutes_has_the_period_difficulty(testnet4: HeaderChain) -> None:
    """On testnet4, exactly 20 minutes are not more than 20 minutes."""
    with pytest.raises(HeaderError, match="header 2017 has bits 0x207fffff, want 0x201fffff"):
        testnet4.extended_by(2017, [next_header(testnet4, after_s=TWENTY_MINUTES_S, bits=EASY_BITS)])
    hard = next_header(testnet4, after_s=TWENTY_MINUTES_S, bits=FOUR_TIMES_HARDER)
    assert adopt(testnet4, 2017, [hard]).tip_height == 2017


def test_difficulty_returns_after_slow_blocks(testnet4: HeaderChain) -> None:
    """After any number of minimum-difficulty blocks, the last real difficulty of the period holds again."""
    for _ in range(3):
        easy = next_header(testnet4, after_s=TWENTY_MINUTES_S + 1, bits=EASY_BITS)
        adopt(testnet4, testnet4.tip_height + 1, [easy])
    with pytest.raises(HeaderError, match="header 2020 has bits 0x207fffff, want 0x201fffff"):
        testnet4.extended_by(2020, [next_header(testnet4, after_s=1, bits=EASY_BITS)])
    run = [next_header(testnet4, after_s=1, bits=FOUR_TIMES_HARDER)]
    assert adopt(testnet4, 2020, run).tip_height == 2020


def test_walk_back_ends_at_the_first_block_of_the_period(testnet4: HeaderChain) -> None:
    """The search for the real difficulty does not leave the period, and it sees headers of the same run."""
    tip = header_of(testnet4, 2016)
    slow = raw_header(tip.block_hash, time=tip.time + TWENTY_MINUTES_S + 1)
    run = [slow, *mined_run(parse_header(slow), 5, bits=FOUR_TIMES_HARDER)]
    assert adopt(testnet4, 2017, run).tip_height == 2022


def test_slow_first_block_of_a_period_has_its_retarget(fast_period: list[bytes]) -> None:
    """The 20-minute exception does not apply to the first block of a period."""
    chain = chain_of(MINABLE_TESTNET4, fast_period)
    with pytest.raises(HeaderError, match="header 2016 has bits 0x207fffff, want 0x201fffff"):
        chain.extended_by(2016, [next_header(chain, after_s=TWENTY_MINUTES_S + 1, bits=EASY_BITS)])
    hard = next_header(chain, after_s=TWENTY_MINUTES_S + 1, bits=FOUR_TIMES_HARDER)
    assert adopt(chain, 2016, [hard]).tip_height == 2016


def test_retarget_of_testnet4_starts_from_the_first_block(fast_period: list[bytes], harder_period: list[bytes]) -> None:
    """A minimum-difficulty block at the period's end does not reset the difficulty (BIP-94), as it did on testnet3."""
    for network, expected in ((MINABLE_TESTNET4, SIXTEEN_TIMES_HARDER), (MINABLE_MAINNET, FOUR_TIMES_HARDER)):
        chain = chain_of(network, [*fast_period, *harder_period[:2015]])
        before = header_of(chain, 4030)
        slow = raw_header(before.block_hash, time=before.time + TWENTY_MINUTES_S + 1)
        chain = chain_of(network, [*fast_period, *harder_period[:2015], slow])  # stored headers are not judged again
        run = [next_header(chain, after_s=1, bits=expected)]
        assert adopt(chain, 4032, run).tip_height == 4032


@pytest.mark.parametrize("network", [MINABLE_MAINNET, MINABLE_TESTNET4], ids=["mainnet", "testnet4"])
def test_first_block_of_a_period_steps_back_600_seconds_at_most(network: Network, fast_period: list[bytes]) -> None:
    """On testnet4, a period cannot begin more than 600 seconds before the last block (BIP-94); on mainnet it can."""
    chain = chain_of(network, fast_period[:2014])
    late = raw_header(chain.tip_hash, time=header_of(chain, 2014).time + 1000)
    chain = chain_of(network, [*fast_period[:2014], late])
    assert chain.extended_by(2016, [next_header(chain, after_s=-600, bits=FOUR_TIMES_HARDER)]) is not None
    too_early = next_header(chain, after_s=-601, bits=FOUR_TIMES_HARDER)
    if network is MINABLE_MAINNET:
        assert chain.extended_by(2016, [too_early]) is not None
    else:
        with pytest.raises(HeaderError, match="header 2016 steps back in time further than BIP-94 allows"):
            chain.extended_by(2016, [too_early])


def test_step_back_within_a_period_is_free(testnet4: HeaderChain) -> None:
    """Inside a period only the median binds the time, on testnet4 too."""
    adopt(testnet4, 2017, [next_header(testnet4, after_s=TWENTY_MINUTES_S, bits=FOUR_TIMES_HARDER)])
    back = next_header(testnet4, after_s=-TWENTY_MINUTES_S - 300, bits=FOUR_TIMES_HARDER)
    assert adopt(testnet4, 2018, [back]).tip_height == 2018


def test_base_of_a_chain_is_kept_as_given() -> None:
    """The chain names its network and the checkpoint that it stands on."""
    chain = chain_of(REGTEST)
    assert (chain.network, chain.base) == (REGTEST, genesis_checkpoint_of(REGTEST))
