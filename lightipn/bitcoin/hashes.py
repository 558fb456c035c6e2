"""Hashes and their byte order, which has its one home here.

Internal order is the order SHA-256 produces. Bitcoin's texts (and Electrum's scripthashes) print the bytes reversed.
"""

import hashlib
from typing import NewType

Txid = NewType("Txid", bytes)
"""32 bytes, internal order: double SHA-256 of a transaction without its witnesses."""

BlockHash = NewType("BlockHash", bytes)
"""32 bytes, internal order: double SHA-256 of a block header."""

ScriptHash = NewType("ScriptHash", bytes)
"""32 bytes, internal order: SHA-256 of an output script."""


def sha256(data: bytes) -> bytes:
    """Return the 32-byte SHA-256 of ``data``."""
    return hashlib.sha256(data).digest()


def sha256d(data: bytes) -> bytes:
    """Return the 32-byte double SHA-256 of ``data``."""
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def hex_of(digest: bytes) -> str:
    """Print a hash as Bitcoin's texts do: 64 hex digits, bytes reversed."""
    return digest[::-1].hex()


def hash_from_hex(text: object) -> bytes:
    """Read a hash printed by ``hex_of``.

    Returns:
        32 bytes, internal order.

    Raises:
        ValueError: not exactly 64 hex digits.
    """
    if not isinstance(text, str) or len(text) != 64:
        raise ValueError("want 64 hex digits")
    digest = bytes.fromhex(text)
    if len(digest) != 32:  # fromhex skips white space
        raise ValueError("want 64 hex digits")
    return digest[::-1]


def scripthash_of(script: bytes) -> ScriptHash:
    """Return the scripthash of an output script.

    Source:
        Electrum protocol 1.4, "Script hashes".
    """
    return ScriptHash(sha256(script))
