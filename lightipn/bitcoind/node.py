"""The calls that this room makes to a node, with types for what is asked and for what comes back."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import trio

from lightipn.bitcoin.hashes import BlockHash, Txid, hash_from_hex, hex_of
from lightipn.bitcoin.transaction import Outpoint, TxOutput
from lightipn.bitcoind.answers import (
    BlockScan,
    BlockScanAnswer,
    ChainInfo,
    ChainInfoAnswer,
    FeeAnswer,
    HeaderPlace,
    IndexState,
    NodeInfo,
    OutputAnswer,
    OutputScan,
    OutputScanAnswer,
    ScanProgress,
    SpenderAnswer,
    SpendingAnswer,
    bytes_of,
    satoshis_of,
    txid_of,
)
from lightipn.bitcoind.rpc import INVALID_PARAMETER, JsonRpc, Refusal, Wire
from lightipn.errors import SourceRefusedError, SourceUnavailableError

T = TypeVar("T")
U = TypeVar("U")
V = TypeVar("V", covariant=True)

# A listing of the mempool has hundreds of thousands; others have their turn in between.
TXIDS_AT_ONCE = 10_000


class _Checkable(Protocol[V]):
    def checked(self) -> V: ...


class NodeRpc:
    """The calls to one node.

    Every one raises ``SourceUnavailableError`` when the node does not answer or warms up, ``SourceRefusedError`` when
    it answers with an error, and ``ProtocolError`` when the answer has another shape.
    """

    def __init__(self, wire: Wire, *, name: str) -> None:
        self._rpc = JsonRpc(wire, name=name)
        self.name = name

    # --- the node itself ---

    async def fetch_chain_info(self) -> ChainInfo:
        """Return where the node stands."""
        return self._value(await self._rpc.call(ChainInfoAnswer, "getblockchaininfo"))

    async def fetch_node_info(self) -> NodeInfo:
        """Return which software it is."""
        return await self._rpc.call(NodeInfo, "getnetworkinfo")

    async def fetch_indexes(self) -> dict[str, IndexState]:
        """Return the indexes that it keeps."""
        return await self._rpc.call(dict[str, IndexState], "getindexinfo")

    # --- blocks ---

    async def fetch_block_hashes(self, start: int, count: int) -> list[BlockHash]:
        """Return the hashes of consecutive blocks; fewer at the tip."""
        answers = await self._rpc.call_many(str, "getblockhash", [(height,) for height in range(start, start + count)])
        hashes: list[BlockHash] = []
        for answer in answers:
            if isinstance(answer, Refusal):
                if answer.code == INVALID_PARAMETER:  # beyond the tip
                    break
                raise self._rpc.refused(answer.code)
            hashes.append(BlockHash(self._read(hash_from_hex, answer)))
        return hashes

    async def fetch_headers(self, hashes: Sequence[BlockHash]) -> list[bytes]:
        """Return the raw headers of blocks; fewer where one is not known any more."""
        answers = await self._rpc.call_many(str, "getblockheader", [(hex_of(each), False) for each in hashes])
        headers: list[bytes] = []
        for answer in answers:
            if isinstance(answer, Refusal):
                break
            headers.append(self._read(bytes_of, answer))
        return headers

    async def fetch_heights(self, hashes: Sequence[BlockHash]) -> list[int | None]:
        """Return the heights of blocks; None for one that is not on the chain now."""
        answers = await self._rpc.call_many(HeaderPlace, "getblockheader", [(hex_of(each), True) for each in hashes])
        return [
            None if isinstance(answer, Refusal) or answer.confirmations < 0 else answer.height for answer in answers
        ]

    async def fetch_block(self, block_hash: BlockHash) -> bytes:
        """Return a raw block; refused where it is pruned."""
        return self._read(bytes_of, await self._rpc.call(str, "getblock", hex_of(block_hash), 0))

    # --- the mempool ---

    async def fetch_mempool(self) -> set[Txid]:
        """Return the txids of the mempool."""
        listed = await self._rpc.call(list[str], "getrawmempool")
        txids: set[Txid] = set()
        for at in range(0, len(listed), TXIDS_AT_ONCE):
            txids |= self._read(_txids_of, listed[at : at + TXIDS_AT_ONCE])
            await trio.lowlevel.checkpoint()
        return txids

    async def fetch_raw_many(self, txids: Sequence[Txid]) -> list[bytes | None]:
        """Return raw transactions of the mempool, in order; None for one that left it."""
        answers = await self._rpc.call_many(str, "getrawtransaction", [(hex_of(txid),) for txid in txids])
        return [None if isinstance(answer, Refusal) else self._read(bytes_of, answer) for answer in answers]

    async def fetch_raw(self, txid: Txid) -> bytes:
        """Return a raw transaction of the mempool, or any one where the node has an index of all."""
        return self._read(bytes_of, await self._rpc.call(str, "getrawtransaction", hex_of(txid)))

    async def fetch_raw_in(self, txid: Txid, block_hash: BlockHash) -> bytes:
        """Return a raw transaction of a block that the node has."""
        call = self._rpc.call(str, "getrawtransaction", hex_of(txid), False, hex_of(block_hash))
        return self._read(bytes_of, await call)

    async def fetch_prevouts(self, txid: Txid, block_hash: BlockHash) -> Mapping[Outpoint, TxOutput]:
        """Return what a transaction of a block spends, as the node's undo data has it; nothing before version 25."""
        return self._value(
            await self._rpc.call(SpendingAnswer, "getrawtransaction", hex_of(txid), 2, hex_of(block_hash))
        )

    async def is_in_mempool(self, txid: Txid) -> bool:
        """Tell whether a transaction waits for its block."""
        try:
            await self._rpc.call(Any, "getmempoolentry", hex_of(txid))
        except SourceRefusedError:
            return False
        return True

    async def fetch_spenders(self, outpoints: Sequence[Outpoint]) -> list[Txid | None]:
        """Return which transaction of the mempool spends each output, or None."""
        if not outpoints:
            return []
        wanted = [{"txid": hex_of(each.txid), "vout": each.index} for each in outpoints]
        found = await self._rpc.call(list[SpenderAnswer], "gettxspendingprevout", wanted)
        if len(found) != len(outpoints):
            raise self._rpc.malformed(f"{len(found)} spenders of {len(outpoints)} outputs")
        return [None if one.spendingtxid is None else self._read(txid_of, one.spendingtxid) for one in found]

    # --- the unspent outputs ---

    async def fetch_unspent(self, outpoint: Outpoint) -> TxOutput | None:
        """Return an output of a block that no block spent, or None."""
        kind: Any = OutputAnswer | None
        found = await self._rpc.call(kind, "gettxout", hex_of(outpoint.txid), outpoint.index, False)
        return None if found is None else self._value(found)

    async def scan_outputs(self, scripts: Sequence[bytes], *, timeout_s: float) -> OutputScan:
        """Search all unspent outputs for scripts; it takes minutes on mainnet."""
        scan = await self._scan(OutputScanAnswer, "scantxoutset", scripts, (), timeout_s=timeout_s)
        if not scan.success:
            raise SourceUnavailableError("scan-was-ended", source=self.name)
        return self._value(scan)

    async def scan_blocks(self, scripts: Sequence[bytes], *, up_to: int, timeout_s: float) -> BlockScan:
        """Search the filters of all blocks up to a height for scripts; it takes minutes on mainnet."""
        scan = await self._scan(BlockScanAnswer, "scanblocks", scripts, (0, up_to), timeout_s=timeout_s)
        if not scan.completed:
            raise SourceUnavailableError("scan-was-ended", source=self.name)
        return self._value(scan)

    async def _scan(
        self, kind: type[T], method: str, scripts: Sequence[bytes], more: tuple[int, ...], *, timeout_s: float
    ) -> T:
        wanted = [f"raw({script.hex()})" for script in scripts]
        try:
            return await self._rpc.call(kind, method, "start", wanted, *more, timeout_s=timeout_s)
        except SourceRefusedError as error:
            if error.code == INVALID_PARAMETER:
                raise SourceUnavailableError("another-scan-is-under-way", source=self.name) from error
            raise

    async def fetch_scan_progress(self, method: str) -> float | None:
        """Return how far a scan is, in percent; None where none is under way."""
        kind: Any = ScanProgress | None
        found = await self._rpc.call(kind, method, "status")
        return None if found is None else float(found.progress)

    async def abort_scan(self, method: str) -> None:
        """End a scan that is under way."""
        await self._rpc.call(bool, method, "abort")

    # --- sending ---

    async def broadcast(self, raw: bytes) -> None:
        """Hand a transaction to the node."""
        await self._rpc.call(str, "sendrawtransaction", raw.hex())

    async def fetch_fee_rate(self, target_blocks: int) -> float | None:
        """Return the node's estimate in satoshis a virtual byte, or None where it has none."""
        estimate = await self._rpc.call(FeeAnswer, "estimatesmartfee", max(2, min(target_blocks, 1008)))
        return None if estimate.feerate is None else self._read(satoshis_of, estimate.feerate) / 1000

    # --- the door ---

    def _value(self, answer: _Checkable[T]) -> T:
        return self._rpc.checked(answer.checked)

    def _read(self, read: Callable[[U], T], written: U) -> T:
        return self._rpc.checked(lambda: read(written))


def _txids_of(listed: Iterable[str]) -> set[Txid]:
    return {txid_of(text) for text in listed}
