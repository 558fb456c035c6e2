"""Headers on disk."""

import pytest

from lightipn.bitcoin.header import HEADER_BYTES, RETARGET_BLOCKS, parse_header
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.headers import ChainDelta
from lightipn.store import chain
from lightipn.store.database import Database
from tests.builders import genesis_of, mined_run

TRUNK = [parse_header(raw) for raw in mined_run(genesis_of(REGTEST), 5)]
BRANCH = [parse_header(raw) for raw in mined_run(TRUNK[1], 4, branch=1)]


def test_extension_stands_above_what_was_there(db: Database) -> None:
    """Connected headers are read back in order, with the height of the lowest."""
    assert chain.load_headers(db) == (None, [])
    assert chain.load_tip(db) is None
    chain.save_delta(db, ChainDelta(fork_height=0, disconnected=(), connected=tuple(TRUNK[:3])))
    chain.save_delta(db, ChainDelta(fork_height=3, disconnected=(), connected=tuple(TRUNK[3:])))
    assert chain.load_headers(db) == (1, [header.raw for header in TRUNK])
    assert chain.load_tip(db) == (5, TRUNK[4].block_hash, TRUNK[4].raw)
    assert chain.load_tip_height(db) == 5


def test_reorg_leaves_the_new_branch_alone(db: Database) -> None:
    """What leaves the chain is gone from disk, what enters stands in its place."""
    chain.save_delta(db, ChainDelta(fork_height=0, disconnected=(), connected=tuple(TRUNK)))
    chain.save_delta(db, ChainDelta(fork_height=2, disconnected=tuple(TRUNK[2:]), connected=tuple(BRANCH)))
    assert chain.load_headers(db) == (1, [header.raw for header in [*TRUNK[:2], *BRANCH]])
    assert [chain.load_block_hash(db, height) for height in (0, 2, 3, 6, 7)] == [
        None,
        TRUNK[1].block_hash,
        BRANCH[0].block_hash,
        BRANCH[3].block_hash,
        None,
    ]


def test_reorg_to_fewer_headers_leaves_no_rest(db: Database) -> None:
    """A shorter branch with more work leaves no header of the longer one above it."""
    chain.save_delta(db, ChainDelta(fork_height=0, disconnected=(), connected=tuple(TRUNK)))
    chain.save_delta(db, ChainDelta(fork_height=2, disconnected=tuple(TRUNK[2:]), connected=tuple(BRANCH[:1])))
    assert chain.load_tip(db) == (3, BRANCH[0].block_hash, BRANCH[0].raw)


def test_tip_before_the_first_header_is_the_checkpoint(db: Database) -> None:
    """The checkpoint's height is the tip's until a header stands above it."""
    assert chain.load_tip_height(db) == 0
    chain.save_base_height(db, 957_599)
    assert chain.load_tip_height(db) == 957_599
    chain.save_base_height(db, 959_615)
    assert chain.load_tip_height(db) == 959_615
    chain.save_delta(db, ChainDelta(fork_height=959_615, disconnected=(), connected=tuple(TRUNK[:1])))
    assert chain.load_tip_height(db) == 959_616


def test_headers_of_a_proved_period_are_found_by_height(db: Database) -> None:
    """Each of the 2016 headers comes back at its height; other periods have none."""
    raw_headers = b"".join(number.to_bytes(HEADER_BYTES, "little") for number in range(RETARGET_BLOCKS))
    chain.save_period(db, 3, raw_headers)
    first = 3 * RETARGET_BLOCKS
    for index in (0, 1, 1000, RETARGET_BLOCKS - 1):
        assert chain.load_old_header(db, first + index) == index.to_bytes(HEADER_BYTES, "little")
    assert chain.load_old_header(db, first - 1) is None
    assert chain.load_old_header(db, first + RETARGET_BLOCKS) is None
    chain.save_period(db, 3, raw_headers)
    assert db.execute("SELECT count(*) FROM proved_period").fetchone() == (1,)


def test_block_is_found_by_its_height(db: Database) -> None:
    """Hash and raw header come back at a height of our chain, and nothing beside it."""
    chain.save_delta(db, ChainDelta(fork_height=0, disconnected=(), connected=tuple(TRUNK)))
    assert chain.load_block(db, 3) == (TRUNK[2].block_hash, TRUNK[2].raw)
    assert chain.load_block(db, 0) is None
    assert chain.load_block(db, 6) is None


def test_every_change_of_the_chain_is_one_tip(db: Database) -> None:
    """Blocks that come together are one tip, and so is a reorg, whatever the heights."""
    assert chain.load_tip_number(db) == 0
    numbers = []
    for delta in (
        ChainDelta(fork_height=0, disconnected=(), connected=tuple(TRUNK[:4])),
        ChainDelta(fork_height=4, disconnected=(), connected=tuple(TRUNK[4:])),
        ChainDelta(fork_height=2, disconnected=tuple(TRUNK[2:]), connected=tuple(BRANCH[:1])),
        *(ChainDelta(fork_height=3, disconnected=(), connected=tuple(BRANCH[1:2])) for _ in range(9)),
    ):
        chain.save_delta(db, delta)
        numbers.append(chain.load_tip_number(db))
    assert numbers == list(range(1, 13))


@pytest.mark.parametrize(
    ("time", "height"),
    [
        pytest.param(TRUNK[0].time - 1, 99, id="before the first header"),
        pytest.param(TRUNK[0].time, 100, id="in its second"),
        pytest.param(TRUNK[2].time + 599, 102, id="between two"),
        pytest.param(TRUNK[3].time, 103, id="in another's second"),
        pytest.param(TRUNK[4].time + 10**9, 104, id="long after the last"),
    ],
)
def test_height_at_a_time_is_the_last_block_of_then(db: Database, time: int, height: int) -> None:
    """What our chain's height was at a time, its headers say; before the first of them it was the checkpoint's."""
    chain.save_base_height(db, 99)
    chain.save_delta(db, ChainDelta(fork_height=99, disconnected=(), connected=tuple(TRUNK)))
    assert chain.load_height_at(db, time) == height


def test_height_without_headers_is_the_checkpoints(db: Database) -> None:
    """Before any header came the checkpoint is all there was."""
    assert (chain.load_base_height(db), chain.load_height_at(db, 10**9)) == (0, 0)
    chain.save_base_height(db, 959_615)
    assert (chain.load_base_height(db), chain.load_height_at(db, 10**9)) == (959_615, 959_615)
