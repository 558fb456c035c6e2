"""Listening to a node's ZMQ publishers; whichever of hashblock, hashtx, rawtx and sequence it offers.

A notice makes us look sooner, and says which transaction to look at. Each topic counts its messages: where one is
missing, everything is looked through anew. ZMQ is not signed and may lose messages, so it proves nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from lightipn.bitcoin.hashes import Txid, hash_from_hex
from lightipn.bitcoin.transaction import parse_transaction
from lightipn.errors import TransactionError

if TYPE_CHECKING:
    import zmq

TOPICS = (b"hashblock", b"hashtx", b"rawtx", b"sequence")
# The descriptor tells of an edge only; a look now and then costs nothing and mends a lost one.
LOOK_AT_LEAST_EVERY_S = 1.0
MESSAGES_KEPT = 10_000
MISSED_AT_LEAST = 3


@dataclass(frozen=True, slots=True)
class BlockNotice:
    """The tip changed."""


@dataclass(frozen=True, slots=True)
class TransactionNotice:
    """A transaction was accepted to the mempool, or is in a block.

    Args:
        raw: its bytes, where they came along.
    """

    txid: Txid
    raw: bytes | None = None


@dataclass(frozen=True, slots=True)
class RemovalNotice:
    """A transaction left the mempool, and not for a block."""

    txid: Txid


@dataclass(frozen=True, slots=True)
class GapNotice:
    """Messages were lost."""


Notice = BlockNotice | TransactionNotice | RemovalNotice | GapNotice


class NoticeReader:
    """Reads messages of one publisher; sans-IO."""

    def __init__(self) -> None:
        self._expected: dict[bytes, int] = {}

    def read(self, parts: Sequence[bytes]) -> list[Notice]:
        """Return what a message says; nothing where it is not one of Bitcoin Core's.

        Source:
            Bitcoin Core, doc/zmq.md.
        """
        if len(parts) != 3 or len(parts[2]) != 4 or parts[0] not in TOPICS:
            return []
        topic, body, counter = parts[0], parts[1], int.from_bytes(parts[2], "little")
        notices: list[Notice] = []
        if self._expected.get(topic, counter) != counter:
            notices.append(GapNotice())
        self._expected[topic] = (counter + 1) & 0xFFFFFFFF
        return notices + _said(topic, body)


def _said(topic: bytes, body: bytes) -> list[Notice]:
    if topic == b"hashblock":
        return [BlockNotice()]
    if topic == b"hashtx":
        return [TransactionNotice(_txid(body))] if len(body) == 32 else []
    if topic == b"rawtx":
        try:
            return [TransactionNotice(parse_transaction(body).txid, body)]
        except TransactionError:
            return []
    if len(body) < 33:
        return []
    match body[32:33]:
        case b"A":
            return [TransactionNotice(_txid(body[:32]))]
        case b"R":
            return [RemovalNotice(_txid(body[:32]))]
        case b"C" | b"D":
            return [BlockNotice()]
        case _:
            return []


def _txid(printed: bytes) -> Txid:
    """Return a hash that was sent in the order in which it is printed."""
    return Txid(hash_from_hex(printed.hex()))


class Hearing:
    """Which kinds of notice come, so that there is no need to look all the time; sans-IO.

    What a look finds before a notice told of it shows that notices do not come, or not all. That is so now and then,
    when a look is quicker; several times in a row it is a kind that nobody publishes.
    """

    def __init__(self) -> None:
        self._hears_blocks = self._hears_transactions = False
        self._is_block_noticed = self._was_block_noticed = False
        self._missed_blocks = self._missed_transactions = 0  # looks in a row that found some without a notice

    @property
    def is_whole(self) -> bool:
        """Whether both kinds came, the last time that there was something to tell."""
        return self._hears_blocks and self._hears_transactions

    @property
    def missing(self) -> str:
        """The kinds that do not come, in words; empty where that is not known."""
        kinds = [("blocks", self._missed_blocks), ("transactions", self._missed_transactions)]
        return " and ".join(kind for kind, missed in kinds if missed >= MISSED_AT_LEAST)

    def hear(self, notice: Notice) -> None:
        """Take note of a notice."""
        match notice:
            case BlockNotice():
                self._hears_blocks = self._is_block_noticed = True
                self._missed_blocks = 0
            case TransactionNotice():
                self._hears_transactions = True
                self._missed_transactions = 0
            case _:
                pass

    def begin_look(self) -> None:
        """Say that the node is looked at: what is noticed from now on may be too late for this look."""
        self._was_block_noticed, self._is_block_noticed = self._is_block_noticed, False

    def end_look(self, *, has_new_block: bool, has_new_transactions: bool) -> None:
        """Say what a look found that was not known."""
        if has_new_block and not self._was_block_noticed:
            self._hears_blocks = False
            self._missed_blocks += 1
        if has_new_transactions:
            self._hears_transactions = False
            self._missed_transactions += 1


async def listen(endpoints: Sequence[str], send: trio.MemorySendChannel[Notice]) -> None:
    """Pass on what the publishers say, for ever; ZMQ itself connects again."""
    import zmq  # not installed unless it is wanted

    context = zmq.Context()
    try:
        async with trio.open_nursery() as nursery:
            for endpoint in endpoints:
                socket = context.socket(zmq.SUB)
                socket.setsockopt(zmq.RCVHWM, MESSAGES_KEPT)
                socket.setsockopt(zmq.IPV6, 1)
                for topic in TOPICS:
                    socket.setsockopt(zmq.SUBSCRIBE, topic)
                socket.connect(endpoint)
                nursery.start_soon(_read, socket, send)
    finally:
        context.destroy(linger=0)


async def _read(socket: "zmq.Socket[bytes]", send: trio.MemorySendChannel[Notice]) -> None:
    import zmq

    reader = NoticeReader()
    descriptor = socket.fileno()
    while True:
        try:
            parts = socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            with trio.move_on_after(LOOK_AT_LEAST_EVERY_S):
                await trio.lowlevel.wait_readable(descriptor)
            continue
        for notice in reader.read(parts):
            await send.send(notice)
