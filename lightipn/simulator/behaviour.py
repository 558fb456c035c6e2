"""How a simulated server behaves: honestly by default, and otherwise as its fields say."""

from dataclasses import dataclass, fields

from lightipn.bitcoin.hashes import Txid


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """The character of a server. Every field but the first two is a misbehaviour, and off by default.

    Args:
        software: name told by ``server.version``; must not be empty.
        max_protocol: highest protocol version it speaks; the lowest is always 1.4.
        delay_s: time between an answer's making and its sending. Later answers may overtake it, as on a real server.
        batch_limit: a longer batch gets one error object with code 4 and a null id, as from Fulcrum.
        notice_of_scripthash_first: push scripthash notices before the header notice of the same change.
        hides: transactions left out of every history and status.
        wrong_amount: the first output of every raw transaction pays twice what it does.
        fake_branch: merkle branches do not fold to the root.
        tip_inflated: the tip is said to be this many blocks higher.
        status_never_matches: statuses are none of the history that is told.
        huge_line: an answer is 32 MiB without a line's end.
        garbage: an answer is no JSON.
        slow_drip: seconds between every two bytes of an answer.
        wrong_genesis: it serves another network's genesis.
        stalls: it reads, and never answers nor pushes.
        history_too_large: every history and status that is not empty is refused with code 1, and where it had to be
            pushed the connection ends, as with ElectrumX.
        null_status: histories are served as empty and statuses as null while the balance still counts, as by Fulcrum
            above its ``max_history`` (cculianu/Fulcrum#319).
    """

    software: str = "Simulator 1.0"
    max_protocol: str = "1.6"
    delay_s: float = 0.0
    batch_limit: int | None = None
    notice_of_scripthash_first: bool = False
    hides: frozenset[Txid] = frozenset()
    wrong_amount: bool = False
    fake_branch: bool = False
    tip_inflated: int = 0
    status_never_matches: bool = False
    huge_line: bool = False
    garbage: bool = False
    slow_drip: float = 0.0
    wrong_genesis: bool = False
    stalls: bool = False
    history_too_large: bool = False
    null_status: bool = False

    def switched_on(self) -> frozenset[str]:
        """Return the names of the fields that differ from an honest server's."""
        return frozenset(field.name for field in fields(self) if getattr(self, field.name) != field.default)
