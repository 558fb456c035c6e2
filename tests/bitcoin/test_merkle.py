"""Merkle branches."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lightipn.bitcoin.hashes import Txid, hash_from_hex, hex_of
from lightipn.bitcoin.merkle import (
    MAX_BRANCH_LEVELS,
    block_root_of,
    branch_in,
    merkle_branch_of,
    merkle_root_of,
    merkle_tree_of,
)
from lightipn.bitcoin.transaction import is_transaction
from lightipn.errors import MerkleBranchError
from tests.bitcoin.blocks import naive_root
from tests.builders import double_sha256, load_vectors, txid_of


@pytest.mark.parametrize("row", load_vectors("merkle_roots")["rows"], ids=lambda row: str(row["height"]))
def test_roots_of_real_blocks_come_out(row: Any) -> None:
    """The tree over a real block's txids ends in the root that its header states, and so does every branch."""
    txids = [Txid(hash_from_hex(text)) for text in row["txids"]]
    assert hex_of(merkle_tree_of(txids)[-1][0]) == row["merkle_root"]
    for position, txid in enumerate(txids):
        root = merkle_root_of(txid, merkle_branch_of(txids, position), position)
        assert hex_of(root) == row["merkle_root"]


@given(st.integers(1, 40))
@settings(deadline=None, max_examples=40)
def test_every_leaf_is_proved_by_its_branch_and_by_no_other_position(count: int) -> None:
    """In a block of any size, each transaction's branch leads to the root from its own position only."""
    txids = [txid_of(number) for number in range(count)]
    levels = merkle_tree_of(txids)
    root = levels[-1][0]
    for position, txid in enumerate(txids):
        branch = merkle_branch_of(txids, position)
        assert len(branch) == len(levels) - 1
        assert merkle_root_of(txid, branch, position) == root
        if branch and branch[0] != txid:
            assert merkle_root_of(txid, branch, position ^ 1) != root
        assert merkle_root_of(txid_of(-1), branch, position) != root


def test_single_transaction_is_its_own_root() -> None:
    """In a block of one transaction the branch is empty and the txid is the root."""
    assert merkle_branch_of([txid_of(1)], 0) == ()
    assert merkle_root_of(txid_of(1), (), 0) == txid_of(1)


def test_two_transactions_hash_together_in_block_order() -> None:
    """The root of two transactions is the double hash of both txids, the first one on the left."""
    first, second = txid_of(1), txid_of(2)
    root = double_sha256(first + second)
    assert merkle_root_of(first, [second], 0) == root
    assert merkle_root_of(second, [first], 1) == root


def test_odd_last_node_may_be_paired_with_itself() -> None:
    """The last transaction of an odd number proves itself with its own hash as right sibling."""
    first, second, third = (txid_of(number) for number in (1, 2, 3))
    root = double_sha256(double_sha256(first + second) + double_sha256(third + third))
    branch = merkle_branch_of([first, second, third], 2)
    assert branch == (third, double_sha256(first + second))
    assert merkle_root_of(third, branch, 2) == root


def test_left_sibling_that_repeats_its_node_is_refused() -> None:
    """A transaction cannot be proved at a second position by doubling it.

    A block of three transactions has the root of one with four, the last one doubled (CVE-2012-2459). Were position 3
    accepted there, one payment could be shown twice. Consensus pads on the right only: the copy that is padded has
    itself as its *right* sibling, and a node with itself as its *left* sibling cannot exist.
    """
    txids = [txid_of(number) for number in (1, 2, 3)]
    branch = merkle_branch_of(txids, 2)
    assert merkle_root_of(txids[2], branch, 2) == merkle_tree_of([*txids, txids[2]])[-1][0]
    with pytest.raises(MerkleBranchError, match="a left sibling repeats its node"):
        merkle_root_of(txids[2], branch, 3)


def test_doubled_inner_node_is_refused() -> None:
    """Doubling a pair instead of a leaf is refused as well: the repetition shows one level higher."""
    txids = [txid_of(number) for number in range(6)]
    branch = merkle_branch_of(txids, 4)
    assert merkle_root_of(txids[4], branch, 4) == merkle_tree_of(txids)[-1][0]
    with pytest.raises(MerkleBranchError, match="a left sibling repeats its node"):
        merkle_root_of(txids[4], branch, 6)


@pytest.mark.parametrize("size_bytes", [0, 31, 33, 64])
@pytest.mark.parametrize("level", [0, 1, 2])
def test_sibling_of_another_length_is_refused(level: int, size_bytes: int) -> None:
    """A sibling is 32 bytes long, at every level."""
    branch = [bytes([number]) * 32 for number in range(1, 4)]
    branch[level] = bytes(size_bytes)
    with pytest.raises(MerkleBranchError, match=f"sibling has {size_bytes} bytes, want 32"):
        merkle_root_of(txid_of(1), branch, 5)


@pytest.mark.parametrize(("levels", "position"), [(0, 1), (0, -1), (1, 2), (3, 8), (3, -1), (3, -8), (5, 1 << 40)])
def test_position_outside_the_tree_is_refused(levels: int, position: int) -> None:
    """A position that a tree of this depth does not have is refused, and so is a negative one."""
    branch = [bytes([number]) * 32 for number in range(1, levels + 1)]
    with pytest.raises(MerkleBranchError, match=f"position {position} lies outside a tree of {levels} levels"):
        merkle_root_of(txid_of(1), branch, position)


def test_branch_that_is_too_long_is_refused_before_any_work() -> None:
    """Thirty levels are folded; one more is refused, whatever the siblings are."""
    branch = [bytes([number]) * 32 for number in range(MAX_BRANCH_LEVELS)]
    assert MAX_BRANCH_LEVELS == 30
    assert len(merkle_root_of(txid_of(1), branch, 0)) == 32
    with pytest.raises(MerkleBranchError, match="branch has 31 levels, want at most 30"):
        merkle_root_of(txid_of(1), [*branch, b""], 0)


@given(st.integers(2, 40), st.data())
@settings(deadline=None)
def test_branch_with_one_flipped_bit_proves_nothing(count: int, data: st.DataObject) -> None:
    """Changing any bit of any sibling leads to another root, or to a refusal."""
    txids = [txid_of(number) for number in range(count)]
    position = data.draw(st.integers(0, count - 1))
    branch = list(merkle_branch_of(txids, position))
    level, bit = data.draw(st.integers(0, len(branch) - 1)), data.draw(st.integers(0, 255))
    flipped = int.from_bytes(branch[level], "little") ^ 1 << bit
    branch[level] = flipped.to_bytes(32, "little")
    assert merkle_root_of(txids[position], branch, position) != merkle_tree_of(txids)[-1][0]


def test_inner_node_that_is_a_transaction_is_refused() -> None:
    """A branch through an inner node that parses as a transaction is refused.

    A miner may put a real 64-byte transaction into a block whose second half is the txid of a payment that does not
    exist. The block's own tree hashes those 64 bytes as a leaf; a lying server adds a level and presents the halves as
    two leaves, and the fold ends in the block's true root (CVE-2017-12842).
    """
    ghost_txid = Txid(double_sha256(b"a payment that never was"))
    head = (1).to_bytes(4, "little") + b"\x01" + bytes(27)  # version, one input, most of its outpoint
    # The outpoint ends inside the ghost's txid: choose bytes so that all 64 parse (empty input script, one output).
    tail = bytearray(ghost_txid)
    tail[9] = 0  # length of the input script
    tail[14] = 1  # one output
    tail[15:23] = (1000).to_bytes(8, "little")
    tail[23] = 4  # length of the output script
    ghost_txid = Txid(bytes(tail))
    assert is_transaction(head + ghost_txid)

    with pytest.raises(MerkleBranchError, match="inner node of the branch is a transaction"):
        merkle_root_of(ghost_txid, [head], 1)


# --- trees of whole blocks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", load_vectors("merkle_roots")["rows"], ids=lambda row: str(row["height"]))
def test_root_of_a_real_block_comes_out_without_its_tree(row: Any) -> None:
    """The root alone of a real block's txids is the one that its header states."""
    assert hex_of(block_root_of([Txid(hash_from_hex(text)) for text in row["txids"]])) == row["merkle_root"]


@given(st.integers(1, 70))
@settings(deadline=None, max_examples=70)
@pytest.mark.slow
def test_root_tree_and_branches_agree_for_any_number_of_transactions(count: int) -> None:
    """Root, tree and branches are three views of the same tree, and none of them changes the list it was given."""
    txids = [txid_of(number) for number in range(count)]
    levels = merkle_tree_of(txids)
    assert levels[0] == txids
    assert [len(level) for level in levels[1:]] == [(len(level) + 1) // 2 for level in levels[:-1]]
    assert levels[-1] == [naive_root(txids)] == [block_root_of(txids)]
    copies = [list(level) for level in levels]
    for position, txid in enumerate(txids):
        branch = branch_in(levels, position)
        assert branch == merkle_branch_of(txids, position)
        assert merkle_root_of(txid, branch, position) == levels[-1][0]
    assert levels == copies
    assert txids == [txid_of(number) for number in range(count)]


def test_tree_of_one_transaction_has_one_level() -> None:
    """A block of a coinbase alone has its txid as root, and an empty branch."""
    assert merkle_tree_of([txid_of(1)]) == [[txid_of(1)]]
    assert branch_in([[txid_of(1)]], 0) == ()
    assert block_root_of([txid_of(1)]) == txid_of(1)


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 7, 9, 11, 12, 13, 20, 31, 33, 48])
def test_every_list_with_the_same_root_has_its_end_twice_and_is_refused(count: int) -> None:
    """Wherever a level of the tree has an odd number of nodes, what is below its last one may be repeated: refused.

    The tree pads such a level with its last node, so the longer list folds to the same root (CVE-2012-2459).
    """
    txids = [txid_of(number) for number in range(count)]
    root = block_root_of(txids)
    below = 1  # how many leaves are below a node of this level
    while len(txids) > below:
        if len(txids) // below % 2:
            txids = [*txids, *txids[-below:]]
            assert naive_root(txids) == root
            with pytest.raises(MerkleBranchError, match="stand twice"):
                block_root_of(txids)
        below *= 2
    assert (len(txids) == count) == (count & (count - 1) == 0)
