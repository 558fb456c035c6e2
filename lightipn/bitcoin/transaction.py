"""Transactions: raw bytes to inputs and outputs, and the txid that binds them.

The parser is ours and strict: every length is checked against what is left, and nothing may follow. The txid is the
hash of the bytes without their witnesses, so two transactions with one txid have the same inputs and outputs.
"""

from dataclasses import dataclass

from lightipn.bitcoin.hashes import Txid, sha256d
from lightipn.errors import TransactionError

MAX_MONEY_SAT = 21_000_000 * 100_000_000
# A transaction of exactly 64 bytes doubles as two concatenated hashes of a merkle tree (CVE-2017-12842; BIP-54 forbids
# them). None can pay an address: 60 bytes of it are frame, and the shortest address's script has 22.
AMBIGUOUS_BYTES = 64


@dataclass(frozen=True, slots=True)
class Outpoint:
    """One output of one transaction; ``index`` counts from 0."""

    txid: Txid
    index: int


PackedOutpoint = bytes
"""36 bytes, as an outpoint stands in a transaction: the txid, and the index in four bytes, little-endian."""


def packed_outpoint(txid: bytes, index: int) -> PackedOutpoint:
    """Return an outpoint as it stands in a transaction."""
    return txid + index.to_bytes(4, "little")


def unpacked_outpoint(packed: PackedOutpoint) -> Outpoint:
    """Return an outpoint that stands so in a transaction."""
    return Outpoint(Txid(packed[:32]), int.from_bytes(packed[32:], "little"))


@dataclass(frozen=True, slots=True, kw_only=True)
class TxOutput:
    """An amount in satoshis and the output script it is paid to."""

    amount_sat: int
    script: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Transaction:
    """A parsed transaction.

    Args:
        spends: the outpoints of its inputs, in order.
        signals_rbf: an input's sequence is below 0xfffffffe (BIP-125).
        is_coinbase: its only input spends the null outpoint.
        raw: all bytes, witnesses included.
    """

    txid: Txid
    spends: tuple[Outpoint, ...]
    outputs: tuple[TxOutput, ...]
    signals_rbf: bool
    is_coinbase: bool
    raw: bytes

    def received_by(self, script: bytes) -> dict[int, int]:
        """Return output index → amount in satoshis, for the outputs that pay ``script``."""
        return {index: output.amount_sat for index, output in enumerate(self.outputs) if output.script == script}


class _Reader:
    """A cursor over bytes that refuses to run past their end."""

    def __init__(self, raw: bytes) -> None:
        self.raw = raw
        self.at = 0

    def take(self, count: int) -> bytes:
        end = self.at + count
        if end > len(self.raw):
            raise TransactionError(f"transaction ends at byte {len(self.raw)}, want at least {end}")
        taken = self.raw[self.at : end]
        self.at = end
        return taken

    def number(self, size_bytes: int) -> int:
        return int.from_bytes(self.take(size_bytes), "little")

    def compact_size(self) -> int:
        first = self.number(1)
        if first < 0xFD:
            return first
        size_bytes = {0xFD: 2, 0xFE: 4, 0xFF: 8}[first]
        value = self.number(size_bytes)
        if value < (0xFD if size_bytes == 2 else 1 << 4 * size_bytes):
            raise TransactionError(f"length {value} is not written in its shortest form")
        return value

    def count(self, item_bytes: int) -> int:
        """Read a number of items, each at least ``item_bytes`` long: a count that cannot fit is refused at once."""
        count = self.compact_size()
        if count * item_bytes > len(self.raw) - self.at:
            raise TransactionError(f"{count} items do not fit into what is left of the transaction")
        return count


def parse_transaction(raw: bytes) -> Transaction:
    """Parse raw bytes, with or without witnesses, and compute the txid.

    Raises:
        TransactionError: cut short, trailing bytes, a length not in its shortest form, no input or output, an amount
            outside 0 to 21 million BTC, an odd segwit flag, or exactly 64 bytes without witnesses.

    Source:
        Bitcoin Core, ``UnserializeTransaction``; BIP-144.
    """
    transaction, stripped_bytes = _parse(raw)
    if stripped_bytes == AMBIGUOUS_BYTES:
        raise TransactionError(f"transaction has {AMBIGUOUS_BYTES} bytes, which no honest one has")
    return transaction


def is_transaction(raw: bytes) -> bool:
    """Tell whether bytes could be a transaction of any size: an inner node of a merkle tree must not be one."""
    try:
        _parse(raw)
    except TransactionError:
        return False
    return True


def _parse(raw: bytes) -> tuple[Transaction, int]:
    """Return the transaction and its length without witnesses."""
    reader = _Reader(raw)
    version = reader.take(4)
    has_witness = raw[4:6] == b"\x00\x01"
    if has_witness:
        reader.take(2)
    body_start = reader.at
    spends, sequences = _read_inputs(reader)
    outputs = _read_outputs(reader)
    body = raw[body_start : reader.at]
    if has_witness:
        for _ in spends:
            for _ in range(reader.count(1)):
                reader.take(reader.compact_size())
    locktime = reader.take(4)
    if reader.at != len(raw):
        raise TransactionError(f"{len(raw) - reader.at} bytes follow the transaction")
    stripped = version + body + locktime
    transaction = Transaction(
        txid=Txid(sha256d(stripped)),
        spends=spends,
        outputs=outputs,
        signals_rbf=min(sequences) < 0xFFFFFFFE,
        is_coinbase=len(spends) == 1 and spends[0] == Outpoint(Txid(bytes(32)), 0xFFFFFFFF),
        raw=raw,
    )
    return transaction, len(stripped)


def _read_inputs(reader: _Reader) -> tuple[tuple[Outpoint, ...], list[int]]:
    spends, sequences = [], []
    for _ in range(reader.count(41)):
        spends.append(Outpoint(Txid(reader.take(32)), reader.number(4)))
        reader.take(reader.compact_size())
        sequences.append(reader.number(4))
    if not spends:
        raise TransactionError("transaction has no input")
    return tuple(spends), sequences


def _read_outputs(reader: _Reader) -> tuple[TxOutput, ...]:
    outputs = []
    for _ in range(reader.count(9)):
        amount_sat = reader.number(8)
        if amount_sat > MAX_MONEY_SAT:
            raise TransactionError(f"output pays {amount_sat} sat, want at most {MAX_MONEY_SAT}")
        outputs.append(TxOutput(amount_sat=amount_sat, script=reader.take(reader.compact_size())))
    if not outputs:
        raise TransactionError("transaction has no output")
    total_sat = sum(output.amount_sat for output in outputs)
    if total_sat > MAX_MONEY_SAT:
        raise TransactionError(f"outputs pay {total_sat} sat together, want at most {MAX_MONEY_SAT}")
    return tuple(outputs)


@dataclass(frozen=True, slots=True, kw_only=True)
class TxInput:
    """What an input says beside the outpoint that it spends: its script, and its sequence number."""

    script: bytes
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TransactionDetails:
    """What a transaction says that no verdict needs.

    Args:
        lock_time: a height, or unix seconds from 500,000,000 on; 0 for none.
        vbytes: its virtual size (BIP-141), by which fees are counted.
    """

    version: int
    lock_time: int
    inputs: tuple[TxInput, ...]
    vbytes: int


def details_of(transaction: Transaction) -> TransactionDetails:
    """Read the details out of a parsed transaction's bytes."""
    raw = transaction.raw
    _, stripped_bytes = _parse(raw)
    reader = _Reader(raw)
    version = reader.number(4)
    if raw[4:6] == b"\x00\x01":
        reader.take(2)
    inputs = []
    for _ in range(reader.compact_size()):
        reader.take(36)
        script = reader.take(reader.compact_size())
        inputs.append(TxInput(script=script, sequence=reader.number(4)))
    return TransactionDetails(
        version=version,
        lock_time=int.from_bytes(raw[-4:], "little"),
        inputs=tuple(inputs),
        vbytes=(3 * stripped_bytes + len(raw) + 3) // 4,
    )
