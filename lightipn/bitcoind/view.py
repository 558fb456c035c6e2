"""What the parts of this room share: how far the node was looked through, what is searched for, and what waits."""

from collections import OrderedDict
from dataclasses import dataclass, field

import trio

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.bitcoin.transaction import Outpoint, TxOutput
from lightipn.bitcoind.book import WatchBook
from lightipn.bitcoind.mempool import MempoolView
from lightipn.bitcoind.targets import Targets
from lightipn.store.node_blocks import Position

PREVOUTS_KEPT = 5000


@dataclass(slots=True)
class NodeView:
    """What is known of the node. Whoever changes it holds the lock, across every question that the change needs.

    One thing at a time: while a block is looked through nobody is taken up, so that "from the next block on" is exact.

    Args:
        position: the last block that was looked through; None before the first.
        wished: scripts that are to be taken up; before that nothing is said of them.
        prevouts: what payments spend, of the newest ones: a node without an index tells that for a while only.
    """

    book: WatchBook
    targets: Targets
    mempool: MempoolView = field(default_factory=MempoolView)
    position: Position | None = None
    wished: set[ScriptHash] = field(default_factory=set)
    prevouts: OrderedDict[Outpoint, TxOutput] = field(default_factory=OrderedDict)
    lock: trio.Lock = field(default_factory=trio.Lock)

    @property
    def height(self) -> int:
        """Height of the last block that was looked through."""
        return self.position.height if self.position is not None else 0

    def remember(self, outpoint: Outpoint, output: TxOutput) -> None:
        """Keep an output that a payment spends."""
        self.prevouts[outpoint] = output
        if len(self.prevouts) > PREVOUTS_KEPT:
            self.prevouts.popitem(last=False)


def new_view() -> NodeView:
    """Return the view of a node that was not asked yet."""
    book = WatchBook()
    return NodeView(book, Targets(book))
