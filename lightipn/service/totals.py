"""What addresses received, whether they are watched or not."""

from dataclasses import dataclass

from lightipn.bitcoin.address import Address, parse_address
from lightipn.ledger.entries import ReceivedTotals, totals_of
from lightipn.service.ground import Ground
from lightipn.service.lookups import KnownPayments, Lookups
from lightipn.store.ledger import Coverage


@dataclass(frozen=True, slots=True)
class CoveredTotals:
    """What an address received, and how much of its history that is."""

    totals: ReceivedTotals
    coverage: Coverage


class Totals:
    """What addresses received."""

    def __init__(self, ground: Ground, lookups: Lookups) -> None:
        self._ground = ground
        self._lookups = lookups

    async def received(self, address: str, *, confirmations: int) -> CoveredTotals:
        """Return what an address received; one that is not watched is looked up, and proved the same way.

        Args:
            confirmations: the depth at which a payment counts as confirmed.

        Raises:
            RequestError: ``bad-address``, or why it cannot be looked up (503).
        """
        checked = parse_address(address, self._ground.network)
        return _totals_of(await self._lookups.payments(checked), confirmations)

    async def known_received(self, address: str, *, confirmations: int) -> CoveredTotals | None:
        """Return the totals if the address' history was worked in before, else None; nobody is asked.

        Raises:
            RequestError: ``bad-address``; 503 if its history cannot be read.
        """
        known = await self._lookups.known(parse_address(address, self._ground.network))
        return None if known is None else _totals_of(known, confirmations)

    async def request_lookup(self, address: Address) -> None:
        """Leave a row that has the running service work in an address' history.

        Raises:
            RequestError: 503 ``too-many-lookups``.
        """
        await self._lookups.request(address)


def _totals_of(known: KnownPayments, confirmations: int) -> CoveredTotals:
    entries = known.payments.entries.values()
    return CoveredTotals(
        totals_of(entries, tip_height=known.tip_height, confirmations=confirmations), coverage=known.coverage
    )
