"""The one door: claims and evidence enter, facts leave."""

from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.hashes import Txid
from lightipn.bitcoin.header import BlockHeader, parse_header
from lightipn.bitcoin.merkle import merkle_branch_of, merkle_tree_of
from lightipn.bitcoin.transaction import Transaction
from lightipn.chain.history import HistoryEntry
from lightipn.chain.source import MerkleBranch
from lightipn.chain.verifier import (
    Confirmed,
    Evidence,
    Known,
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

BAD_BRANCHES = {
    "another position": MerkleBranch(POSITION + 1, BRANCH.siblings),
    "too short": MerkleBranch(POSITION, BRANCH.siblings[:-1]),
    "too long": MerkleBranch(POSITION, (*BRANCH.siblings, bytes(32))),
    "another sibling": MerkleBranch(POSITION, (bytes(32), *BRANCH.siblings[1:])),
    "sibling of 31 bytes": MerkleBranch(POSITION, (bytes(31), *BRANCH.siblings[1:])),
    "negative position": MerkleBranch(-1, BRANCH.siblings),
    "43 levels": MerkleBranch(1, (*BRANCH.siblings, *[bytes(32)] * 40)),
    "nothing": MerkleBranch(0, ()),
    "branch of another block": OTHER_BRANCH,
}


def evidence_of(
    *,
    transaction: Transaction | None = PAYMENT,
    branch: MerkleBranch | None = BRANCH,
    headers: Mapping[int, BlockHeader] | None = None,
    seen_by: int = 0,
) -> Evidence:
    """Return the evidence for the payment, with parts left out or replaced.

    Args:
        seen_by: servers that hold the payment; 0 where too few do.
    """
    return Evidence(
        transactions={transaction.txid: transaction} if transaction else {},
        branches={TXID: branch} if branch else {},
        headers=dict({HEIGHT: HEADER} if headers is None else headers),
        seen_by={TXID: seen_by} if seen_by else {},
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


@pytest.mark.parametrize("branch", BAD_BRANCHES.values(), ids=BAD_BRANCHES.keys())
def test_branch_that_leads_elsewhere_is_refused(branch: MerkleBranch) -> None:
    """A malformed branch, or one that leads to another root, is a misbehaviour of whoever sent it."""
    with pytest.raises(MerkleBranchError):
        accept_branch(TXID, branch, HEADER)


# --- what is missing ---------------------------------------------------------------------------------------------

CLAIMED = HistoryEntry(TXID, HEIGHT)
CLAIMED_ELSEWHERE = HistoryEntry(TXID, HEIGHT + 1)
IN_MEMPOOL = HistoryEntry(TXID, None)
BEHIND_A_PARENT = HistoryEntry(TXID, None, has_unconfirmed_parent=True)
NEW: Known = {}
GONE: Known = {TXID: None}
STANDING: Known = {TXID: Unconfirmed(2)}
IN_ITS_BLOCK: Known = {TXID: PROVED}

NEEDS = [
    # claim, what the ledger holds, what is wanted: its bytes, a branch, witnesses
    pytest.param(CLAIMED, NEW, "bytes branch", id="new and confirmed"),
    pytest.param(IN_MEMPOOL, NEW, "witnesses", id="new in the mempool"),
    pytest.param(BEHIND_A_PARENT, NEW, "witnesses", id="new behind a parent"),
    pytest.param(CLAIMED, STANDING, "branch", id="standing, now in a block"),
    pytest.param(IN_MEMPOOL, STANDING, "", id="standing in the mempool"),
    pytest.param(BEHIND_A_PARENT, STANDING, "", id="standing behind a parent"),
    pytest.param(CLAIMED, IN_ITS_BLOCK, "", id="proved at the same height"),
    pytest.param(CLAIMED_ELSEWHERE, IN_ITS_BLOCK, "branch", id="proved at another height"),
    pytest.param(IN_MEMPOOL, IN_ITS_BLOCK, "", id="proved, now claimed in the mempool"),
    pytest.param(CLAIMED, GONE, "branch", id="gone, now in a block"),
    pytest.param(IN_MEMPOOL, GONE, "witnesses", id="gone, back in the mempool"),
]


@pytest.mark.parametrize(("claim", "known", "wanted"), NEEDS)
def test_only_what_is_not_known_yet_is_asked_for(claim: HistoryEntry, known: Known, wanted: str) -> None:
    """A claimed height wants bytes of what was never known, and a branch; a claim without one wants witnesses.

    What stands needs no witness again, and what is gone no bytes.
    """
    assert missing_of([claim], known) == Missing(
        transactions=(TXID,) if "bytes" in wanted else (),
        branches=(claim,) if "branch" in wanted else (),
        witnesses=(TXID,) if "witnesses" in wanted else (),
    )


def test_missing_pieces_keep_the_order_of_the_history() -> None:
    """All entries of a history are looked at, in its order."""
    history = [HistoryEntry(txid_of(number), number if number < 5 else None) for number in range(1, 9)]
    known: Known = {
        txid_of(1): confirmed(1),
        txid_of(2): Unconfirmed(),
        txid_of(3): None,
        txid_of(6): None,
        txid_of(7): Unconfirmed(),
    }
    assert missing_of(history, known) == Missing(
        transactions=(txid_of(4),),
        branches=(history[1], history[2], history[3]),
        witnesses=(txid_of(5), txid_of(6), txid_of(8)),
    )
    assert missing_of([], known) == Missing(transactions=(), branches=(), witnesses=())


# --- the verdict -------------------------------------------------------------------------------------------------


def left_out(*, unproved: bool = False) -> VerifiedHistory:
    """Return the verdict that hides the payment until enough servers hold it."""
    return VerifiedHistory(entries=(), unproved=(TXID,) if unproved else (), unwitnessed=(TXID,))


def test_claim_with_its_proof_is_confirmed() -> None:
    """A claimed confirmation with a branch to our header is a fact: block, height and position are known."""
    found = verify((CLAIMED,), {}, evidence_of())
    assert found == VerifiedHistory(entries=fact(PROVED), unproved=())
    assert found.is_complete


@pytest.mark.parametrize("claim", [IN_MEMPOOL, BEHIND_A_PARENT], ids=["in the mempool", "behind a parent"])
@pytest.mark.parametrize("seen_by", [1, 2, 7])
def test_mempool_claim_that_enough_servers_hold_is_unconfirmed(claim: HistoryEntry, seen_by: int) -> None:
    """What enough servers hold is a payment outside a block; it carries how many they were, and wants no proof."""
    found = verify((claim,), {}, evidence_of(branch=None, headers={}, seen_by=seen_by))
    assert found == VerifiedHistory(entries=fact(Unconfirmed(seen_by)), unproved=())
    assert found.is_complete


@pytest.mark.parametrize("transaction", [PAYMENT, None], ids=["with its bytes", "without its bytes"])
def test_mempool_claim_that_too_few_servers_hold_is_left_out(transaction: Transaction | None) -> None:
    """One server's word makes no payment: the claim is left out, and named so that it is asked again."""
    found = verify((IN_MEMPOOL,), {}, evidence_of(transaction=transaction, branch=None, headers={}))
    assert found == left_out()
    assert not found.is_complete


def test_claim_is_admitted_once_enough_servers_hold_it() -> None:
    """The same claim is left out first, and believed as soon as the evidence says that enough servers hold it."""
    assert verify((IN_MEMPOOL,), {}, evidence_of(branch=None)) == left_out()
    found = verify((IN_MEMPOOL,), {}, evidence_of(branch=None, seen_by=2))
    assert found == VerifiedHistory(entries=fact(Unconfirmed(2)), unproved=())


def test_witnesses_without_the_bytes_admit_nothing() -> None:
    """A payment whose transaction is not known is left out whoever holds it: its amount is unknown."""
    assert verify((IN_MEMPOOL,), {}, evidence_of(transaction=None, seen_by=2)) == left_out()
    found = verify((CLAIMED,), {}, evidence_of(transaction=None, seen_by=2))
    assert found == VerifiedHistory(entries=(), unproved=(TXID,))
    assert not found.is_complete


@pytest.mark.parametrize("seen_by", [0, 2], ids=["too few", "enough"])
def test_mempool_claim_stays_a_claim_whatever_branch_lies_around(seen_by: int) -> None:
    """A branch proves the height that is claimed with it; a mempool claim names none, and needs its witnesses."""
    found = verify((IN_MEMPOOL,), {}, evidence_of(seen_by=seen_by))
    believed = VerifiedHistory(entries=fact(Unconfirmed(seen_by)), unproved=())
    assert found == (believed if seen_by else left_out())


def test_proof_makes_witnesses_needless() -> None:
    """A proved claim is confirmed whether servers were asked for it or not."""
    assert verify((CLAIMED,), {}, evidence_of(seen_by=3)) == VerifiedHistory(entries=fact(PROVED), unproved=())


UNPROVABLE = [
    *[pytest.param(evidence_of(branch=bad), id=name) for name, bad in BAD_BRANCHES.items()],
    pytest.param(evidence_of(branch=None), id="no branch"),
    pytest.param(evidence_of(headers={}), id="no header"),
    pytest.param(evidence_of(headers={HEIGHT - 1: HEADER, HEIGHT + 1: HEADER}), id="header of another height"),
    pytest.param(evidence_of(headers={HEIGHT: OTHER_HEADER}), id="another block at this height"),
]


@pytest.mark.parametrize("evidence", UNPROVABLE)
def test_unprovable_confirmation_is_left_out_until_enough_servers_hold_it(evidence: Evidence) -> None:
    """A claimed confirmation without a proof counts as a claim: asked again, and believed only with its witnesses."""
    found = verify((CLAIMED,), {}, evidence)
    assert found == left_out(unproved=True)
    assert not found.is_complete
    witnessed = Evidence(
        transactions=evidence.transactions,
        branches=evidence.branches,
        headers=evidence.headers,
        seen_by={TXID: 2},
    )
    found = verify((CLAIMED,), {}, witnessed)
    assert found == VerifiedHistory(entries=fact(Unconfirmed(2)), unproved=(TXID,))
    assert not found.is_complete


@pytest.mark.parametrize("evidence", UNPROVABLE)
def test_standing_payment_is_not_hidden_by_a_proof_that_fails(evidence: Evidence) -> None:
    """A payment that stands keeps standing, unconfirmed, while the proof of its block fails; that is asked again."""
    found = verify((CLAIMED,), STANDING, evidence)
    assert found == VerifiedHistory(entries=fact(Unconfirmed(2)), unproved=(TXID,))


def test_known_transaction_is_not_repeated() -> None:
    """A transaction that the ledger holds needs no bytes, and gets its place nevertheless."""
    found = verify((CLAIMED,), STANDING, evidence_of(transaction=None))
    assert found == VerifiedHistory(entries=fact(PROVED, None), unproved=())


NOTHING = evidence_of(transaction=None, branch=None, headers={})


@pytest.mark.parametrize("claim", [IN_MEMPOOL, BEHIND_A_PARENT], ids=["in the mempool", "behind a parent"])
def test_payment_that_stands_needs_no_witness_again(claim: HistoryEntry) -> None:
    """What was believed once stands while it is listed, though nobody was asked for it again."""
    found = verify((claim,), STANDING, NOTHING)
    assert found == VerifiedHistory(entries=fact(Unconfirmed(2), None), unproved=())
    assert found.is_complete


def test_payment_that_stands_keeps_its_first_count_of_servers() -> None:
    """How many servers held a payment is counted when it is first believed, and does not change afterwards."""
    found = verify((IN_MEMPOOL,), STANDING, evidence_of(transaction=None, branch=None, seen_by=5))
    assert found == VerifiedHistory(entries=fact(Unconfirmed(2), None), unproved=())


def test_payment_that_is_gone_needs_witnesses_again_but_not_its_bytes() -> None:
    """A replaced or dropped payment is not back because one server lists it; once enough do, no bytes are needed."""
    assert verify((IN_MEMPOOL,), GONE, NOTHING) == left_out()
    found = verify((IN_MEMPOOL,), GONE, evidence_of(transaction=None, branch=None, seen_by=3))
    assert found == VerifiedHistory(entries=fact(Unconfirmed(3), None), unproved=())


def test_payment_that_is_gone_is_confirmed_by_its_proof_alone() -> None:
    """A miner may take what was replaced or dropped: the branch proves it without witnesses and without its bytes."""
    found = verify((CLAIMED,), GONE, evidence_of(transaction=None))
    assert found == VerifiedHistory(entries=fact(PROVED, None), unproved=())
    assert verify((CLAIMED,), GONE, NOTHING) == left_out(unproved=True)


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
        HistoryEntry(payment(5).txid, None),
    )
    evidence = Evidence(
        transactions={payment(number).txid: payment(number) for number in (1, 2, 3, 4, 5)},
        branches={
            block[0]: MerkleBranch(0, merkle_branch_of(block, 0)),
            block[1]: MerkleBranch(1, merkle_branch_of(block, 0)),
            block[2]: MerkleBranch(2, merkle_branch_of(block, 2)),
        },
        headers={HEIGHT: header},
        seen_by={payment(4).txid: 2},
    )
    found = verify(history, {}, evidence)
    assert [entry.place for entry in found.entries] == [
        Confirmed(header.block_hash, HEIGHT, 0),
        Confirmed(header.block_hash, HEIGHT, 2),
        Unconfirmed(2),
    ]
    assert [entry.txid for entry in found.entries] == [block[0], block[2], payment(4).txid]
    assert found.unproved == (block[1],)
    assert found.unwitnessed == (block[1], payment(5).txid)


def test_empty_history_is_verified_as_empty() -> None:
    """Nothing claimed is nothing verified, whatever the ledger holds."""
    assert verify((), IN_ITS_BLOCK, NOTHING) == VerifiedHistory(entries=(), unproved=())


@pytest.mark.parametrize(
    ("unproved", "unwitnessed", "is_complete"),
    [((), (), True), ((TXID,), (), False), ((), (TXID,), False), ((TXID,), (TXID,), False)],
)
def test_history_is_complete_when_nothing_of_it_must_be_asked_again(
    unproved: tuple[Txid, ...], unwitnessed: tuple[Txid, ...], is_complete: bool
) -> None:
    """What is to be proved, or to be witnessed, keeps a history from being complete."""
    found = VerifiedHistory(entries=(), unproved=unproved, unwitnessed=unwitnessed)
    assert found.is_complete is is_complete


CLAIMS = st.sampled_from([CLAIMED, CLAIMED_ELSEWHERE, IN_MEMPOOL, BEHIND_A_PARENT])
KNOWNS = st.sampled_from([NEW, GONE, STANDING, IN_ITS_BLOCK])
EVIDENCE = st.builds(
    evidence_of,
    transaction=st.sampled_from([PAYMENT, None]),
    branch=st.sampled_from([BRANCH, OTHER_BRANCH, None]),
    headers=st.dictionaries(st.sampled_from([HEIGHT, HEIGHT + 1]), st.sampled_from([HEADER, OTHER_HEADER])),
    seen_by=st.integers(0, 3),
)


@given(CLAIMS, KNOWNS, EVIDENCE)
@settings(deadline=None, max_examples=100)
def test_nothing_enters_without_a_proof_or_its_witnesses(claim: HistoryEntry, known: Known, evidence: Evidence) -> None:
    """A new place is proved by branch and header, or witnessed; whatever else is claimed is named, and asked again."""
    found = verify((claim,), known, evidence)
    if not found.entries:
        assert known.get(TXID) is None
        assert TXID in (*found.unproved, *found.unwitnessed)
        return
    (entry,) = found.entries
    if entry.place == known.get(TXID):
        return
    assert TXID in known or entry.transaction is PAYMENT
    if isinstance(entry.place, Unconfirmed):
        assert not isinstance(known.get(TXID), Confirmed)
        assert evidence.seen_by == {TXID: entry.place.seen_by}
        return
    assert claim.height == entry.place.height
    header = evidence.headers[entry.place.height]
    assert header.block_hash == entry.place.block_hash
    accept_branch(TXID, evidence.branches[TXID], header)
    assert found.is_complete


@given(CLAIMS, KNOWNS, EVIDENCE)
@settings(deadline=None, max_examples=100)
def test_what_was_asked_for_and_came_completes_the_history(
    claim: HistoryEntry, known: Known, evidence: Evidence
) -> None:
    """A history of which nothing is missing is complete without any evidence: a restart asks nobody."""
    missing = missing_of([claim], known)
    if missing == Missing(transactions=(), branches=(), witnesses=()):
        assert verify((claim,), known, NOTHING).is_complete
    found = verify((claim,), known, evidence)
    if found.is_complete:
        after: Known = {entry.txid: entry.place for entry in found.entries}
        again = verify((claim,), after, NOTHING)
        assert again.is_complete
        assert [entry.place for entry in again.entries] == [entry.place for entry in found.entries]
