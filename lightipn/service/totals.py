"""What addresses received, and looking up those that are not watched."""

import trio

from lightipn.bitcoin.address import Address, parse_address
from lightipn.bitcoin.hashes import ScriptHash
from lightipn.errors import RequestError
from lightipn.ledger.entries import ReceivedTotals, totals_of
from lightipn.service.ground import Ground
from lightipn.store import chain, ledger
from lightipn.store.database import Database

LOOKUPS_AT_ONCE = 4
LOOKUP_WAIT_S = 10.0
MOST_LOOKUPS = 5000


class Totals:
    """What addresses received, whether they are watched or not."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._store = ground.store
        self._lookup_slots = trio.CapacityLimiter(LOOKUPS_AT_ONCE)
        self._lookups: dict[ScriptHash, trio.Event] = {}

    async def received(self, address: str, *, confirmations: int) -> ReceivedTotals:
        """Return what an address received; one that is not watched is looked up, and proved the same way.

        Args:
            confirmations: the depth at which a payment counts as confirmed.

        Raises:
            RequestError: ``bad-address``; ``lookup-pending`` (503) if it is not there within 10 s, the work goes
                on; ``too-many-lookups`` (503); ``history-too-long`` (503) past 1,000 entries.
        """
        checked = parse_address(address, self._ground.network)
        found = await self.known_received(address, confirmations=confirmations)
        with trio.move_on_after(LOOKUP_WAIT_S):
            while found is None:  # a lookup that was joined may have been given up by the caller who began it
                await self._look_up(checked)
                found = await self.known_received(address, confirmations=confirmations)
        if found is not None:
            return found
        raise RequestError(
            "the address is being looked up; ask again in a while", code="lookup-pending", status_hint=503
        )

    async def known_received(self, address: str, *, confirmations: int) -> ReceivedTotals | None:
        """Return the totals if the address' history was worked in before, else None; nobody is asked.

        Raises:
            RequestError: ``bad-address``; 503 if its history cannot be read.
        """
        checked = parse_address(address, self._ground.network)

        def work(db: Database) -> tuple[ledger.ScriptRecord | None, ReceivedTotals | None]:
            record = ledger.load_script(db, checked.scripthash)
            payments = ledger.load_payments(db, checked.scripthash)
            if record is None or payments is None or record.absorbed_at is None:
                return record, None
            return record, totals_of(
                payments.entries.values(), tip_height=chain.load_tip_height(db), confirmations=confirmations
            )

        record, totals = await self._store.read(work)
        if record is not None and record.trouble:
            raise RequestError(
                f"the history of this address cannot be read ({record.trouble})", code=record.trouble, status_hint=503
            )
        if record is not None and totals is not None and record.wanted_until is not None:
            until = int(self._ground.clock()) + ledger.LOOKUP_KEEP_S
            if until - record.wanted_until > ledger.LOOKUP_KEEP_S // 2:  # not a write for every poll
                await self._store.transact(lambda db: ledger.want_script(db, checked, until=until, must_ask=False))
        return totals

    async def _look_up(self, address: Address) -> None:
        """Have an address' history worked in, and wait for it; several callers share one lookup."""
        under_way = self._lookups.get(address.scripthash)
        if under_way is not None:
            await under_way.wait()
            return
        finished = self._lookups[address.scripthash] = trio.Event()
        try:
            async with self._lookup_slots:
                await self.request_lookup(address)
                while True:
                    progress = self._ground.progress()  # taken before the look, so that nothing is missed in between
                    if await self._store.read(lambda db: _is_settled(db, address.scripthash)):
                        return
                    await progress.wait()
        finally:
            del self._lookups[address.scripthash]
            finished.set()

    async def request_lookup(self, address: Address) -> None:
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


def _is_settled(db: Database, scripthash: ScriptHash) -> bool:
    record = ledger.load_script(db, scripthash)
    return record is None or record.absorbed_at is not None or record.trouble != ""
