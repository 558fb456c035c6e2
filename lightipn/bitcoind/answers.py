"""What a node answers: the shapes of Bitcoin Core's JSON, and the values that are made of them.

A shape's ``checked`` gives its value: hashes and scripts as bytes, amounts as satoshis. It raises ``ValueError`` where
something is no hash, no hex or no amount.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

import msgspec

from lightipn.bitcoin.hashes import BlockHash, Txid, hash_from_hex
from lightipn.bitcoin.transaction import MAX_MONEY_SAT, Outpoint, TxOutput

SATOSHIS_A_BITCOIN = 100_000_000
MAX_OUTPUT_INDEX = 0xFFFFFFFF


def satoshis_of(amount: Decimal) -> int:
    """Return an amount that the node prints in bitcoins.

    Raises:
        ValueError: it is no number of whole satoshis that can exist.
    """
    # Compared first: to multiply a number with a huge exponent raises.
    if not (amount.is_finite() and 0 <= amount <= MAX_MONEY_SAT // SATOSHIS_A_BITCOIN):
        raise ValueError("an amount is no number of bitcoins that can exist")
    satoshis = amount * SATOSHIS_A_BITCOIN
    if satoshis != int(satoshis):
        raise ValueError("an amount is not of whole satoshis")
    return int(satoshis)


def bytes_of(text: str) -> bytes:
    """Return bytes that the node prints in hex.

    Raises:
        ValueError: they are not.
    """
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise ValueError("bytes are not hex") from None


def txid_of(text: str) -> Txid:
    """Return a txid that the node prints; ``ValueError`` if it is none."""
    return Txid(hash_from_hex(text))


def outpoint_of(txid: str, index: int) -> Outpoint:
    """Return an outpoint that the node prints; ``ValueError`` if it is none."""
    if not 0 <= index <= MAX_OUTPUT_INDEX:
        raise ValueError("an output's index is out of range")
    return Outpoint(txid_of(txid), index)


# --- the node itself ---


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainInfo:
    """Where a node stands.

    Args:
        chain: its network, as Bitcoin Core calls it.
        progress: of its download, from 0 to 1.
        prune_height: the lowest block that is there; None on a node that keeps all.
    """

    chain: str
    height: int
    header_height: int
    tip_hash: BlockHash
    progress: float
    is_in_download: bool
    prune_height: int | None


class ChainInfoAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``getblockchaininfo``."""

    chain: str
    blocks: int
    headers: int
    bestblockhash: str
    verificationprogress: float
    initialblockdownload: bool
    pruneheight: int | None = None

    def checked(self) -> ChainInfo:
        """Return what it says."""
        return ChainInfo(
            chain=self.chain,
            height=self.blocks,
            header_height=self.headers,
            tip_hash=BlockHash(hash_from_hex(self.bestblockhash)),
            progress=self.verificationprogress,
            is_in_download=self.initialblockdownload,
            prune_height=self.pruneheight,
        )


class NodeInfo(msgspec.Struct, frozen=True):
    """``getnetworkinfo``: 290000 is version 29.0."""

    version: int
    subversion: str


class IndexState(msgspec.Struct, frozen=True):
    """One of ``getindexinfo``."""

    synced: bool
    best_block_height: int


class HeaderPlace(msgspec.Struct, frozen=True):
    """``getblockheader``; a block that is not on the chain has -1 confirmations."""

    height: int
    confirmations: int


# --- outputs ---


class ScriptAnswer(msgspec.Struct, frozen=True):
    """An output script."""

    hex: str


class OutputAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``gettxout``, and the output that an input spends."""

    value: Decimal
    script: ScriptAnswer = msgspec.field(name="scriptPubKey")

    def checked(self) -> TxOutput:
        """Return the output."""
        return TxOutput(amount_sat=satoshis_of(self.value), script=bytes_of(self.script.hex))


class _Input(msgspec.Struct, frozen=True):
    txid: str = ""  # a coinbase spends nothing
    vout: int = 0
    prevout: OutputAnswer | None = None


class SpendingAnswer(msgspec.Struct, frozen=True):
    """``getrawtransaction`` with what the transaction spends."""

    vin: list[_Input]

    def checked(self) -> Mapping[Outpoint, TxOutput]:
        """Return what it spends, as far as the node says it."""
        return {outpoint_of(each.txid, each.vout): each.prevout.checked() for each in self.vin if each.prevout}


class SpenderAnswer(msgspec.Struct, frozen=True):
    """One of ``gettxspendingprevout``."""

    spendingtxid: str | None = None


# --- scans ---


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundOutput:
    """An unspent output that a scan found, and the height of the block that made it."""

    outpoint: Outpoint
    output: TxOutput
    height: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputScan:
    """Every unspent output of some scripts, as of a block."""

    best_block: BlockHash
    outputs: tuple[FoundOutput, ...]


class _Unspent(msgspec.Struct, frozen=True, kw_only=True):
    txid: str
    vout: int
    script: str = msgspec.field(name="scriptPubKey")
    amount: Decimal
    height: int

    def checked(self) -> FoundOutput:
        output = TxOutput(amount_sat=satoshis_of(self.amount), script=bytes_of(self.script))
        return FoundOutput(outpoint=outpoint_of(self.txid, self.vout), output=output, height=self.height)


class OutputScanAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``scantxoutset``; no success where somebody ended it, so that not all are there."""

    success: bool
    bestblock: str
    unspents: list[_Unspent]

    def checked(self) -> OutputScan:
        """Return what was found."""
        outputs = tuple(each.checked() for each in self.unspents)
        return OutputScan(best_block=BlockHash(hash_from_hex(self.bestblock)), outputs=outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockScan:
    """Which blocks up to a height may concern some scripts; filters give false positives, and no false negative."""

    to_height: int
    blocks: tuple[BlockHash, ...]


class BlockScanAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``scanblocks``; not completed where somebody ended it."""

    to_height: int
    relevant_blocks: list[str]
    completed: bool

    def checked(self) -> BlockScan:
        """Return what was found."""
        blocks = tuple(BlockHash(hash_from_hex(each)) for each in self.relevant_blocks)
        return BlockScan(to_height=self.to_height, blocks=blocks)


class ScanProgress(msgspec.Struct, frozen=True):
    """How far a scan is, in percent."""

    progress: float


class FeeAnswer(msgspec.Struct, frozen=True):
    """``estimatesmartfee``, in bitcoins a thousand virtual bytes."""

    feerate: Decimal | None = None
