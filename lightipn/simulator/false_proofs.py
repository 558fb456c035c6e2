"""How merkle branches are falsified. Each of these is a pair of siblings and position that no honest server sends."""

from typing import Any

from lightipn.bitcoin.hashes import hash_from_hex, hex_of, sha256, sha256d
from lightipn.simulator.false_answers import Falsified
from lightipn.simulator.request import BAD_REQUEST, Refusal

LONG_BRANCH_LEVELS = 40  # a tree of 2 ** 40 leaves


def bend_branch(said: Falsified) -> Any:
    """Serve a branch whose last sibling is none."""
    siblings = said.answer["merkle"]
    return {**said.answer, "merkle": [*siblings[:-1], sha256(repr(siblings).encode()).hex()]}


def lengthen_branch(said: Falsified) -> Any:
    """Serve a branch that is longer than any tree is high."""
    siblings = said.answer["merkle"]
    more = [sha256(bytes([level])).hex() for level in range(len(siblings), LONG_BRANCH_LEVELS)]
    return {**said.answer, "merkle": [*siblings, *more]}


def move_position(said: Falsified) -> Any:
    """Tell a position outside the tree, with the same low bits."""
    return {**said.answer, "pos": said.answer["pos"] + (1 << len(said.answer["merkle"]))}


def repeat_node(said: Falsified) -> Any:
    """Serve a branch with a left sibling that equals its node.

    Where a node was paired with itself, for want of another at its level's end, the branch stays as it is and the node
    goes to the right. Elsewhere the leaf is paired with itself, and nothing folds to the root.
    """
    siblings, position = said.answer["merkle"], said.answer["pos"]
    node = hash_from_hex(said.params[0])
    for level, sibling in enumerate(map(hash_from_hex, siblings)):
        if sibling == node:
            return {**said.answer, "pos": position | 1 << level}
        node = sha256d(sibling + node if position >> level & 1 else node + sibling)
    leaf = hex_of(hash_from_hex(said.params[0]))
    return {**said.answer, "merkle": [leaf, *siblings[1:]], "pos": position | 1}


def refuse_proof(said: Falsified) -> Any:
    """Serve no branch."""
    if isinstance(said.answer, dict):  # the txid at a position, asked for without its proof, is a text
        raise Refusal(BAD_REQUEST, "the proof is not available")
    return said.answer
