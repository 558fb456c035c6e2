"""Subscribing URLs to addresses."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from lightipn.bitcoin.address import Address, parse_address
from lightipn.bitcoin.network import Network
from lightipn.errors import RequestError
from lightipn.outbox.messages import Policy, Subscription
from lightipn.service.owners import check_owner
from lightipn.store import chain, ledger, reviews, subscriptions
from lightipn.store.database import Database, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A subscription somebody asks for; ``terms`` are JSON of the dialect's own shape."""

    address: str
    url: str
    terms: bytes


class Subscriptions:
    """Which URL is told of which address.

    Args:
        check_url: raises ``RequestError`` for a callback URL that must not be registered.
        ring_watches: scripts were added or removed.
        ring_messages: something may be due.
        clock: unix seconds.
    """

    def __init__(
        self,
        store: Store,
        network: Network,
        *,
        policies: Mapping[str, Policy],
        check_url: Callable[[str], None],
        ring_watches: Callable[[], None],
        ring_messages: Callable[[], None],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._network = network
        self._policies = policies
        self._check_url = check_url
        self._ring_watches = ring_watches
        self._ring_messages = ring_messages
        self._clock = clock

    async def subscribe(self, *, dialect: str, owner: str, address: str, url: str, terms: bytes) -> None:
        """Subscribe a URL to an address; the same owner, address and URL again updates the terms.

        Raises:
            RequestError: ``bad-address``, ``bad-url``, ``bad-name``.
        """
        wish = Wish(address=address, url=url, terms=terms)
        (refusal,) = await self.subscribe_all([wish], dialect=dialect, owner=owner)
        if refusal is not None:
            raise refusal

    async def subscribe_all(self, wishes: Sequence[Wish], *, dialect: str, owner: str) -> Sequence[RequestError | None]:
        """Subscribe many URLs in one transaction; a wish that is refused does not hold back the others.

        Returns:
            For each wish None, or why it was refused.

        Raises:
            RequestError: ``bad-name``.
        """
        check_owner(owner)
        refusals: list[RequestError | None] = []
        good: list[tuple[Address, Wish]] = []
        for wish in wishes:
            try:
                address = parse_address(wish.address, self._network)
                self._check_url(wish.url)
            except RequestError as error:
                refusals.append(error)
            else:
                refusals.append(None)
                good.append((address, wish))
        now = self._clock()

        def work(db: Database) -> None:
            tip_height = chain.load_tip_height(db)
            for address, wish in good:
                subscription = subscriptions.save_subscription(
                    db, dialect=dialect, owner=owner, address=address, url=wish.url, terms=wish.terms, now=int(now)
                )
                payments = ledger.load_payments(db, address.scripthash)
                assert payments is not None
                reviews.review_subscription(db, self._policies, subscription, payments, tip_height=tip_height, now=now)

        await self._store.transact(work)
        self._ring_watches()
        self._ring_messages()
        return refusals

    async def list(self, *, address: str = "", limit: int | None = None) -> Sequence[Subscription]:
        """Return subscriptions, oldest first; of one address if one is given.

        Raises:
            RequestError: ``bad-address``.
        """
        scripthash = parse_address(address, self._network).scripthash if address else None
        return await self._store.read(
            lambda db: list(subscriptions.load_subscriptions(db, scripthash=scripthash, limit=limit))
        )

    async def unsubscribe(self, address: str, *, url: str | None) -> int:
        """Remove the subscriptions of an address, or the one with this URL; return how many there were.

        Raises:
            RequestError: ``bad-address``.
        """
        scripthash = parse_address(address, self._network).scripthash
        removed = await self._store.transact(lambda db: subscriptions.remove_subscriptions(db, scripthash, url=url))
        self._ring_watches()
        return removed
