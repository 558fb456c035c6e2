"""Which servers are used, and when others are tried.

A few slots, each with one session at a time. Configured servers are taken in their order; each counts as independent.
Of the built-in list those that worked before come first, eight random ones race where none is known, and no two in use
may belong to one domain or one network. A server that fails is tried again with growing, jittered pauses; one that lags
rests longer; one that lied is banned, and one whose certificate changed is not used until the operator says so.
The only retry loop of this room.
"""

import math
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace

import structlog
import trio

from lightipn.bitcoin.network import Network
from lightipn.chain.source import Misbehaviour, ServerState
from lightipn.electrum.address import ServerAddress
from lightipn.electrum.connection import Connector, Identity
from lightipn.electrum.session import Session, open_session
from lightipn.errors import (
    HistoryError,
    ProtocolError,
    SourceDistrustedError,
    SourceError,
    SourceMisbehavedError,
    SourceRefusedError,
    SourceUnavailableError,
)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 60.0
BEHIND_PAUSE_S = 300.0
MISBEHAVED_PAUSE_S = 600.0
PAUSE_PER_FAILURE_S = 0.1
LONGEST_COMMON_PAUSE_S = 10.0
RACERS = 8
RACE_TIMEOUT_S = 20.0
# A session that lived this long was a success: the next pause starts small again.
STABLE_SESSION_S = 60.0
LONELY_PAUSE_S = 10.0
# After all were gone, the first one back waits so long for the others before its word alone is enough.
REUNION_S = 20.0
EVIDENCE_BYTES = 4096

log = structlog.get_logger("electrum")


class _BehindError(SourceUnavailableError):
    """The server is of no use now; it may be later."""


@dataclass(slots=True)
class _Candidate:
    address: ServerAddress
    state: ServerState
    failures: int = 0
    next_try_at: float = 0.0
    is_taken: bool = False
    session: Session | None = field(default=None, repr=False)

    @property
    def identity(self) -> Identity:
        return Identity(self.state.fingerprint, self.state.is_ca_signed)


class ServerPool:
    """The servers that may be used, and how each fares.

    Args:
        addresses: in order of preference.
        connections: so many are used at a time, if there are so many.
        lowest_tip: a server below this height has not caught up.
        is_builtin: the addresses come with the program, so some are expected to be dead: they race.
        remembered: names of servers that worked before, the best first.
        known: what was known of servers when the service last ran.
        clock: unix seconds; bans outlive the process.
    """

    def __init__(
        self,
        addresses: Sequence[ServerAddress],
        network: Network,
        *,
        connector: Connector,
        connections: int,
        ban_s: float,
        clock: Callable[[], float],
        lowest_tip: int = 0,
        is_builtin: bool = False,
        remembered: Sequence[str] = (),
        known: Mapping[str, ServerState] | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self._network = network
        self._lowest_tip = lowest_tip
        self._is_builtin = is_builtin
        self._chance = chance or random.Random()
        self._connector = connector
        self._ban_s = ban_s
        self._clock = clock
        rank = {name: place for place, name in enumerate(remembered)}
        ordered = list({address.name: address for address in addresses}.values())
        if is_builtin:
            self._chance.shuffle(ordered)
            ordered.sort(key=lambda address: rank.get(address.name, len(rank)))
        self._connections = min(connections, len(ordered))
        self._must_race = is_builtin and not any(address.name in rank for address in ordered)
        self._candidates = [_candidate_of(address, (known or {}).get(address.name)) for address in ordered]
        self._failures_in_a_row = 0
        self._evidence: list[Misbehaviour] = []
        self._has_begun = False
        self._was_connected = False
        self._reunited_at = -math.inf
        self.changed = trio.Event()

    # --- what others see ---

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

    def voices(self) -> int:
        """Return how many servers are connected, or may be within moments."""
        if not self._has_begun:
            return self._connections
        is_reunion = trio.current_time() - self._reunited_at < REUNION_S
        hopeful = sum(
            candidate.session is not None or self._is_hopeful(candidate, even_if_late=is_reunion)
            for candidate in self._candidates
        )
        return min(self._connections, hopeful)

    def _is_hopeful(self, candidate: _Candidate, *, even_if_late: bool) -> bool:
        """Tell whether a server failed at most once, so that its next try may well succeed."""
        was_tried = candidate.is_taken or candidate.state.reason != "not-tried"
        is_excluded = self._is_banned(candidate) or candidate.state.verdict in ("distrusted", "behind", "misbehaved")
        return was_tried and (candidate.failures <= 1 or even_if_late) and not is_excluded

    def _is_banned(self, candidate: _Candidate) -> bool:
        # With one server there is nobody else; all that can be proved is proved anyway.
        return candidate.state.banned_until > self._clock() and len(self._candidates) > 1

    def take_evidence(self) -> list[Misbehaviour]:
        """Return what servers were caught with since the last call; ``changed`` tells when there is some."""
        taken, self._evidence = self._evidence, []
        return taken

    def _set(self, candidate: _Candidate, verdict: str, reason: str = "") -> None:
        candidate.state = replace(self._live_state(candidate), verdict=verdict, reason=reason)
        self.tell_changed()

    def tell_changed(self) -> None:
        """Wake those who wait for news of the servers."""
        self.changed.set()
        self.changed = trio.Event()

    # --- verdicts ---

    def report(self, found: Misbehaviour) -> None:
        """Ban a server that lied, end its session, and keep the evidence."""
        self._evidence.append(replace(found, raw=found.raw[:EVIDENCE_BYTES], observed_at=int(self._clock())))
        log.warning(
            "electrum.server_misbehaved",
            server=found.server,
            kind=found.kind,
            claim=found.claim,
            contradiction=found.contradiction,
        )
        for candidate in self._candidates:
            if candidate.address.name == found.server:
                banned_until = int(self._clock() + self._ban_s)
                candidate.state = replace(candidate.state, banned_until=banned_until)
                reason = f"{found.kind}: {found.contradiction}"
                self._set(candidate, "banned", reason)
                if candidate.session is not None:
                    candidate.session.fail(SourceMisbehavedError(reason))
        self.tell_changed()

    def note(self, found: Misbehaviour) -> None:
        """Keep what a server said that others do not say; it proves nothing, and bans nobody."""
        self._evidence.append(replace(found, observed_at=int(self._clock())))
        self.tell_changed()

    def demote(self, name: str, reason: str) -> None:
        """End the session with a server that is of no use now."""
        sessions = [candidate.session for candidate in self._candidates if candidate.session is not None]
        in_use = [session for session in sessions if session.failure is None]
        for session in in_use:
            # A lagging server is better than none.
            if session.name == name and len(in_use) > 1:
                session.fail(_BehindError(reason))

    def trust(self, name: str) -> None:
        """Forget what is held against a server; the certificate that it shows next is the one to know."""
        for candidate in self._candidates:
            if candidate.address.name == name:
                candidate.state = replace(candidate.state, fingerprint=None, is_ca_signed=False, banned_until=0)
                candidate.failures, candidate.next_try_at = 0, 0.0
                if candidate.session is None:
                    self._set(candidate, "unavailable", "trusted-anew")
                else:
                    candidate.session.fail(SourceUnavailableError("trusted-anew"))

    # --- running ---

    async def run(self, serve: Callable[[Session], Awaitable[None]]) -> None:
        """Keep sessions open for ever; ``serve`` uses each until it fails."""
        if self._must_race:
            await self._race()
        async with trio.open_nursery() as nursery:
            for _ in range(self._connections):
                nursery.start_soon(self._fill_slot, serve)

    async def _fill_slot(self, serve: Callable[[Session], Awaitable[None]]) -> None:
        while True:
            candidate = await self._take_candidate()
            self._has_begun = True
            try:
                await self._use(candidate, serve)
            finally:
                candidate.is_taken = False
                self.tell_changed()

    async def _take_candidate(self) -> _Candidate:
        """Choose the free candidate whose turn is next, and wait for its turn."""
        while True:
            changed = self.changed
            free = [candidate for candidate in self._candidates if self._is_free(candidate)]
            turn = min((self._turn_of(candidate) for candidate in free), default=math.inf)
            # A network that is down fails all servers at once: slow down over the whole list as well.
            common_s = min(self._failures_in_a_row * PAUSE_PER_FAILURE_S, LONGEST_COMMON_PAUSE_S)
            if turn <= trio.current_time():
                candidate = min(free, key=self._turn_of)
                candidate.is_taken = True
                await trio.sleep(common_s)
                return candidate
            with trio.move_on_at(turn):
                await changed.wait()

    def _is_free(self, candidate: _Candidate) -> bool:
        if candidate.is_taken or candidate.state.verdict == "distrusted":
            return False
        if not self._is_builtin:
            return True
        domain = candidate.address.domain
        return not any(other.is_taken and other.address.domain == domain for other in self._candidates)

    def _turn_of(self, candidate: _Candidate) -> float:
        """Return when a candidate may be tried, on Trio's clock."""
        if self._is_banned(candidate):
            return trio.current_time() + candidate.state.banned_until - self._clock()
        return candidate.next_try_at

    async def _use(self, candidate: _Candidate, serve: Callable[[Session], Awaitable[None]]) -> None:
        self._set(candidate, "connecting")
        started = trio.current_time()
        try:
            async with self._open(candidate) as session:
                self._check_independence(session)
                if self._is_banned(candidate):
                    raise SourceMisbehavedError(candidate.state.reason)  # caught while it was being connected to
                if self._was_connected and not any(other.session is not None for other in self._candidates):
                    self._reunited_at = trio.current_time()
                self._was_connected = True
                candidate.session = session
                candidate.state = replace(
                    candidate.state,
                    fingerprint=session.identity.fingerprint,
                    is_ca_signed=session.identity.is_ca_signed,
                    banned_until=0,
                )
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

    def _open(self, candidate: _Candidate) -> AbstractAsyncContextManager[Session]:
        return open_session(
            candidate.address, self._network, self._connector, candidate.identity, lowest_tip=self._lowest_tip
        )

    def _check_independence(self, session: Session) -> None:
        """Refuse a second built-in server of one network: one party may run both."""
        others = [candidate.session for candidate in self._candidates if candidate.session is not None]
        if self._is_builtin and session.network and any(other.network == session.network for other in others):
            raise _BehindError(f"another server of {session.network} is in use")

    def _note_failure(self, candidate: _Candidate, error: SourceError, *, lasted_s: float) -> None:
        self._failures_in_a_row += 1
        candidate.failures = 1 if lasted_s > STABLE_SESSION_S else candidate.failures + 1
        is_only = len(self._candidates) == 1
        pause_s = min(FIRST_PAUSE_S * 2.0 ** min(candidate.failures - 1, 20), LONGEST_PAUSE_S)
        verdict = "unavailable"
        match error:
            case SourceDistrustedError():
                verdict = "distrusted"
                self._tell_distrusted(candidate, str(error))
            case SourceMisbehavedError():
                verdict = "banned" if candidate.state.banned_until > self._clock() else "misbehaved"
                if verdict == "misbehaved":
                    verdict = self._judge(candidate, error)
                if verdict == "misbehaved":  # a ban has a length of its own
                    pause_s = MISBEHAVED_PAUSE_S
                pause_s = min(pause_s, LONGEST_PAUSE_S) if is_only else pause_s
            case SourceRefusedError():
                verdict = "refused"
            case _BehindError():
                verdict = "behind"
                pause_s = LONGEST_PAUSE_S if is_only else BEHIND_PAUSE_S
        if not any(other.session is not None for other in self._candidates if other is not candidate):
            pause_s = min(pause_s, LONELY_PAUSE_S)  # nothing is seen meanwhile
        pause_s *= 0.75 + self._chance.random() / 2
        candidate.next_try_at = trio.current_time() + pause_s
        self._set(candidate, verdict, str(error))
        log.warning(
            "electrum.session_closed",
            server=candidate.address.name,
            verdict=verdict,
            reason=str(error),
            lasted_s=round(lasted_s, 1),
            next_try_s=None if verdict == "distrusted" else round(pause_s, 1),
        )

    def _judge(self, candidate: _Candidate, error: SourceMisbehavedError) -> str:
        """Keep what the session itself caught; what merely breaks the protocol is no lie, and bans nobody."""
        is_lie = not isinstance(error, ProtocolError)
        kind, claim = "broken-protocol", "a message"
        if is_lie:
            is_history = isinstance(error, HistoryError)
            kind, claim = ("false-history", "a history") if is_history else ("wrong-network", "its genesis block")
        now = int(self._clock())
        self._evidence.append(
            Misbehaviour(
                server=candidate.address.name,
                kind=kind,
                claim=claim,
                contradiction=str(error),
                raw=error.raw[:EVIDENCE_BYTES],
                observed_at=now,
            )
        )
        if is_lie:
            candidate.state = replace(candidate.state, banned_until=int(now + self._ban_s))
        return "banned" if is_lie else "misbehaved"

    def _tell_distrusted(self, candidate: _Candidate, reason: str) -> None:
        self._evidence.append(
            Misbehaviour(
                server=candidate.address.name,
                kind="changed-certificate",
                claim="its certificate",
                contradiction=reason,
                observed_at=int(self._clock()),
            )
        )
        log.error(
            "electrum.server_distrusted",
            server=candidate.address.name,
            reason=reason,
            hint="somebody may be in between; if it was renewed: "
            + (
                "change #fingerprint in the configuration"
                if candidate.address.fingerprint
                else f"lightipn server trust {candidate.address.name.rpartition(':')[0]}"
            ),
        )

    # --- the first start ---

    async def _race(self) -> None:
        """Try several at once; those that greet first go to the front, those that fail to the back."""
        racers = [one for one in self._candidates if self._is_free(one) and not self._is_banned(one)][:RACERS]
        with trio.move_on_after(RACE_TIMEOUT_S):
            async with trio.open_nursery() as nursery:
                arrived: list[_Candidate] = []
                for candidate in racers:
                    nursery.start_soon(self._run_race, candidate, arrived, nursery.cancel_scope)

    async def _run_race(self, candidate: _Candidate, arrived: list[_Candidate], finish: trio.CancelScope) -> None:
        try:
            async with self._open(candidate):
                candidate.next_try_at = -1.0 / (len(arrived) + 1)  # before all others, in the order of arrival
                arrived.append(candidate)
                if len(arrived) >= self._connections:
                    finish.cancel()
        except SourceError as error:
            self._note_failure(candidate, error, lasted_s=0.0)


def _candidate_of(address: ServerAddress, known: ServerState | None) -> _Candidate:
    state = ServerState(name=address.name, verdict="unavailable", reason="not-tried")
    if known is not None:
        state = replace(
            state, fingerprint=known.fingerprint, is_ca_signed=known.is_ca_signed, banned_until=known.banned_until
        )
        if known.verdict == "distrusted" and address.fingerprint is None:
            state = replace(state, verdict="distrusted", reason=known.reason)
    return _Candidate(address, state)
