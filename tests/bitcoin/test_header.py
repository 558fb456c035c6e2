"""Block headers, compact targets and retargets."""

from importlib import resources
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.header import (
    HEADER_BYTES,
    RETARGET_TIMESPAN_S,
    BlockHeader,
    bits_of,
    check_proof_of_work,
    parse_header,
    retargeted_bits,
    target_of,
    work_of,
)
from lightipn.bitcoin.network import MAINNET, NETWORKS, REGTEST, SIGNET
from lightipn.errors import HeaderError
from tests.builders import double_sha256, load_vectors, raw_header

RETARGETS = load_vectors("retarget")["rows"]


def checkpoint_bits() -> list[tuple[str, int]]:
    """Return (network, bits) of every checkpoint row that records them."""
    found = []
    for name in ("mainnet", "testnet4", "signet"):
        text = (resources.files("lightipn") / "data" / f"checkpoints-{name}.tsv").read_text("ascii")
        rows = [line.split("\t") for line in text.splitlines() if not line.startswith("#")]
        found += [(name, int(bits, 16)) for _, _, bits in rows if bits != "-"]
    return found


def test_header_fields_stand_where_consensus_puts_them() -> None:
    """A header is read field by field from its 80 bytes, in internal byte order."""
    raw = raw_header(b"\x01" * 32, time=1_700_000_000, merkle_root=b"\x02" * 32)
    assert parse_header(raw) == BlockHeader(
        block_hash=double_sha256(raw),
        previous_hash=b"\x01" * 32,
        merkle_root=b"\x02" * 32,
        time=1_700_000_000,
        bits=0x207FFFFF,
        raw=raw,
    )


@pytest.mark.parametrize("size_bytes", [0, 1, 79, 81, 160])
def test_header_of_another_length_is_refused(size_bytes: int) -> None:
    """Only 80 bytes are a header."""
    with pytest.raises(HeaderError, match=f"header has {size_bytes} bytes, want {HEADER_BYTES}"):
        parse_header(bytes(size_bytes))


@pytest.mark.parametrize("row", RETARGETS, ids=lambda row: str(row["last_height"]))
def test_retarget_reproduces_mainnet(row: Any) -> None:
    """The bits that follow a period of mainnet come out of its first time, last time and bits."""
    found = retargeted_bits(
        bits=int(row["bits"], 16), first_time=row["first_time"], last_time=row["last_time"], network=MAINNET
    )
    assert f"{found:08x}" == row["next_bits"]


def test_retarget_is_held_between_a_quarter_and_four_times() -> None:
    """However fast or slow a period was, even backwards in time, the target moves by a factor of four at most."""
    bits = 0x1B0404CB

    def after(timespan_s: int) -> int:
        return retargeted_bits(bits=bits, first_time=10**9, last_time=10**9 + timespan_s, network=MAINNET)

    assert after(RETARGET_TIMESPAN_S) == bits
    assert after(1) == after(-(10**6)) == after(RETARGET_TIMESPAN_S // 4) == bits_of(target_of(bits) // 4)
    assert after(10**8) == after(RETARGET_TIMESPAN_S * 4) == bits_of(target_of(bits) * 4)


@pytest.mark.parametrize("network", [MAINNET, SIGNET], ids=lambda network: network.name)
def test_retarget_never_passes_the_easiest_target(network: Any) -> None:
    """A slow period at the easiest target keeps the easiest target."""
    bits = retargeted_bits(bits=network.pow_limit_bits, first_time=0, last_time=10**8, network=network)
    assert bits == network.pow_limit_bits


@given(st.integers(0x1701_0000, 0x1D00_FFFF).filter(lambda bits: bits & 0x7F_FFFF > 0 and not bits & 0x80_0000))
@settings(deadline=None)
def test_slower_periods_never_make_the_target_harder(bits: int) -> None:
    """Of two periods with the same bits, the slower one is followed by a target at least as easy."""
    targets = [
        target_of(retargeted_bits(bits=bits, first_time=0, last_time=timespan_s, network=MAINNET))
        for timespan_s in range(0, RETARGET_TIMESPAN_S * 5, RETARGET_TIMESPAN_S // 3)
    ]
    assert targets == sorted(targets)


def test_compact_targets_of_all_checkpoints_survive_the_round_trip() -> None:
    """Every recorded difficulty expands to a target that compacts to the same bits, within the network's limit."""
    rows = checkpoint_bits()
    assert len(rows) > 400
    for name, bits in rows:
        assert bits_of(target_of(bits)) == bits
        assert target_of(bits) <= target_of(NETWORKS[name].pow_limit_bits)


@pytest.mark.parametrize(
    ("bits", "target"),
    [
        pytest.param(0x01123456 & ~0x800000, 0x12, id="exponent 1 drops two bytes"),
        pytest.param(0x02123456, 0x1234, id="exponent 2 drops one byte"),
        pytest.param(0x03123456, 0x123456, id="exponent 3"),
        pytest.param(0x04123456, 0x12345600, id="exponent 4"),
        pytest.param(0x05009234, 0x92340000, id="high bit kept free by a zero byte"),
        pytest.param(0x20123456, 0x123456 << 232, id="exponent 32"),
        pytest.param(0x2100FFFF, 0xFFFF << 240, id="exponent 33 with two bytes"),
        pytest.param(0x220000FF, 0xFF << 248, id="exponent 34 with one byte"),
        pytest.param(0x1D00FFFF, 0xFFFF << 208, id="mainnet's limit"),
    ],
)
def test_compact_targets_expand_as_in_bitcoin_core(bits: int, target: int) -> None:
    """Compact targets expand as in the table of Bitcoin Core's arith_uint256 tests, to the edge of 256 bits."""
    assert target_of(bits) == target


@pytest.mark.parametrize(
    "bits",
    [
        pytest.param(0x00000000, id="nothing"),
        pytest.param(0x00123456, id="exponent 0"),
        pytest.param(0x01003456, id="exponent 1, all bytes dropped"),
        pytest.param(0x02000056, id="exponent 2, all bytes dropped"),
        pytest.param(0x04000000, id="mantissa 0"),
        pytest.param(0xFF000000, id="mantissa 0, exponent 255"),
        pytest.param(0x04923456, id="negative"),
        pytest.param(0x01FEDCBA, id="negative, exponent 1"),
        pytest.param(0x1D80FFFF, id="negative, of mainnet's size"),
        pytest.param(0x21010000, id="257 bits from three bytes"),
        pytest.param(0x22000100, id="257 bits from two bytes"),
        pytest.param(0x23000001, id="257 bits from one byte"),
        pytest.param(0xFF123456, id="exponent 255"),
    ],
)
def test_bits_that_no_block_can_have_are_refused(bits: int) -> None:
    """Negative, zero and overflowing compact targets are refused."""
    with pytest.raises(HeaderError, match="no valid target"):
        target_of(bits)


@given(st.integers(1, (1 << 256) - 1))
@settings(deadline=None)
def test_compacting_rounds_down_and_is_stable(target: int) -> None:
    """The compact form of a target is never easier than it, is off by less than 2^-15, and compacts to itself."""
    rounded = target_of(bits_of(target))
    assert rounded <= target < rounded + (rounded >> 15) + 1
    assert bits_of(rounded) == bits_of(target)


def test_work_is_the_expected_number_of_hashes() -> None:
    """A regtest header stands for two hashes, mainnet's easiest for 2^32 and a little."""
    assert work_of(REGTEST.pow_limit_bits) == 2
    assert work_of(MAINNET.pow_limit_bits) == 0x100010001
    assert work_of(0x01010000) == 1 << 255  # target 1: only the hashes 0 and 1 meet it
    assert work_of(0x1B0404CB) > work_of(0x1C0404CB) > work_of(MAINNET.pow_limit_bits)


def test_proof_of_work_is_demanded() -> None:
    """A header whose hash exceeds its own target is refused; one that meets it passes."""
    check_proof_of_work(parse_header(raw_header(bytes(32), time=1)), REGTEST)
    with pytest.raises(HeaderError, match="exceeds its target"):
        check_proof_of_work(parse_header(raw_header(bytes(32), time=1, is_mined=False)), REGTEST)


def test_target_easier_than_the_network_allows_is_refused() -> None:
    """A mined header of regtest's difficulty is worth nothing on mainnet."""
    header = parse_header(raw_header(bytes(32), time=1))
    with pytest.raises(HeaderError, match="bits 0x207fffff are easier than mainnet allows"):
        check_proof_of_work(header, MAINNET)


def test_hash_equal_to_its_target_passes() -> None:
    """The target itself is the last hash that is good enough, and one above it is too much."""
    target = target_of(REGTEST.pow_limit_bits)
    header = parse_header(raw_header(bytes(32), time=1))

    def with_hash(number: int) -> BlockHeader:
        block_hash = number.to_bytes(32, "little")
        return BlockHeader(
            block_hash=block_hash,
            previous_hash=header.previous_hash,
            merkle_root=header.merkle_root,
            time=header.time,
            bits=header.bits,
            raw=header.raw,
        )

    check_proof_of_work(with_hash(target), REGTEST)
    with pytest.raises(HeaderError, match="exceeds its target"):
        check_proof_of_work(with_hash(target + 1), REGTEST)
