"""Accounts: who has which, their addresses, and what was made of what these were paid."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lightipn.bitcoin.address import Address, parse_address
from lightipn.bitcoin.extended_key import parse_receive_chains
from lightipn.bitcoin.transaction import MAX_MONEY_SAT
from lightipn.errors import RequestError
from lightipn.ledger.accounts import Movement, MovementKind, ReservationStatus
from lightipn.service.ground import Ground, Instant
from lightipn.service.hooking import Hooks
from lightipn.service.owners import check_owner
from lightipn.service.supplying import MOST_GAP_LIMIT, Supplies
from lightipn.store import accounts, audit, deposits, movements
from lightipn.store.accounts import Account as Account  # what routes are answered with: they may not see the store
from lightipn.store.accounts import AccountAddress as AccountAddress
from lightipn.store.database import Database
from lightipn.store.deposits import RecordedDeposit as RecordedDeposit
from lightipn.store.movements import RecordedMovement as RecordedMovement

MOST_CONFIRMATIONS = 1000
MOST_REFERENCE_CHARS = 100
MOST_SHOWN = 1000
# What the system that accounts follow calls a deposit, with its txid behind.
DEPOSIT_REFERENCE = "crypto_deposit_"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountWish:
    """An account somebody asks for.

    Args:
        extended_key: that fresh addresses are derived from; empty where they are given.
        url: where webhooks of its addresses go; empty for none.
        credit_confirmations: the depth at which a deposit is credited; at least 1.
    """

    name: str
    credit_confirmations: int
    extended_key: str = ""
    url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What adding an account up anew found; no flaws where all is right."""

    account: Account
    flaws: Sequence[str]


class Accounts:
    """An owner's accounts."""

    def __init__(self, ground: Ground, hooks: Hooks, supplies: Supplies) -> None:
        self._ground = ground
        self._store = ground.store
        self._hooks = hooks
        self._supplies = supplies

    async def create(self, wish: AccountWish, *, owner: str) -> Account:
        """Make an account.

        Raises:
            RequestError: ``bad-account-name``, ``bad-key``, ``bad-url``, ``bad-number``; 409 ``account-exists``.
        """
        check_owner(owner)
        if not _NAME.fullmatch(wish.name):
            raise RequestError(
                f"name is {wish.name[:80]!a}, want 1 to 64 letters, digits, '.', '_', '@' or '-'",
                code="bad-account-name",
            )
        if not 1 <= wish.credit_confirmations <= MOST_CONFIRMATIONS:
            raise RequestError(
                f"credit_confirmations is {wish.credit_confirmations}, want 1 to {MOST_CONFIRMATIONS}",
                code="bad-number",
            )
        if wish.extended_key:
            parse_receive_chains(wish.extended_key, self._ground.network)
        if wish.url:
            self._ground.check_url(wish.url)
        now = int(self._ground.clock())

        def work(db: Database) -> Account:
            if accounts.load_account(db, owner=owner, name=wish.name) is not None:
                raise RequestError(f"there is an account {wish.name} already", code="account-exists", status_hint=409)
            return accounts.add_account(
                db,
                owner=owner,
                name=wish.name,
                extended_key=wish.extended_key.strip(),
                url=wish.url,
                credit_confirmations=wish.credit_confirmations,
                now=now,
            )

        return await self._store.transact(work)

    async def list(self, *, owner: str | None) -> Sequence[Account]:
        """Return an owner's accounts; everybody's where no owner is named."""
        return await self._store.read(lambda db: accounts.load_accounts(db, owner=owner))

    async def show(self, name: str, *, owner: str) -> Account:
        """Return an owner's account.

        Raises:
            RequestError: 404 ``unknown-account``.
        """
        return await self._store.read(lambda db: _load(db, owner, name))

    # --- addresses ---

    async def add_address(self, name: str, address: str, *, owner: str) -> AccountAddress:
        """Have what an address is paid, and was paid before, belong to an account; its hooks are made with it.

        Raises:
            RequestError: ``bad-address``; 404 ``unknown-account``; 409 ``address-taken`` where it belongs to an account
                of the owner already.
        """
        checked = parse_address(address, self._ground.network)
        await self._prepare_hooks()
        instant = self._ground.instant()

        def work(db: Database) -> AccountAddress:
            account = _load(db, owner, name)
            if accounts.load_address(db, checked.scripthash, owner=owner) is not None:
                raise RequestError("the address belongs to an account already", code="address-taken", status_hint=409)
            return self._add(db, account, checked, index=None, instant=instant)

        return await self._changed(work)

    async def derive_address(self, name: str, *, owner: str) -> AccountAddress:
        """Derive a fresh address of an account's key, and have it belong to the account.

        Raises:
            RequestError: 404 ``unknown-account``; ``no-key`` where the account has none; 503 while the key is scanned.
        """
        account = await self.show(name, owner=owner)
        if not account.extended_key:
            raise RequestError("the account has no extended key, want an address", code="no-key")
        await self._prepare_hooks()
        added: list[AccountAddress] = []

        def take(db: Database, address: Address, index: int, instant: Instant) -> None:
            added.append(self._add(db, account, address, index=index, instant=instant))

        await self._supplies.issue(
            owner=owner, key=account.extended_key, kind=None, url="", take=take, gap_limit=MOST_GAP_LIMIT
        )
        self._ground.bells.messages()
        return added[-1]

    async def _prepare_hooks(self) -> None:
        if self._ground.account_hooks.terms:
            await self._hooks.make_service_key()

    def _add(
        self, db: Database, account: Account, address: Address, *, index: int | None, instant: Instant
    ) -> AccountAddress:
        kit = self._ground.account_hooks
        made = [
            self._hooks.add_for(
                db, address, owner=account.owner, url=account.url, terms=terms, dialect=kit.dialect, instant=instant
            )
            for terms in (kit.terms if account.url else ())
        ]
        return accounts.add_address(
            db, account, address, index=index, hook_ids=[hook.hook_id for hook in made], now=int(instant.now)
        )

    async def addresses(self, name: str, *, owner: str) -> Sequence[AccountAddress]:
        """Return an account's addresses, oldest first.

        Raises:
            RequestError: 404 ``unknown-account``.
        """
        return await self._store.read(lambda db: accounts.load_addresses(db, _load(db, owner, name).account_id))

    # --- what was paid ---

    async def deposits(self, name: str, *, owner: str, limit: int) -> Sequence[RecordedDeposit]:
        """Return an account's deposits, newest first.

        Raises:
            RequestError: 404 ``unknown-account``.
        """
        return await self._store.read(
            lambda db: deposits.load_deposits(db, _load(db, owner, name).account_id, limit=limit)
        )

    async def movements(self, name: str, *, owner: str, limit: int) -> Sequence[RecordedMovement]:
        """Return an account's movements, newest first.

        Raises:
            RequestError: 404 ``unknown-account``.
        """
        return await self._store.read(
            lambda db: movements.load_movements(db, _load(db, owner, name).account_id, limit=limit)
        )

    async def adjust(self, name: str, *, owner: str, amount_sat: int, reference: str) -> RecordedMovement:
        """Book an amount to an account, or away from it; the same reference again books nothing more.

        Args:
            amount_sat: negative to book away; never more than there is.

        Raises:
            RequestError: 404 ``unknown-account``; ``bad-amount``, ``bad-reference``; 409 ``not-enough``; 409
                ``reference-taken`` where the reference was used for another amount.
        """
        if amount_sat == 0 or abs(amount_sat) > MAX_MONEY_SAT:
            raise RequestError(
                f"amount_sat is {amount_sat}, want a whole number of satoshis that is not 0", code="bad-amount"
            )
        if not 1 <= len(reference) <= MOST_REFERENCE_CHARS or not reference.isprintable():
            raise RequestError(
                f"reference has {len(reference)} characters, want 1 to {MOST_REFERENCE_CHARS} printable ones",
                code="bad-reference",
            )
        if reference.startswith(DEPOSIT_REFERENCE):
            raise RequestError(f"reference begins with {DEPOSIT_REFERENCE}, which names deposits", code="bad-reference")
        now = int(self._ground.clock())
        movement = Movement(
            kind=MovementKind.ADJUST,
            status=ReservationStatus.COMPLETED,
            amount_sat=amount_sat,
            balance_sat=amount_sat,
            locked_sat=0,
            cause="owner",
        )

        def work(db: Database) -> RecordedMovement:
            account = _load(db, owner, name)
            booked = movements.load_adjustment(db, account.account_id, reference)
            if booked is None:
                if account.balance_sat + amount_sat < min(0, account.balance_sat):
                    raise RequestError(
                        f"balance is {account.balance_sat} sat, so {-amount_sat} sat cannot be booked away",
                        code="not-enough",
                        status_hint=409,
                    )
                if account.balance_sat + amount_sat > MAX_MONEY_SAT:
                    raise RequestError(
                        "the balance would be more than all coins there can be", code="bad-amount", status_hint=409
                    )
                movements.add_movement(db, account.account_id, movement, reference=reference, now=now)
                booked = movements.load_adjustment(db, account.account_id, reference)
                assert booked is not None  # it was written just now
            elif booked.movement.amount_sat != amount_sat:
                raise RequestError(
                    f"reference was used for {booked.movement.amount_sat} sat before",
                    code="reference-taken",
                    status_hint=409,
                )
            return booked

        return await self._store.transact(work)

    async def audit(self) -> Sequence[Audit]:
        """Add all accounts up anew, and compare them with what is kept and with the ledger."""

        def work(db: Database) -> list[Audit]:
            return [
                Audit(account=account, flaws=audit.find_flaws(db, account)) for account in accounts.load_accounts(db)
            ]

        return await self._store.read(work)

    async def _changed(self, work: Callable[[Database], T]) -> T:
        done = await self._store.transact(work)
        self._ground.bells.watches()
        self._ground.bells.messages()
        return done


def _load(db: Database, owner: str, name: str) -> Account:
    found = accounts.load_account(db, owner=owner, name=name)
    if found is None:
        raise RequestError(f"there is no account {name[:80]!a}", code="unknown-account", status_hint=404)
    return found
