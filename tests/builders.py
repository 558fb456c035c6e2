"""Small builders of blocks, transactions, histories and ledger values for the tests of the pure rooms.

Everything is plain bytes and constants: no clock, no randomness, so that a failure repeats itself.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from lightipn.bitcoin.hashes import BlockHash, ScriptHash, Txid, scripthash_of
from lightipn.bitcoin.header import BlockHeader, parse_header, target_of
from lightipn.bitcoin.network import REGTEST, DifficultyRule, Network
from lightipn.bitcoin.transaction import Outpoint, Transaction, parse_transaction
from lightipn.chain.checkpoint import Checkpoint
from lightipn.chain.headers import HeaderChain
from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.ledger.entries import LedgerEntry, PaymentState, ScriptPayments
from lightipn.outbox.messages import Message, MessageState
from lightipn.outbox.subscriptions import Subscription, SubscriptionState

EASY_BITS = REGTEST.pow_limit_bits  # every second hash meets it
BLOCK_SPACING_S = 600
SCRIPT = b"\x00\x14" + b"\x11" * 20
OTHER_SCRIPT = b"\x00\x14" + b"\x22" * 20
NULL_OUTPOINT = Outpoint(Txid(bytes(32)), 0xFFFFFFFF)
SEEN_AT = 1_700_000_000

# Mainnet's and testnet4's rules at a difficulty at which a test can mine.
MINABLE_MAINNET = replace(REGTEST, difficulty_rule=DifficultyRule.EVERY_2016)
MINABLE_TESTNET4 = replace(REGTEST, difficulty_rule=DifficultyRule.TESTNET4)


def load_vectors(name: str) -> Any:
    """Read ``tests/vectors/NAME.json``."""
    return json.loads((Path(__file__).parent / "vectors" / f"{name}.json").read_text("utf-8"))


def double_sha256(data: bytes) -> bytes:
    """Hash twice, without the code under test."""
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def txid_of(number: int) -> Txid:
    """Return a txid that differs for every number."""
    return Txid(hashlib.sha256(f"txid {number}".encode()).digest())


# --- headers -----------------------------------------------------------------------------------------------------


def raw_header(
    previous_hash: bytes,
    *,
    time: int,
    bits: int = EASY_BITS,
    merkle_root: bytes = bytes(32),
    is_mined: bool = True,
) -> bytes:
    """Return 80 bytes whose hash meets ``bits``, or exceeds it where ``is_mined`` is false."""
    target = target_of(bits)
    head = (1).to_bytes(4, "little") + previous_hash + merkle_root
    head += time.to_bytes(4, "little") + bits.to_bytes(4, "little")
    for nonce in range(1 << 32):
        raw = head + nonce.to_bytes(4, "little")
        if (int.from_bytes(double_sha256(raw), "little") <= target) == is_mined:
            return raw
    raise AssertionError("no nonce fits")


def mined_run(
    previous: BlockHeader, count: int, *, bits: int = EASY_BITS, spacing_s: int = BLOCK_SPACING_S, branch: int = 0
) -> list[bytes]:
    """Mine ``count`` headers on top of one; another ``branch`` gives other hashes."""
    run: list[bytes] = []
    block_hash: bytes = previous.block_hash
    for number in range(1, count + 1):
        root = bytes([branch]) * 32
        raw = raw_header(block_hash, time=previous.time + number * spacing_s, bits=bits, merkle_root=root)
        run.append(raw)
        block_hash = double_sha256(raw)
    return run


def genesis_of(network: Network) -> BlockHeader:
    """Return the parsed genesis header."""
    return parse_header(network.genesis_header)


def genesis_checkpoint_of(network: Network) -> Checkpoint:
    """Return the checkpoint at height 0."""
    return Checkpoint(height=0, block_hash=network.genesis_hash, next_bits=None)


def chain_of(network: Network, raw_headers: Iterable[bytes] = ()) -> HeaderChain:
    """Return a chain that stands on genesis and holds these headers."""
    return HeaderChain(network, genesis_checkpoint_of(network), raw_headers)


def header_of(chain: HeaderChain, height: int) -> BlockHeader:
    """Return the header at this height, which must be there."""
    header = chain.header_at(height)
    assert header is not None
    return header


# --- transactions ------------------------------------------------------------------------------------------------


def compact_size(number: int) -> bytes:
    """Write a length in its shortest form."""
    if number < 0xFD:
        return bytes([number])
    if number < 1 << 16:
        return b"\xfd" + number.to_bytes(2, "little")
    if number < 1 << 32:
        return b"\xfe" + number.to_bytes(4, "little")
    return b"\xff" + number.to_bytes(8, "little")


def raw_transaction(
    spends: Sequence[Outpoint],
    outputs: Sequence[tuple[int, bytes]],
    *,
    sequence: int = 0xFFFFFFFF,
    witness: Sequence[bytes] | None = None,
    script_sig: bytes = b"",
    locktime: int = 0,
) -> bytes:
    """Write a transaction; ``witness`` (one for every input) makes it a segwit one."""
    body = compact_size(len(spends))
    for outpoint in spends:
        body += outpoint.txid + outpoint.index.to_bytes(4, "little") + compact_size(len(script_sig)) + script_sig
        body += sequence.to_bytes(4, "little")
    body += compact_size(len(outputs))
    for amount_sat, script in outputs:
        body += amount_sat.to_bytes(8, "little") + compact_size(len(script)) + script
    head = (2).to_bytes(4, "little")
    tail = locktime.to_bytes(4, "little")
    if witness is None:
        return head + body + tail
    stack = compact_size(len(witness)) + b"".join(compact_size(len(item)) + item for item in witness)
    return head + b"\x00\x01" + body + stack * len(spends) + tail


def payment(
    number: int = 0,
    *,
    amount_sat: int = 100_000,
    script: bytes = SCRIPT,
    spends: Sequence[Outpoint] = (),
    change_sat: int | None = None,
    sequence: int = 0xFFFFFFFF,
) -> Transaction:
    """Return a transaction that pays ``script``; another ``number`` gives another txid.

    Args:
        spends: its inputs; by default one that nobody else spends.
        change_sat: what it pays to a foreign script besides.
    """
    inputs = spends or [Outpoint(txid_of(1_000_000 + number), 0)]
    outputs = [(amount_sat, script)] if amount_sat else []
    if change_sat is not None or not outputs:
        outputs.append((change_sat or 0, OTHER_SCRIPT))
    return parse_transaction(raw_transaction(inputs, outputs, sequence=sequence, locktime=number))


def coinbase(number: int = 0, *, amount_sat: int = 5_000_000_000, script: bytes = SCRIPT) -> Transaction:
    """Return a coinbase transaction that pays ``script``."""
    return parse_transaction(
        raw_transaction([NULL_OUTPOINT], [(amount_sat, script)], script_sig=number.to_bytes(4, "little"))
    )


# --- ledger ------------------------------------------------------------------------------------------------------


def block_hash_of(height: int, *, branch: int = 0) -> BlockHash:
    """Return a block hash that differs for every height and branch."""
    return BlockHash(hashlib.sha256(f"block {height} {branch}".encode()).digest())


def confirmed(height: int, *, position: int = 1, branch: int = 0) -> Confirmed:
    """Return the place of a transaction in a made-up block."""
    return Confirmed(block_hash_of(height, branch=branch), height, position)


def entry_of(
    number: int = 0,
    *,
    received_sat: int = 100_000,
    sent_sat: int = 0,
    state: PaymentState | None = None,
    is_coinbase: bool = False,
    spends: Sequence[Outpoint] = (),
) -> LedgerEntry:
    """Return a ledger entry; unconfirmed unless a state is given."""
    return LedgerEntry(
        txid=txid_of(number),
        state=state or Unconfirmed(),
        outputs=((0, received_sat),) if received_sat else (),
        spends=tuple(spends),
        sent_sat=sent_sat,
        is_coinbase=is_coinbase,
        signals_rbf=False,
        seen_at=SEEN_AT,
    )


def payments_of(*entries: LedgerEntry, script: bytes = SCRIPT) -> ScriptPayments:
    """Return the payments of one script."""
    return ScriptPayments(
        scripthash=scripthash_of(script), script=script, entries={entry.txid: entry for entry in entries}
    )


# --- outbox ------------------------------------------------------------------------------------------------------


def message_of(
    payload: bytes,
    *,
    heard_payload: bytes = b"0",
    is_heard_in_doubt: bool = False,
    tries: int = 0,
    due_at: float | None = None,
    state: MessageState = MessageState.OPEN,
    topic: str = "",
    txid: Txid | None = None,
    failures: int = 0,
    tips: int = 0,
    told_tip: int = 0,
    due_tip: int | None = None,
    acknowledged_at: int | None = None,
    created_at: int = 1_700_000_000,
) -> Message:
    """Return an outbox message."""
    return Message(
        message_id="m-1",
        topic=topic,
        txid=txid,
        state=state,
        failures=failures,
        tips=tips,
        told_tip=told_tip,
        due_tip=due_tip,
        acknowledged_at=acknowledged_at,
        created_at=created_at,
        payload=payload,
        heard_payload=heard_payload,
        is_heard_in_doubt=is_heard_in_doubt,
        tries=tries,
        due_at=due_at,
    )


def subscription_of(terms: bytes, *, address: str = "bcrt1qaddress", url: str = "http://shop.example/") -> Subscription:
    """Return an active subscription of the IPN dialect."""
    return Subscription(
        subscription_id=1,
        dialect="ipn",
        owner="shop",
        scripthash=ScriptHash(bytes(32)),
        address=address,
        url=url,
        terms=terms,
        state=SubscriptionState.ACTIVE,
        created_at=SEEN_AT,
    )
