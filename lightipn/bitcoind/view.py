"""What the parts of this room share: how far the node was looked through, what is searched for, and what waits."""

from dataclasses import dataclass, field

import trio

from lightipn.bitcoind.book import WatchBook
from lightipn.bitcoind.mempool import MempoolView
from lightipn.bitcoind.targets import Targets
from lightipn.store.node_blocks import Position


@dataclass(slots=True)
class NodeView:
    """What is known of the node. Whoever changes it holds the lock, across every question that the change needs.

    One thing at a time: while a block is looked through nobody is taken up, so that "from the next block on" is exact.

    Args:
        position: the last block that was looked through; None before the first.
    """

    book: WatchBook
    targets: Targets
    mempool: MempoolView = field(default_factory=MempoolView)
    position: Position | None = None
    lock: trio.Lock = field(default_factory=trio.Lock)

    @property
    def height(self) -> int:
        """Height of the last block that was looked through."""
        return self.position.height if self.position is not None else 0


def new_view() -> NodeView:
    """Return the view of a node that was not asked yet."""
    book = WatchBook()
    return NodeView(book, Targets(book))
