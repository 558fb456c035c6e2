"""Looking at the addresses of an extended key before the first is given away: which were used, and of which kind."""

from collections.abc import Sequence
from functools import partial

import structlog
import trio

from lightipn.bitcoin.address import Address
from lightipn.bitcoin.extended_key import AddressChain, parse_receive_chains
from lightipn.errors import RequestError
from lightipn.service.ground import Ground
from lightipn.store import ledger, supplies
from lightipn.store.database import Database
from lightipn.store.supplies import SupplyRecord

# BIP-44: a wallet looks at 20 unused addresses in a row, and not further.
GAP_LIMIT = 20
SCAN_WAIT_S = 8.0
SCANS_AT_ONCE = 24
MOST_SCANS = 100
MOST_LOOKED_AHEAD = 500
# What was scanned and never used is forgotten after so long: anybody may ask for any key.
KEEP_UNUSED_S = 86400

log = structlog.get_logger("service")


def scan_pending() -> RequestError:
    """Return the refusal of who asks before the addresses were looked at."""
    return RequestError(
        "the addresses of this key are being looked at; ask again in a while", code="scan-pending", status_hint=503
    )


class Scanner:
    """Scans supplies of addresses."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._store = ground.store
        self._asked = trio.Event()
        self._scanned = trio.Event()
        self._under_way: set[int] = set()
        self._slots = trio.CapacityLimiter(SCANS_AT_ONCE)

    async def wait_scanned(self, chains: Sequence[AddressChain], *, source: str) -> None:
        """Wait until all supplies of a key were scanned; the first call has that begin.

        Args:
            source: the key as it was given.

        Raises:
            RequestError: 503 ``scan-pending`` after 8 s, or where too many keys are being scanned; it goes on.
        """
        with trio.move_on_after(SCAN_WAIT_S):
            while True:
                scanned = self._scanned  # taken before the look, so that nothing is missed in between
                if await self._store.read(lambda db: _are_scanned(db, chains)):
                    return
                await self._begin(chains, source)
                await scanned.wait()
        raise scan_pending()

    @property
    def scanned(self) -> trio.Event:
        """An event that is set when the next addresses of any key have been looked at."""
        return self._scanned

    def ring(self) -> None:
        """Say that more addresses may have to be looked at."""
        self._asked.set()

    async def _begin(self, chains: Sequence[AddressChain], source: str) -> None:
        now = int(self._ground.clock())

        def work(db: Database) -> None:
            if all(supplies.load_supply(db, chain.identity) for chain in chains):
                return
            supplies.drop_unused(db, before=now - KEEP_UNUSED_S)
            if len(supplies.load_unscanned(db)) >= MOST_SCANS:
                raise RequestError("too many keys are being scanned", code="scan-pending", status_hint=503)
            for chain in chains:
                kind = "" if chain.kind is None else chain.kind.value
                supplies.add_supply(db, identity=chain.identity, kind=kind, source=source.strip(), now=now)

        await self._store.transact(work)
        self._asked.set()

    async def run(self) -> None:
        """Scan what is asked for, for ever; what a restart left half scanned goes on."""
        async with trio.open_nursery() as nursery:
            while True:
                self._asked = trio.Event()
                for record in await self._store.read(supplies.load_unscanned):
                    if record.chain_id not in self._under_way:
                        self._under_way.add(record.chain_id)
                        nursery.start_soon(self._scan, record)
                await self._asked.wait()

    async def _scan(self, record: SupplyRecord) -> None:
        """Look at the addresses of a supply until 20 in a row are unused."""
        try:
            async with self._slots:
                chain = self._chain_of(record)
                while not record.is_scanned:
                    record = await self._scan_further(chain, record)
        except RequestError as error:  # it was derived from before it was written; no row may end the process
            log.error("service.scan_failed", supply=record.chain_id, reason=error.code)
            return  # and it is not tried again before the next start
        self._under_way.discard(record.chain_id)
        self._asked.set()  # more may have been wanted since

    def _chain_of(self, record: SupplyRecord) -> AddressChain:
        _, siblings = parse_receive_chains(record.source, self._ground.network)
        for chain in siblings:
            if chain.identity == record.identity:
                return chain
        raise RequestError("the key leads elsewhere", code="bad-key")

    async def _scan_further(self, chain: AddressChain, record: SupplyRecord) -> SupplyRecord:
        first = record.scanned_to
        last = max(record.used_to + 1 + GAP_LIMIT, record.next_index + GAP_LIMIT)
        # The more there are already, used or given away, the further it looks ahead at a time.
        last = max(last, min(first + max(record.used_to + 1, record.next_index), first + MOST_LOOKED_AHEAD))
        addresses = [chain.address_at(index) for index in range(first, last)]
        used = await self._used(addresses)
        used_to = max((first + at for at, is_used in enumerate(used) if is_used), default=record.used_to)

        def work(db: Database) -> SupplyRecord:
            supplies.save_scan(db, record.chain_id, scanned_to=last, used_to=used_to, ahead=GAP_LIMIT)
            if supplies.is_in_use(db, record):
                for address in addresses:
                    ledger.want_for_good(db, address.scripthash)
            after = supplies.load_supply(db, record.identity)
            assert after is not None  # none is removed that is not scanned
            return after

        after = await self._store.transact(work)
        self._scanned.set()
        self._scanned = trio.Event()
        return after

    async def _used(self, addresses: Sequence[Address]) -> Sequence[bool | None]:
        """Have addresses looked up, and return which have a history."""
        while True:
            await self._store.transact(partial(self._want, addresses=addresses))
            self._ground.bells.watches()
            with trio.move_on_after(ledger.LOOKUP_KEEP_S / 2):  # then they are wanted anew, before they are forgotten
                while True:
                    progress = self._ground.progress()
                    used = await self._store.read(lambda db: [supplies.is_used(db, address) for address in addresses])
                    if None not in used:
                        return used
                    await progress.wait()

    def _want(self, db: Database, *, addresses: Sequence[Address]) -> None:
        until = int(self._ground.clock()) + ledger.LOOKUP_KEEP_S
        for address in addresses:
            # One that is watched, and was never paid, has no reason to be worked in but this one.
            record = ledger.load_script(db, address.scripthash)
            must_ask = record is not None and record.absorbed_at is None
            ledger.want_script(db, address, until=until, must_ask=must_ask)


def _are_scanned(db: Database, chains: Sequence[AddressChain]) -> bool:
    records = [supplies.load_supply(db, chain.identity) for chain in chains]
    return all(record is not None and _is_ready(db, record) for record in records)


def _is_ready(db: Database, record: SupplyRecord) -> bool:
    """Tell whether enough is known for the first address; for the next ones it is seen to when they are given away."""
    return record.scanned_to > record.used_to + GAP_LIMIT or supplies.is_in_use(db, record)
