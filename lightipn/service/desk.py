"""The one desk that routes and commands come to; each subject is a part of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import trio

from lightipn.bitcoin.network import Network
from lightipn.outbox.messages import Policy
from lightipn.service.callbacks import Callbacks
from lightipn.service.delivering import Deliveries
from lightipn.service.feed import Feed
from lightipn.service.owners import Owners
from lightipn.service.scanning import Scanner
from lightipn.service.servers import Servers
from lightipn.service.subscribing import Subscriptions
from lightipn.service.summary import Summary, load_summary
from lightipn.service.supplying import Supplies
from lightipn.service.totals import Totals
from lightipn.store.database import Store

OPERATOR = "operator"
"""The owner of what the command line adds."""
ANONYMOUS = "anonymous"
"""The owner of what callers without a key add, where the operator allows them."""


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


class Service:
    """The questions and changes that callers may bring.

    Args:
        check_url: raises ``RequestError`` for a callback URL that must not be registered.
        progress: returns an event that is set when the next history has been committed.
        is_tip_proved: whether our tip was proved since the start.
        is_connected: whether a server is there.
        clock: unix seconds.
    """

    def __init__(
        self,
        *,
        store: Store,
        network: Network,
        policies: Mapping[str, Policy],
        check_url: Callable[[str], None],
        bells: Doorbells,
        progress: Callable[[], trio.Event],
        is_tip_proved: Callable[[], bool],
        is_connected: Callable[[], bool],
        clock: Callable[[], float],
    ) -> None:
        self._store = store
        self._clock = clock
        self.owners = Owners(store, ring_messages=bells.messages, clock=clock)
        self.subscriptions = Subscriptions(
            store,
            network,
            policies=policies,
            check_url=check_url,
            ring_watches=bells.watches,
            ring_messages=bells.messages,
            is_tip_proved=is_tip_proved,
            clock=clock,
        )
        self.scanner = Scanner(store, network, ring_watches=bells.watches, progress=progress, clock=clock)
        self.supplies = Supplies(
            store,
            network,
            policies=policies,
            scanner=self.scanner,
            check_url=check_url,
            ring_watches=bells.watches,
            is_tip_proved=is_tip_proved,
            is_connected=is_connected,
            clock=clock,
        )
        self.callbacks = Callbacks(store, policies=policies, clock=clock)
        self.totals = Totals(store, network, ring_watches=bells.watches, progress=progress, clock=clock)
        self.deliveries = Deliveries(store, ring_messages=bells.messages, clock=clock)
        self.feed = Feed(store)
        self.servers = Servers(store)

    async def summary(self) -> Summary:
        """Return what the database says about the service's state."""
        now = int(self._clock())
        return await self._store.read(lambda db: load_summary(db, now=now))
