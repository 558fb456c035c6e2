"""How answers are falsified: one small function a lie. Which field makes which of them tell is in ``lies``.

A lie takes the honest answer of one method and returns another, or refuses. Notices are answers pushed, so a lie about
a subscription's answer is told in its notices, too.
"""

from dataclasses import dataclass
from typing import Any

from lightipn.bitcoin.hashes import ScriptHash, hash_from_hex, hex_of, sha256
from lightipn.bitcoin.network import MAINNET
from lightipn.bitcoin.transaction import AMBIGUOUS_BYTES
from lightipn.simulator import forge
from lightipn.simulator.request import BAD_REQUEST, DAEMON_ERROR, Client, Refusal

# A window's title, a bell, a cleared screen, red, a text that runs backwards and a second line: what a terminal obeys.
PHISHING = "\x1b]0;update\x07\x1b[2J\x1b[31mYour wallet is outdated, visit http://evil.example\u202e now\r\nOK\x1b[0m"
OLD_PROTOCOL = "1.2"


@dataclass(frozen=True, slots=True)
class Falsified:
    """What a lie is told about: the honest answer to a request."""

    client: Client
    params: list[Any]
    answer: Any


# histories and statuses


def _is_too_long(said: Falsified) -> bool:
    history = said.client.history(ScriptHash(hash_from_hex(said.params[0])))
    return len(history) > (said.client.behaviour.max_history or 0)


def hide_coins(said: Falsified) -> Any:
    """Leave the outputs of hidden transactions out of a list."""
    hidden = {hex_of(txid) for txid in said.client.behaviour.hides}
    return [coin for coin in said.answer if coin["tx_hash"] not in hidden]


def empty_list(said: Falsified) -> Any:
    """Tell that there is nothing."""
    return [] if _is_too_long(said) else said.answer


def no_status(said: Falsified) -> Any:
    """Tell that a script has no history."""
    return None if _is_too_long(said) else said.answer


def unrelated_status(said: Falsified) -> Any:
    """Tell a status that changes when it should and matches nothing."""
    return sha256(repr(said.answer).encode()).hex()


def refuse_history(said: Falsified) -> Any:
    """Refuse all that needs a history that is too long. A notice cannot refuse: there, the connection ends."""
    if said.answer and _is_too_long(said):
        raise Refusal(BAD_REQUEST, "history too large")
    return said.answer


# headers and transactions


def inflate_tip(said: Falsified) -> Any:
    """Tell the true header with a height that is too high."""
    return {**said.answer, "height": said.answer["height"] + said.client.behaviour.tip_inflated}


def alter_amount(said: Falsified) -> Any:
    """Serve a transaction that pays more; one of 64 bytes, which nobody believes anyway, as it is."""
    raw = bytes.fromhex(said.answer)
    return said.answer if len(raw) == AMBIGUOUS_BYTES else forge.with_other_amount(raw).hex()


def deny_transaction(_said: Falsified) -> Any:
    """Deny that a transaction is known, in the words for one that is not."""
    raise Refusal(DAEMON_ERROR, "daemon error: no such mempool or blockchain transaction")


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


# what the server says of itself


def older_version(said: Falsified) -> Any:
    """Tell a protocol version that nobody asked for."""
    return [said.answer[0], OLD_PROTOCOL]


def phish_in_version(said: Falsified) -> Any:
    """Tell a name of the software that is more than a name."""
    return [f"{said.answer[0]} {PHISHING}", said.answer[1]]


def phish_in_features(said: Falsified) -> Any:
    """Tell a name of the software that is more than a name."""
    return {**said.answer, "server_version": f"{said.answer['server_version']} {PHISHING}"}


def phish_in_text(said: Falsified) -> Any:
    """Tell a text that wants something of its reader."""
    return f"{said.answer} {PHISHING}"
