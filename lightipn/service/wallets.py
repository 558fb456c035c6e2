"""Wallets: groups of addresses with a name, which hooks may be about."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lightipn.bitcoin.address import Address, parse_address
from lightipn.bitcoin.extended_key import descriptor_of
from lightipn.errors import RequestError
from lightipn.ledger.entries import GONE, LedgerEntry
from lightipn.service.ground import Ground, Instant
from lightipn.service.hooking import Hooks, load_named_wallet
from lightipn.service.owners import check_owner
from lightipn.service.supplying import MOST_GAP_LIMIT, Supplies
from lightipn.store import hooks as hook_store
from lightipn.store import ledger, reviews, subscriptions, wallets
from lightipn.store.database import Database
from lightipn.store.wallets import Wallet as Wallet  # what routes are answered with: they may not see the store
from lightipn.store.wallets import WalletAddress as WalletAddress

MOST_NAME_CHARS = 25
MOST_ADDRESSES = 1000
MOST_SUBCHAINS = 20
MOST_DERIVED_AT_ONCE = 100

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownWallet:
    """A wallet with its addresses."""

    wallet: Wallet
    addresses: Sequence[WalletAddress]


class Wallets:
    """An owner's wallets."""

    def __init__(self, ground: Ground, hooks: Hooks, supplies: Supplies) -> None:
        self._ground = ground
        self._store = ground.store
        self._hooks = hooks
        self._supplies = supplies

    async def create(self, name: str, addresses: Sequence[str], *, owner: str, dialect: str) -> ShownWallet:
        """Make a wallet of addresses that are given.

        Raises:
            RequestError: ``bad-wallet-name``, ``bad-address``, ``too-many-addresses``; 409 ``wallet-exists``.
        """
        checked = self._checked(addresses)
        instant = self._ground.instant()

        def work(db: Database) -> ShownWallet:
            wallet = _add(db, owner=owner, name=name, extended_key="", subchains=(), now=instant.now)
            self._add_addresses(db, wallet, checked, dialect=dialect, instant=instant)
            return _shown(db, wallet)

        return await self._changed(work, name, owner)

    async def create_derived(self, name: str, key: str, subchains: Sequence[int], *, owner: str) -> ShownWallet:
        """Make a wallet whose addresses are derived from an extended public key.

        Args:
            subchains: the branches of the key; empty where its children are the addresses themselves.

        Raises:
            RequestError: ``bad-wallet-name``, ``bad-key``, ``bad-index``; 409 ``wallet-exists``.
        """
        if len(subchains) > MOST_SUBCHAINS:
            raise RequestError(f"there are {len(subchains)} subchains, want at most {MOST_SUBCHAINS}", code="bad-index")
        for branch in subchains or (None,):
            descriptor_of(key, self._ground.network, branch=branch)
        now = self._ground.clock()

        def work(db: Database) -> ShownWallet:
            chosen = sorted(set(subchains))
            wallet = _add(db, owner=owner, name=name, extended_key=key.strip(), subchains=chosen, now=now)
            return _shown(db, wallet)

        return await self._changed(work, name, owner)

    async def list(self, *, owner: str, is_derived: bool) -> Sequence[Wallet]:
        """Return an owner's wallets of one sort, by name."""
        return await self._store.read(lambda db: wallets.load_wallets(db, owner=owner, is_derived=is_derived))

    async def show(self, name: str, *, owner: str, is_derived: bool | None = None) -> ShownWallet:
        """Return an owner's wallet.

        Args:
            is_derived: only one of this sort; None for any.

        Raises:
            RequestError: 404 ``unknown-wallet``.
        """
        return await self._store.read(lambda db: _shown(db, _load(db, owner, name, is_derived)))

    async def entries_of(self, shown: ShownWallet) -> Mapping[str, Sequence[LedgerEntry]]:
        """Return the payments of a wallet's addresses that stand, as far as they are known; nobody is asked."""

        def work(db: Database) -> dict[str, list[LedgerEntry]]:
            found = {}
            for member in shown.addresses:
                payments = ledger.load_payments(db, member.scripthash)
                entries = [] if payments is None else payments.entries.values()
                found[member.address] = [entry for entry in entries if not isinstance(entry.state, GONE)]
            return found

        return await self._store.read(work)

    async def add_addresses(self, name: str, addresses: Sequence[str], *, owner: str, dialect: str) -> ShownWallet:
        """Add addresses to a wallet; its hooks are about them from now on.

        Raises:
            RequestError: 404 ``unknown-wallet``; ``bad-address``, ``too-many-addresses``.
        """
        checked = self._checked(addresses)
        instant = self._ground.instant()

        def work(db: Database) -> ShownWallet:
            wallet = _load(db, owner, name, is_derived=False)
            self._add_addresses(db, wallet, checked, dialect=dialect, instant=instant)
            return _shown(db, wallet)

        return await self._changed(work, name, owner)

    async def remove_addresses(self, name: str, addresses: Sequence[str], *, owner: str) -> None:
        """Take addresses out of a wallet, and end what its hooks tell of them; others of the wallet stay.

        Raises:
            RequestError: 404 ``unknown-wallet``; ``bad-address``.
        """
        checked = self._checked(addresses)
        now = self._ground.clock()

        def work(db: Database) -> None:
            wallet = _load(db, owner, name, is_derived=False)
            for address in checked:
                if wallets.remove_address(db, wallet.wallet_id, address.text):
                    self._hooks.unfollow(db, wallet.wallet_id, address, now=now)
                    subscriptions.forget_unfollowed(db, address.scripthash)

        await self._changed(work, name, owner)

    async def derive(
        self, name: str, *, owner: str, dialect: str, subchain: int | None, count: int
    ) -> Sequence[WalletAddress]:
        """Derive the next addresses of a wallet, and return them; its hooks are about them from now on.

        Args:
            subchain: the branch; None takes the lowest one that the wallet has.
            count: 1 to 100.

        Raises:
            RequestError: 404 ``unknown-wallet``; ``bad-index``; 503 while the key is scanned first.
        """
        wallet = await self._store.read(lambda db: _load(db, owner, name, is_derived=True))
        branch = subchain if subchain is not None else min(wallet.subchains, default=None)
        if branch is not None and branch not in wallet.subchains:
            raise RequestError(f"the wallet has no subchain {branch}", code="bad-index")
        if not 1 <= count <= MOST_DERIVED_AT_ONCE:
            raise RequestError(f"count is {count}, want 1 to {MOST_DERIVED_AT_ONCE}", code="bad-number")
        key = descriptor_of(wallet.extended_key, self._ground.network, branch=branch)

        def take(db: Database, address: Address, index: int, instant: Instant) -> None:
            if wallets.load_wallet_by_id(db, wallet.wallet_id) is None:  # removed while the key was scanned
                raise RequestError(f"there is no wallet {name[:60]!a}", code="unknown-wallet", status_hint=404)
            wallets.add_address(db, wallet.wallet_id, address, subchain=branch, index=index, now=int(instant.now))
            self._follow(db, wallet, address, dialect=dialect, instant=instant)

        fresh = []
        for _ in range(count):
            given = await self._supplies.issue(
                owner=owner, key=key, kind=None, url="", take=take, gap_limit=MOST_GAP_LIMIT
            )
            fresh.append(given.index)
        shown = await self.show(name, owner=owner)
        return [one for one in shown.addresses if one.subchain == branch and one.index in fresh]

    async def remove(self, name: str, *, owner: str, is_derived: bool) -> None:
        """Forget a wallet, and the hooks about it.

        Raises:
            RequestError: 404 ``unknown-wallet``.
        """
        now = self._ground.clock()

        def work(db: Database) -> None:
            wallet = _load(db, owner, name, is_derived)
            for hook in hook_store.load_hooks_of_wallet(db, wallet.wallet_id):
                reviews.drop_hook(db, hook, now=now)
            members = wallets.load_wallet_addresses(db, wallet.wallet_id)
            wallets.remove_wallet(db, wallet.wallet_id)
            for member in members:
                subscriptions.forget_unfollowed(db, member.scripthash)

        await self._changed(work, name, owner)

    def _checked(self, addresses: Sequence[str]) -> Sequence[Address]:
        if len(addresses) > MOST_ADDRESSES:
            raise RequestError(
                f"there are {len(addresses)} addresses, want at most {MOST_ADDRESSES}", code="too-many-addresses"
            )
        return [parse_address(address, self._ground.network) for address in addresses]

    def _add_addresses(
        self, db: Database, wallet: Wallet, addresses: Sequence[Address], *, dialect: str, instant: Instant
    ) -> None:
        for address in addresses:
            if wallets.add_address(db, wallet.wallet_id, address, subchain=None, index=None, now=int(instant.now)):
                self._follow(db, wallet, address, dialect=dialect, instant=instant)
        if len(wallets.load_wallet_addresses(db, wallet.wallet_id)) > MOST_ADDRESSES:
            raise RequestError(f"a wallet has at most {MOST_ADDRESSES} addresses", code="too-many-addresses")

    def _follow(self, db: Database, wallet: Wallet, address: Address, *, dialect: str, instant: Instant) -> None:
        ledger.add_script(db, address)
        ledger.want_for_good(db, address.scripthash)
        for hook in hook_store.load_hooks_of_wallet(db, wallet.wallet_id):
            self._hooks.follow(db, hook, address, dialect=dialect, instant=instant)

    async def _changed(self, work: Callable[[Database], T], name: str, owner: str) -> T:
        check_owner(owner)
        _check_name(name)
        done = await self._store.transact(work)
        self._ground.bells.watches()
        self._ground.bells.messages()
        return done


def _check_name(name: str) -> None:
    is_good = 1 <= len(name) <= MOST_NAME_CHARS and name.isascii() and name.isprintable() and "/" not in name
    if not is_good or name in ("hd", "addresses", ".", ".."):
        raise RequestError(
            f"wallet name is {name[:60]!a}, want 1 to {MOST_NAME_CHARS} printable characters without a slash",
            code="bad-wallet-name",
        )


def _add(db: Database, *, owner: str, name: str, extended_key: str, subchains: Sequence[int], now: float) -> Wallet:
    if wallets.load_wallet(db, owner=owner, name=name) is not None:
        raise RequestError(f"there is a wallet {name} already", code="wallet-exists", status_hint=409)
    return wallets.add_wallet(db, owner=owner, name=name, extended_key=extended_key, subchains=subchains, now=int(now))


def _load(db: Database, owner: str, name: str, is_derived: bool | None) -> Wallet:
    found = load_named_wallet(db, owner, name)
    if is_derived is not None and bool(found.extended_key) != is_derived:
        raise RequestError(
            f"there is no such wallet {name[:60]!a} of this kind", code="unknown-wallet", status_hint=404
        )
    return found


def _shown(db: Database, wallet: Wallet) -> ShownWallet:
    return ShownWallet(wallet=wallet, addresses=wallets.load_wallet_addresses(db, wallet.wallet_id))
