"""Electrum's methods with types: what is asked, and what an answer must look like.

The only place that knows Electrum's wire names and sentinels: ``tx_hash``, hex, heights 0 and -1 stop here.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

from lightipn.bitcoin.hashes import BlockHash, ScriptHash, Txid, hash_from_hex, hex_of
from lightipn.bitcoin.header import HEADER_BYTES
from lightipn.chain.history import History, HistoryEntry, Status
from lightipn.chain.source import FeeHistogram, MerkleBranch
from lightipn.electrum.protocol import Call
from lightipn.errors import ProtocolError

CLIENT_NAME = "lightipn"
PROTOCOL_RANGE = ("1.4", "1.6")
MAX_HEADERS = 2016
MAX_HEIGHT = 1 << 31
MAX_HISTOGRAM_STEPS = 10_000
MAX_VBYTES = 1 << 40
# Nobody ever paid such a rate: 100 BTC for a small transaction.
MAX_FEE_RATE = 50_000_000.0
SAT_PER_VBYTE = 100_000.0  # of one BTC per 1,000 virtual bytes
LOWEST_PROTOCOL = (1, 4)
HIGHEST_PROTOCOL = (1, 6)
# A name and a number, and nothing else of what a server says of itself: the rest could be a message to the operator.
_SOFTWARE = re.compile(r"[A-Za-z]{1,24}(?:-[A-Za-z]{1,12})?(?:[ /]v?\d{1,4}(?:\.\d{1,4}){0,3})?")
_PROTOCOL = re.compile(r"\d{1,2}(?:\.\d{1,2}){1,2}")


@dataclass(frozen=True, slots=True)
class ServerVersion:
    """What a server says it is.

    Args:
        software: its name and version; empty where it does not begin with a name.
        protocol: such as ``1.4.2``.
    """

    software: str
    protocol: str

    @property
    def is_spoken(self) -> bool:
        """Whether we speak the protocol: a server may not take us back to an older one."""
        version = tuple(int(part) for part in self.protocol.split("."))[:2]
        return LOWEST_PROTOCOL <= version <= HIGHEST_PROTOCOL

    @property
    def serves_long_histories_as_none(self) -> bool:
        """Whether a history above its limit looks like none at all (cculianu/Fulcrum#319)."""
        return self.software.startswith("Fulcrum")

    @property
    def delays_short_answers(self) -> bool:
        """Whether it holds an answer back until 1,024 bytes wait or a second has passed (ElectrumX from 1.18 on)."""
        return self.software.startswith("ElectrumX")


def version_call() -> Call:
    """``server.version``: must be the first call of a session."""
    return Call("server.version", (CLIENT_NAME, list(PROTOCOL_RANGE)))


def subscribe_call(scripthash: ScriptHash) -> Call:
    """``blockchain.scripthash.subscribe``."""
    return Call("blockchain.scripthash.subscribe", (hex_of(scripthash),))


def unsubscribe_call(scripthash: ScriptHash) -> Call:
    """``blockchain.scripthash.unsubscribe``."""
    return Call("blockchain.scripthash.unsubscribe", (hex_of(scripthash),))


def history_call(scripthash: ScriptHash) -> Call:
    """``blockchain.scripthash.get_history``."""
    return Call("blockchain.scripthash.get_history", (hex_of(scripthash),))


def transaction_call(txid: Txid) -> Call:
    """``blockchain.transaction.get``, raw: the verbose form is neither everywhere nor to be trusted."""
    return Call("blockchain.transaction.get", (hex_of(txid),))


def merkle_call(txid: Txid, height: int) -> Call:
    """``blockchain.transaction.get_merkle``."""
    return Call("blockchain.transaction.get_merkle", (hex_of(txid), height))


def balance_call(scripthash: ScriptHash) -> Call:
    """``blockchain.scripthash.get_balance``; only ever asked whether it is nothing."""
    return Call("blockchain.scripthash.get_balance", (hex_of(scripthash),))


def histogram_call() -> Call:
    """``mempool.get_fee_histogram``."""
    return Call("mempool.get_fee_histogram", ())


def fee_call(target_blocks: int) -> Call:
    """``blockchain.estimatefee``."""
    return Call("blockchain.estimatefee", (target_blocks,))


def broadcast_call(raw: bytes) -> Call:
    """``blockchain.transaction.broadcast``."""
    return Call("blockchain.transaction.broadcast", (raw.hex(),))


def headers_call(start: int, count: int) -> Call:
    """``blockchain.block.headers``."""
    return Call("blockchain.block.headers", (start, count))


def _refusal(what: str) -> ProtocolError:
    return ProtocolError(f"answer has the wrong shape: want {what}")


def _object(result: object, what: str) -> Mapping[str, object]:
    if not isinstance(result, dict):
        raise _refusal(what)
    return result


def _height(value: object, what: str, *, lowest: int = 0) -> int:
    if type(value) is not int or not lowest <= value < MAX_HEIGHT:
        raise _refusal(what)
    return value


def _bytes_of_hex(value: object, what: str) -> bytes:
    if not isinstance(value, str):
        raise _refusal(what)
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise _refusal(what) from None


def decode_version(result: object) -> ServerVersion:
    """Read ``[software, protocol]``."""
    match result:
        case [str(software), str(protocol)]:
            found = _SOFTWARE.match(software)
            if _PROTOCOL.fullmatch(protocol):
                return ServerVersion(found[0] if found else "", protocol)
    raise _refusal("a list of software and protocol version")


def decode_genesis_hash(result: object) -> BlockHash:
    """Read the genesis hash out of ``server.features``."""
    try:
        return BlockHash(hash_from_hex(_object(result, "features as an object").get("genesis_hash")))
    except ValueError:
        raise _refusal("a genesis_hash of 64 hex digits") from None


def decode_tip(result: object) -> tuple[int, bytes]:
    """Read height and raw header of ``blockchain.headers.subscribe``."""
    tip = _object(result, "the tip as an object")
    raw = _bytes_of_hex(tip.get("hex"), "the tip's header in hex")
    if len(raw) != HEADER_BYTES:
        raise _refusal("a header of 80 bytes")
    return _height(tip.get("height"), "the tip's height"), raw


def decode_has_balance(result: object) -> bool:
    """Tell whether a balance is anything but nothing; how much it is no server is believed."""
    balance = _object(result, "a balance as an object")
    return balance.get("confirmed") != 0 or balance.get("unconfirmed") != 0


def decode_headers(result: object, *, most: int) -> list[bytes]:
    """Read raw headers: the list of protocol 1.6, or the one long hex text of earlier ones.

    Args:
        most: more than were asked for is refused.
    """
    answer = _object(result, "headers as an object")
    listed = answer.get("headers")
    if isinstance(listed, list):
        headers = [_bytes_of_hex(item, "headers in hex") for item in listed]
    else:
        raw = _bytes_of_hex(answer.get("hex"), "headers in hex")
        headers = [raw[at : at + HEADER_BYTES] for at in range(0, len(raw), HEADER_BYTES)]
    if len(headers) > most or any(len(header) != HEADER_BYTES for header in headers):
        raise _refusal(f"at most {most} headers of 80 bytes")
    return headers


def decode_status(result: object) -> Status | None:
    """Read a status: 64 hex digits in plain order, or null."""
    if result is None:
        return None
    status = _bytes_of_hex(result, "a status in hex")
    if len(status) != 32:
        raise _refusal("a status of 32 bytes")
    return Status(status)


def decode_status_notification(params: list[object]) -> tuple[ScriptHash, Status | None]:
    """Read ``[scripthash, status]``."""
    if len(params) != 2:
        raise _refusal("a scripthash and a status")
    try:
        return ScriptHash(hash_from_hex(params[0])), decode_status(params[1])
    except ValueError:
        raise _refusal("a scripthash of 64 hex digits") from None


def decode_history(result: object) -> History:
    """Read a history in the order received; its consistency is not judged yet."""
    if not isinstance(result, list):
        raise _refusal("a history as a list")
    entries = []
    for item in result:
        row = _object(item, "history entries as objects")
        try:
            txid = Txid(hash_from_hex(row.get("tx_hash")))
        except ValueError:
            raise _refusal("a tx_hash of 64 hex digits") from None
        height = _height(row.get("height"), "a height in every history entry", lowest=-1)
        entries.append(HistoryEntry(txid, height if height > 0 else None, has_unconfirmed_parent=height == -1))
    return tuple(entries)


def decode_histogram(result: object) -> FeeHistogram:
    """Read pairs of a fee rate (satoshis a virtual byte) and the virtual bytes at it."""
    what = "a histogram as a list of fee rates and sizes"
    if not isinstance(result, list) or len(result) > MAX_HISTOGRAM_STEPS:
        raise _refusal(what)
    steps = []
    for item in result:
        match item:
            case [rate, vbytes] if _is_number(rate) and type(vbytes) is int:
                if not (0 <= rate <= MAX_FEE_RATE and 0 <= vbytes < MAX_VBYTES):
                    raise _refusal(what)
                steps.append((float(rate), vbytes))
            case _:
                raise _refusal(what)
    return FeeHistogram(tuple(steps))


def decode_fee_rate(result: object) -> float | None:
    """Read an estimate, in BTC per 1,000 virtual bytes; a negative one stands for none."""
    if not _is_number(result):
        raise _refusal("a fee rate as a number")
    if result < 0:
        return None
    if not 0 < result <= MAX_FEE_RATE / SAT_PER_VBYTE:  # before it is multiplied: an int may be above all floats
        raise _refusal("a fee rate of a size that anybody would pay")
    return result * SAT_PER_VBYTE


def _is_number(value: object) -> TypeGuard[int | float]:
    return type(value) is int or type(value) is float


def decode_transaction(result: object) -> bytes:
    """Read raw bytes; whether they are the transaction asked for is not judged yet."""
    return _bytes_of_hex(result, "a transaction in hex")


def decode_merkle_branch(result: object, *, server: str = "") -> MerkleBranch:
    """Read a branch; whether it proves anything is not judged yet."""
    answer = _object(result, "a merkle branch as an object")
    siblings, position = answer.get("merkle"), answer.get("pos")
    if not isinstance(siblings, list) or len(siblings) > 64:
        raise _refusal("a merkle branch as a short list")
    try:
        branch = tuple(hash_from_hex(sibling) for sibling in siblings)
    except ValueError:
        raise _refusal("siblings of 64 hex digits") from None
    return MerkleBranch(_height(position, "a position in the block"), branch, server)
