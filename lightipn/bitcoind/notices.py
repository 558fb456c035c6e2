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
