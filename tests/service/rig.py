"""A service over a database of its own, and a tracker made of a bell; callers that ask side by side.

The clock is Trio's own, which jumps while everybody waits; transactions run in place, because it would jump while a
thread works too.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio

from lightipn.bitcoin.address import Address
from lightipn.bitcoin.hashes import ScriptHash
from lightipn.bitcoin.network import REGTEST
from lightipn.chain.history import Status
from lightipn.errors import RequestError
from lightipn.ledger.entries import LedgerEntry, ReceivedTotals
from lightipn.service.desk import Service
from lightipn.service.ground import NO_ACCOUNT_HOOKS, AccountHooks, Doorbells, Ground
from lightipn.service.subscribing import Wish
from lightipn.service.totals import CoveredTotals
from lightipn.store import ledger
from lightipn.store.database import Database, Store
from lightipn.store.ledger import WHOLE, WatchChange
from tests.store.plain_dialect import POLICIES
from tests.store.rows import NOW

URL = "https://shop.example/ipn"


def totals_of(confirmed_sat: int, unconfirmed_sat: int, *, changes_at_height: int | None = None) -> CoveredTotals:
    """Return totals of a whole history."""
    totals = ReceivedTotals(
        confirmed_sat=confirmed_sat, unconfirmed_sat=unconfirmed_sat, changes_at_height=changes_at_height
    )
    return CoveredTotals(totals, WHOLE)


NOTHING = totals_of(0, 0)


class Tools:
    """A service, its database, and a tracker made of a bell: the test works lookups in by hand.

    Attributes:
        is_tip_proved: whether the tracker's tip was proved since the start.
        is_connected: whether a server is there.
        past_progress: what a lookup waits for beside the network.
    """

    def __init__(self, store: Store, *, account_hooks: AccountHooks = NO_ACCOUNT_HOOKS) -> None:
        self.store = store
        self.rung: list[str] = []
        self.is_tip_proved = True
        self.is_connected = True
        self.past_progress = ""
        self._progress = trio.Event()
        self.service = Service(
            Ground(
                store=store,
                network=REGTEST,
                policies=POLICIES,
                check_url=self.check_url,
                bells=Doorbells(
                    watches=lambda: self.rung.append("watches"), messages=lambda: self.rung.append("messages")
                ),
                progress=lambda: self._progress,
                is_tip_proved=lambda: self.is_tip_proved,
                is_connected=lambda: self.is_connected,
                clock=lambda: NOW + trio.current_time(),
                account_hooks=account_hooks,
                past_progress=lambda: self.past_progress,
            )
        )

    @staticmethod
    def check_url(url: str) -> None:
        """Refuse what begins with ``bad``."""
        if url.startswith("bad"):
            raise RequestError("url: is bad", code="bad-url")

    async def subscribe(self, address: Address, *, owner: str = "shop", url: str = URL) -> None:
        """Subscribe a URL to an address, at one confirmation."""
        wish = Wish(address=address.text, url=url, terms=b"1")
        await self.service.subscriptions.subscribe(wish, dialect="plain", owner=owner)

    async def wanted(self) -> list[str]:
        """Return the addresses that somebody looks up, and that were not worked in yet."""
        rows = await self.store.read(
            lambda db: db.execute(
                "SELECT address FROM script WHERE wanted_until > 0 AND absorbed_at IS NULL"
            ).fetchall()
        )
        return sorted(row[0] for row in rows)

    async def lookups_asked(self) -> int:
        """Return how often the running service was asked to look at an address."""
        count = await self.store.read(lambda db: db.execute("SELECT count(*) FROM watch_change").fetchone()[0])
        return int(count)

    async def settle(self, address: Address, *entries: LedgerEntry, trouble: str = "") -> None:
        """Work an address' history in, as the tracker does, and tell whoever waits."""

        def work(db: Database) -> None:
            if trouble:
                ledger.save_trouble(db, address.scripthash, trouble)
                return
            ledger.save_entries(db, address.scripthash, entries)
            ledger.save_status(db, address.scripthash, Status(b"\x01" * 32), now=NOW)

        await self.store.transact(work)
        self._tell_progress()

    async def cut_history(self, address: Address, *, history_from: int, unproved_sat: int = 0) -> None:
        """Have an address' history begin at a height, as one's own node does that cannot look further back."""
        await self.store.transact(
            lambda db: db.execute(
                "UPDATE script SET history_from = ?, unproved_sat = ? WHERE scripthash = ?",
                [history_from, unproved_sat, address.scripthash],
            )
        )

    async def answer_watches(self, paid: Mapping[ScriptHash, LedgerEntry]) -> list[ScriptHash]:
        """Do what the running service does with the queue of watches, and tell whoever waits.

        A server that has nothing else than what is known of a script says nothing: nothing is worked in then.

        Args:
            paid: the only payment of each script that has one.

        Returns:
            The scripts that were asked for, in order.
        """

        def work(db: Database) -> list[ScriptHash]:
            asked = []
            for scripthash, kind, known in ledger.take_watch_changes(db, limit=10_000):
                if kind is WatchChange.REMOVED:
                    continue
                asked.append(scripthash)
                record = ledger.load_script(db, scripthash)
                if record is None or record.trouble:
                    continue
                status = Status(b"\x01" * 32) if scripthash in paid else None
                if kind is WatchChange.ADDED and known == status:
                    continue
                if scripthash in paid:
                    ledger.save_entries(db, scripthash, [paid[scripthash]])
                ledger.save_status(db, scripthash, status, now=NOW)
            return asked

        asked = await self.store.transact(work)
        if asked:
            self._tell_progress()
        return asked

    def _tell_progress(self) -> None:
        self._progress.set()
        self._progress = trio.Event()


class Asking:
    """Callers that ask for totals side by side: what each was told, and when."""

    def __init__(self, tools: Tools, nursery: trio.Nursery) -> None:
        self.answers: dict[str, tuple[float, ReceivedTotals | str]] = {}
        self._tools = tools
        self._nursery = nursery

    def ask(self, name: str, address: Address, *, confirmations: int = 1) -> trio.CancelScope:
        """Start a caller; cancelling what comes back makes it go away."""
        scope = trio.CancelScope()

        async def run() -> None:
            answer: ReceivedTotals | str
            with scope:
                try:
                    answer = await self._tools.service.totals.received(address.text, confirmations=confirmations)
                except RequestError as error:
                    answer = f"{error.status_hint} {error.code}"
                self.answers[name] = (trio.current_time(), answer)

        self._nursery.start_soon(run)
        return scope


@asynccontextmanager
async def open_asking(tools: Tools) -> AsyncIterator[Asking]:
    """Let callers ask; all must have been answered, or have gone away, in the end."""
    async with trio.open_nursery() as nursery:
        yield Asking(tools, nursery)
