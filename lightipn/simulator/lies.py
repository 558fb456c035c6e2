"""How answers are falsified: one small function a lie, one table of which field of ``Behaviour`` makes it tell.

A lie takes the honest answer of one method and returns another, or refuses. Notices are answers pushed, so a lie about
a subscription's answer is told in its notices, too. What a server does to its lines, not to what they say, is in
``session``.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from lightipn.bitcoin.hashes import ScriptHash, hash_from_hex, hex_of, sha256
from lightipn.bitcoin.network import MAINNET
from lightipn.chain.history import status_of
from lightipn.simulator import forge
from lightipn.simulator.request import BAD_REQUEST, Client, Refusal


@dataclass(frozen=True, slots=True)
class Falsified:
    """What a lie is told about: the honest answer to a request."""

    client: Client
    params: list[Any]
    answer: Any


Lie = Callable[[Falsified], Any]


def hide_entries(said: Falsified) -> Any:
    """Leave transactions out of a list."""
    hidden = {hex_of(txid) for txid in said.client.behaviour.hides}
    return [entry for entry in said.answer if entry["tx_hash"] not in hidden]


def hide_from_status(said: Falsified) -> Any:
    """Tell the status of a history that leaves transactions out."""
    history = said.client.chain.history(ScriptHash(hash_from_hex(said.params[0])))
    status = status_of([entry for entry in history if entry.txid not in said.client.behaviour.hides])
    return None if status is None else status.hex()


def empty_list(_said: Falsified) -> Any:
    """Tell that there is nothing."""
    return []


def no_status(_said: Falsified) -> Any:
    """Tell that a script has no history."""
    return None


def unrelated_status(said: Falsified) -> Any:
    """Tell a status that changes when it should and matches nothing."""
    return sha256(repr(said.answer).encode()).hex()


def refuse_history(said: Falsified) -> Any:
    """Refuse all that needs a history that is not empty. A notice cannot refuse: there, the connection ends."""
    if said.answer:
        raise Refusal(BAD_REQUEST, "history too large")
    return said.answer


def inflate_tip(said: Falsified) -> Any:
    """Tell the true header with a height that is too high."""
    return {**said.answer, "height": said.answer["height"] + said.client.behaviour.tip_inflated}


def alter_amount(said: Falsified) -> Any:
    """Serve a transaction that pays more."""
    return forge.with_other_amount(bytes.fromhex(said.answer)).hex()


def bend_branch(said: Falsified) -> Any:
    """Serve a branch whose last sibling is none."""
    siblings = said.answer["merkle"]
    return {**said.answer, "merkle": [*siblings[:-1], sha256(repr(siblings).encode()).hex()]}


def other_genesis_hash(said: Falsified) -> Any:
    """Name another network's genesis."""
    return {**said.answer, "genesis_hash": hex_of(MAINNET.genesis_hash)}


def other_genesis_header(said: Falsified) -> Any:
    """Serve another network's header at height 0."""
    return MAINNET.genesis_header.hex() if said.params == [0] else said.answer


def other_genesis_among_headers(said: Falsified) -> Any:
    """Serve another network's header at height 0 when it is asked for with others."""
    own, other = said.client.chain.header_at(0).hex(), MAINNET.genesis_header.hex()
    if "hex" in said.answer:
        return {**said.answer, "hex": said.answer["hex"].replace(own, other)}
    return {**said.answer, "headers": [other if header == own else header for header in said.answer["headers"]]}


LIES: tuple[tuple[str, str, Lie], ...] = (
    # field of Behaviour, method, lie
    ("hides", "blockchain.scripthash.subscribe", hide_from_status),
    ("hides", "blockchain.scripthash.get_history", hide_entries),
    ("hides", "blockchain.scripthash.get_mempool", hide_entries),
    ("hides", "blockchain.scripthash.listunspent", hide_entries),
    ("status_never_matches", "blockchain.scripthash.subscribe", unrelated_status),
    ("null_status", "blockchain.scripthash.subscribe", no_status),
    ("null_status", "blockchain.scripthash.get_history", empty_list),
    ("history_too_large", "blockchain.scripthash.subscribe", refuse_history),
    ("history_too_large", "blockchain.scripthash.get_history", refuse_history),
    ("tip_inflated", "blockchain.headers.subscribe", inflate_tip),
    ("wrong_amount", "blockchain.transaction.get", alter_amount),
    ("fake_branch", "blockchain.transaction.get_merkle", bend_branch),
    ("wrong_genesis", "server.features", other_genesis_hash),
    ("wrong_genesis", "blockchain.block.header", other_genesis_header),
    ("wrong_genesis", "blockchain.block.headers", other_genesis_among_headers),
)


def lies_of(fields: frozenset[str]) -> dict[str, list[Lie]]:
    """Return, by method, the lies that these fields of a ``Behaviour`` switch on, in the table's order."""
    told: dict[str, list[Lie]] = {}
    for field, method, lie in LIES:
        if field in fields:
            told.setdefault(method, []).append(lie)
    return told


def falsify(lies: list[Lie], said: Falsified) -> Any:
    """Pass an answer through lies, one after the other."""
    for lie in lies:
        said = replace(said, answer=lie(said))
    return said.answer
