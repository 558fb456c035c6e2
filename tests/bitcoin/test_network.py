"""What the four networks fix for ever."""

import pytest

from lightipn.bitcoin.header import check_proof_of_work, parse_header
from lightipn.bitcoin.network import NETWORKS
from tests.builders import double_sha256


@pytest.mark.parametrize("name", ["mainnet", "testnet4", "signet", "regtest"])
def test_genesis_header_hashes_to_the_genesis_hash(name: str) -> None:
    """The genesis header of every network hashes to its genesis hash and meets its own target."""
    network = NETWORKS[name]
    assert double_sha256(network.genesis_header) == network.genesis_hash
    header = parse_header(network.genesis_header)
    assert (header.bits, header.previous_hash) == (network.pow_limit_bits, bytes(32))
    check_proof_of_work(header, network)


def test_networks_are_filed_under_their_own_names() -> None:
    """The four networks are found by the name they carry, and no two share a genesis block."""
    assert {name: network.name for name, network in NETWORKS.items()} == {
        name: name for name in ("mainnet", "testnet4", "signet", "regtest")
    }
    assert len({network.genesis_hash for network in NETWORKS.values()}) == 4
