"""Which server is used, and when another one is tried.

Configured servers are tried in turn. Of the built-in list, those that worked before come first; when none is known,
eight random ones race, and the first that greets well is kept. A server that fails is tried again with growing,
jittered pauses; one that misbehaved rests much longer, unless it is the only one there is.
The only retry loop of this room.
"""

import math
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

import structlog
import trio

from lightipn.bitcoin.network import Network
from lightipn.chain.source import ServerState
from lightipn.electrum.address import ServerAddress
from lightipn.electrum.connection import TlsContexts
from lightipn.electrum.session import Session, open_session
from lightipn.errors import SourceError, SourceMisbehavedError, SourceRefusedError

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
MISBEHAVED_PAUSE_S = 600.0
PAUSE_PER_FAILURE_S = 0.1
LONGEST_COMMON_PAUSE_S = 10.0
RACERS = 8
RACE_TIMEOUT_S = 20.0
# A session that lived this long was a success: the next pause starts small again.
STABLE_SESSION_S = 60.0

log = structlog.get_logger("electrum")


@dataclass(slots=True)
class _Candidate:
    address: ServerAddress
    state: ServerState
    failures: int = 0
    next_try_at: float = 0.0
    session: Session | None = field(default=None, repr=False)


class ServerPool:
    """The servers that may be used, and how each fares.

    Args:
        addresses: in order of preference.
        lowest_tip: a server below this height has not caught up.
        is_builtin: the addresses come with the program, so some are expected to be dead: they race.
    """

    def __init__(
        self,
        addresses: Sequence[ServerAddress],
        network: Network,
        *,
        lowest_tip: int = 0,
        is_builtin: bool = False,
        remembered: Sequence[str] = (),
        chance: random.Random | None = None,
    ) -> None:
        self._network = network
        self._lowest_tip = lowest_tip
        self._chance = chance or random.Random()
        self._contexts = TlsContexts()
        rank = {name: place for place, name in enumerate(remembered)}
        ordered = list(addresses)
        if is_builtin:
            self._chance.shuffle(ordered)
            ordered.sort(key=lambda address: rank.get(address.name, len(rank)))
        self._must_race = is_builtin and not any(address.name in rank for address in ordered)
        self._candidates = [
            _Candidate(address, ServerState(name=address.name, verdict="unavailable", reason="not-tried"))
            for address in ordered
        ]
        self._failures_in_a_row = 0
        self.changed = trio.Event()

    def states(self) -> list[ServerState]:
        """Return the state of every server that was tried."""
        return [self._live_state(candidate) for candidate in self._candidates if candidate.state.reason != "not-tried"]

    def _live_state(self, candidate: _Candidate) -> ServerState:
        session = candidate.session
        if session is None:
            return candidate.state
        return replace(
            candidate.state,
            software=session.version.software,
            protocol=session.version.protocol,
            tip_height=session.tip_height,
            latency_ms=session.latency_ms,
        )

    def _set(self, candidate: _Candidate, verdict: str, reason: str = "") -> None:
        candidate.state = replace(self._live_state(candidate), verdict=verdict, reason=reason)
        self.tell_changed()

    def tell_changed(self) -> None:
        """Wake those who wait for news of the servers."""
        self.changed.set()
        self.changed = trio.Event()

    def report(self, name: str, misbehaviour: str) -> None:
        """End the session with a server that was caught."""
        for candidate in self._candidates:
            if candidate.address.name == name and candidate.session is not None:
                candidate.session.fail(SourceMisbehavedError(misbehaviour))

    async def run(self, serve: Callable[[Session], Awaitable[None]]) -> None:
        """Keep one session open for ever; ``serve`` uses it until it fails."""
        if self._must_race:
            await self._race()
        if not self._candidates:
            await trio.sleep_forever()
        while True:
            candidate = min(self._candidates, key=lambda c: c.next_try_at)
            await trio.sleep_until(max(0.0, candidate.next_try_at))
            # A network that is down fails all servers at once: slow down over the whole list as well.
            await trio.sleep(min(self._failures_in_a_row * PAUSE_PER_FAILURE_S, LONGEST_COMMON_PAUSE_S))
            await self._use(candidate, serve)

    async def _use(self, candidate: _Candidate, serve: Callable[[Session], Awaitable[None]]) -> None:
        self._set(candidate, "connecting")
        started = trio.current_time()
        try:
            async with open_session(
                candidate.address, self._network, self._contexts, lowest_tip=self._lowest_tip
            ) as session:
                candidate.session = session
                self._failures_in_a_row = 0
                self._set(candidate, "connected")
                log.info(
                    "electrum.session_opened",
                    server=session.name,
                    software=session.version.software,
                    protocol=session.version.protocol,
                    tip_height=session.tip_height,
                )
                await serve(session)
        except SourceError as error:
            self._note_failure(candidate, error, lasted_s=trio.current_time() - started)
        finally:
            candidate.session = None

    def _note_failure(self, candidate: _Candidate, error: SourceError, *, lasted_s: float) -> None:
        verdict = "unavailable"
        if isinstance(error, SourceMisbehavedError):
            verdict = "misbehaved"
        elif isinstance(error, SourceRefusedError):
            verdict = "refused"
        self._set(candidate, verdict, str(error))
        self._failures_in_a_row += 1
        candidate.failures = 1 if lasted_s > STABLE_SESSION_S else candidate.failures + 1
        pause_s = min(FIRST_PAUSE_S * 2.0 ** (candidate.failures - 1), LONGEST_PAUSE_S)
        if verdict == "misbehaved":
            pause_s = MISBEHAVED_PAUSE_S if len(self._candidates) > 1 else LONGEST_PAUSE_S
        pause_s *= 0.75 + self._chance.random() / 2
        candidate.next_try_at = trio.current_time() + pause_s
        log.warning(
            "electrum.session_closed",
            server=candidate.address.name,
            verdict=verdict,
            reason=str(error),
            lasted_s=round(lasted_s, 1),
            next_try_s=round(pause_s, 1),
        )

    async def _race(self) -> None:
        """Try several at once; the first that greets well goes to the front, those that failed to the back."""
        racers = self._candidates[:RACERS]
        with trio.move_on_after(RACE_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                for candidate in racers:
                    nursery.start_soon(self._run_race, candidate, nursery.cancel_scope)

    async def _run_race(self, candidate: _Candidate, finish: trio.CancelScope) -> None:
        try:
            async with open_session(candidate.address, self._network, self._contexts, lowest_tip=self._lowest_tip):
                candidate.next_try_at = -math.inf
                finish.cancel()
        except SourceError as error:
            self._note_failure(candidate, error, lasted_s=0.0)
