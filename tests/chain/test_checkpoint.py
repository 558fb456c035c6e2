"""Checkpoints, and the proof of old periods by them."""

from importlib import resources

import pytest

from lightipn.bitcoin.hashes import hash_from_hex, hex_of
from lightipn.bitcoin.header import BlockHeader, parse_header
from lightipn.bitcoin.network import MAINNET, NETWORKS, REGTEST
from lightipn.chain.checkpoint import Checkpoint, Checkpoints, check_period, parse_checkpoints
from lightipn.errors import HeaderError
from tests.builders import genesis_of, mined_run

ROW_2015 = "2015\t00000000693067b0e6b440bc51450b9f3850561b07f6d3c021c54fbd6abb9763\t1d00ffff"
ROW_4031 = "4031\t00000000f037ad09d0b05ee66b8c1da83030abaf909d2b1bf519c3c7d2cd3fdf\t-"
GENESIS = Checkpoint(height=0, block_hash=MAINNET.genesis_hash, next_bits=None)


def shipped(name: str) -> Checkpoints:
    """Read the checkpoints that ship with the program."""
    text = (resources.files("lightipn") / "data" / f"checkpoints-{name}.tsv").read_text("ascii")
    return parse_checkpoints(text, NETWORKS[name])


@pytest.fixture(scope="module")
def period() -> list[bytes]:
    """2016 mined headers above regtest's genesis block."""
    return mined_run(genesis_of(REGTEST), 2016)


def test_checkpoint_file_is_read_row_by_row() -> None:
    """Genesis comes first, then each row; a dash means that the next bits were not recorded; comments are skipped."""
    found = parse_checkpoints(f"# comment\n\n{ROW_2015}\n{ROW_4031}\n", MAINNET)
    assert found.rows == (
        GENESIS,
        Checkpoint(height=2015, block_hash=hash_from_hex(ROW_2015.split("\t")[1]), next_bits=0x1D00FFFF),
        Checkpoint(height=4031, block_hash=hash_from_hex(ROW_4031.split("\t")[1]), next_bits=None),
    )
    assert found.last == found.rows[2]


def test_network_without_checkpoints_stands_on_genesis() -> None:
    """An empty file leaves the genesis block as the only checkpoint."""
    assert parse_checkpoints("", MAINNET) == Checkpoints((GENESIS,))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        pytest.param(ROW_4031, "checkpoint at height 4031, want 2015", id="first row missing"),
        pytest.param(f"{ROW_2015}\n{ROW_2015}", "checkpoint at height 2015, want 4031", id="row twice"),
        pytest.param(ROW_2015.replace("2015", "2016"), "want 2015", id="not the last of a period"),
        pytest.param(ROW_2015.replace("9763\t", "97\t"), "64 hex digits", id="hash too short"),
        pytest.param(ROW_2015.replace("1d00ffff", "bits"), "invalid literal", id="bits that are no number"),
        pytest.param(ROW_2015.rpartition("\t")[0], "not enough values", id="column missing"),
        pytest.param("x" + ROW_2015, "invalid literal", id="height that is no number"),
    ],
)
def test_damaged_file_is_refused(text: str, reason: str) -> None:
    """A file with a gap, a wrong hash or a missing column is refused, not half read."""
    with pytest.raises(ValueError, match=reason):
        parse_checkpoints(text, MAINNET)


@pytest.mark.parametrize("name", ["mainnet", "testnet4", "signet"])
def test_shipped_checkpoints_end_every_period(name: str) -> None:
    """The shipped checkpoints are the last blocks of all periods, and their hashes have the work of their network."""
    rows = shipped(name).rows
    assert [row.height for row in rows[1:]] == [2016 * number - 1 for number in range(1, len(rows))]
    assert len({row.block_hash for row in rows}) == len(rows) > 30
    leading_zeros = {"mainnet": "0" * 8, "testnet4": "0" * 8, "signet": "0" * 5}[name]
    assert all(hex_of(row.block_hash).startswith(leading_zeros) for row in rows)


def test_first_checkpoint_of_mainnet_is_its_known_block() -> None:
    """Block 2015 of mainnet is at its place, with the difficulty of block 2016."""
    row = shipped("mainnet").at(2015)
    assert row is not None
    assert f"{row.height}\t{hex_of(row.block_hash)}\t{row.next_bits:08x}" == ROW_2015


@pytest.mark.parametrize("height", [-2016, -1, 1, 2014, 2016, 4030, 4032, 6047, 10**9])
def test_other_heights_have_no_checkpoint(height: int) -> None:
    """Only genesis and the last block of a recorded period have a checkpoint."""
    found = parse_checkpoints(f"{ROW_2015}\n{ROW_4031}", MAINNET)
    assert [row and row.height for row in map(found.at, (0, 2015, 4031))] == [0, 2015, 4031]
    assert found.at(height) is None


def end_of(raw_headers: list[bytes]) -> Checkpoint:
    """Return the checkpoint that these headers end in."""
    return Checkpoint(height=2015, block_hash=parse_header(raw_headers[-1]).block_hash, next_bits=None)


def test_period_that_ends_in_its_checkpoint_is_proved(period: list[bytes]) -> None:
    """2016 linked headers that end in the checkpoint are returned, parsed and in order."""
    headers = check_period(period, end_of(period))
    assert [header.raw for header in headers] == period
    assert all(isinstance(header, BlockHeader) for header in headers)


def test_period_of_another_length_is_refused(period: list[bytes]) -> None:
    """One header too few or too many is no period."""
    for headers in ([], period[1:], [*period, period[-1]]):
        with pytest.raises(HeaderError, match=f"period has {len(headers)} headers, want 2016"):
            check_period(headers, end_of(period))


def test_period_that_ends_elsewhere_is_refused(period: list[bytes]) -> None:
    """A well-linked period that does not end in the checkpoint proves nothing."""
    other = Checkpoint(height=2015, block_hash=MAINNET.genesis_hash, next_bits=None)
    with pytest.raises(HeaderError, match="does not end in the checkpoint at height 2015"):
        check_period(period, other)


@pytest.mark.parametrize("at", [0, 1000, 2014])
def test_changed_header_breaks_its_period(period: list[bytes], at: int) -> None:
    """One changed byte in any header but the last breaks the link of the next one."""
    changed = [*period]
    changed[at] = changed[at][:36] + b"\xff" + changed[at][37:]
    with pytest.raises(HeaderError, match="does not name its predecessor"):
        check_period(changed, end_of(period))


def test_changed_last_header_misses_the_checkpoint(period: list[bytes]) -> None:
    """A changed last header still links to the one before, and is caught by the checkpoint."""
    changed = [*period[:-1], period[-1][:36] + b"\xff" + period[-1][37:]]
    with pytest.raises(HeaderError, match="does not end in the checkpoint"):
        check_period(changed, end_of(period))
