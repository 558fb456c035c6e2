"""What every part of the service stands on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import trio

from lightipn.bitcoin.network import Network
from lightipn.outbox.messages import Policy
from lightipn.store.database import Store


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
class Ground:
    """The database, and what the running process lends to it.

    Args:
        policies: by the name of the dialect.
        check_url: raises ``RequestError`` for a callback URL that must not be registered.
        progress: returns an event that is set when the next history has been committed.
        is_tip_proved: whether our tip was proved since the start: before, nobody knows what is of the past.
        is_connected: whether a server is there that would tell of payments.
        clock: unix seconds.
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
