"""What one server takes for the chain: the truth, or a copy of it that its lies have altered.

The copy is made anew from the truth whenever that has changed and somebody asks. What it must remember (where it left
the true chain, what its mempool held) is all the state there is; a server that nobody asked has seen nothing.
"""

from lightipn.bitcoin.network import REGTEST
from lightipn.bitcoin.transaction import Transaction
from lightipn.simulator.altered import HEAVY_BITS, AlteredChain
from lightipn.simulator.behaviour import Behaviour
from lightipn.simulator.blocks import SimulatedChain

ALTERING_FIELDS = frozenset(
    {
        "invents",
        "hides_replacement",
        "stale_tip",
        "low_work_chain",
        "wrong_bits",
        "unlinked_tip",
        "sixty_four_byte_branch",
    }
)


class Outlook:
    """A server's view of the chain."""

    def __init__(self, truth: SimulatedChain, behaviour: Behaviour) -> None:
        self.truth = truth
        self._behaviour = Behaviour()
        self._copy: AlteredChain | None = None
        self._copied_version = 0
        self._is_true = True
        self._fork_height: int | None = None
        self._seen: tuple[Transaction, ...] = ()  # the mempool it showed last
        self._frozen: tuple[Transaction, ...] | None = None  # the mempool of a server that has stopped
        self.behave(behaviour)

    def behave(self, behaviour: Behaviour) -> None:
        """Behave like this from now on; the present state of the chain is seen at once."""
        before, self._behaviour = self._behaviour, behaviour
        if before == behaviour:
            return
        self._is_true = not behaviour.switched_on() & ALTERING_FIELDS
        self._copy = None
        if before.low_work_chain != behaviour.low_work_chain:
            depth = behaviour.low_work_chain
            self._fork_height = max(self.truth.tip_height - depth, 0) if depth else None
        if before.stale_tip != behaviour.stale_tip:
            self._frozen = None
        if not behaviour.hides_replacement:
            self._seen = ()
        self.chain()

    def chain(self) -> SimulatedChain:
        """Return the chain as this server sees it now."""
        if self._is_true:
            return self.truth
        if self._copy is None or self._copied_version != self.truth.version:
            self._copy, self._copied_version = self._altered(), self.truth.version
        return self._copy

    def _altered(self) -> AlteredChain:
        behaviour = self._behaviour
        payments = tuple(dict.fromkeys(behaviour.invents))
        chain = AlteredChain(self.truth)
        if self._fork_height is not None:
            chain.fork(self._fork_height, payments)
        if behaviour.hides_replacement:
            chain.keep(self._seen)
            self._seen = chain.unconfirmed()
        if behaviour.stale_tip is not None:
            if self._frozen is None or chain.tip_height <= behaviour.stale_tip:
                self._frozen = chain.unconfirmed()
            if chain.tip_height > behaviour.stale_tip:
                chain.cut(max(behaviour.stale_tip, 0), self._frozen)
        if behaviour.sixty_four_byte_branch:
            chain.believe_ambiguous()
        chain.invent(payments)
        if behaviour.wrong_bits or behaviour.unlinked_tip:
            bits = HEAVY_BITS if behaviour.wrong_bits else REGTEST.pow_limit_bits
            chain.spoil_tip(bits=bits, is_linked=not behaviour.unlinked_tip)
        return chain
