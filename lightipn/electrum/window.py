"""How much one server is asked at a time (sans-IO).

Batches of at most 100 calls and at most 3 under way is what a stock Fulcrum allows (345 batch items an address) and
what keeps an ElectrumX busy. A batch that took long halves the window, and quick ones widen it again; what was refused
is not tried a second time.
"""

MAX_BATCH = 100
MAX_IN_FLIGHT = 3
# Raw transactions and histories are long, branches are slow (a server reads a whole block for one): 25 of them stay
# below the buffers of servers, and are answered before anyone loses patience.
HEAVY_METHODS = frozenset(
    {"blockchain.transaction.get", "blockchain.transaction.get_merkle", "blockchain.scripthash.get_history"}
)
MAX_HEAVY_A_BATCH = 25
SLOW_BATCH_S = 5.0
QUICK_BATCHES_TO_GROW = 20


class Window:
    """The current limits of one session."""

    def __init__(self) -> None:
        self.batch = self._most_batch = MAX_BATCH
        self.in_flight = self._most_in_flight = MAX_IN_FLIGHT
        self._quick = 0

    def answered(self, elapsed_s: float) -> None:
        """Take note of how long a batch took."""
        if elapsed_s > SLOW_BATCH_S:
            self.shrink()
            return
        self._quick += 1
        if self._quick >= QUICK_BATCHES_TO_GROW:
            self._quick = 0
            self.batch = min(self._most_batch, self.batch * 2)
            self.in_flight = min(self._most_in_flight, self.in_flight + 1)

    def refused(self) -> bool:
        """Ask less from now on: the server refused this much. False if it was the least already."""
        if (self.batch, self.in_flight) == (1, 1):
            return False
        self.shrink()
        self._most_batch, self._most_in_flight = self.batch, self.in_flight
        return True

    def shrink(self) -> None:
        """Ask less: first fewer batches at a time, then smaller ones."""
        self._quick = 0
        if self.in_flight > 1:
            self.in_flight -= 1
        else:
            self.batch = max(1, self.batch // 2)
