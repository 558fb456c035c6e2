"""The four networks: what tells their addresses, keys and proof of work apart."""

import enum
from dataclasses import dataclass

from lightipn.bitcoin.hashes import BlockHash, hash_from_hex


class DifficultyRule(enum.Enum):
    """How a network decides the ``bits`` of its next header."""

    EVERY_2016 = "mainnet and signet: constant for 2016 blocks, then retargeted"
    TESTNET4 = "BIP-94: as above, from the period's first bits, and minimum difficulty 20 minutes after the last block"
    CONSTANT = "regtest: never changes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """What a network fixes for ever.

    Args:
        genesis_hash: hash of block 0.
        genesis_header: its 80 bytes.
        bech32_prefix: the human-readable part of segwit addresses.
        p2pkh_version, p2sh_version: version bytes of base58 addresses.
        pow_limit_bits: compact form of the easiest target.
    """

    name: str
    genesis_hash: BlockHash
    genesis_header: bytes
    bech32_prefix: str
    p2pkh_version: int
    p2sh_version: int
    pow_limit_bits: int
    difficulty_rule: DifficultyRule


def _genesis(time: str, bits: str, nonce: str, *, root: str) -> bytes:
    """Put a genesis header together; version 1, no predecessor; numbers as little-endian hex."""
    return bytes.fromhex("01000000" + "00" * 32) + hash_from_hex(root) + bytes.fromhex(time + bits + nonce)


_ROOT_2009 = "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"
_ROOT_TESTNET4 = "7aa0a7ae1e223414cb807e40cd57e667b718e42aaf9306db9102fe28912b7b4e"

MAINNET = Network(
    name="mainnet",
    genesis_hash=BlockHash(hash_from_hex("000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f")),
    genesis_header=_genesis("29ab5f49", "ffff001d", "1dac2b7c", root=_ROOT_2009),
    bech32_prefix="bc",
    p2pkh_version=0x00,
    p2sh_version=0x05,
    pow_limit_bits=0x1D00FFFF,
    difficulty_rule=DifficultyRule.EVERY_2016,
)
TESTNET4 = Network(
    name="testnet4",
    genesis_hash=BlockHash(hash_from_hex("00000000da84f2bafbbc53dee25a72ae507ff4914b867c565be350b0da8bf043")),
    genesis_header=_genesis("046f3566", "ffff001d", "bb0c7817", root=_ROOT_TESTNET4),
    bech32_prefix="tb",
    p2pkh_version=0x6F,
    p2sh_version=0xC4,
    pow_limit_bits=0x1D00FFFF,
    difficulty_rule=DifficultyRule.TESTNET4,
)
SIGNET = Network(
    name="signet",
    genesis_hash=BlockHash(hash_from_hex("00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6")),
    genesis_header=_genesis("008f4d5f", "ae77031e", "8ad22203", root=_ROOT_2009),
    bech32_prefix="tb",
    p2pkh_version=0x6F,
    p2sh_version=0xC4,
    pow_limit_bits=0x1E0377AE,
    difficulty_rule=DifficultyRule.EVERY_2016,
)
REGTEST = Network(
    name="regtest",
    genesis_hash=BlockHash(hash_from_hex("0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206")),
    genesis_header=_genesis("dae5494d", "ffff7f20", "02000000", root=_ROOT_2009),
    bech32_prefix="bcrt",
    p2pkh_version=0x6F,
    p2sh_version=0xC4,
    pow_limit_bits=0x207FFFFF,
    difficulty_rule=DifficultyRule.CONSTANT,
)
NETWORKS = {network.name: network for network in (MAINNET, TESTNET4, SIGNET, REGTEST)}
