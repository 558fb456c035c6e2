"""How a simulated server behaves: honestly by default, and otherwise as its fields say."""

from dataclasses import dataclass, fields

from lightipn.bitcoin.hashes import Txid
from lightipn.simulator.invention import InventedPayment

# What an honest server may have, too. It never makes the status of an untouched script change.
HONEST_FIELDS = frozenset(
    {
        "software",
        "max_protocol",
        "delay_s",
        "notice_of_scripthash_first",
        "batch_limit",
        "max_batch_items",
        "max_clients_per_ip",
        "max_subs_per_ip",
        "max_history",
        "cost_soft_limit",
        "cost_hard_limit",
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Behaviour:
    """The character of a server, its limits, and its lies. All limits and lies are off by default.

    They may be combined. ``stalls`` and ``withholds_notice`` silence whatever would be pushed.

    Args:
        software: name told by ``server.version``; must not be empty.
        max_protocol: highest protocol version it speaks; the lowest is always 1.4, so with less it refuses everybody.
        delay_s: time between an answer's making and its sending. Later answers may overtake it, as on a real server.
        notice_of_scripthash_first: push scripthash notices before the header notice of the same change.

        batch_limit: a longer batch gets one error object with code 4 and a null id, as from Fulcrum.
        max_batch_items: the same, for all batches of an IP whose answers were not sent yet; Fulcrum has 345.
        max_clients_per_ip: further connections of an IP are reset; Fulcrum has 12.
        max_subs_per_ip: further subscriptions of an IP get code 4; Fulcrum has 75,000.
        max_history: a history with more entries is refused, as by ``history_too_large``; with ``null_status`` it is
            served as empty instead, and shorter ones as they are. Fulcrum has 125,000.
        cost_soft_limit, cost_hard_limit: beyond the first, answers are delayed; beyond the second, requests get code
            -101 and the connection ends (``usage`` has the model). ElectrumX has 1,000 and 10,000. Where only one is
            set, the other is ten times, or a tenth, of it.

        hides: transactions left out of every history and status.
        wrong_history_height: blocks by which the height of every confirmed entry is shifted; never below height 1.
        height_above_tip: the first mempool entry of a history is said to be in a block, 5 above the tip.
        duplicate_txid: the first entry of a history is listed twice.
        unsorted_heights: histories are listed backwards: mempool first, then falling heights.
        status_never_matches: statuses are none of the history that is told.
        history_too_large: every history and status that is not empty is refused with code 1, and where it had to be
            pushed the connection ends, as with ElectrumX.
        null_status: histories are served as empty and statuses as null while the balance still counts, as by Fulcrum
            above its ``max_history`` (cculianu/Fulcrum#319).

        invents: payments that nobody made, in histories, statuses, balances and as raw bytes.
        hides_replacement: what was in its mempool stays there though it was replaced or evicted since, and what spends
            the same outputs is unknown, also when it is in a block.
        stale_tip: knows no block above this height. Its mempool stays what it was when the chain went past that
            height; where it was past already, what it was when this behaviour began.
        low_work_chain: where this behaviour began it left the true chain so many blocks below the tip, for blocks of
            its own, one fewer than the true chain has; with 1 it is merely one block behind. Headers, histories and
            proofs are those of the branch, and what only the true chain has confirmed is in the mempool. What
            ``invents`` claims for a block of the branch is in that block, and proved.
        wrong_bits: the tip's header states 256 times the work it should, and carries it.
        unlinked_tip: the tip's header has a predecessor that does not exist.
        tip_inflated: the tip is said to be this many blocks higher; its header is true.
        wrong_genesis: it serves another network's genesis.

        wrong_amount: the first output of every raw transaction pays twice what it does.
        denies_transactions: no transaction is known (code 2).
        withholds_proof: no merkle branch is served (code 1).
        fake_branch: merkle branches do not fold to the root.
        sixty_four_byte_branch: the payments that ``SimulatedChain.mine_ambiguous`` made possible are confirmed, and
            proved by branches through an inner node that is a transaction (CVE-2017-12842). They fold to the root.
        duplicate_sibling: merkle branches have a left sibling that equals its node (CVE-2012-2459). For the last
            transaction of a block with an odd number of them they fold to the root, at a position that is none.
        long_branch: merkle branches have 40 siblings.
        wrong_position: positions lie outside the tree; who looks at their low bits alone gets to the root.

        withholds_notice: nothing is pushed, and every question is answered truthfully.
        header_flood: a subscriber to headers is pushed 1,000 more at each ``publish``, each a new rival of the tip.
        notice_flood: a subscriber to scripthashes is pushed 1,000 statuses at each ``publish``, all new, none true.
        old_protocol: ``server.version`` answers 1.2 whatever was asked for.
        phishing_text: errors, the banner and the name of the software carry a link and terminal escape sequences.
        huge_line: an answer is 32 MiB without a line's end.
        garbage: an answer is no JSON.
        slow_drip: seconds between every two bytes of an answer.
        stalls: it reads, and never answers nor pushes.
    """

    software: str = "Simulator 1.0"
    max_protocol: str = "1.6"
    delay_s: float = 0.0
    notice_of_scripthash_first: bool = False
    # limits, which honest servers have, too
    batch_limit: int | None = None
    max_batch_items: int | None = None
    max_clients_per_ip: int | None = None
    max_subs_per_ip: int | None = None
    max_history: int | None = None
    cost_soft_limit: float | None = None
    cost_hard_limit: float | None = None
    # histories
    hides: frozenset[Txid] = frozenset()
    wrong_history_height: int = 0
    height_above_tip: bool = False
    duplicate_txid: bool = False
    unsorted_heights: bool = False
    status_never_matches: bool = False
    history_too_large: bool = False
    null_status: bool = False
    # the chain
    invents: tuple[InventedPayment, ...] = ()
    hides_replacement: bool = False
    stale_tip: int | None = None
    low_work_chain: int = 0
    wrong_bits: bool = False
    unlinked_tip: bool = False
    tip_inflated: int = 0
    wrong_genesis: bool = False
    # transactions and proofs
    wrong_amount: bool = False
    denies_transactions: bool = False
    withholds_proof: bool = False
    fake_branch: bool = False
    sixty_four_byte_branch: bool = False
    duplicate_sibling: bool = False
    long_branch: bool = False
    wrong_position: bool = False
    # lines and connections
    withholds_notice: bool = False
    header_flood: bool = False
    notice_flood: bool = False
    old_protocol: bool = False
    phishing_text: bool = False
    huge_line: bool = False
    garbage: bool = False
    slow_drip: float = 0.0
    stalls: bool = False

    def switched_on(self) -> frozenset[str]:
        """Return the names of the fields that differ from their defaults."""
        return frozenset(field.name for field in fields(self) if getattr(self, field.name) != field.default)

    @property
    def is_honest(self) -> bool:
        """Whether no lie is switched on; limits are none."""
        return self.switched_on() <= HONEST_FIELDS

    @property
    def cost_limits(self) -> tuple[float, float] | None:
        """The soft and the hard limit of costs; None where costs are not counted."""
        soft, hard = self.cost_soft_limit, self.cost_hard_limit
        if soft is None:
            return None if hard is None else (hard / 10, hard)
        return soft, 10 * soft if hard is None else hard
