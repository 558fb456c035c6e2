"""Block headers: their 80 bytes, their proof of work, and the difficulty that each one must have."""

from dataclasses import dataclass

from lightipn.bitcoin.hashes import BlockHash, sha256d
from lightipn.bitcoin.network import Network
from lightipn.errors import HeaderError

HEADER_BYTES = 80
RETARGET_BLOCKS = 2016
RETARGET_TIMESPAN_S = 14 * 24 * 60 * 60


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockHeader:
    """A parsed header.

    Args:
        block_hash, previous_hash: 32 bytes, internal order.
        merkle_root: 32 bytes, internal order.
        time: unix seconds, as the miner claims.
        bits: compact target.
        raw: the 80 bytes.
    """

    block_hash: BlockHash
    previous_hash: BlockHash
    merkle_root: bytes
    time: int
    bits: int
    raw: bytes


def parse_header(raw: bytes) -> BlockHeader:
    """Split 80 bytes into a header; nothing is judged but the length.

    Raises:
        HeaderError: not 80 bytes.
    """
    if len(raw) != HEADER_BYTES:
        raise HeaderError(f"header has {len(raw)} bytes, want {HEADER_BYTES}")
    return BlockHeader(
        block_hash=BlockHash(sha256d(raw)),
        previous_hash=BlockHash(raw[4:36]),
        merkle_root=raw[36:68],
        time=int.from_bytes(raw[68:72], "little"),
        bits=int.from_bytes(raw[72:76], "little"),
        raw=raw,
    )


def target_of(bits: int) -> int:
    """Expand a compact target.

    Returns:
        The number that a block hash, read as a little-endian number, must not exceed.

    Raises:
        HeaderError: negative, zero, or more than 256 bits: no block can have it.

    Source:
        Bitcoin Core, ``arith_uint256::SetCompact``.
    """
    exponent, mantissa = bits >> 24, bits & 0x7FFFFF
    target = mantissa >> 8 * (3 - exponent) if exponent <= 3 else mantissa << 8 * (exponent - 3)
    if bits & 0x800000 or target == 0 or target >> 256:
        raise HeaderError(f"bits {bits:#010x} are no valid target")
    return target


def bits_of(target: int) -> int:
    """Return the compact form of a target, rounded down as consensus does.

    Source:
        Bitcoin Core, ``arith_uint256::GetCompact``.
    """
    size = (target.bit_length() + 7) // 8
    mantissa = target << 8 * (3 - size) if size <= 3 else target >> 8 * (size - 3)
    if mantissa & 0x800000:
        mantissa >>= 8
        size += 1
    return size << 24 | mantissa


def work_of(bits: int) -> int:
    """Return the expected number of hashes behind a header with these bits.

    Source:
        Bitcoin Core, ``GetBlockProof``.
    """
    return (1 << 256) // (target_of(bits) + 1)


def check_proof_of_work(header: BlockHeader, network: Network) -> None:
    """Check that a header's hash meets the target that it states.

    Raises:
        HeaderError: the target is easier than the network allows, or the hash exceeds it.
    """
    target = target_of(header.bits)
    if target > target_of(network.pow_limit_bits):
        raise HeaderError(f"bits {header.bits:#010x} are easier than {network.name} allows")
    if int.from_bytes(header.block_hash, "little") > target:
        raise HeaderError("the block hash exceeds its target")


def retargeted_bits(*, bits: int, first_time: int, last_time: int, network: Network) -> int:
    """Return the bits of the period that follows a full one.

    Args:
        bits: of the period that ended.
        first_time, last_time: unix seconds of its first and its last header.

    Source:
        Bitcoin Core, ``CalculateNextWorkRequired``: the timespan is held between a quarter and four times two weeks.
    """
    timespan_s = min(max(last_time - first_time, RETARGET_TIMESPAN_S // 4), RETARGET_TIMESPAN_S * 4)
    target = target_of(bits) * timespan_s // RETARGET_TIMESPAN_S
    return bits_of(min(target, target_of(network.pow_limit_bits)))
