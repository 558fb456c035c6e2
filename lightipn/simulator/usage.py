"""What clients use of a server, counted by the address they come from: what limits of real servers are about.

Fulcrum counts connections, subscriptions and batch items by IP. ElectrumX counts costs, by /24 network, over
reconnects, and lets them decay. The model of the latter is small: what a request costs depends on its method alone (and
on how many headers it wants), an error costs more, bytes cost nothing. Beyond the soft limit the answers to a line are
held back for a time that grows with the excess and with the number of requests in it; lines do not wait for each other.
"""

import math
from dataclasses import dataclass, field
from typing import Any

from lightipn.simulator.request import MAX_HEADERS, Client

# ElectrumX (server/session.py) and aiorpcX (session.py); a request that is not listed costs 1.
CONNECTION_COST = 5.0
ERROR_COST = 100.0
COSTS = {
    "server.version": 0.5,
    "server.features": 0.2,
    "server.banner": 0.5,
    "server.donation_address": 0.1,
    "server.ping": 0.1,
    "blockchain.headers.subscribe": 0.25,
    "blockchain.block.header": 0.25,
    "blockchain.scripthash.unsubscribe": 0.1,
    "blockchain.estimatefee": 0.1,
    "mempool.get_fee_histogram": 0.1,
}
HEADERS_PER_COST = 50
DECAY_S = 10_000.0  # the time in which the hard limit decays to nothing
REQUEST_SLEEP_S = 2.5
INITIAL_CONCURRENT = 10

Limits = tuple[float, float]
"""The soft and the hard limit of costs."""


def cost_of(method: str, params: Any) -> float:
    """Return what a request costs, whatever its parameters look like."""
    if method == "blockchain.block.headers" and isinstance(params, list) and len(params) > 1:
        return min(abs(params[1]), MAX_HEADERS) / HEADERS_PER_COST if isinstance(params[1], int) else 1.0
    return COSTS.get(method, 1.0)


@dataclass(slots=True)
class Cost:
    """What the clients of one network have cost lately.

    Args:
        counted_at: seconds on the server's clock, at which ``spent`` was right.
    """

    spent: float = 0.0
    counted_at: float = 0.0

    def charge(self, cost: float, limits: Limits, *, now: float) -> None:
        """Add a cost to what has not decayed yet."""
        decayed = max(now - self.counted_at, 0.0) * limits[1] / DECAY_S
        self.spent = max(self.spent - decayed, 0.0) + cost
        self.counted_at = now

    def is_over(self, limits: Limits) -> bool:
        """Tell whether the hard limit is passed."""
        return self.spent > limits[1]

    def delay_s(self, limits: Limits, requests: int) -> float:
        """Return how long answers to so many requests are held back; 0 up to the soft limit."""
        soft, hard = limits
        excess = min((self.spent - soft) / (hard - soft), 1.0) if hard > soft else 1.0
        if self.spent <= soft or not requests:
            return 0.0
        at_once = max(math.ceil((1 - excess) * INITIAL_CONCURRENT), 1)
        return excess * REQUEST_SLEEP_S * math.ceil(requests / at_once)


@dataclass(slots=True)
class Usage:
    """What one IP address uses of a server.

    Args:
        clients: those that are connected.
        batch_items: in batches whose answers were not sent yet.
        cost: shared with the neighbours.
    """

    clients: list[Client] = field(default_factory=list)
    batch_items: int = 0
    cost: Cost = field(default_factory=Cost)

    @property
    def subscriptions(self) -> int:
        """How many scripthashes are subscribed, over all its connections."""
        return sum(len(client.statuses) for client in self.clients)


class UsageBook:
    """The usage of all addresses that ever came."""

    def __init__(self) -> None:
        self._by_address: dict[str, Usage] = {}
        self._by_network: dict[str, Cost] = {}

    def usage_of(self, address: str) -> Usage:
        """Return the usage of an IP address; an IPv6 address is a network of its own."""
        if address not in self._by_address:
            cost = self._by_network.setdefault(address.rpartition(".")[0] or address, Cost())
            self._by_address[address] = Usage(cost=cost)
        return self._by_address[address]
