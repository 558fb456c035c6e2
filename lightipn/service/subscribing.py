"""Subscribing URLs to addresses."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from lightipn.bitcoin.address import Address, parse_address
from lightipn.errors import RequestError
from lightipn.outbox.subscriptions import LIVE, Subscription, SubscriptionState
from lightipn.service.ground import Ground, Instant, Take
from lightipn.service.owners import check_owner
from lightipn.store import chain, reviews, subscriptions
from lightipn.store.database import Database
from lightipn.store.ledger import Coverage, load_coverage_by_address


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A subscription somebody asks for.

    Args:
        terms: JSON of the dialect's own shape.
        expires_at: unix seconds; None for never.
        updates_terms: the owner's live subscription of the same address and URL is the same one, and gets these terms;
            else one with other terms is another.
        prolongs: where that live one expires later, it stays so.
    """

    address: str
    url: str
    terms: bytes
    expires_at: int | None = None
    updates_terms: bool = True
    prolongs: bool = False


class Subscriptions:
    """Which URL is told of which address."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._store = ground.store

    async def subscribe(self, wish: Wish, *, dialect: str, owner: str) -> Subscription:
        """Subscribe a URL to an address, and return the subscription.

        Raises:
            RequestError: ``bad-address``, ``bad-url``, ``bad-name``, ``bad-expiration``.
        """
        (outcome,) = await self.subscribe_all([wish], dialect=dialect, owner=owner)
        if isinstance(outcome, RequestError):
            raise outcome
        return outcome

    async def subscribe_all(
        self, wishes: Sequence[Wish], *, dialect: str, owner: str
    ) -> Sequence[Subscription | RequestError]:
        """Subscribe many URLs in one transaction; a wish that is refused does not hold back the others.

        Returns:
            For each wish its subscription, or why it was refused.

        Raises:
            RequestError: ``bad-name``.
        """
        check_owner(owner)
        now = self._ground.clock()
        outcomes: list[Subscription | RequestError | None] = [None] * len(wishes)
        good: list[tuple[int, Address, Wish]] = []
        for number, wish in enumerate(wishes):
            try:
                good.append((number, self._checked(wish, now=now), wish))
            except RequestError as error:
                outcomes[number] = error
        is_tip_proved = self._ground.is_tip_proved()

        def work(db: Database) -> list[tuple[int, Subscription]]:
            tip_height = chain.load_tip_height(db)
            made = []
            for number, address, wish in good:
                subscription = subscriptions.save_subscription(
                    db,
                    dialect=dialect,
                    owner=owner,
                    address=address,
                    url=wish.url,
                    terms=wish.terms,
                    now=int(now),
                    expires_at=wish.expires_at,
                    since_height=tip_height if is_tip_proved else None,
                    updates_terms=wish.updates_terms,
                    prolongs=wish.prolongs,
                )
                made.append((number, subscription))
                reviews.review_new(db, self._ground.policies, subscription, now=now)
            return made

        for number, subscription in await self._store.transact(work):
            outcomes[number] = subscription
        self._ground.bells.watches()
        self._ground.bells.messages()
        return [outcome for outcome in outcomes if outcome is not None]

    def _checked(self, wish: Wish, *, now: float) -> Address:
        address = parse_address(wish.address, self._ground.network)
        self._ground.check_url(wish.url)
        if wish.expires_at is not None and wish.expires_at <= now:
            raise RequestError("expiration is in the past", code="bad-expiration")
        return address

    def taker(self, *, url: str, terms: bytes, dialect: str, owner: str) -> Take:
        """Return what subscribes a URL to a fresh address, inside the transaction that gives it away."""

        def take(db: Database, address: Address, index: int, instant: Instant) -> None:
            subscription = subscriptions.save_subscription(
                db,
                dialect=dialect,
                owner=owner,
                address=address,
                url=url,
                terms=terms,
                now=int(instant.now),
                since_height=chain.load_tip_height(db) if instant.is_tip_proved else None,
                updates_terms=False,
            )
            reviews.review_new(db, self._ground.policies, subscription, now=instant.now)

        return take

    async def subscribe_to_blocks(
        self,
        *,
        dialect: str,
        owner: str,
        url: str,
        height: int | None,
        confirmations: int,
        terms_of: Callable[[int], bytes],
    ) -> Subscription:
        """Subscribe a URL to blocks.

        Args:
            height: of the first block; None for the next one.
            confirmations: a block is told once it has so many.
            terms_of: returns the terms, as JSON of the dialect's own shape, for the height of the first block.

        Raises:
            RequestError: ``bad-url``, ``bad-name``; ``bad-height`` where the height has passed; 503 ``not-ready``.
        """
        check_owner(owner)
        self._ground.check_url(url)
        if not self._ground.is_tip_proved():
            raise RequestError("the chain is being proved; ask again in a while", code="not-ready", status_hint=503)
        now = int(self._ground.clock())

        def work(db: Database) -> Subscription:
            next_height = chain.load_tip_height(db) + 1
            first = next_height if height is None else height
            if first < next_height:
                raise RequestError(f"height is {first}, want at least the next one, {next_height}", code="bad-height")
            return subscriptions.save_block_subscription(
                db,
                dialect=dialect,
                owner=owner,
                url=url,
                terms=terms_of(first),
                now=now,
                first_height=first,
                depth_blocks=confirmations,
            )

        return await self._store.transact(work)

    async def show(self, subscription_id: int, *, owner: str, dialect: str) -> Subscription:
        """Return an owner's subscription.

        Raises:
            RequestError: 404 ``not-found``.
        """
        return await self._store.read(lambda db: _load_owned(db, subscription_id, owner=owner, dialect=dialect))

    async def page(
        self,
        *,
        owner: str,
        dialect: str,
        address: str,
        state: SubscriptionState | None,
        offset: int,
        limit: int,
    ) -> Sequence[Subscription]:
        """Return a page of an owner's subscriptions, oldest first.

        Args:
            address: only of this one; empty for all.

        Raises:
            RequestError: ``bad-address``.
        """
        scripthash = parse_address(address, self._ground.network).scripthash if address else None
        now = int(self._ground.clock())
        return await self._store.read(
            lambda db: subscriptions.load_page(
                db,
                owner=owner,
                dialect=dialect,
                scripthash=scripthash,
                state=state,
                now=now,
                offset=offset,
                limit=limit,
            )
        )

    async def cancel(self, subscription_id: int, *, owner: str, dialect: str, withdraws: bool = False) -> Subscription:
        """End a subscription: nothing new becomes of it; one that has ended stays as it is.

        Args:
            withdraws: what was not heard yet is not told any more either.

        Raises:
            RequestError: 404 ``not-found``.
        """
        now = self._ground.clock()

        def work(db: Database) -> Subscription:
            found = _load_owned(db, subscription_id, owner=owner, dialect=dialect)
            if withdraws:
                reviews.drop_subscription(db, found, now=now)
            elif found.state_at(now) in LIVE:
                reviews.end_subscription(db, self._ground.policies, found, SubscriptionState.CANCELED, now=now)
            return _load_owned(db, subscription_id, owner=owner, dialect=dialect)

        canceled = await self._store.transact(work)
        self._ground.bells.watches()
        self._ground.bells.messages()
        return canceled

    async def list(self, *, address: str = "", limit: int | None = None) -> Sequence[Subscription]:
        """Return subscriptions, oldest first; of one address if one is given.

        Raises:
            RequestError: ``bad-address``.
        """
        scripthash = parse_address(address, self._ground.network).scripthash if address else None
        return await self._store.read(
            lambda db: list(subscriptions.load_subscriptions(db, scripthash=scripthash, limit=limit))
        )

    async def coverage(self, addresses: Iterable[str]) -> Mapping[str, Coverage]:
        """Return how much is known of addresses; those of which all is known are left out."""
        wanted = set(addresses)
        return await self._store.read(lambda db: load_coverage_by_address(db, wanted))

    async def unsubscribe(self, address: str, *, url: str | None) -> int:
        """Remove the subscriptions of an address, or the one with this URL; return how many there were.

        Raises:
            RequestError: ``bad-address``.
        """
        scripthash = parse_address(address, self._ground.network).scripthash
        removed = await self._store.transact(lambda db: subscriptions.remove_subscriptions(db, scripthash, url=url))
        self._ground.bells.watches()
        return removed


def _load_owned(db: Database, subscription_id: int, *, owner: str, dialect: str) -> Subscription:
    found = subscriptions.load_subscription(db, subscription_id)
    if found is None or (found.owner, found.dialect) != (owner, dialect):
        raise RequestError(f"there is no subscription {subscription_id}", code="not-found", status_hint=404)
    return found
