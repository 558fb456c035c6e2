"""What every part of the service stands on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import trio

from lightipn.bitcoin.address import Address
from lightipn.bitcoin.extended_key import AddressChain
from lightipn.bitcoin.hashes import Txid
from lightipn.bitcoin.network import Network
from lightipn.bitcoin.transaction import Transaction, TxOutput
from lightipn.errors import SourceUnavailableError
from lightipn.outbox.policy import Policy
from lightipn.store.database import Database, Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Doorbells:
    """How a committed change is announced inside the running process; a command line has nobody to ring.

    Args:
        watches: scripts were added, removed, or must be asked again.
        messages: something may be due.
    """

    watches: Callable[[], None]
    messages: Callable[[], None]


def no_bell() -> None:
    """Ring nowhere: the running service, if there is one, looks at the database by itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountHooks:
    """Which hooks an account's addresses get.

    Args:
        dialect: that they are of.
        terms: of each, as JSON of the dialect's own shape.
    """

    dialect: str
    terms: tuple[bytes, ...]


NO_ACCOUNT_HOOKS = AccountHooks(dialect="", terms=())


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardingKit:
    """What forwards are made of.

    Args:
        addresses: the supply of input addresses.
        master_address: the destination where none is named; empty for none.
        dialect, hook_terms: of a forward's callbacks.
    """

    addresses: AddressChain
    master_address: str
    dialect: str
    hook_terms: bytes


def nothing_searched() -> str:
    """No past of an address is searched for."""
    return ""


def no_forwarding() -> ForwardingKit | None:
    """There are no keys to forward with."""
    return None


class Outside(Protocol):
    """What can only be asked of the network. Each raises ``SourceError``; it knows nothing of rows."""

    async def transaction(self, txid: Txid) -> Transaction:
        """Return a transaction that hashes to its txid."""

    async def spent_by(self, transaction: Transaction) -> tuple[TxOutput | None, ...]:
        """Return the outputs that a transaction spends, in order, as far as they can be had in time."""

    async def broadcast(self, transaction: Transaction) -> None:
        """Hand a transaction to the servers; one that takes it, or has it already, is enough."""

    async def fee_rate(self, target_blocks: int) -> float | None:
        """Return the fee rate that is said to be enough within so many blocks, in satoshis a virtual byte."""


class NobodyOutside:
    """The network as a command sees it, which talks to no server."""

    async def transaction(self, txid: Txid) -> Transaction:
        """Nobody answers."""
        raise _nobody()

    async def spent_by(self, transaction: Transaction) -> tuple[TxOutput | None, ...]:
        """Nobody answers."""
        raise _nobody()

    async def broadcast(self, transaction: Transaction) -> None:
        """Nobody answers."""
        raise _nobody()

    async def fee_rate(self, target_blocks: int) -> float | None:
        """Nobody answers."""
        raise _nobody()


def _nobody() -> SourceUnavailableError:
    return SourceUnavailableError("only the running service asks servers", source="")


@dataclass(frozen=True, slots=True, kw_only=True)
class Instant:
    """When a change is made.

    Args:
        now: unix seconds.
        is_tip_proved: whether our tip says what is of the past.
    """

    now: float
    is_tip_proved: bool


# Records, inside the transaction that gives it away, what an address is for; it is given its index as well.
Take = Callable[[Database, Address, int, Instant], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """The database, and what the running process lends to it.

    Args:
        policies: by the name of the dialect.
        check_url: raises ``RequestError`` for a callback URL that must not be registered.
        progress: returns an event that is set when the next history has been committed.
        is_tip_proved: whether our tip was proved since the start: before, nobody knows what is of the past.
        is_connected: whether a server is there that would tell of payments.
        clock: unix seconds.
        outside: answers what no row says.
        forwarding: returns what forwards are made of; None where forwarding is off.
        past_progress: how far one's own node is with its search for the past of addresses; empty where none is.
        account_hooks: the hooks that an account's addresses get, where it has a URL.
    """

    store: Store
    network: Network
    policies: Mapping[str, Policy]
    check_url: Callable[[str], None]
    bells: Doorbells
    progress: Callable[[], trio.Event]
    is_tip_proved: Callable[[], bool]
    is_connected: Callable[[], bool]
    clock: Callable[[], float]
    outside: Outside = field(default_factory=NobodyOutside)
    account_hooks: AccountHooks = NO_ACCOUNT_HOOKS
    forwarding: Callable[[], ForwardingKit | None] = no_forwarding
    past_progress: Callable[[], str] = nothing_searched

    def instant(self) -> Instant:
        """Return when it is; before a transaction, never inside: that runs in a thread that may not ask the tracker."""
        return Instant(now=self.clock(), is_tip_proved=self.is_tip_proved())
