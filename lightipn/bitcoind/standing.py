"""How the node stands: connected or not and why not, and what else an operator must know of it."""

import time
from dataclasses import replace

import structlog
import trio

from lightipn.chain.source import Misbehaviour, ServerState

log = structlog.get_logger("bitcoind")


class Standing:
    """The state of the node, for whoever shows it or waits for it; of several reasons the gravest is shown."""

    def __init__(self, name: str) -> None:
        self.state = ServerState(name=name, verdict="connecting")
        self.changed = trio.Event()
        self.down_since = trio.current_time()  # on Trio's clock; of the last time it was not connected
        self._reasons = {"way": "", "contradiction": "", "behind": "", "notices": ""}
        self._evidence: list[Misbehaviour] = []

    @property
    def is_connected(self) -> bool:
        """Whether the node can be asked."""
        return self.state.verdict == "connected"

    # --- being asked ---

    def note(self, **facts: object) -> None:
        """Take note of what the node says of itself: fields of the state that are no verdict."""
        self.state = replace(self.state, **facts)  # type: ignore[arg-type]  # the callers name fields

    def note_progress(self, how_far: str) -> None:
        """Take note of what keeps the node from being of use yet."""
        self._give("way", how_far)

    def note_connected(self) -> None:
        """Take note that the node can be asked."""
        self._give("way", "", verdict="connected")

    def note_lost(self, reason: str) -> bool:
        """Take note that the node cannot be asked; True if it could be until now."""
        was_connected = self.is_connected
        if self._reasons["way"] != reason or was_connected:
            log.warning("bitcoind.node_unavailable", node=self.state.name, reason=reason)
        if was_connected:
            self.down_since = trio.current_time()
        self._give("way", reason, verdict="unavailable")
        return was_connected

    # --- what else there is ---

    def note_behind(self, reason: str) -> None:
        """Take note that the node is behind our own chain; there is no other to take its place."""
        log.warning("bitcoind.node_behind", node=self.state.name, reason=reason)
        self._give("behind", reason)

    def note_tip(self) -> None:
        """Take note that the node has a new tip: it need not be behind any more."""
        self._give("behind", "")

    def note_silent(self, kinds: str) -> None:
        """Take note of which kinds of notice do not come over ZMQ, although they should; empty for none."""
        reason = f"zmq-silent: no notice of {kinds} comes, so it is looked at again and again" if kinds else ""
        if reason and self._reasons["notices"] != reason:
            log.warning("bitcoind.notices_missing", node=self.state.name, kinds=kinds)
        self._give("notices", reason)

    def report(self, found: Misbehaviour) -> None:
        """Keep what contradicts our proofs: one's own node does not lie, so something is wrong with it, or with us."""
        log.error("bitcoind.node_contradicted", kind=found.kind, claim=found.claim, contradiction=found.contradiction)
        self._evidence.append(replace(found, observed_at=int(time.time())))
        self._give("contradiction", found.kind)

    def forgive(self) -> None:
        """Forget what was reported."""
        self._give("contradiction", "")

    def take_evidence(self) -> list[Misbehaviour]:
        """Return what was reported since the last call."""
        taken, self._evidence = self._evidence, []
        return taken

    # --- telling ---

    def tell_changed(self) -> None:
        """Have whoever waits for ``changed`` look."""
        self.changed.set()
        self.changed = trio.Event()

    def _give(self, kind: str, reason: str, *, verdict: str = "") -> None:
        self._reasons[kind] = reason
        shown = next((each for each in self._reasons.values() if each), "")
        before = self.state
        self.state = replace(before, verdict=verdict or before.verdict, reason=shown)
        if (before.verdict, before.reason) != (self.state.verdict, self.state.reason):
            self.tell_changed()
