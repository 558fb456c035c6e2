"""Hashes and their byte order."""

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.hashes import hash_from_hex, hex_of, scripthash_of, sha256, sha256d
from lightipn.bitcoin.network import MAINNET
from tests.builders import load_vectors

GENESIS_TEXT = "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"


def test_texts_print_the_bytes_reversed() -> None:
    """A hash in internal order ends in the zeros that its text begins with."""
    assert hash_from_hex(GENESIS_TEXT)[-4:] == bytes(4)
    assert hex_of(MAINNET.genesis_hash) == GENESIS_TEXT


@given(st.binary(min_size=32, max_size=32))
@settings(deadline=None)
def test_printing_and_reading_a_hash_are_inverse(digest: bytes) -> None:
    """A printed hash reads back as the same 32 bytes, in upper case too."""
    assert hash_from_hex(hex_of(digest)) == digest
    assert hash_from_hex(hex_of(digest).upper()) == digest


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param(GENESIS_TEXT[:-1], id="63 digits"),
        pytest.param(GENESIS_TEXT + "0", id="65 digits"),
        pytest.param(GENESIS_TEXT[:-2], id="31 bytes"),
        pytest.param(GENESIS_TEXT[:-1] + "g", id="not a digit"),
        pytest.param(GENESIS_TEXT[:30] + "    " + GENESIS_TEXT[34:], id="blanks inside"),
        pytest.param(GENESIS_TEXT[:-1] + "\uff11", id="a wide digit"),
        pytest.param(None, id="none"),
        pytest.param(0, id="a number"),
        pytest.param(GENESIS_TEXT.encode(), id="bytes"),
    ],
)
def test_what_is_not_a_hash_is_refused(text: object) -> None:
    """Only a text of exactly 64 hex digits is read as a hash."""
    with pytest.raises(ValueError, match=r"64 hex digits|hexadecimal"):
        hash_from_hex(text)


def test_hash_functions_are_single_and_double_sha256() -> None:
    """The two functions agree with SHA-256 applied once and twice."""
    once = hashlib.sha256(b"abc").digest()
    assert sha256(b"abc") == once
    assert once.hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert sha256d(b"abc") == hashlib.sha256(once).digest()


def test_scripthash_matches_the_protocol_document() -> None:
    """The scripthash of the first address ever paid is the one in the Electrum protocol document."""
    vector = load_vectors("scripthash")
    assert hex_of(scripthash_of(bytes.fromhex(vector["script"]))) == vector["scripthash"]
