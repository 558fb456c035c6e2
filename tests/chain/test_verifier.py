"""The one door: claims and evidence enter, facts leave."""

from collections.abc import Mapping, Sequence

import pytest

from lightipn.bitcoin.hashes import Txid
from lightipn.bitcoin.header import BlockHeader, parse_header
from lightipn.bitcoin.merkle import merkle_branch_of, merkle_tree_of
from lightipn.bitcoin.transaction import Transaction
from lightipn.chain.history import HistoryEntry
from lightipn.chain.source import MerkleBranch
from lightipn.chain.verifier import (
    Confirmed,
    Evidence,
    Missing,
    Place,
    Unconfirmed,
    VerifiedEntry,
    VerifiedHistory,
    accept_branch,
    accept_transaction,
    missing_of,
    verify,
)
from lightipn.errors import MerkleBranchError, TransactionError
from tests.builders import confirmed, payment, raw_header, txid_of

HEIGHT = 700
PAYMENT = payment(1)
TXID = PAYMENT.txid
BLOCK = [txid_of(1), txid_of(2), TXID, txid_of(3), txid_of(4)]
POSITION = 2


def header_over(txids: Sequence[Txid]) -> BlockHeader:
    """Return the header of a block with these transactions."""
    return parse_header(raw_header(bytes(32), time=1_700_000_000, merkle_root=merkle_tree_of(txids)[-1][0]))


HEADER = header_over(BLOCK)
OTHER_HEADER = header_over([txid_of(9), TXID])
BRANCH = MerkleBranch(POSITION, merkle_branch_of(BLOCK, POSITION))
OTHER_BRANCH = MerkleBranch(1, (txid_of(9),))
PROVED = Confirmed(HEADER.block_hash, HEIGHT, POSITION)

BAD_BRANCHES = [
    pytest.param(MerkleBranch(POSITION + 1, BRANCH.siblings), id="another position"),
    pytest.param(MerkleBranch(POSITION, BRANCH.siblings[:-1]), id="too short"),
    pytest.param(MerkleBranch(POSITION, (*BRANCH.siblings, bytes(32))), id="too long"),
    pytest.param(MerkleBranch(POSITION, (bytes(32), *BRANCH.siblings[1:])), id="another sibling"),
    pytest.param(MerkleBranch(POSITION, (bytes(31), *BRANCH.siblings[1:])), id="sibling of 31 bytes"),
    pytest.param(MerkleBranch(-1, BRANCH.siblings), id="negative position"),
    pytest.param(MerkleBranch(1, (*BRANCH.siblings, *[bytes(32)] * 40)), id="43 levels"),
    pytest.param(MerkleBranch(0, ()), id="nothing"),
    pytest.param(OTHER_BRANCH, id="branch of another block"),
]


def evidence_of(
    *,
    transaction: Transaction | None = PAYMENT,
    branch: MerkleBranch | None = BRANCH,
    headers: Mapping[int, BlockHeader] | None = None,
) -> Evidence:
    """Return the evidence for the payment, with parts left out or replaced."""
    return Evidence(
        transactions={transaction.txid: transaction} if transaction else {},
        branches={TXID: branch} if branch else {},
        headers=dict({HEIGHT: HEADER} if headers is None else headers),
    )


def fact(place: Place, transaction: Transaction | None = PAYMENT) -> tuple[VerifiedEntry, ...]:
    """Return a verified history's only entry."""
    return (VerifiedEntry(txid=TXID, place=place, transaction=transaction),)


# --- single pieces of evidence -----------------------------------------------------------------------------------


def test_transaction_that_hashes_to_its_txid_is_accepted() -> None:
    """Raw bytes that are the transaction asked for come back parsed."""
    assert accept_transaction(TXID, PAYMENT.raw) == PAYMENT


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        pytest.param(payment(2).raw, "does not hash to the txid", id="another transaction"),
        pytest.param(PAYMENT.raw[:-1], "ends at byte", id="cut short"),
        pytest.param(PAYMENT.raw + b"\x00", "bytes follow", id="something behind"),
        pytest.param(b"", "ends at byte 0", id="nothing"),
        pytest.param(PAYMENT.raw[:-1] + b"\x01", "does not hash to the txid", id="one byte changed"),
    ],
)
def test_other_bytes_are_refused_as_transaction(raw: bytes, reason: str) -> None:
    """Bytes that are another transaction, or none, are a misbehaviour of whoever sent them."""
    with pytest.raises(TransactionError, match=reason):
        accept_transaction(TXID, raw)


def test_branch_to_the_root_of_the_header_is_accepted() -> None:
    """A branch that leads to a header's merkle root proves the transaction in its block, and in no other."""
    accept_branch(TXID, BRANCH, HEADER)
    with pytest.raises(MerkleBranchError, match="does not lead to the header's merkle root"):
        accept_branch(TXID, BRANCH, OTHER_HEADER)
    with pytest.raises(MerkleBranchError, match="does not lead to the header's merkle root"):
        accept_branch(txid_of(1), BRANCH, HEADER)


@pytest.mark.parametrize("branch", BAD_BRANCHES)
def test_branch_that_leads_elsewhere_is_refused(branch: MerkleBranch) -> None:
    """A malformed branch, or one that leads to another root, is a misbehaviour of whoever sent it."""
    with pytest.raises(MerkleBranchError):
        accept_branch(TXID, branch, HEADER)


# --- what is missing ---------------------------------------------------------------------------------------------

CLAIMED = HistoryEntry(TXID, HEIGHT)
CLAIMED_ELSEWHERE = HistoryEntry(TXID, HEIGHT + 1)
IN_MEMPOOL = HistoryEntry(TXID, None)

NEEDS = [
    # claim, what the ledger holds, whether bytes are wanted, whether a branch is wanted
    pytest.param(CLAIMED, None, True, True, id="new and confirmed"),
    pytest.param(IN_MEMPOOL, None, True, False, id="new in the mempool"),
    pytest.param(HistoryEntry(TXID, None, has_unconfirmed_parent=True), None, True, False, id="new behind a parent"),
    pytest.param(CLAIMED, Unconfirmed(), False, True, id="known, now in a block"),
    pytest.param(IN_MEMPOOL, Unconfirmed(), False, False, id="known in the mempool"),
    pytest.param(CLAIMED, PROVED, False, False, id="known at the same height"),
    pytest.param(CLAIMED_ELSEWHERE, PROVED, False, True, id="known at another height"),
    pytest.param(IN_MEMPOOL, PROVED, False, False, id="proved, now claimed in the mempool"),
]


@pytest.mark.parametrize(("claim", "place", "wants_bytes", "wants_branch"), NEEDS)
def test_only_what_is_not_known_yet_is_asked_for(
    claim: HistoryEntry, place: Place | None, wants_bytes: bool, wants_branch: bool
) -> None:
    """Bytes are wanted of what is new, a branch for every claimed height that is not proved already."""
    known = {TXID: place} if place else {}
    assert missing_of([claim], known) == Missing(
        transactions=(TXID,) if wants_bytes else (), branches=(claim,) if wants_branch else ()
    )


def test_missing_pieces_keep_the_order_of_the_history() -> None:
    """All entries of a history are looked at, in its order."""
    history = [HistoryEntry(txid_of(number), number or None) for number in range(5)]
    known: dict[Txid, Place] = {txid_of(1): confirmed(1), txid_of(2): Unconfirmed()}
    assert missing_of(history, known) == Missing(
        transactions=(txid_of(0), txid_of(3), txid_of(4)), branches=(history[2], history[3], history[4])
    )
    assert missing_of([], known) == Missing(transactions=(), branches=())


# --- the verdict -------------------------------------------------------------------------------------------------


def test_claim_with_its_proof_is_confirmed() -> None:
    """A claimed confirmation with a branch to our header is a fact: block, height and position are known."""
    found = verify((CLAIMED,), {}, evidence_of())
    assert found == VerifiedHistory(entries=fact(PROVED), unproved=())


def test_mempool_claim_is_unconfirmed_and_wants_no_proof() -> None:
    """What is claimed for the mempool is kept as a claim, and is not named as unproved."""
    found = verify((IN_MEMPOOL,), {}, evidence_of(branch=None, headers={}))
    assert found == VerifiedHistory(entries=fact(Unconfirmed()), unproved=())


def test_mempool_claim_stays_a_claim_whatever_branch_lies_around() -> None:
    """A branch proves the height that is claimed with it; a mempool claim names none."""
    assert verify((IN_MEMPOOL,), {}, evidence_of()) == VerifiedHistory(entries=fact(Unconfirmed()), unproved=())


@pytest.mark.parametrize("branch", BAD_BRANCHES)
def test_bad_branch_leaves_the_payment_unconfirmed(branch: MerkleBranch) -> None:
    """A payment whose proof fails is not hidden: it is unconfirmed, and named to be asked again."""
    found = verify((CLAIMED,), {}, evidence_of(branch=branch))
    assert found == VerifiedHistory(entries=fact(Unconfirmed()), unproved=(TXID,))


@pytest.mark.parametrize(
    "evidence",
    [
        pytest.param(evidence_of(branch=None), id="no branch"),
        pytest.param(evidence_of(headers={}), id="no header"),
        pytest.param(evidence_of(headers={HEIGHT - 1: HEADER, HEIGHT + 1: HEADER}), id="header of another height"),
        pytest.param(evidence_of(headers={HEIGHT: OTHER_HEADER}), id="another block at this height"),
    ],
)
def test_incomplete_proof_leaves_the_payment_unconfirmed(evidence: Evidence) -> None:
    """Without a branch, or without our own header at that height, nothing is proved."""
    found = verify((CLAIMED,), {}, evidence)
    assert found == VerifiedHistory(entries=fact(Unconfirmed()), unproved=(TXID,))


def test_known_transaction_is_not_repeated() -> None:
    """A transaction that the ledger holds needs no bytes, and gets its place nevertheless."""
    found = verify((CLAIMED,), {TXID: Unconfirmed()}, evidence_of(transaction=None))
    assert found == VerifiedHistory(entries=fact(PROVED, None), unproved=())


NOTHING = evidence_of(transaction=None, branch=None, headers={})


@pytest.mark.parametrize("claim", [CLAIMED, IN_MEMPOOL], ids=["same height", "mempool"])
def test_proved_place_stays_when_less_is_claimed(claim: HistoryEntry) -> None:
    """What is proved stays proved, whether a server claims the same or only the mempool."""
    assert verify((claim,), {TXID: PROVED}, NOTHING) == VerifiedHistory(entries=fact(PROVED, None), unproved=())


def test_proved_place_stays_while_another_one_is_not_proved() -> None:
    """A claim of another height does not move a proved payment without proof, but it is to be asked again."""
    found = verify((CLAIMED_ELSEWHERE,), {TXID: PROVED}, NOTHING)
    assert found == VerifiedHistory(entries=fact(PROVED, None), unproved=(TXID,))


def test_proved_place_moves_with_a_new_proof() -> None:
    """After a reorg, a branch to our new header moves the payment to its new block."""
    evidence = evidence_of(transaction=None, branch=OTHER_BRANCH, headers={HEIGHT + 1: OTHER_HEADER})
    found = verify((CLAIMED_ELSEWHERE,), {TXID: PROVED}, evidence)
    moved = Confirmed(OTHER_HEADER.block_hash, HEIGHT + 1, 1)
    assert found == VerifiedHistory(entries=fact(moved, None), unproved=())


def test_each_claim_is_judged_by_its_own_evidence() -> None:
    """One failing proof takes nothing from the other entries, and the order of the history stays."""
    block = [PAYMENT.txid, payment(2).txid, payment(3).txid]
    header = header_over(block)
    history = (
        HistoryEntry(block[0], HEIGHT),
        HistoryEntry(block[1], HEIGHT),
        HistoryEntry(block[2], HEIGHT),
        HistoryEntry(payment(4).txid, None),
    )
    evidence = Evidence(
        transactions={payment(number).txid: payment(number) for number in (1, 2, 3, 4)},
        branches={
            block[0]: MerkleBranch(0, merkle_branch_of(block, 0)),
            block[1]: MerkleBranch(1, merkle_branch_of(block, 0)),
            block[2]: MerkleBranch(2, merkle_branch_of(block, 2)),
        },
        headers={HEIGHT: header},
    )
    found = verify(history, {}, evidence)
    assert [entry.place for entry in found.entries] == [
        Confirmed(header.block_hash, HEIGHT, 0),
        Unconfirmed(),
        Confirmed(header.block_hash, HEIGHT, 2),
        Unconfirmed(),
    ]
    assert [entry.txid for entry in found.entries] == [claim.txid for claim in history]
    assert found.unproved == (block[1],)


def test_empty_history_is_verified_as_empty() -> None:
    """Nothing claimed is nothing verified, whatever the ledger holds."""
    assert verify((), {TXID: PROVED}, NOTHING) == VerifiedHistory(entries=(), unproved=())
