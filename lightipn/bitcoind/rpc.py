"""Bitcoin Core's JSON-RPC: one door for calls, and types for what comes back.

Amounts are read as ``Decimal`` and leave as satoshis. A node's own words are dropped; its error codes are kept.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol, TypeVar

import httpx
import msgspec

from lightipn.bitcoin.hashes import BlockHash, Txid, hash_from_hex, hex_of
from lightipn.bitcoin.transaction import MAX_MONEY_SAT, Outpoint, TxOutput
from lightipn.errors import ProtocolError, SourceRefusedError, SourceUnavailableError

T = TypeVar("T")

TIMEOUT_S = 30.0
CONNECTIONS = 8  # the node queues 16 calls (-rpcworkqueue) for everybody together
BATCH = 200
SATOSHIS_A_BITCOIN = 100_000_000
MAX_OUTPUT_INDEX = 0xFFFFFFFF

# Bitcoin Core, src/rpc/protocol.h.
IN_WARMUP = -28
NOT_FOUND = -5
INVALID_PARAMETER = -8
METHOD_NOT_FOUND = -32601


class ChainInfo(msgspec.Struct, frozen=True, kw_only=True):
    """``getblockchaininfo``.

    Args:
        prune_height: the lowest block that is there; None on a node that keeps all.
    """

    chain: str
    blocks: int
    headers: int
    tip_hash: str = msgspec.field(name="bestblockhash")
    progress: float = msgspec.field(name="verificationprogress")
    is_in_download: bool = msgspec.field(name="initialblockdownload")
    is_pruned: bool = msgspec.field(name="pruned")
    prune_height: int | None = msgspec.field(name="pruneheight", default=None)


class NodeInfo(msgspec.Struct, frozen=True):
    """``getnetworkinfo``: 290000 is version 29.0."""

    version: int
    subversion: str


class IndexState(msgspec.Struct, frozen=True):
    """One of ``getindexinfo``."""

    synced: bool
    best_block_height: int


class Mempool(msgspec.Struct, frozen=True):
    """``getrawmempool`` with its sequence number."""

    txids: list[str]
    mempool_sequence: int


class _Place(msgspec.Struct, frozen=True):
    height: int
    confirmations: int


class _Script(msgspec.Struct, frozen=True):
    hex: str


class UnspentOutput(msgspec.Struct, frozen=True, kw_only=True):
    """``gettxout``: an output of a confirmed transaction that no block spent."""

    value: Decimal
    script: _Script = msgspec.field(name="scriptPubKey")

    @property
    def amount_sat(self) -> int:
        """What it holds."""
        return satoshis_of(self.value)


class FoundOutput(msgspec.Struct, frozen=True, kw_only=True):
    """One output that ``scantxoutset`` found."""

    txid: str
    vout: int
    script: str = msgspec.field(name="scriptPubKey")
    amount: Decimal
    height: int


class OutputScan(msgspec.Struct, frozen=True, kw_only=True):
    """``scantxoutset``: every unspent output of some scripts, as of a block.

    Args:
        success: False where somebody ended it, so that not all are there.
    """

    success: bool
    height: int
    unspents: list[FoundOutput]


class BlockScan(msgspec.Struct, frozen=True, kw_only=True):
    """``scanblocks``: which blocks may concern some scripts; filters give false positives, and no false negative."""

    from_height: int
    to_height: int
    relevant_blocks: list[str]
    completed: bool


class ScanProgress(msgspec.Struct, frozen=True):
    """The state of a scan under way."""

    progress: float


class _Prevout(msgspec.Struct, frozen=True):
    value: Decimal
    script: _Script = msgspec.field(name="scriptPubKey")


class _Input(msgspec.Struct, frozen=True):
    txid: str = ""  # a coinbase spends nothing
    vout: int = 0
    prevout: _Prevout | None = None


class _Spending(msgspec.Struct, frozen=True):
    vin: list[_Input]


class _Spender(msgspec.Struct, frozen=True):
    spender: str | None = msgspec.field(name="spendingtxid", default=None)


class _Estimate(msgspec.Struct, frozen=True):
    feerate: Decimal | None = None


class _Trouble(msgspec.Struct, frozen=True):
    code: int


class _Answer(msgspec.Struct, frozen=True):
    id: int
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: _Trouble | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """One call of a batch that the node refused."""

    code: int


class Wire(Protocol):
    """The way to a node: a JSON document there, and one back."""

    async def post(self, body: bytes, *, timeout_s: float) -> bytes:
        """Return the body of the answer.

        Raises:
            SourceUnavailableError: the node cannot be reached, is busy, or does not let us in.
        """


def satoshis_of(amount: Decimal) -> int:
    """Return an amount that the node prints in bitcoins.

    Raises:
        ProtocolError: it is no number of whole satoshis that can exist.
    """
    # Compared first: to multiply a number with a huge exponent raises.
    if not (amount.is_finite() and 0 <= amount <= MAX_MONEY_SAT // SATOSHIS_A_BITCOIN):
        raise ProtocolError("an amount is no number of bitcoins that can exist")
    satoshis = amount * SATOSHIS_A_BITCOIN
    if satoshis != int(satoshis):
        raise ProtocolError("an amount is not of whole satoshis")
    return int(satoshis)


class NodeRpc:
    """The calls that this room makes.

    Every one raises ``SourceUnavailableError`` when the node does not answer or warms up, ``SourceRefusedError`` when
    it answers with an error, and ``ProtocolError`` when the answer has another shape.
    """

    def __init__(self, wire: Wire, *, name: str) -> None:
        self._wire = wire
        self.name = name
        self._last_id = 0

    # --- the node itself ---

    async def fetch_chain_info(self) -> ChainInfo:
        """Return where the node stands."""
        info = await self._call(ChainInfo, "getblockchaininfo")
        self._hash(info.tip_hash)
        return info

    async def fetch_node_info(self) -> NodeInfo:
        """Return which software it is."""
        return await self._call(NodeInfo, "getnetworkinfo")

    async def fetch_indexes(self) -> dict[str, IndexState]:
        """Return the indexes that it keeps."""
        return await self._call(dict[str, IndexState], "getindexinfo")

    # --- blocks ---

    async def fetch_block_hashes(self, start: int, count: int) -> list[BlockHash]:
        """Return the hashes of consecutive blocks; fewer at the tip."""
        answers = await self._call_many(str, "getblockhash", [(height,) for height in range(start, start + count)])
        hashes: list[BlockHash] = []
        for answer in answers:
            if isinstance(answer, Refusal):
                if answer.code == INVALID_PARAMETER:  # beyond the tip
                    break
                raise self._refused(answer.code)
            hashes.append(BlockHash(self._hash(answer)))
        return hashes

    async def fetch_headers(self, hashes: Sequence[BlockHash]) -> list[bytes]:
        """Return the raw headers of blocks; fewer where one is not known any more."""
        answers = await self._call_many(str, "getblockheader", [(hex_of(each), False) for each in hashes])
        headers: list[bytes] = []
        for answer in answers:
            if isinstance(answer, Refusal):
                break
            headers.append(self._bytes(answer))
        return headers

    async def fetch_heights(self, hashes: Sequence[BlockHash]) -> list[int | None]:
        """Return the heights of blocks; None for one that is not on the chain now."""
        answers = await self._call_many(_Place, "getblockheader", [(hex_of(each), True) for each in hashes])
        return [
            None if isinstance(answer, Refusal) or answer.confirmations < 0 else answer.height for answer in answers
        ]

    async def fetch_block(self, block_hash: BlockHash) -> bytes:
        """Return a raw block; refused where it is pruned."""
        return self._bytes(await self._call(str, "getblock", hex_of(block_hash), 0))

    # --- the mempool ---

    async def fetch_mempool(self) -> Mempool:
        """Return the txids of the mempool."""
        return await self._call(Mempool, "getrawmempool", False, True)

    async def fetch_raw_many(self, txids: Sequence[Txid]) -> list[bytes | None]:
        """Return raw transactions of the mempool, in order; None for one that left it."""
        answers = await self._call_many(str, "getrawtransaction", [(hex_of(txid),) for txid in txids])
        return [None if isinstance(answer, Refusal) else self._bytes(answer) for answer in answers]

    async def fetch_raw(self, txid: Txid) -> bytes:
        """Return a raw transaction of the mempool, or any one where the node has an index of all."""
        return self._bytes(await self._call(str, "getrawtransaction", hex_of(txid)))

    async def fetch_raw_in(self, txid: Txid, block_hash: BlockHash) -> bytes:
        """Return a raw transaction of a block that the node has."""
        return self._bytes(await self._call(str, "getrawtransaction", hex_of(txid), False, hex_of(block_hash)))

    async def fetch_prevouts(self, txid: Txid, block_hash: BlockHash) -> dict[Outpoint, TxOutput]:
        """Return what a transaction of a block spends, as the node's undo data has it; nothing before version 25."""
        found = await self._call(_Spending, "getrawtransaction", hex_of(txid), 2, hex_of(block_hash))
        prevouts = {}
        for each in found.vin:
            if each.prevout is not None:
                outpoint = Outpoint(Txid(self._hash(each.txid)), self._index(each.vout))
                script = self._bytes(each.prevout.script.hex)
                prevouts[outpoint] = TxOutput(amount_sat=satoshis_of(each.prevout.value), script=script)
        return prevouts

    async def is_in_mempool(self, txid: Txid) -> bool:
        """Tell whether a transaction waits for its block."""
        try:
            await self._call(Any, "getmempoolentry", hex_of(txid))
        except SourceRefusedError:
            return False
        return True

    async def fetch_spenders(self, outpoints: Sequence[tuple[Txid, int]]) -> list[Txid | None]:
        """Return which transaction of the mempool spends each output, or None."""
        if not outpoints:
            return []
        wanted = [{"txid": hex_of(txid), "vout": index} for txid, index in outpoints]
        found = await self._call(list[_Spender], "gettxspendingprevout", wanted)
        if len(found) != len(outpoints):
            raise self._malformed(f"{len(found)} spenders of {len(outpoints)} outputs")
        return [None if one.spender is None else Txid(self._hash(one.spender)) for one in found]

    # --- the unspent outputs ---

    async def fetch_unspent(self, txid: Txid, index: int) -> UnspentOutput | None:
        """Return an output that no block spent, or None."""
        return await self._call(UnspentOutput | None, "gettxout", hex_of(txid), index, False)  # type: ignore[arg-type]

    async def scan_outputs(self, scripts: Sequence[bytes], *, timeout_s: float) -> OutputScan:
        """Search all unspent outputs for scripts; it takes minutes on mainnet."""
        scan = await self._scan(OutputScan, "scantxoutset", scripts, (), timeout_s=timeout_s)
        if not scan.success:
            raise SourceUnavailableError("scan-was-ended", source=self.name)
        return scan

    async def scan_blocks(self, scripts: Sequence[bytes], *, up_to: int, timeout_s: float) -> BlockScan:
        """Search the filters of all blocks up to a height for scripts; it takes minutes on mainnet."""
        scan = await self._scan(BlockScan, "scanblocks", scripts, (0, up_to), timeout_s=timeout_s)
        if not scan.completed:
            raise SourceUnavailableError("scan-was-ended", source=self.name)
        return scan

    async def _scan(
        self, kind: type[T], method: str, scripts: Sequence[bytes], more: tuple[int, ...], *, timeout_s: float
    ) -> T:
        wanted = [f"raw({script.hex()})" for script in scripts]
        try:
            return await self._call(kind, method, "start", wanted, *more, timeout_s=timeout_s)
        except SourceRefusedError as error:
            if error.code == INVALID_PARAMETER:
                raise SourceUnavailableError("another-scan-is-under-way", source=self.name) from error
            raise

    async def fetch_scan_progress(self, method: str) -> float | None:
        """Return how far a scan is, in percent; None where none is under way."""
        found = await self._call(ScanProgress | None, method, "status")  # type: ignore[arg-type]
        return None if found is None else found.progress

    async def abort_scan(self, method: str) -> None:
        """End a scan that is under way."""
        await self._call(bool, method, "abort")

    # --- sending ---

    async def broadcast(self, raw: bytes) -> None:
        """Hand a transaction to the node."""
        await self._call(str, "sendrawtransaction", raw.hex())

    async def fetch_fee_rate(self, target_blocks: int) -> float | None:
        """Return the node's estimate in satoshis a virtual byte, or None where it has none."""
        estimate = await self._call(_Estimate, "estimatesmartfee", max(2, min(target_blocks, 1008)))
        return None if estimate.feerate is None else satoshis_of(estimate.feerate) / 1000

    # --- the frame ---

    async def _call(self, kind: type[T], method: str, *params: object, timeout_s: float = TIMEOUT_S) -> T:
        self._last_id += 1
        request = {"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params}
        body = await self._wire.post(msgspec.json.encode(request), timeout_s=timeout_s)
        answer = self._decode(body, _Answer)
        if answer.id != request["id"]:
            raise self._malformed("an answer to another call")
        if answer.error is not None:
            raise self._refused(answer.error.code)
        return self._decode(answer.result, kind)

    async def _call_many(self, kind: type[T], method: str, params: Sequence[tuple[object, ...]]) -> list[T | Refusal]:
        """Make many calls in few requests; results in order."""
        results: list[T | Refusal] = []
        for at in range(0, len(params), BATCH):
            page = params[at : at + BATCH]
            requests = [
                {"jsonrpc": "2.0", "id": number, "method": method, "params": each} for number, each in enumerate(page)
            ]
            answers = self._decode(
                await self._wire.post(msgspec.json.encode(requests), timeout_s=TIMEOUT_S), list[_Answer]
            )
            by_id = {answer.id: answer for answer in answers}
            if len(answers) != len(page) or by_id.keys() != set(range(len(page))):
                raise self._malformed(f"{len(answers)} answers to {len(page)} calls")
            for number in range(len(page)):
                error = by_id[number].error
                if error is not None and error.code == IN_WARMUP:
                    raise self._refused(IN_WARMUP)
                results.append(Refusal(error.code) if error is not None else self._decode(by_id[number].result, kind))
        return results

    def _decode(self, body: bytes | msgspec.Raw, kind: type[T]) -> T:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._malformed("an answer has another shape than Bitcoin Core's") from error

    def _hash(self, text: str) -> bytes:
        try:
            return hash_from_hex(text)
        except ValueError as error:
            raise self._malformed(f"a hash is malformed, {error}") from error

    def _bytes(self, text: str) -> bytes:
        try:
            return bytes.fromhex(text)
        except ValueError as error:
            raise self._malformed("bytes are not hex") from error

    def _index(self, number: int) -> int:
        if not 0 <= number <= MAX_OUTPUT_INDEX:
            raise self._malformed("an output's index is out of range")
        return number

    def _malformed(self, message: str) -> ProtocolError:
        return ProtocolError(message, source=self.name)

    def _refused(self, code: int) -> SourceRefusedError | SourceUnavailableError:
        if code == IN_WARMUP:
            return SourceUnavailableError("warming-up", source=self.name)
        return SourceRefusedError(f"the node answered with error {code}", code=code, source=self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """How the node lets us in: the cookie that it makes anew at every start, or a user with a password."""

    cookie_file: Path | None = None
    user: str = ""
    password: str = field(default="", repr=False)

    def read(self) -> tuple[str, str]:
        """Return user and password as they are now.

        Raises:
            SourceUnavailableError: there is no cookie: the node does not run, or it is another's file.
        """
        if self.cookie_file is None:
            return self.user, self.password
        try:
            user, _, password = self.cookie_file.read_text("utf-8").strip().partition(":")
        except (OSError, UnicodeError) as error:
            raise SourceUnavailableError("cookie-file-unreadable") from error
        return user, password


_STATUS = {401: "wrong-password", 403: "not-allowed", 404: "no-rpc-here", 503: "work-queue-exceeded"}


class HttpWire:
    """A ``Wire`` over HTTP; see ``open_http_wire``."""

    def __init__(self, client: httpx.AsyncClient, url: str, credentials: Credentials) -> None:
        self._client = client
        self._url = url
        self._credentials = credentials

    async def post(self, body: bytes, *, timeout_s: float) -> bytes:
        """Return the body of the answer."""
        try:
            response = await self._client.post(
                self._url, content=body, auth=self._credentials.read(), timeout=httpx.Timeout(timeout_s, connect=5.0)
            )
        except httpx.TimeoutException as error:
            raise SourceUnavailableError("timed-out") from error
        except httpx.ConnectError as error:
            raise SourceUnavailableError("unreachable") from error
        except httpx.HTTPError as error:
            raise SourceUnavailableError("connection-closed") from error
        # A refused call is 500 with JSON; a batch is always 200.
        if response.status_code not in (200, 500) or not response.content:
            reason = _STATUS.get(response.status_code, f"http-status-{response.status_code}")
            raise SourceUnavailableError(reason)
        return response.content


@asynccontextmanager
async def open_http_wire(url: str, credentials: Credentials) -> AsyncIterator[HttpWire]:
    """Open the way to a node; it connects when it is used."""
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS, keepalive_expiry=20.0)
    # A node packs nothing; what claims to be packed is none.
    headers = {"Accept-Encoding": "identity"}
    async with httpx.AsyncClient(trust_env=False, limits=limits, headers=headers) as client:
        yield HttpWire(client, url, credentials)
