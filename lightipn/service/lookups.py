"""Looking at addresses, watched or not: their payments, proved the same way."""

from dataclasses import dataclass

import trio

from lightipn.bitcoin.address import Address
from lightipn.bitcoin.hashes import ScriptHash
from lightipn.errors import RequestError
from lightipn.ledger.entries import ScriptPayments
from lightipn.service.ground import Ground
from lightipn.store import chain, ledger, node_findings
from lightipn.store.database import Database

LOOKUPS_AT_ONCE = 4
LOOKUP_WAIT_S = 10.0
MOST_LOOKUPS = 5000
LOOK_AGAIN_AFTER_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPayments:
    """An address' payments, as they were at a tip.

    Args:
        coverage: how much of its history that is.
    """

    payments: ScriptPayments
    tip_height: int
    coverage: ledger.Coverage = ledger.WHOLE


class Lookups:
    """Works out what an address received, and remembers who asks already."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._store = ground.store
        self._slots = trio.CapacityLimiter(LOOKUPS_AT_ONCE)
        self._under_way: dict[ScriptHash, trio.Event] = {}
        self._looked_at: dict[ScriptHash, float] = {}

    async def payments(self, address: Address) -> KnownPayments:
        """Return an address' payments; one that is not watched is looked up.

        Raises:
            RequestError: ``lookup-pending`` (503) if it is not there within 10 s, the work goes on;
                ``too-many-lookups`` (503); ``history-too-long`` (503) past 1,000 entries.
        """
        found = await self.known(address)
        with trio.move_on_after(LOOKUP_WAIT_S):
            while found is None:  # a lookup that was joined may have been given up by the caller who began it
                await self._look_up(address)
                found = await self.known(address)
        if found is not None:
            return found
        how_far = self._ground.past_progress()
        raise RequestError(
            f"the address is being looked up{how_far and f' ({how_far})'}; ask again in a while",
            code="lookup-pending",
            status_hint=503,
        )

    async def known(self, address: Address) -> KnownPayments | None:
        """Return the payments if the address' history was worked in before, else None; nobody is asked.

        Raises:
            RequestError: 503 if its history cannot be read.
        """

        def work(db: Database) -> tuple[ledger.ScriptRecord | None, KnownPayments | None]:
            record = ledger.load_script(db, address.scripthash)
            payments = ledger.load_payments(db, address.scripthash)
            if record is None or payments is None or not _is_worked_in(db, record):
                return record, None
            tip_height = chain.load_tip_height(db)
            return record, KnownPayments(payments=payments, tip_height=tip_height, coverage=record.coverage)

        record, known = await self._store.read(work)
        if record is not None and record.trouble:
            raise RequestError(
                f"the history of this address cannot be read ({record.trouble})", code=record.trouble, status_hint=503
            )
        if record is not None and known is not None and record.wanted_until is not None:
            until = int(self._ground.clock()) + ledger.LOOKUP_KEEP_S
            if until - record.wanted_until > ledger.LOOKUP_KEEP_S // 2:  # not a write for every poll
                await self._store.transact(lambda db: ledger.want_script(db, address, until=until, must_ask=False))
        return known

    async def _look_up(self, address: Address) -> None:
        """Have an address' history worked in, and wait for it; several callers share one lookup."""
        under_way = self._under_way.get(address.scripthash)
        if under_way is not None:
            await under_way.wait()
            return
        finished = self._under_way[address.scripthash] = trio.Event()
        try:
            async with self._slots:
                await self.request(address)
                while True:
                    progress = self._ground.progress()  # taken before the look, so that nothing is missed in between
                    if await self._store.read(lambda db: _is_settled(db, address.scripthash)):
                        return
                    await progress.wait()
        finally:
            del self._under_way[address.scripthash]
            finished.set()

    async def request(self, address: Address) -> None:
        """Leave a row that has the running service work in an address' history.

        Raises:
            RequestError: 503 ``too-many-lookups``.
        """
        until = int(self._ground.clock()) + ledger.LOOKUP_KEEP_S

        def work(db: Database) -> None:
            is_new = ledger.load_script(db, address.scripthash) is None
            if is_new and ledger.count_lookups(db) >= MOST_LOOKUPS:
                raise RequestError(
                    "too many addresses are looked up at present; watch those you need",
                    code="too-many-lookups",
                    status_hint=503,
                )
            ledger.want_script(db, address, until=until, must_ask=True)

        await self._store.transact(work)
        self._ground.bells.watches()

    async def look_again(self, address: Address) -> bool:
        """Have the servers asked again for an address that is watched; False if it is not.

        Within a few seconds once is enough: who asks may be anybody.
        """
        now = self._ground.clock()
        self._looked_at = {known: at for known, at in self._looked_at.items() if now - at < LOOK_AGAIN_AFTER_S}
        if address.scripthash in self._looked_at:
            return True

        def work(db: Database) -> bool:
            if ledger.load_script(db, address.scripthash) is None:
                return False
            ledger.save_watch_change(db, address.scripthash, ledger.WatchChange.ASKED)
            return True

        is_watched = await self._store.transact(work)
        if is_watched:
            self._looked_at[address.scripthash] = now
        self._ground.bells.watches()
        return is_watched


def _is_settled(db: Database, scripthash: ScriptHash) -> bool:
    record = ledger.load_script(db, scripthash)
    return record is None or record.trouble != "" or _is_worked_in(db, record)


def _is_worked_in(db: Database, record: ledger.ScriptRecord) -> bool:
    return record.absorbed_at is not None and not node_findings.is_ahead_of_ledger(db, record.scripthash)
