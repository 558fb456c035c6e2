"""The one door: claims and evidence enter, facts leave.

A *claimed* history says which transactions concern a script and where they are. The verifier says what is still
missing to judge it (``missing_of``), and then which claims hold (``verify``):

- a transaction counts only if its raw bytes hash to the claimed txid;
- a confirmation counts only if a merkle branch leads from that txid to the root of a header on *our* chain;
- what no block proves is a claim: it counts only once enough independent servers hold the same transaction, and stands
  from then on until it is replaced or dropped. Who holds what is asked by the caller, who knows how many are enough;
- what is claimed to be confirmed and cannot be proved is treated as unconfirmed, and named in ``unproved``: the proof
  may be late (a reorg between two answers), so it is asked for again; a payment is never hidden because a proof failed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from lightipn.bitcoin.hashes import BlockHash, Txid
from lightipn.bitcoin.header import BlockHeader
from lightipn.bitcoin.merkle import merkle_root_of
from lightipn.bitcoin.transaction import Transaction, parse_transaction
from lightipn.chain.history import History, HistoryEntry
from lightipn.chain.source import MerkleBranch
from lightipn.errors import MerkleBranchError, TransactionError


@dataclass(frozen=True, slots=True)
class Confirmed:
    """Proved to be in this block; ``position`` counts from 0, and 0 is the coinbase."""

    block_hash: BlockHash
    height: int
    position: int


@dataclass(frozen=True, slots=True)
class Unconfirmed:
    """Claimed only: no proof exists for a transaction outside a block.

    Args:
        seen_by: how many servers held the raw transaction when it was first believed.
    """

    seen_by: int = 1


Place = Confirmed | Unconfirmed


@dataclass(slots=True)
class Evidence:
    """What was fetched so far for one history.

    Args:
        transactions: parsed, and known to hash to their txid.
        branches: by txid; each for the height that the history claims.
        headers: by height, all of our own chain.
        seen_by: how many servers hold a transaction, of those that enough hold.
    """

    transactions: dict[Txid, Transaction] = field(default_factory=dict)
    branches: dict[Txid, MerkleBranch] = field(default_factory=dict)
    headers: dict[int, BlockHeader] = field(default_factory=dict)
    seen_by: dict[Txid, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """What must be fetched before the history can be judged.

    Args:
        branches: claims with a height; ``transactions`` are theirs, where unknown.
        witnesses: claims without one: of these it must be asked who holds them.
    """

    transactions: tuple[Txid, ...]
    branches: tuple[HistoryEntry, ...]
    witnesses: tuple[Txid, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedEntry:
    """One transaction of a history.

    Args:
        transaction: None where the ledger already holds it.
    """

    txid: Txid
    place: Place
    transaction: Transaction | None


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedHistory:
    """A history in which every statement is proved, or marked as a claim.

    Args:
        unproved: claimed, but not proved to be confirmed, or without its transaction: to be asked again.
        unwitnessed: left out, because nothing proves them and too few servers are known to hold them.
    """

    entries: tuple[VerifiedEntry, ...]
    unproved: tuple[Txid, ...]
    unwitnessed: tuple[Txid, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether nothing of the history must be asked again."""
        return not self.unproved and not self.unwitnessed


def accept_transaction(txid: Txid, raw: bytes) -> Transaction:
    """Parse what a server sent for ``txid`` and check that it is that transaction.

    Raises:
        TransactionError: not a transaction, or another one.
    """
    transaction = parse_transaction(raw)
    if transaction.txid != txid:
        raise TransactionError("raw transaction does not hash to the txid that was asked for")
    return transaction


def accept_branch(txid: Txid, branch: MerkleBranch, header: BlockHeader) -> None:
    """Check that a branch proves ``txid`` in the block of ``header``.

    Raises:
        MerkleBranchError: malformed, or its root differs from the header's.
    """
    if merkle_root_of(txid, branch.siblings, branch.position) != header.merkle_root:
        raise MerkleBranchError("branch does not lead to the header's merkle root")


Known = Mapping[Txid, Place | None]
"""What the ledger holds: where each payment is; None for one that is gone, whose transaction need not be fetched."""


def missing_of(history: Iterable[HistoryEntry], known: Known) -> Missing:
    """Say what must be fetched to judge a history; a claim that equals what is known needs nothing."""
    transactions, branches, witnesses = [], [], []
    for entry in history:
        place = known.get(entry.txid)
        if entry.height is None:
            if place is None:
                witnesses.append(entry.txid)
            continue
        if entry.txid not in known:
            transactions.append(entry.txid)
        if not (isinstance(place, Confirmed) and place.height == entry.height):
            branches.append(entry)
    return Missing(transactions=tuple(transactions), branches=tuple(branches), witnesses=tuple(witnesses))


def verify(history: History, known: Known, evidence: Evidence) -> VerifiedHistory:
    """Turn a claimed history into a verified one.

    Args:
        known: a place that is already proved stays proved: what a server claims less is no proof of the contrary.
        evidence: whatever came. An entry without its transaction is left out, since its amount is unknown; so is one
            that no block proves and too few servers hold.
    """
    entries: list[VerifiedEntry] = []
    unproved: list[Txid] = []
    unwitnessed: list[Txid] = []
    for claim in history:
        place = known.get(claim.txid)
        if claim.txid not in known and claim.txid not in evidence.transactions:
            (unproved if claim.height is not None else unwitnessed).append(claim.txid)
            continue
        if not isinstance(place, Confirmed) or (claim.height is not None and claim.height != place.height):
            proved = _proved_place(claim, evidence)
            if proved is None and claim.height is not None:
                unproved.append(claim.txid)
            place = proved or place
        if place is None and claim.txid in evidence.seen_by:
            place = Unconfirmed(evidence.seen_by[claim.txid])
        if place is None:
            unwitnessed.append(claim.txid)
            continue
        transaction = evidence.transactions.get(claim.txid)
        entries.append(VerifiedEntry(txid=claim.txid, place=place, transaction=transaction))
    return VerifiedHistory(entries=tuple(entries), unproved=tuple(unproved), unwitnessed=tuple(unwitnessed))


def _proved_place(claim: HistoryEntry, evidence: Evidence) -> Confirmed | None:
    branch = evidence.branches.get(claim.txid)
    header = evidence.headers.get(claim.height) if claim.height is not None else None
    if branch is None or header is None or claim.height is None:
        return None
    try:
        accept_branch(claim.txid, branch, header)
    except MerkleBranchError:
        return None
    return Confirmed(header.block_hash, claim.height, branch.position)
