"""Hooks: wishes with a name of their own, about an address, a wallet's addresses, or blocks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lightipn.bitcoin.address import Address, parse_address
from lightipn.errors import RequestError
from lightipn.outbox.signature import check_private_key, public_key_of
from lightipn.service.ground import Ground, Instant
from lightipn.service.owners import check_owner
from lightipn.store import chain, hooks, reviews, subscriptions, wallets
from lightipn.store.database import Database
from lightipn.store.hooks import Hook as Hook  # what routes are answered with: they may not see the store
from lightipn.store.wallets import Wallet

MOST_HOOKS = 100_000
MOST_LISTED = 10_000
MOST_HOOKS_OF_WALLET = 20

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class HookWish:
    """A hook somebody asks for.

    Args:
        address: that it is about; empty for none.
        wallet: the name of the wallet whose addresses it is about; empty for none. Without either it is about blocks.
        terms: JSON of the dialect's own shape.
        private_key: PEM of a P-256 key to sign with; None for the service's own.
    """

    url: str
    terms: bytes
    address: str = ""
    wallet: str = ""
    private_key: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownHook:
    """A hook, with the name of its wallet; empty where it has none."""

    hook: Hook
    wallet: str


class Hooks:
    """Hooks of one dialect."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._store = ground.store

    async def add(self, wish: HookWish, *, dialect: str, owner: str) -> ShownHook:
        """Add a hook; the same wish again is another hook.

        Raises:
            RequestError: ``bad-address``, ``bad-url``, ``bad-name``, ``bad-signkey``; ``too-many-hooks``; 404
                ``unknown-wallet``; 503 ``not-ready`` where it is about blocks and the tip is not proved yet.
        """
        check_owner(owner)
        self._ground.check_url(wish.url)
        if wish.private_key is not None:
            check_private_key(wish.private_key)
        address = parse_address(wish.address, self._ground.network) if wish.address else None
        if address is None and not wish.wallet and not self._ground.is_tip_proved():
            raise RequestError("the chain is being proved; ask again in a while", code="not-ready", status_hint=503)
        await self.make_service_key()
        instant = self._ground.instant()

        def work(db: Database) -> ShownHook:
            if hooks.count_hooks(db, owner) >= MOST_HOOKS:
                raise RequestError(f"there are {MOST_HOOKS} hooks already", code="too-many-hooks", status_hint=429)
            wallet = load_named_wallet(db, owner, wish.wallet) if wish.wallet else None
            if wallet is not None and len(hooks.load_hooks_of_wallet(db, wallet.wallet_id)) >= MOST_HOOKS_OF_WALLET:
                raise RequestError(
                    f"the wallet has {MOST_HOOKS_OF_WALLET} hooks already", code="too-many-hooks", status_hint=429
                )
            hook = hooks.add_hook(
                db,
                owner=owner,
                address="" if address is None else address.text,
                wallet_id=None if wallet is None else wallet.wallet_id,
                url=wish.url,
                terms=wish.terms,
                private_key=wish.private_key,
                now=int(instant.now),
            )
            if wallet is not None:
                for member in wallets.load_wallet_addresses(db, wallet.wallet_id):
                    found = parse_address(member.address, self._ground.network)
                    self.follow(db, hook, found, dialect=dialect, instant=instant)
            elif address is not None:
                self.follow(db, hook, address, dialect=dialect, instant=instant)
            else:
                subscriptions.save_block_subscription(
                    db,
                    dialect=dialect,
                    owner=owner,
                    url=hook.url,
                    terms=hook.terms,
                    now=int(instant.now),
                    first_height=chain.load_tip_height(db) + 1,
                    depth_blocks=1,
                    hook_id=hook.hook_id,
                )
            return ShownHook(hook=hook, wallet=wish.wallet)

        return await self._changed(work)

    def add_for(
        self, db: Database, address: Address, *, owner: str, url: str, terms: bytes, dialect: str, instant: Instant
    ) -> Hook:
        """Add a hook about an address, inside a transaction; the service's signing key must be there."""
        hook = hooks.add_hook(
            db,
            owner=owner,
            address=address.text,
            wallet_id=None,
            url=url,
            terms=terms,
            private_key=None,
            now=int(instant.now),
        )
        self.follow(db, hook, address, dialect=dialect, instant=instant)
        return hook

    def follow(self, db: Database, hook: Hook, address: Address, *, dialect: str, instant: Instant) -> None:
        """Have a hook be about one more address; called inside the transaction that adds it."""
        subscription = subscriptions.save_subscription(
            db,
            dialect=dialect,
            owner=hook.owner,
            address=address,
            url=hook.url,
            terms=hook.terms,
            now=int(instant.now),
            since_height=chain.load_tip_height(db) if instant.is_tip_proved else None,
            hook_id=hook.hook_id,
        )
        reviews.review_new(db, self._ground.policies, subscription, now=instant.now)

    def unfollow(self, db: Database, wallet_id: int, address: Address, *, now: float) -> None:
        """Have a wallet's hooks be no more about one address; called inside the transaction that takes it away."""
        for subscription_id in hooks.load_subscription_ids_of_wallet(db, wallet_id, address.scripthash):
            subscription = subscriptions.load_subscription(db, subscription_id)
            assert subscription is not None  # its id was read just now
            reviews.drop_subscription(db, subscription, now=now)

    async def show(self, hook_id: str, *, owner: str) -> ShownHook:
        """Return an owner's hook.

        Raises:
            RequestError: 404 ``not-found``.
        """
        return await self._store.read(lambda db: _shown(db, _load_owned(db, hook_id, owner)))

    async def list(self, *, owner: str) -> Sequence[ShownHook]:
        """Return an owner's hooks, oldest first."""
        return await self._store.read(
            lambda db: [_shown(db, hook) for hook in hooks.load_hooks(db, owner=owner, limit=MOST_LISTED)]
        )

    async def remove(self, hook_id: str, *, owner: str) -> None:
        """Remove a hook; what was not heard yet is not told any more.

        Raises:
            RequestError: 404 ``not-found``.
        """
        now = self._ground.clock()

        def work(db: Database) -> None:
            reviews.drop_hook(db, _load_owned(db, hook_id, owner), now=now)

        await self._changed(work)

    async def public_key(self) -> str:
        """Return the PEM of the public half of the service's own signing key, which is made at the first call."""
        return public_key_of(await self.make_service_key())

    async def make_service_key(self) -> str:
        """Make the service's own signing key if there is none, and return it as PEM."""
        found = await self._store.read(hooks.load_service_key)
        if found is None:
            fresh = new_private_key()
            await self._store.transact(lambda db: hooks.save_service_key(db, fresh))
            found = await self._store.read(hooks.load_service_key)
            assert found is not None  # it was written, by us or by somebody else
        return found

    async def _changed(self, work: Callable[[Database], T]) -> T:
        done = await self._store.transact(work)
        self._ground.bells.watches()
        self._ground.bells.messages()
        return done


def new_private_key() -> str:
    """Draw a P-256 key, and return it as PEM."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    pem = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return str(pem.decode())


def load_named_wallet(db: Database, owner: str, name: str) -> Wallet:
    """Return an owner's wallet.

    Raises:
        RequestError: 404 ``unknown-wallet``.
    """
    found = wallets.load_wallet(db, owner=owner, name=name)
    if found is None:
        raise RequestError(f"there is no wallet {name[:60]!a}", code="unknown-wallet", status_hint=404)
    return found


def _load_owned(db: Database, hook_id: str, owner: str) -> Hook:
    found = hooks.load_hook(db, hook_id)
    if found is None or found.owner != owner:
        raise RequestError(f"there is no hook {hook_id[:60]!a}", code="not-found", status_hint=404)
    return found


def _shown(db: Database, hook: Hook) -> ShownHook:
    wallet = None if hook.wallet_id is None else wallets.load_wallet_by_id(db, hook.wallet_id)
    return ShownHook(hook=hook, wallet="" if wallet is None else wallet.name)
