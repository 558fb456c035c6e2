"""How the node stands: connected or not and why not, and what contradicted our proofs."""

import time
from dataclasses import replace

import structlog
import trio

from lightipn.chain.source import Misbehaviour, ServerState

log = structlog.get_logger("bitcoind")


class Standing:
    """The state of the node, for whoever shows it or waits for it."""

    def __init__(self, name: str) -> None:
        self.state = ServerState(name=name, verdict="connecting")
        self.changed = trio.Event()
        self.down_since = trio.current_time()  # on Trio's clock; of the last time it was not connected
        self._behind = ""  # the reason while the node is behind our own chain
        self._evidence: list[Misbehaviour] = []

    @property
    def is_connected(self) -> bool:
        """Whether the node can be asked."""
        return self.state.verdict == "connected"

    def note(self, **changes: object) -> None:
        """Take note of some fields of the state."""
        before = self.state
        self.state = replace(before, **changes)  # type: ignore[arg-type]  # the callers name fields
        if (before.verdict, before.reason) != (self.state.verdict, self.state.reason):
            self.tell_changed()

    def note_lost(self, reason: str) -> bool:
        """Take note that the node cannot be asked; True if it could be until now."""
        was_connected = self.is_connected
        if self.state.reason != reason or was_connected:
            log.warning("bitcoind.node_unavailable", node=self.state.name, reason=reason)
        if was_connected:
            self.down_since = trio.current_time()
        self.note(verdict="unavailable", reason=reason)
        return was_connected

    def note_behind(self, reason: str) -> None:
        """Take note that the node is behind our own chain; there is no other to take its place."""
        log.warning("bitcoind.node_behind", node=self.state.name, reason=reason)
        self._behind = reason
        self.note(reason=reason)

    def note_tip(self) -> None:
        """Take note that the node has a new tip: it need not be behind any more."""
        if self._behind and self.state.reason == self._behind:
            self.note(reason="")
        self._behind = ""

    def tell_changed(self) -> None:
        """Have whoever waits for ``changed`` look."""
        self.changed.set()
        self.changed = trio.Event()

    def report(self, found: Misbehaviour) -> None:
        """Keep what contradicts our proofs: one's own node does not lie, so something is wrong with it, or with us."""
        log.error("bitcoind.node_contradicted", kind=found.kind, claim=found.claim, contradiction=found.contradiction)
        self._evidence.append(replace(found, observed_at=int(time.time())))
        self.note(reason=found.kind)

    def take_evidence(self) -> list[Misbehaviour]:
        """Return what was reported since the last call."""
        taken, self._evidence = self._evidence, []
        return taken
