"""What to do next with a transfer that was signed; this decides, and does nothing.

signed ──► broadcast ──► in the mempool ──► in a block ──► final
▲  │             │ stuck
└──┘ unheard of  └──► bump: a version that pays more, of the same coins
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lightipn.bitcoin.hashes import Txid
from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.ledger.entries import LedgerEntry
from lightipn.store.transfers import Transfer, Version

# A transfer so deep is followed no more.
FINAL_DEPTH_BLOCKS = 100


class Step(enum.Enum):
    """What a transfer needs now."""

    WAIT = "wait"
    BROADCAST = "broadcast"
    BUMP = "bump"
    VOID = "void"  # one of its coins is no more
    FINISH = "finish"


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A transfer, and what the ledger knows of it.

    Args:
        entries: what its versions did to an input address, by txid.
        has_lost_coin: one of its coins is gone, or spent by somebody else's transaction in a block.
    """

    transfer: Transfer
    entries: Mapping[Txid, LedgerEntry]
    has_lost_coin: bool
    tip_height: int

    @property
    def confirmations(self) -> int:
        """How deep the version is that was mined; 0 if none was."""
        heights = [entry.state.height for entry in self.entries.values() if isinstance(entry.state, Confirmed)]
        return max(0, self.tip_height - heights[0] + 1) if heights else 0

    @property
    def mined_txid(self) -> Txid | None:
        """The version that was mined."""
        mined = (txid for txid, entry in self.entries.items() if isinstance(entry.state, Confirmed))
        return next(mined, None)

    def step(self, *, bump_after_blocks: int) -> Step:
        """Return what is to be done.

        Args:
            bump_after_blocks: the newest version has so many blocks' time to be mined.
        """
        if self.mined_txid is not None:
            return Step.FINISH if self.confirmations >= FINAL_DEPTH_BLOCKS else Step.WAIT
        if self.has_lost_coin:
            return Step.VOID
        if self.tip_height - self.transfer.newest.signed_height >= bump_after_blocks:
            return Step.BUMP  # whatever became of it: a mempool that grew dearer refuses it, or lets go of it
        return Step.WAIT if self.is_newest_there else Step.BROADCAST

    @property
    def is_newest_there(self) -> bool:
        """Whether the newest version is believed to be in the mempool."""
        entry = self.entries.get(self.transfer.newest.txid)
        return entry is not None and isinstance(entry.state, Unconfirmed)

    @property
    def unrecorded(self) -> Sequence[Version]:
        """The versions that servers hold although nobody recorded that they took them: a crash came in between."""
        return [
            version
            for version in self.transfer.versions
            if version.broadcast_at is None and version.txid in self.entries
        ]
