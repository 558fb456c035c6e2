"""A bitcoind's RPC over the simulator's made-up chain: as much of it as the service calls, without a socket."""

import json
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from lightipn.bitcoin.hashes import BlockHash, Txid, hash_from_hex, hex_of, scripthash_of
from lightipn.bitcoin.transaction import Outpoint, Transaction, parse_transaction
from lightipn.bitcoind.rpc import INVALID_PARAMETER, METHOD_NOT_FOUND, NOT_FOUND
from lightipn.errors import RequestError, SourceUnavailableError, TransactionError
from lightipn.simulator.blocks import SimulatedChain

SAT_PER_BTC = 100_000_000
VERSION = 290_000
MISC_ERROR = -1
PARSE_ERROR = -22
REJECTED = -26
ALREADY_IN_CHAIN = -27
FILTERS = "basic block filter index"


class RefusedCallError(Exception):
    """The node answers with an error."""

    def __init__(self, code: int) -> None:
        self.code = code
        super().__init__(f"error {code}")


class SimulatedNode:
    """A ``Wire`` to a node that has the chain.

    Args:
        has_filters: it keeps an index of block filters, so ``scanblocks`` is there.
        has_transactions: it keeps an index of transactions.

    What may be changed at any time: ``prune_height`` (blocks below are gone), ``trouble`` (what every call fails with
    from now on), ``calls_to_lose`` (so many fail, and then it is back), ``download`` (its progress of the initial
    download), ``chain_name``, ``version``, ``can_scan_blocks`` (version 24 cannot), ``ends_scans`` (else somebody ends
    them early), and ``filter_lag_blocks`` (so far its filters are behind). ``calls`` are the methods that were called,
    the oldest first. What stands in ``before`` or ``after`` under a method is called once, in the middle of its next
    call: before the answer is made, or after. Of a scan's calls only the one that starts it counts.
    """

    def __init__(self, chain: SimulatedChain, *, has_filters: bool = True, has_transactions: bool = False) -> None:
        self.chain = chain
        self.has_filters = has_filters
        self.has_transactions = has_transactions
        self.prune_height: int | None = None
        self.trouble = ""
        self.calls_to_lose = 0
        self.download: float | None = None
        self.chain_name = "regtest"
        self.version = VERSION
        self.calls: list[str] = []
        self.can_scan_blocks = True
        self.ends_scans = True
        self.filter_lag_blocks = 0
        self.before: dict[str, Callable[[], Awaitable[None]]] = {}
        self.after: dict[str, Callable[[], Awaitable[None]]] = {}

    @property
    def filter_height(self) -> int:
        """The highest block that has a filter."""
        return self.chain.tip_height - self.filter_lag_blocks

    async def post(self, body: bytes, *, timeout_s: float) -> bytes:
        """Answer a call, or a batch of calls."""
        if self.calls_to_lose:
            self.calls_to_lose -= 1
            raise SourceUnavailableError("connection-closed")
        if self.trouble:
            raise SourceUnavailableError(self.trouble)
        asked = json.loads(body)
        first = asked[0] if isinstance(asked, list) else asked
        method = first["method"] if first["params"][:1] not in (["status"], ["abort"]) else ""
        if method in self.before:
            await self.before.pop(method)()
        answer = [self._answer(one) for one in asked] if isinstance(asked, list) else self._answer(asked)
        if method in self.after:
            await self.after.pop(method)()
        return msgspec.json.encode(answer)

    def _answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        method = asked["method"]
        self.calls.append(method)
        answer: Callable[..., Any] = getattr(self, f"_{method}")
        try:
            return {"id": asked["id"], "result": answer(*asked["params"]), "error": None}
        except RefusedCallError as error:
            return {"id": asked["id"], "result": None, "error": {"code": error.code, "message": "refused"}}

    # --- the chain ---

    def _getblockchaininfo(self) -> dict[str, Any]:
        tip = self.chain.block_at(self.chain.tip_height)
        return {
            "chain": self.chain_name,
            "blocks": tip.height,
            "headers": tip.height,
            "bestblockhash": hex_of(tip.block_hash),
            "verificationprogress": 1.0 if self.download is None else self.download,
            "initialblockdownload": self.download is not None,
            "pruned": self.prune_height is not None,
        } | ({} if self.prune_height is None else {"pruneheight": self.prune_height})

    def _getnetworkinfo(self) -> dict[str, Any]:
        return {"version": self.version, "subversion": "/Satoshi:29.0.0/"}

    def _getindexinfo(self) -> dict[str, Any]:
        state = {"synced": True, "best_block_height": self.filter_height}
        return {FILTERS: state} if self.has_filters else {}

    def _getblockhash(self, height: int) -> str:
        if not 0 <= height <= self.chain.tip_height:
            raise RefusedCallError(INVALID_PARAMETER)
        return hex_of(self.chain.block_at(height).block_hash)

    def _height_of(self, block_hash: str) -> int:
        wanted = BlockHash(hash_from_hex(block_hash))
        for height in range(self.chain.tip_height, -1, -1):
            if self.chain.block_at(height).block_hash == wanted:
                return height
        raise RefusedCallError(NOT_FOUND)

    def _getblockheader(self, block_hash: str, is_verbose: bool) -> Any:
        height = self._height_of(block_hash)
        if is_verbose:
            return {"height": height, "confirmations": self.chain.tip_height - height + 1}
        return self.chain.header_at(height).hex()

    def _getblock(self, block_hash: str, verbosity: int) -> str:
        assert verbosity == 0
        return self._block_at(self._height_of(block_hash)).hex()

    def _block_at(self, height: int) -> bytes:
        if self.prune_height is not None and height < self.prune_height:
            raise RefusedCallError(MISC_ERROR)
        raw = [self.chain.transaction(txid) or b"" for txid in self.chain.block_txids(height)]
        assert len(raw) < 0xFD
        return self.chain.header_at(height) + bytes([len(raw)]) + b"".join(raw)

    # --- transactions ---

    def _getrawmempool(self) -> list[str]:
        return [hex_of(txid) for txid in self.chain.mempool]

    def _getrawtransaction(self, txid: str, verbosity: int = 0, block_hash: str = "") -> Any:
        wanted = Txid(hash_from_hex(txid))
        height = self.chain.height_of(wanted)
        is_shown = wanted in self.chain.mempool or (height is not None and self.has_transactions)
        if block_hash:
            named = self._height_of(block_hash)
            self._block_at(named)  # it must be there, or nothing of it is
            is_shown = height == named
        raw = self.chain.transaction(wanted)
        if raw is None or not is_shown:
            raise RefusedCallError(NOT_FOUND)
        return (
            {"vin": [self._input_of(spend) for spend in parse_transaction(raw).spends]} if verbosity == 2 else raw.hex()
        )

    def _input_of(self, spend: Outpoint) -> dict[str, Any]:
        shown = {"txid": hex_of(spend.txid), "vout": spend.index}
        if self.chain.transaction(spend.txid) is None:
            return shown
        output = self._parsed(spend.txid).outputs[spend.index]
        script = {"hex": output.script.hex()}
        return shown | {"prevout": {"value": output.amount_sat / SAT_PER_BTC, "scriptPubKey": script}}

    def _getmempoolentry(self, txid: str) -> dict[str, Any]:
        if Txid(hash_from_hex(txid)) not in self.chain.mempool:
            raise RefusedCallError(NOT_FOUND)
        return {"vsize": 100}

    def _gettxspendingprevout(self, outpoints: list[dict[str, Any]]) -> list[dict[str, Any]]:
        spenders = {
            (hex_of(spend.txid), spend.index): hex_of(txid)
            for txid in self.chain.mempool
            for spend in self._parsed(txid).spends
        }
        found = [spenders.get((one["txid"], one["vout"])) for one in outpoints]
        return [one | ({"spendingtxid": by} if by else {}) for one, by in zip(outpoints, found, strict=True)]

    def _parsed(self, txid: Txid) -> Transaction:
        return parse_transaction(self.chain.transaction(txid) or b"")

    def _sendrawtransaction(self, raw: str) -> str:
        try:
            transaction = parse_transaction(bytes.fromhex(raw))
        except TransactionError:
            raise RefusedCallError(PARSE_ERROR) from None
        if self.chain.height_of(transaction.txid) is not None:
            raise RefusedCallError(ALREADY_IN_CHAIN)
        try:
            return hex_of(self.chain.submit(bytes.fromhex(raw)))
        except RequestError:
            raise RefusedCallError(REJECTED) from None

    def _estimatesmartfee(self, target_blocks: int) -> dict[str, Any]:
        return {"feerate": 0.00005 if target_blocks <= 2 else 0.00002, "blocks": target_blocks}

    # --- the unspent outputs, and filters ---

    def _spent_in_blocks(self) -> set[Outpoint]:
        return {
            spend
            for height in range(1, self.chain.tip_height + 1)
            for txid in self.chain.block_txids(height)
            for spend in self._parsed(txid).spends
        }

    def _gettxout(self, txid: str, index: int, _with_mempool: bool) -> dict[str, Any] | None:
        wanted = Txid(hash_from_hex(txid))
        if self.chain.height_of(wanted) is None or Outpoint(wanted, index) in self._spent_in_blocks():
            return None
        output = self._parsed(wanted).outputs[index]
        return {"value": output.amount_sat / SAT_PER_BTC, "scriptPubKey": {"hex": output.script.hex()}}

    def _scripts_of(self, descriptors: list[str]) -> set[bytes]:
        return {bytes.fromhex(one.removeprefix("raw(").removesuffix(")")) for one in descriptors}

    def _scantxoutset(self, action: str, descriptors: list[str] | None = None) -> Any:
        if action != "start":
            return None if action == "status" else False
        spent, unspents = self._spent_in_blocks(), []
        for script in sorted(self._scripts_of(descriptors or [])):
            for coin in self.chain.coins(scripthash_of(script)):
                if coin.height is not None and coin.outpoint not in spent:
                    place = {"txid": hex_of(coin.outpoint.txid), "vout": coin.outpoint.index, "height": coin.height}
                    amount = coin.amount_sat / SAT_PER_BTC
                    unspents.append(place | {"scriptPubKey": script.hex(), "amount": amount})
        return {
            "success": self.ends_scans,
            "bestblock": self._getblockhash(self.chain.tip_height),
            "unspents": unspents,
        }

    def _scanblocks(
        self, action: str, descriptors: list[str] | None = None, start: int = 0, stop: int | None = None
    ) -> Any:
        if not self.can_scan_blocks:
            raise RefusedCallError(METHOD_NOT_FOUND)
        if action != "start":
            return None if action == "status" else False
        if not self.has_filters:
            raise RefusedCallError(MISC_ERROR)
        # Filters that are not written yet are passed over in silence, as by the real one.
        last = min(self.chain.tip_height if stop is None else stop, self.filter_height)
        heights = {
            entry.height
            for script in self._scripts_of(descriptors or [])
            for entry in self.chain.history(scripthash_of(script))
            if entry.height is not None and start <= entry.height <= last
        }
        return {
            "from_height": start,
            "to_height": self.chain.tip_height if stop is None else stop,
            "relevant_blocks": [self._getblockhash(height) for height in sorted(heights)],
            "completed": self.ends_scans,
        }
