"""Merkle branches: the proof that a transaction is in a block."""

from collections.abc import Sequence
from hashlib import sha256

from lightipn.bitcoin.hashes import Txid, sha256d
from lightipn.bitcoin.transaction import is_transaction
from lightipn.errors import MerkleBranchError

# A block of 4,000,000 weight units holds at most 16,666 transactions of 60 bytes: 15 levels. 30 leaves room for any
# future rule and still bounds the work (ELECTRUM.md section 5, row 3).
MAX_BRANCH_LEVELS = 30


def merkle_root_of(txid: Txid, branch: Sequence[bytes], position: int) -> bytes:
    """Fold ``branch`` over ``txid`` and return the merkle root it implies.

    The transaction is in the block only if the result equals ``BlockHeader.merkle_root`` of a header already on the
    verified chain. A miner could make a 64-byte transaction whose second half is the txid of a payment that does not
    exist: the tree then seems to go one level deeper (CVE-2017-12842). So no inner node may parse as a transaction.

    Args:
        txid: 32 bytes, internal order.
        branch: siblings from the leaf upwards; 32 bytes each, internal order.
        position: index of the transaction in its block, counted from 0.

    Raises:
        MerkleBranchError: too many levels, a sibling that is not 32 bytes, ``position`` outside a tree of this depth,
            a left sibling that repeats its node (CVE-2012-2459), or an inner node that is a transaction.

    Source:
        Electrum protocol 1.4, ``blockchain.transaction.get_merkle``.
    """
    if len(branch) > MAX_BRANCH_LEVELS:
        raise MerkleBranchError(f"branch has {len(branch)} levels, want at most {MAX_BRANCH_LEVELS}")
    if not 0 <= position < 1 << len(branch):
        raise MerkleBranchError(f"position {position} lies outside a tree of {len(branch)} levels")
    node: bytes = txid
    index = position
    for sibling in branch:
        if len(sibling) != 32:
            raise MerkleBranchError(f"sibling has {len(sibling)} bytes, want 32")
        if index & 1:
            # A block's last node may be paired with itself, but then it is the left one: a left sibling equal to its
            # node shows a leaf that was doubled to appear at a second position.
            if sibling == node:
                raise MerkleBranchError("a left sibling repeats its node")
            inner = sibling + node
        else:
            inner = node + sibling
        if is_transaction(inner):
            raise MerkleBranchError("an inner node of the branch is a transaction")
        node = sha256d(inner)
        index >>= 1
    return node


def merkle_tree_of(txids: Sequence[Txid]) -> list[list[bytes]]:
    """Return all levels of a block's merkle tree, leaves first, root last.

    Args:
        txids: at least one, in block order.
    """
    levels: list[list[bytes]] = [list(txids)]
    while len(levels[-1]) > 1:
        level = levels[-1]
        padded = level if len(level) % 2 == 0 else [*level, level[-1]]
        levels.append([sha256d(padded[i] + padded[i + 1]) for i in range(0, len(padded), 2)])
    return levels


def block_root_of(txids: Sequence[Txid]) -> bytes:
    """Return the root alone, in two thirds of the time that all levels take.

    Args:
        txids: at least one, in block order.

    Raises:
        MerkleBranchError: the end of the list stands twice, which folds to the same root (CVE-2012-2459).
    """
    level: list[bytes] = list(txids)
    while len(level) > 1:
        if len(level) % 2:
            level.append(level[-1])
        elif level[-1] == level[-2]:
            raise MerkleBranchError("the last transactions of the block stand twice")
        lefts = iter(level)
        level = [sha256(sha256(left + right).digest()).digest() for left, right in zip(lefts, lefts, strict=True)]
    return level[0]


def branch_in(levels: Sequence[Sequence[bytes]], position: int) -> tuple[bytes, ...]:
    """Return the siblings that prove the transaction at ``position``, from the leaf upwards.

    Args:
        levels: as ``merkle_tree_of`` made them.
    """
    branch = []
    for level in levels[:-1]:
        sibling = position ^ 1
        branch.append(level[sibling] if sibling < len(level) else level[position])
        position >>= 1
    return tuple(branch)


def merkle_branch_of(txids: Sequence[Txid], position: int) -> tuple[bytes, ...]:
    """Return the branch of one transaction of a block."""
    return branch_in(merkle_tree_of(txids), position)
