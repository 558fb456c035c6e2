"""The one desk that routes and commands come to; each subject is a part of it."""

from lightipn.service.accounting import Accounts
from lightipn.service.callbacks import Callbacks
from lightipn.service.delivering import Deliveries
from lightipn.service.feed import Feed
from lightipn.service.forwarding import Forwards
from lightipn.service.ground import Ground
from lightipn.service.hooking import Hooks
from lightipn.service.lookups import Lookups
from lightipn.service.owners import Owners
from lightipn.service.scanning import Scanner
from lightipn.service.servers import Servers
from lightipn.service.subscribing import Subscriptions
from lightipn.service.summary import Summary, load_summary
from lightipn.service.supplying import Supplies
from lightipn.service.totals import Totals
from lightipn.service.transactions import Transactions
from lightipn.service.wallets import Wallets

OPERATOR = "operator"
"""The owner of what the command line adds."""
ANONYMOUS = "anonymous"
"""The owner of what callers without a key add, where the operator allows them."""


class Service:
    """The questions and changes that callers may bring."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.owners = Owners(ground)
        self.subscriptions = Subscriptions(ground)
        self.scanner = Scanner(ground)
        self.supplies = Supplies(ground, self.scanner)
        self.hooks = Hooks(ground)
        self.wallets = Wallets(ground, self.hooks, self.supplies)
        self.accounts = Accounts(ground, self.hooks, self.supplies)
        self.forwards = Forwards(ground, self.hooks)
        self.callbacks = Callbacks(ground)
        self.lookups = Lookups(ground)
        self.totals = Totals(ground, self.lookups)
        self.transactions = Transactions(ground, self.lookups)
        self.deliveries = Deliveries(ground)
        self.feed = Feed(ground)
        self.servers = Servers(ground)

    async def summary(self) -> Summary:
        """Return what the database says about the service's state."""
        now = int(self._ground.clock())
        return await self._ground.store.read(lambda db: load_summary(db, now=now))
