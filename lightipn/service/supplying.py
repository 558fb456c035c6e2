"""Fresh addresses out of extended keys: one index a call, never given twice.

The next twenty are watched before they are given away: whoever pays one of them, it is used, and left out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import trio

from lightipn.bitcoin.address import Address
from lightipn.bitcoin.extended_key import AddressChain, ScriptKind, parse_receive_chains
from lightipn.errors import RequestError
from lightipn.service.ground import Ground, Instant, Take
from lightipn.service.owners import check_owner
from lightipn.service.scanning import GAP_LIMIT, SCAN_WAIT_S, Scanner, scan_pending
from lightipn.store import ledger, supplies
from lightipn.store.database import Database
from lightipn.store.supplies import IssuedAddress, SupplyRecord

MOST_GAP_LIMIT = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshAddress:
    """An address that was just given away."""

    address: str
    index: int
    url: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SupplyState:
    """A supply as the operator sees it.

    Args:
        gap: addresses given away since the last one that was paid.
        left: how many more can be given away before the default gap limit, if none is paid.
    """

    record: SupplyRecord
    gap: int
    left: int


class Supplies:
    """Gives addresses away."""

    def __init__(self, ground: Ground, scanner: Scanner) -> None:
        self._ground = ground
        self._store = ground.store
        self._scanner = scanner

    # --- giving away ---

    async def issue(
        self,
        *,
        owner: str,
        key: str,
        kind: ScriptKind | None,
        url: str,
        take: Take,
        gap_limit: int = GAP_LIMIT,
    ) -> FreshAddress:
        """Give the next address of a key away.

        Args:
            key: an extended public key of an account, or a descriptor.
            kind: of the scripts; None takes what the key says.
            url: that is told of it, as ``xpub addresses`` shows it; empty for none.
            take: records what an address is for.
            gap_limit: how many unused addresses in a row there may be.

        Raises:
            RequestError: ``bad-key``, ``bad-address-type``, ``bad-url``; ``unused-type`` where the wallet uses another
                kind; ``gap-too-large``; 503 ``scan-pending`` while the key is looked at first; 503 ``no-server``.
        """
        check_owner(owner)
        if url:
            self._ground.check_url(url)
        chain, siblings = parse_receive_chains(key, self._ground.network, kind=kind)
        self._check_connected()
        await self._scanner.wait_scanned(siblings, source=key)

        def work(instant: Instant, db: Database) -> FreshAddress | None:
            record = supplies.load_supply(db, chain.identity)
            assert record is not None  # it was scanned just now
            if kind is None:
                _check_kind(db, record, siblings)
            index, address = _next_unused(db, record, chain)
            _check_gap(db, chain, index, gap_limit)
            if index >= record.scanned_to:  # nobody knows whether it was used
                supplies.want_scan(db, record)
                return None
            if not supplies.is_in_use(db, record):
                _watch_ahead(db, chain, first=index + 1, last=record.scanned_to)
            supplies.save_issued(db, record, index=index, address=address, owner=owner, url=url, now=int(instant.now))
            take(db, address, index, instant)
            return FreshAddress(address=address.text, index=index, url=url)

        return await self._given(work)

    def _check_connected(self) -> None:
        if not self._ground.is_connected():
            raise RequestError(
                "no server is connected, so nobody would see a payment", code="no-server", status_hint=503
            )

    async def _given(self, work: Callable[[Instant, Database], FreshAddress | None]) -> FreshAddress:
        """Give an address away; where the next ones were not looked at yet, wait until they are."""
        with trio.move_on_after(SCAN_WAIT_S):
            while True:
                scanned = self._scanner.scanned  # taken before, so that nothing is missed in between
                fresh = await self._store.transact(partial(work, self._ground.instant()))
                self._scanner.ring()
                self._ground.bells.watches()
                if fresh is not None:
                    return fresh
                await scanned.wait()
        raise scan_pending()

    async def gap(self, *, owner: str, key: str, kind: ScriptKind | None) -> int:
        """Return how many addresses of a key were given away since the last one that was paid.

        Raises:
            RequestError: ``bad-key``; 404 ``xpub-not-found`` where this owner was never given one.
        """
        chain, _ = parse_receive_chains(key, self._ground.network, kind=kind)

        def work(db: Database) -> int | None:
            record = supplies.load_supply(db, chain.identity)
            if record is None or not supplies.has_issued(db, record, owner):
                return None
            return _gap_of(db, record)

        found = await self._store.read(work)
        if found is None:
            raise RequestError("no address of this key was given away yet", code="xpub-not-found", status_hint=404)
        return found

    async def list(self) -> Sequence[SupplyState]:
        """Return all supplies in use, oldest first."""

        def work(db: Database) -> list[SupplyState]:
            return [_state_of(db, record) for record in supplies.load_supplies(db)]

        return await self._store.read(work)

    async def show(self, chain_id: int, *, limit: int) -> tuple[SupplyState, Sequence[IssuedAddress]]:
        """Return a supply, and the addresses that were given away, newest first.

        Raises:
            RequestError: 404 ``not-found``.
        """

        def work(db: Database) -> tuple[SupplyState, Sequence[IssuedAddress]] | None:
            record = supplies.load_supply_by_id(db, chain_id)
            return None if record is None else (_state_of(db, record), supplies.load_issued(db, chain_id, limit=limit))

        found = await self._store.read(work)
        if found is None:
            raise RequestError(f"there is no key {chain_id}", code="not-found", status_hint=404)
        return found


def _next_unused(db: Database, record: SupplyRecord, chain: AddressChain) -> tuple[int, Address]:
    """Return the next index and address that nobody was given, and to which no payment is known."""
    index = record.next_index
    while True:
        address = chain.address_at(index)
        if supplies.is_used(db, address):
            supplies.save_used(db, record, index)
        elif not supplies.is_taken(db, address):
            return index, address
        index += 1


def _watch_ahead(db: Database, chain: AddressChain, *, first: int, last: int) -> None:
    """Watch the next addresses from now on: one that is paid before it is given away must not be."""
    for index in range(first, last):
        address = chain.address_at(index)
        ledger.add_script(db, address)
        ledger.want_for_good(db, address.scripthash)


def _check_gap(db: Database, chain: AddressChain, index: int, gap_limit: int) -> None:
    record = supplies.load_supply(db, chain.identity)  # anew: addresses may have been found used
    assert record is not None
    if index - 1 - supplies.load_last_paid(db, record) >= gap_limit:
        raise RequestError(
            f"gap of {gap_limit} unused addresses is reached, want a payment to one of them or a new key",
            code="gap-too-large",
        )


def _check_kind(db: Database, record: SupplyRecord, siblings: Sequence[AddressChain]) -> None:
    """Refuse the kind that the prefix says where the wallet uses only others: it would not look there."""
    if record.used_to >= 0 or record.next_index > 0:
        return
    others = [supplies.load_supply(db, chain.identity) for chain in siblings]
    used = [other.kind for other in others if other is not None and other.used_to >= 0]
    if used:
        raise RequestError(
            f"the wallet of this key uses {' and '.join(used)} addresses, its prefix says {record.kind}: "
            f"pass address_type={used[0]}",
            code="unused-type",
        )


def _gap_of(db: Database, record: SupplyRecord) -> int:
    return max(0, record.next_index - 1 - supplies.load_last_paid(db, record))


def _state_of(db: Database, record: SupplyRecord) -> SupplyState:
    gap = _gap_of(db, record)
    return SupplyState(record=record, gap=gap, left=max(0, GAP_LIMIT - gap))
