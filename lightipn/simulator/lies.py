"""Which field of ``Behaviour`` makes which lie tell, of which method: two tables.

A lie about a history falsifies it before anything is told of it; a lie about an answer falsifies that answer. Lies
about the chain are in ``outlook``; what a server does to its lines, not to what they say, is in ``session``.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lightipn.simulator import false_answers, false_histories, false_proofs
from lightipn.simulator.false_answers import Falsified
from lightipn.simulator.request import HistoryLie

Lie = Callable[[Falsified], Any]

# In this order, so that what is left out is not repeated, and what is listed backwards is the whole.
HISTORY_LIES: tuple[tuple[str, HistoryLie], ...] = (
    # field of Behaviour, lie
    ("hides", false_histories.leave_out),
    ("wrong_history_height", false_histories.shift_heights),
    ("height_above_tip", false_histories.lift_above_tip),
    ("duplicate_txid", false_histories.repeat_first),
    ("unsorted_heights", false_histories.turn_around),
)

LIES: tuple[tuple[str, str, Lie], ...] = (
    # field of Behaviour, method, lie
    ("hides", "blockchain.scripthash.listunspent", false_answers.hide_coins),
    ("status_never_matches", "blockchain.scripthash.subscribe", false_answers.unrelated_status),
    ("null_status", "blockchain.scripthash.subscribe", false_answers.no_status),
    ("null_status", "blockchain.scripthash.get_history", false_answers.empty_list),
    ("history_too_large", "blockchain.scripthash.subscribe", false_answers.refuse_history),
    ("history_too_large", "blockchain.scripthash.get_history", false_answers.refuse_history),
    ("max_history", "blockchain.scripthash.subscribe", false_answers.refuse_history),
    ("max_history", "blockchain.scripthash.get_history", false_answers.refuse_history),
    ("tip_inflated", "blockchain.headers.subscribe", false_answers.inflate_tip),
    ("wrong_amount", "blockchain.transaction.get", false_answers.alter_amount),
    ("denies_transactions", "blockchain.transaction.get", false_answers.deny_transaction),
    ("fake_branch", "blockchain.transaction.get_merkle", false_proofs.bend_branch),
    ("duplicate_sibling", "blockchain.transaction.get_merkle", false_proofs.repeat_node),
    ("long_branch", "blockchain.transaction.get_merkle", false_proofs.lengthen_branch),
    ("wrong_position", "blockchain.transaction.get_merkle", false_proofs.move_position),
    ("withholds_proof", "blockchain.transaction.get_merkle", false_proofs.refuse_proof),
    ("withholds_proof", "blockchain.transaction.id_from_pos", false_proofs.refuse_proof),
    ("wrong_genesis", "server.features", false_answers.other_genesis_hash),
    ("wrong_genesis", "blockchain.block.header", false_answers.other_genesis_header),
    ("wrong_genesis", "blockchain.block.headers", false_answers.other_genesis_among_headers),
    ("old_protocol", "server.version", false_answers.older_version),
    ("phishing_text", "server.version", false_answers.phish_in_version),
    ("phishing_text", "server.features", false_answers.phish_in_features),
    ("phishing_text", "server.banner", false_answers.phish_in_text),
)


def lies_of(fields: frozenset[str]) -> dict[str, list[Lie]]:
    """Return, by method, the lies that these fields of a ``Behaviour`` switch on, in the table's order."""
    told: dict[str, list[Lie]] = {}
    for field, method, lie in LIES:
        if field in fields:
            told.setdefault(method, []).append(lie)
    return told


def history_lies_of(fields: frozenset[str]) -> tuple[HistoryLie, ...]:
    """Return the lies about histories that these fields of a ``Behaviour`` switch on, in the table's order."""
    return tuple(lie for field, lie in HISTORY_LIES if field in fields)


def falsify(lies: list[Lie], said: Falsified) -> Any:
    """Pass an answer through lies, one after the other."""
    for lie in lies:
        said = replace(said, answer=lie(said))
    return said.answer
