"""What a node must be before it is of use."""

from lightipn.bitcoin.network import Network
from lightipn.bitcoind.answers import ChainInfo
from lightipn.bitcoind.node import NodeRpc
from lightipn.errors import SourceUnavailableError

LOWEST_VERSION = 240_000
SHOWN_CHARACTERS = 60

# Bitcoin Core's names of chains, where they differ from ours.
_CHAIN_NAMES = {"main": "mainnet"}


async def greet(node: NodeRpc, network: Network, info: ChainInfo) -> str:
    """Check that a node is the right one, and of use; return what software it says it is.

    Raises:
        SourceUnavailableError: it is not; its message is the state to be shown.
        SourceError: it cannot be asked.
    """
    name = _CHAIN_NAMES.get(info.chain, info.chain)
    if name != network.name:
        raise SourceUnavailableError(f"wrong-chain: it is on {name[:20]!a}, want {network.name}")
    if await node.fetch_block_hashes(0, 1) != [network.genesis_hash]:
        raise SourceUnavailableError(f"wrong-chain: its block 0 is not that of {network.name}")
    software = await node.fetch_node_info()
    if software.version < LOWEST_VERSION:
        raise SourceUnavailableError(f"too-old: version {software.version}, want {LOWEST_VERSION} (24.0)")
    if info.is_in_download:
        if not info.header_height:
            raise SourceUnavailableError("initial-download: it has no headers yet")
        raise SourceUnavailableError(
            f"initial-download: {info.progress * 100:.2f} percent, block {info.height} of {info.header_height}"
        )
    return "".join(each for each in software.subversion[:SHOWN_CHARACTERS] if each.isprintable())
