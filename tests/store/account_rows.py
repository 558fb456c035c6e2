"""Accounts in a database, for tests of what becomes of them."""

from collections.abc import Sequence

from lightipn.ledger.accounts import Movement, MovementKind, ReservationStatus
from lightipn.ledger.entries import LedgerEntry
from lightipn.store import accounts, audit, movements
from lightipn.store.accounts import Account
from lightipn.store.database import Database
from tests.builders import confirmed, entry_of
from tests.store.rows import NOW, regtest_address

DEPTH = 2


def open_account(
    db: Database,
    *numbers: int,
    name: str = "till",
    owner: str = "shop",
    depth: int = DEPTH,
    hook_ids: Sequence[str] = (),
) -> Account:
    """Make an account that has the addresses with these numbers; each with the same hooks."""
    account = accounts.add_account(
        db, owner=owner, name=name, extended_key="", url="", credit_confirmations=depth, now=NOW
    )
    for number in numbers:
        accounts.add_address(db, account, regtest_address(number), index=None, hook_ids=hook_ids, now=NOW)
    return account_in(db, name=name, owner=owner)


def account_in(db: Database, *, name: str = "till", owner: str = "shop") -> Account:
    """Return an account as it is now."""
    found = accounts.load_account(db, owner=owner, name=name)
    assert found is not None
    return found


def sums_in(db: Database, *, name: str = "till", owner: str = "shop") -> tuple[int, int]:
    """Return balance and locked amount of an account."""
    account = account_in(db, name=name, owner=owner)
    return account.balance_sat, account.locked_sat


def kinds_in(db: Database, *, name: str = "till", owner: str = "shop") -> list[str]:
    """Return the kinds of an account's movements, oldest first."""
    found = movements.load_movements(db, account_in(db, name=name, owner=owner).account_id, limit=10_000)
    return [one.movement.kind.value for one in reversed(found)]


def flaws_in(db: Database) -> list[str]:
    """Return what an audit of all accounts finds."""
    return [flaw for account in accounts.load_accounts(db) for flaw in audit.find_flaws(db, account)]


def book(db: Database, account_id: int, amount_sat: int, reference: str) -> None:
    """Have an owner book an amount, as the service does it; the same reference again books nothing."""
    if movements.load_adjustment(db, account_id, reference) is None:
        movement = Movement(
            kind=MovementKind.ADJUST,
            status=ReservationStatus.COMPLETED,
            amount_sat=amount_sat,
            balance_sat=amount_sat,
            locked_sat=0,
            cause="owner",
        )
        movements.add_movement(db, account_id, movement, reference=reference, now=NOW)


def deposit_of(number: int, *, amount_sat: int = 700, height: int | None = None) -> LedgerEntry:
    """Return a payment, in the mempool or in the block at a height."""
    state = None if height is None else confirmed(height)
    return entry_of(number, received_sat=amount_sat, state=state)
