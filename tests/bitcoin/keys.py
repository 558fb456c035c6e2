"""Extended keys that the tests of this room share, in all their spellings, and what refuses them."""

from typing import Any

import pytest
from embit import base58, bip32

from lightipn.bitcoin.extended_key import AddressChain, parse_address_chain, parse_receive_chains
from lightipn.bitcoin.network import MAINNET, Network
from lightipn.errors import RequestError
from tests.builders import load_vectors

VECTORS = load_vectors("extended_keys")["rows"]
BIP32 = load_vectors("bip32")
XPUB = VECTORS[0]["key"]
ZPUB = VECTORS[2]["key"]
TPUB = VECTORS[4]["key"]
PAYLOAD = base58.decode_check(XPUB)  # version 4, depth 1, fingerprint 4, child 4, chain code 32, public key 33
XPRV = bip32.HDKey.from_seed(bytes(64)).to_base58()
WIF = base58.encode_check(b"\x80" + bytes(31) + b"\x01\x01")
POINT = "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798"


def row_id(row: Any) -> str:
    """Name a vector."""
    return str(row["name"])


def with_version(version: str, payload: bytes = PAYLOAD) -> str:
    """Return an extended key with these version bytes in hex."""
    return str(base58.encode_check(bytes.fromhex(version) + payload[4:]))


def plain_of(row: Any) -> str:
    """Return the key of a vector as descriptors spell it: xpub on mainnet, tpub elsewhere."""
    return with_version("0488b21e" if row["network"] == "mainnet" else "043587cf", base58.decode_check(row["key"]))


def at_depth(depth: int) -> str:
    """Return the xpub as if it stood so many steps below its master key."""
    return str(base58.encode_check(PAYLOAD[:4] + bytes([depth]) + PAYLOAD[5:]))


def branch_of(account: str, branch: int) -> str:
    """Return a child of an account key, as an extended key."""
    return str(bip32.HDKey.from_base58(account).child(branch).to_base58())


def supply_of(text: str, network: Network) -> AddressChain:
    """Return the supply for receiving, of all those on a key."""
    return parse_receive_chains(text, network)[0]


def refusals_of(text: str, network: Network = MAINNET) -> set[str]:
    """Read what must be refused, in both ways, and return the reasons, which repeat nothing of the text."""
    reasons = set()
    words = "".join(char if char.isalnum() else " " for char in text).split()
    for parse in (parse_address_chain, supply_of):
        with pytest.raises(RequestError) as caught:
            parse(text, network)
        assert caught.value.code == "bad-key"
        assert caught.value.__cause__ is None
        assert not [word for word in words if len(word) > 12 and word in str(caught.value)]
        reasons.add(str(caught.value))
    return reasons


def refusal_of(text: str, network: Network = MAINNET) -> str:
    """Read what must be refused, in both ways, and return the reason, the same for both."""
    [reason] = refusals_of(text, network)
    return reason
