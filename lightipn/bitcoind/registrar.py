"""Takes scripts up, and lets go of them, in the order in which that was wished; one page after the other."""

from collections.abc import Callable

import structlog
import trio

from lightipn.bitcoin.hashes import ScriptHash
from lightipn.bitcoind.enrolment import Enrolment
from lightipn.errors import SourceError

AT_ONCE = 1000

log = structlog.get_logger("bitcoind")


class Registrar:
    """The wishes that are not worked in yet.

    Args:
        ring_search: says that there is a past to be looked for.
        ring_teller: says that histories may have changed.
    """

    def __init__(
        self, enrolment: Enrolment, *, ring_search: Callable[[], None], ring_teller: Callable[[], None]
    ) -> None:
        self._enrolment = enrolment
        self._ring_search = ring_search
        self._ring_teller = ring_teller
        self._wanted: dict[ScriptHash, float] = {}  # and since when, on Trio's clock
        self._under_way: dict[ScriptHash, float] = {}
        self._unwanted: dict[ScriptHash, None] = {}
        self._bell = trio.Event()
        self._lock = trio.Lock()

    def want(self, scripthash: ScriptHash) -> None:
        """Wish that a script be taken up; also one that is watched: so far only for what a payment spends, perhaps."""
        self._unwanted.pop(scripthash, None)
        self._wanted.setdefault(scripthash, trio.current_time())
        self._bell.set()

    def let_go(self, scripthash: ScriptHash) -> None:
        """Wish that a script be let go of."""
        self._wanted.pop(scripthash, None)
        self._unwanted[scripthash] = None
        self._bell.set()

    def ring(self) -> None:
        """Say that the node can be asked again."""
        self._bell.set()

    @property
    def waiting(self) -> int:
        """How many scripts are not taken up yet."""
        return len(self._wanted) + len(self._under_way)

    @property
    def waiting_since(self) -> float | None:
        """Since when the first of them waits, on Trio's clock; None where none does."""
        return next((since for wishes in (self._under_way, self._wanted) for since in wishes.values()), None)

    async def run(self) -> None:
        """Work wishes in for ever, once it is known from which block on scripts are looked for."""
        while True:
            self._bell = trio.Event()
            if self._enrolment.is_open:
                try:
                    await self.work()
                except SourceError as error:
                    log.info("bitcoind.registration_postponed", reason=str(error))
            await self._bell.wait()

    async def work(self) -> None:
        """Work in all wishes that there are.

        Raises:
            SourceError: the node cannot be asked for transactions that wait for a new script; the wish stays.
        """
        async with self._lock:
            while self._wanted or self._unwanted:
                # Taken before the work: who is let go of meanwhile, or watched again, wishes so anew.
                gone = [self._unwanted.popitem()[0] for _ in range(min(len(self._unwanted), AT_ONCE))]
                self._under_way = dict(list(self._wanted.items())[:AT_ONCE])
                for scripthash in self._under_way:
                    del self._wanted[scripthash]
                try:
                    await self._work_in(gone, list(self._under_way))
                except SourceError:
                    still_wanted = {each: at for each, at in self._under_way.items() if each not in self._unwanted}
                    self._wanted = still_wanted | self._wanted
                    raise
                finally:
                    self._under_way = {}
                self._ring_teller()

    async def _work_in(self, gone: list[ScriptHash], wanted: list[ScriptHash]) -> None:
        if gone:
            await self._enrolment.let_go(gone)
        if wanted and await self._enrolment.take_up(wanted):
            self._ring_search()
