"""Make the bytes of transactions and headers. Everything is real but the signatures, which nobody here checks."""

import itertools
from collections.abc import Sequence

from lightipn.bitcoin.hashes import BlockHash, Txid, sha256, sha256d
from lightipn.bitcoin.header import target_of
from lightipn.bitcoin.network import REGTEST
from lightipn.bitcoin.transaction import Outpoint, Transaction, TxOutput, parse_transaction

SEQUENCE_FINAL = 0xFFFFFFFF
SEQUENCE_RBF = 0xFFFFFFFD  # BIP-125: the highest that signals replaceability
HALVING_BLOCKS = 150  # Bitcoin Core, regtest consensus parameters
FIRST_SUBSIDY_SAT = 50 * 100_000_000
BLOCK_VERSION = 0x20000000  # BIP-9, no bit set


def compact_size(number: int) -> bytes:
    """Return a length as transactions write it."""
    if number < 0xFD:
        return bytes([number])
    if number <= 0xFFFF:
        return b"\xfd" + number.to_bytes(2, "little")
    return b"\xfe" + number.to_bytes(4, "little")


def _pushed(data: bytes) -> bytes:
    assert len(data) <= 75
    return bytes([len(data)]) + data


def _output_bytes(output: TxOutput) -> bytes:
    return output.amount_sat.to_bytes(8, "little") + compact_size(len(output.script)) + output.script


def made_up_script(label: str) -> bytes:
    """Return the P2WPKH output script of nobody; each label has its own."""
    return b"\x00\x14" + sha256(label.encode())[:20]


def payment_of(
    spends: Sequence[Outpoint], outputs: Sequence[TxOutput], *, sequence: int = SEQUENCE_RBF, segwit: bool = True
) -> Transaction:
    """Return a transaction with these inputs and outputs, and made-up signatures.

    Args:
        sequence: of every input.
        segwit: put the signatures into witnesses, as P2WPKH does; else into input scripts, as P2PKH does.
    """
    signatures = [sha256(spend.txid + spend.index.to_bytes(4, "little")) for spend in spends]
    proofs = [(b"\x30" + digest + digest + digest[:6], b"\x02" + digest) for digest in signatures]
    inputs, witnesses = [], []
    for spend, (signature, public_key) in zip(spends, proofs, strict=True):
        script = b"" if segwit else _pushed(signature) + _pushed(public_key)
        outpoint = spend.txid + spend.index.to_bytes(4, "little")
        inputs.append(outpoint + compact_size(len(script)) + script + sequence.to_bytes(4, "little"))
        witnesses.append(b"\x02" + _pushed(signature) + _pushed(public_key))
    body = compact_size(len(inputs)) + b"".join(inputs)
    body += compact_size(len(outputs)) + b"".join(map(_output_bytes, outputs))
    version, lock_time = (2).to_bytes(4, "little"), bytes(4)
    if segwit:
        return parse_transaction(version + b"\x00\x01" + body + b"".join(witnesses) + lock_time)
    return parse_transaction(version + body + lock_time)


def coinbase_of(height: int, script: bytes, *, extra: int) -> Transaction:
    """Return the coinbase of a block.

    Args:
        script: who is paid.
        extra: a number that makes it differ from other coinbases of the same height.

    Source:
        BIP-34: the input script starts with the height.
    """
    number = height.to_bytes(height.bit_length() // 8 + 1, "little")  # a script number keeps its top bit for the sign
    note = bytes([0x50 + height]) if height <= 16 else _pushed(number)  # OP_1 to OP_16 push small numbers
    note += _pushed(extra.to_bytes(8, "little"))
    subsidy_sat = FIRST_SUBSIDY_SAT >> min(height // HALVING_BLOCKS, 63)
    raw = (2).to_bytes(4, "little") + b"\x01" + bytes(32) + b"\xff" * 4
    raw += compact_size(len(note)) + note + b"\xff" * 4
    raw += b"\x01" + _output_bytes(TxOutput(amount_sat=subsidy_sat, script=script)) + bytes(4)
    return parse_transaction(raw)


def mined_header(
    previous_hash: BlockHash, merkle_root: bytes, *, time: int, bits: int = REGTEST.pow_limit_bits
) -> bytes:
    """Return a header whose nonce was searched until its hash meets the target: on regtest, two tries on average."""
    target = target_of(bits)
    front = BLOCK_VERSION.to_bytes(4, "little") + previous_hash + merkle_root
    front += time.to_bytes(4, "little") + bits.to_bytes(4, "little")
    nonce = 0
    while int.from_bytes(sha256d(front + nonce.to_bytes(4, "little")), "little") > target:
        nonce += 1
    return front + nonce.to_bytes(4, "little")


def ambiguous_pair(script: bytes, amount_sat: int, *, label: str) -> tuple[Transaction, Transaction]:
    """Return a payment, and a transaction of 64 bytes that starts with the payment's txid.

    In a merkle tree the second looks like two hashes side by side, of which the first is the payment (CVE-2017-12842).
    Any 32 bytes serve as its left half if the fifth is a 1, the number of its inputs: 256 tries on average. An attacker
    on a real chain must also make it spend something, which costs some 2 ** 70.
    """
    for number in itertools.count():
        spend = Outpoint(Txid(sha256d(f"ambiguous {label} {number}".encode())), 0)
        payment = payment_of([spend], [TxOutput(amount_sat=amount_sat, script=script)])
        if payment.txid[4] == 1:
            break
    # The rest of the outpoint, an empty input script, a sequence, one output of 1 sat to four bytes, a lock time.
    half = sha256(payment.txid)[:5] + bytes(5) + b"\xff" * 4 + b"\x01" + (1).to_bytes(8, "little")
    raw = payment.txid + half + b"\x04" + b"\x51" * 4 + bytes(4)
    carrier = Transaction(
        txid=Txid(sha256d(raw)),
        spends=(Outpoint(Txid(raw[5:37]), 0),),
        outputs=(TxOutput(amount_sat=1, script=b"\x51" * 4),),
        signals_rbf=False,
        is_coinbase=False,
        raw=raw,
    )
    return payment, carrier


def with_other_amount(raw: bytes) -> bytes:
    """Return the bytes of a transaction with the amount of its first output doubled: another txid, same shape."""
    output = parse_transaction(raw).outputs[0]
    doubled = TxOutput(amount_sat=output.amount_sat * 2 or 1, script=output.script)
    return raw.replace(_output_bytes(output), _output_bytes(doubled), 1)
