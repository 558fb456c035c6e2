"""What the node's blocks and transactions are searched for; sans-IO.

    scripts     of whoever is watched: an output that has one is a payment
    outpoints   whose spending concerns a script, each with the script's hash; three kinds of them:
      own         outputs of watched scripts in blocks; the store keeps them
      waiting     outputs of payments that are in no block yet
      contested   what unconfirmed payments spend, whoever it belongs to: what else spends it replaces the payment

A script whose past is *pending* may own outputs that nobody knows yet. Where it is paid, what the payment spends is
asked for; what of that belongs to it is a *stray*. Else change would look like a payment.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

from lightipn.bitcoin.block import Block
from lightipn.bitcoin.hashes import ScriptHash, scripthash_of
from lightipn.bitcoin.merkle import branch_in, merkle_tree_of
from lightipn.bitcoin.transaction import (
    Outpoint,
    PackedOutpoint,
    Transaction,
    TxOutput,
    packed_outpoint,
    unpacked_outpoint,
)
from lightipn.bitcoind.book import WatchBook
from lightipn.bitcoind.mempool import MempoolView
from lightipn.bitcoind.scanner import Match, match_transaction, matches_of, scan_block
from lightipn.store.node_findings import FoundTransaction
from lightipn.store.node_scripts import NodeScript

# An outpoint that an unconfirmed payment spent is looked after for so long; the store knows those that still matter.
CONTESTED_BLOCKS = 144
# Scripts that were let go of are swept out when they are more than those that are left, and more than so many.
SWEPT_FROM = 1000
SWEPT_AT_ONCE = 10_000

Strays = Mapping[PackedOutpoint, tuple[ScriptHash, int]]
"""Outputs that nothing proves: each with the hash of the script that it belongs to, and its satoshis."""


class Targets:
    """What is searched for.

    Args:
        book: who is watched; what concerns others is left out, though it may be searched for still.
    """

    def __init__(self, book: WatchBook) -> None:
        self.past_pending: set[ScriptHash] = set()
        self.past_searched: set[ScriptHash] = set()  # of these, by the search under way; not if watched again since
        self._book = book
        self._scripts: set[bytes] = set()
        self._outpoints: dict[PackedOutpoint, ScriptHash] = {}
        self._contested: dict[PackedOutpoint, int] = {}  # and at which height it was learned
        self._waiting: set[PackedOutpoint] = set()

    def __contains__(self, outpoint: PackedOutpoint) -> bool:
        return outpoint in self._outpoints

    # --- scripts ---

    def take_up(self, scripts: Sequence[NodeScript]) -> None:
        """Search for scripts from now on."""
        # Removed and added again before anybody let go of them: the store has forgotten what they own.
        again = {one.scripthash for one in scripts if one.is_new and one.script in self._scripts}
        if again:
            for outpoint in [one for one, owner in self._outpoints.items() if owner in again]:
                if outpoint not in self._contested:
                    self._forget(outpoint)
            self.past_searched -= again
        self.past_pending.difference_update(one.scripthash for one in scripts if one.is_past_known)
        self._scripts.update(one.script for one in scripts if one.script is not None)
        self.past_pending.update(one.scripthash for one in scripts if not one.is_past_known)

    def let_go(self, scripthashes: Iterable[ScriptHash]) -> None:
        """Search no more for scripts that are not watched any more, nor for what they own."""
        owners = set(scripthashes)
        for outpoint in [one for one, owner in self._outpoints.items() if owner in owners]:
            self._forget(outpoint)
        self.past_pending -= owners
        self.past_searched -= owners

    def sweep_out(self) -> Iterator[None]:
        """Forget scripts that were let go of, once they are many; in steps, so that others may have their turn."""
        if len(self._scripts) <= max(SWEPT_FROM, 2 * len(self._book.known)):
            return
        scripts = list(self._scripts)
        kept: set[bytes] = set()
        for at in range(0, len(scripts), SWEPT_AT_ONCE):
            kept.update(each for each in scripts[at : at + SWEPT_AT_ONCE] if scripthash_of(each) in self._book.known)
            yield
        self._scripts = kept

    # --- outpoints ---

    def add_own(self, outputs: Mapping[PackedOutpoint, ScriptHash]) -> None:
        """Search for whoever spends outputs that stand in blocks; they are neither waiting nor contested any more."""
        self._outpoints.update(outputs)
        for outpoint in outputs:
            self._contested.pop(outpoint, None)
            self._waiting.discard(outpoint)

    def add_strays(self, strays: Strays) -> None:
        """Search for whoever spends outputs that nothing proves."""
        self.add_own({outpoint: owner for outpoint, (owner, _) in strays.items()})

    def add_waiting(self, outputs: Mapping[PackedOutpoint, ScriptHash]) -> list[PackedOutpoint]:
        """Search for whoever spends outputs of a payment that waits, and return those that were not known."""
        new = [outpoint for outpoint in outputs if outpoint not in self._outpoints]
        self._outpoints.update(outputs)
        self._waiting.update(new)
        return new

    def add_contested(self, outpoint: PackedOutpoint, owner: ScriptHash, *, height: int) -> None:
        """Search for whoever else spends what a payment spends; what is searched for already stays what it is."""
        if outpoint not in self._outpoints:
            self._outpoints[outpoint] = owner
            self._contested[outpoint] = height

    def is_about_rivals_alone(self, match: Match) -> bool:
        """Tell whether a transaction concerns us only because it spends what payments spend, too."""
        return not match.outputs and match.spends.keys() <= self._contested.keys()

    def stray_of(self, outpoint: PackedOutpoint, output: TxOutput) -> Strays:
        """Return an output that a payment spends, if it is a stray."""
        owner = scripthash_of(output.script)
        is_known = outpoint in self._outpoints and outpoint not in self._contested
        is_stray = owner in self.past_pending and not is_known
        return {outpoint: (owner, output.amount_sat)} if is_stray else {}

    def strays_in(self, prevouts: Mapping[Outpoint, TxOutput]) -> Strays:
        """Return the strays of what a payment spends."""
        strays: dict[PackedOutpoint, tuple[ScriptHash, int]] = {}
        for outpoint, output in prevouts.items():
            strays |= self.stray_of(packed_outpoint(outpoint.txid, outpoint.index), output)
        return strays

    def tidy_up(self, mempool: MempoolView, *, height: int) -> None:
        """Let go, now and then, of outpoints that payments spent long ago, and of outputs of payments that are gone."""
        if height % CONTESTED_BLOCKS:
            return
        spent = {outpoint for match in mempool.matches() for outpoint in match.spends}
        for outpoint, since in list(self._contested.items()):
            if since < height - CONTESTED_BLOCKS and outpoint not in spent:
                self._forget(outpoint)
        for outpoint in [one for one in self._waiting if unpacked_outpoint(one).txid not in mempool]:
            self._forget(outpoint)

    def _forget(self, outpoint: PackedOutpoint) -> None:
        del self._outpoints[outpoint]
        self._contested.pop(outpoint, None)
        self._waiting.discard(outpoint)

    # --- searching ---

    def match(self, transaction: Transaction) -> Match | None:
        """Return what of a transaction concerns whoever is watched, or None."""
        match = match_transaction(transaction, self._scripts, self._outpoints)
        return None if match is None else self._watched(match)

    def found_in(self, block: Block, height: int) -> list[FoundTransaction]:
        """Return what of a block concerns whoever is watched, each with its proof."""
        return self.found_of(self._scripts, self._outpoints, block, height)

    def found_of(
        self, scripts: set[bytes], outpoints: dict[PackedOutpoint, ScriptHash], block: Block, height: int
    ) -> list[FoundTransaction]:
        """Return what of a block concerns these scripts and outpoints alone, if they are watched."""
        hits = scan_block(block, scripts, outpoints)
        if not hits.scripts and not hits.spends:
            return []
        levels = merkle_tree_of(block.txids)
        found = []
        for position, match in matches_of(block, hits, outpoints).items():
            watched = self._watched(match)
            if watched is None:
                continue
            found.append(
                FoundTransaction(
                    txid=match.txid,
                    height=height,
                    position=position,
                    siblings=branch_in(levels, position),
                    raw=block.transaction(position),
                    outputs=watched.outputs,
                    spends=watched.spends,
                )
            )
        return found

    def _watched(self, match: Match) -> Match | None:
        """Leave out what concerns scripts that are watched no more."""
        known = self._book.known
        outputs = {key: owner for key, owner in match.outputs.items() if owner in known}
        spends = {key: owner for key, owner in match.spends.items() if owner in known or key in self._contested}
        return Match(txid=match.txid, outputs=outputs, spends=spends) if outputs or spends else None
