"""``/api/v1/accounts``: accounts, their addresses, deposits and movements."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lightipn.api.errors import json_response, route_of
from lightipn.api.owners import Doorkeeper
from lightipn.api.parameters import parameters_of, required, whole_number
from lightipn.bitcoin.hashes import hex_of
from lightipn.bitcoin.transaction import MAX_MONEY_SAT
from lightipn.errors import RequestError
from lightipn.service.accounting import (
    DEPOSIT_REFERENCE,
    MOST_CONFIRMATIONS,
    MOST_SHOWN,
    Account,
    AccountAddress,
    AccountWish,
    RecordedDeposit,
    RecordedMovement,
)
from lightipn.service.desk import Service

BASE = "/api/v1/accounts"
DEFAULT_SHOWN = 100

Work = Callable[[Mapping[str, str], str], Awaitable[object]]


class AccountJson(msgspec.Struct, kw_only=True, frozen=True):
    """An account; ``locked_sat`` is no part of ``balance_sat``."""

    name: str
    balance_sat: int
    locked_sat: int
    credit_confirmations: int
    created_at: int
    extended_key: str | None
    callback_url: str | None


def account_json_of(account: Account) -> AccountJson:
    """Return an account as it is shown."""
    return AccountJson(
        name=account.name,
        balance_sat=account.balance_sat,
        locked_sat=account.locked_sat,
        credit_confirmations=account.credit_confirmations,
        created_at=account.created_at,
        extended_key=account.extended_key or None,
        callback_url=account.url or None,
    )


class AddressJson(msgspec.Struct, kw_only=True, frozen=True):
    """An address of an account."""

    address: str
    index: int | None
    active: bool
    webhook_ids: tuple[str, ...]
    added_at: int
    used_at: int
    history_from: int | None


def address_json_of(address: AccountAddress) -> AddressJson:
    """Return an address as it is shown."""
    return AddressJson(
        address=address.address,
        index=address.index,
        active=address.is_active,
        webhook_ids=address.hook_ids,
        added_at=address.added_at,
        used_at=address.used_at,
        history_from=address.history_from,
    )


class DepositJson(msgspec.Struct, kw_only=True, frozen=True):
    """A deposit; ``double_spend_tx`` is the transaction that it was lost to."""

    txid: str
    address: str
    amount_sat: int
    status: str
    locked_sat: int
    credited_sat: int
    seen_at: int
    block_hash: str | None
    double_spend_tx: str | None


def deposit_json_of(recorded: RecordedDeposit) -> DepositJson:
    """Return a deposit as it is shown."""
    deposit = recorded.deposit
    return DepositJson(
        txid=hex_of(deposit.txid),
        address=recorded.address,
        amount_sat=deposit.amount_sat,
        status=deposit.status.value,
        locked_sat=deposit.locked_sat,
        credited_sat=deposit.credited_sat,
        seen_at=deposit.seen_at,
        block_hash=None if deposit.block_hash is None else hex_of(deposit.block_hash),
        double_spend_tx=None if deposit.replaced_by is None else hex_of(deposit.replaced_by),
    )


class MovementJson(msgspec.Struct, kw_only=True, frozen=True):
    """A movement; ``reference`` names a deposit as ``crypto_deposit_<txid>``, and an adjustment as its owner did."""

    number: int
    type: str
    status: str
    amount_sat: int
    balance_change_sat: int
    locked_change_sat: int
    cause: str
    reference: str
    txid: str | None
    address: str | None
    block_hash: str | None
    height: int | None
    at: int


def movement_json_of(recorded: RecordedMovement) -> MovementJson:
    """Return a movement as it is shown."""
    movement = recorded.movement
    txid = None if recorded.txid is None else hex_of(recorded.txid)
    return MovementJson(
        number=recorded.number,
        type=movement.kind.value,
        status=movement.status.value,
        amount_sat=movement.amount_sat,
        balance_change_sat=movement.balance_sat,
        locked_change_sat=movement.locked_sat,
        cause=movement.cause,
        reference=recorded.reference if txid is None else f"{DEPOSIT_REFERENCE}{txid}",
        txid=txid,
        address=recorded.address or None,
        block_hash=None if movement.block_hash is None else hex_of(movement.block_hash),
        height=movement.height,
        at=recorded.happened_at,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountApi:
    """The endpoints; a key is always needed.

    Args:
        credit_confirmations: of an account that is made without naming another depth.
    """

    service: Service
    doorkeeper: Doorkeeper
    credit_confirmations: int

    def routes(self) -> list[Route]:
        """Return the routes."""
        works: tuple[tuple[str, str, Work, int], ...] = (
            ("POST", "", self.create, 201),
            ("GET", "", self.list, 200),
            ("GET", "/{name}", self.show, 200),
            ("GET", "/{name}/balance", self.show, 200),
            ("POST", "/{name}/addresses", self.add_address, 201),
            ("GET", "/{name}/addresses", self.addresses, 200),
            ("GET", "/{name}/transactions", self.transactions, 200),
            ("GET", "/{name}/reservations", self.reservations, 200),
            ("POST", "/{name}/adjustments", self.adjust, 201),
        )
        return [
            route_of(f"{BASE}{path}", partial(self._answer, work, status), [method])
            for method, path, work, status in works
        ]

    async def _answer(self, work: Work, status: int, request: Request) -> Response:
        parameters = await parameters_of(request)
        owner = await self.doorkeeper.owner_of(request, parameters, dialect=None)
        return json_response(await work(parameters | request.path_params, owner), status=status)

    async def create(self, parameters: Mapping[str, str], owner: str) -> object:
        """Make an account."""
        wish = AccountWish(
            name=required(parameters, "name"),
            credit_confirmations=whole_number(
                parameters,
                "credit_confirmations",
                default=self.credit_confirmations,
                lowest=1,
                highest=MOST_CONFIRMATIONS,
            ),
            extended_key=parameters.get("xpub", parameters.get("extended_key", "")),
            url=parameters.get("callback_url", ""),
        )
        return account_json_of(await self.service.accounts.create(wish, owner=owner))

    async def list(self, parameters: Mapping[str, str], owner: str) -> object:
        """List accounts."""
        found = await self.service.accounts.list(owner=owner)
        return {"accounts": [account_json_of(one) for one in found]}

    async def show(self, parameters: Mapping[str, str], owner: str) -> object:
        """Show an account with its balance."""
        return account_json_of(await self.service.accounts.show(parameters["name"], owner=owner))

    async def add_address(self, parameters: Mapping[str, str], owner: str) -> object:
        """Add an address that is named, or derive a fresh one."""
        name = parameters["name"]
        if "address" in parameters:
            added = await self.service.accounts.add_address(name, parameters["address"], owner=owner)
        else:
            added = await self.service.accounts.derive_address(name, owner=owner)
        return address_json_of(added)

    async def addresses(self, parameters: Mapping[str, str], owner: str) -> object:
        """List an account's addresses."""
        found = await self.service.accounts.addresses(parameters["name"], owner=owner)
        return {"addresses": [address_json_of(one) for one in found]}

    async def transactions(self, parameters: Mapping[str, str], owner: str) -> object:
        """List an account's deposits, newest first."""
        found = await self.service.accounts.deposits(parameters["name"], owner=owner, limit=_limit_of(parameters))
        return {"transactions": [deposit_json_of(one) for one in found]}

    async def reservations(self, parameters: Mapping[str, str], owner: str) -> object:
        """List an account's movements, newest first."""
        found = await self.service.accounts.movements(parameters["name"], owner=owner, limit=_limit_of(parameters))
        return {"reservations": [movement_json_of(one) for one in found]}

    async def adjust(self, parameters: Mapping[str, str], owner: str) -> object:
        """Book an amount to an account, or away from it."""
        booked = await self.service.accounts.adjust(
            parameters["name"],
            owner=owner,
            amount_sat=_amount_of(required(parameters, "amount_sat")),
            reference=required(parameters, "reference"),
        )
        return movement_json_of(booked)


def _limit_of(parameters: Mapping[str, str]) -> int:
    return whole_number(parameters, "limit", default=DEFAULT_SHOWN, lowest=1, highest=MOST_SHOWN)


def _amount_of(text: str) -> int:
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdecimal() and len(digits) <= len(str(MAX_MONEY_SAT))):
        raise RequestError(
            f"amount_sat is {text[:40]!a}, want a whole number of satoshis, negative to book away", code="bad-amount"
        )
    return int(text)
