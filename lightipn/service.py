"""Everything a caller can ask; no HTTP in it.

Routes and the command line stand on this file. A change is a row and a doorbell: the service never calls the tracker.
"""

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import trio

from lightipn.bitcoin.address import Address, parse_address
from lightipn.bitcoin.hashes import ScriptHash
from lightipn.bitcoin.network import Network
from lightipn.chain.source import ServerState
from lightipn.errors import RequestError
from lightipn.ledger.entries import ReceivedTotals, totals_of
from lightipn.outbox.messages import Policy, Subscription
from lightipn.store import chain, deliveries, keys, ledger, reviews, servers, subscriptions
from lightipn.store.database import Database, Store

OPERATOR = "operator"
ANONYMOUS = "anonymous"
KEY_PREFIX = "lipn_"
LOOKUPS_AT_ONCE = 4
LOOKUP_WAIT_S = 10.0
# A looked-up address stays watched for a while, so that a shop that polls is answered at once and from live data.
LOOKUP_KEEP_S = 600
MOST_LOOKUPS = 5000
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Doorbells:
    """How a committed change is announced inside the running process; a command line has nobody to ring.

    Args:
        watches: scripts were added, removed, or must be asked again.
        messages: something may be due.
    """

    watches: Callable[[], None]
    messages: Callable[[], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A subscription somebody asks for; ``terms`` are JSON of the dialect's own shape."""

    address: str
    url: str
    terms: bytes


def no_bell() -> None:
    """Ring nowhere: the running service, if there is one, looks at the database by itself."""


class Service:
    """The questions and changes that callers may bring.

    Args:
        check_url: raises ``RequestError`` for a callback URL that must not be registered.
        progress: returns an event that is set when the next history has been committed.
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
        clock: Callable[[], float],
    ) -> None:
        self.network = network
        self._store = store
        self._policies = policies
        self._check_url = check_url
        self._bells = bells
        self._progress = progress
        self._clock = clock
        self._lookup_slots = trio.CapacityLimiter(LOOKUPS_AT_ONCE)
        self._lookups: dict[ScriptHash, trio.Event] = {}

    # --- keys and owners ---

    async def create_key(self, name: str) -> str:
        """Make a secret for an owner and return it; only its hash is kept.

        Raises:
            RequestError: ``bad-name``.
        """
        _check_owner(name)
        secret = KEY_PREFIX + secrets.token_urlsafe(32)
        await self._store.transact(lambda db: keys.save_key(db, name=name, secret=secret, now=int(self._clock())))
        self._bells.messages()
        return secret

    async def create_first_key(self, show: Callable[[str], None]) -> None:
        """Make a key named ``shop`` if there has never been one.

        Args:
            show: hands the secret to the operator; called before it is stored, so that a key in force is never lost.
        """
        if await self._store.read(keys.load_keys):
            return
        secret = KEY_PREFIX + secrets.token_urlsafe(32)
        show(secret)
        now = int(self._clock())
        await self._store.transact(lambda db: keys.save_key(db, name="shop", secret=secret, now=now))

    async def owner_of(self, secret: str) -> str | None:
        """Return the owner of a good secret, or None."""
        return await self._store.read(lambda db: keys.load_owner(db, secret))

    async def list_keys(self) -> list[keys.ApiKey]:
        """Return all keys, oldest first."""
        return await self._store.read(keys.load_keys)

    async def revoke_key(self, name: str, *, key_id: int | None = None) -> int:
        """Revoke an owner's secrets, or one of them; return how many were good until now."""
        now = int(self._clock())
        return await self._store.transact(lambda db: keys.revoke_keys(db, name=name, key_id=key_id, now=now))

    # --- subscriptions ---

    async def subscribe(self, *, dialect: str, owner: str, address: str, url: str, terms: bytes) -> None:
        """Subscribe a URL to an address; the same owner, address and URL again updates the terms.

        Raises:
            RequestError: ``bad-address``, ``bad-url``, ``bad-name``.
        """
        wish = Wish(address=address, url=url, terms=terms)
        (refusal,) = await self.subscribe_all([wish], dialect=dialect, owner=owner)
        if refusal is not None:
            raise refusal

    async def subscribe_all(self, wishes: Sequence[Wish], *, dialect: str, owner: str) -> list[RequestError | None]:
        """Subscribe many URLs in one transaction; a wish that is refused does not hold back the others.

        Returns:
            For each wish None, or why it was refused.

        Raises:
            RequestError: ``bad-name``.
        """
        _check_owner(owner)
        refusals: list[RequestError | None] = []
        good: list[tuple[Address, Wish]] = []
        for wish in wishes:
            try:
                address = parse_address(wish.address, self.network)
                self._check_url(wish.url)
            except RequestError as error:
                refusals.append(error)
            else:
                refusals.append(None)
                good.append((address, wish))
        now = self._clock()

        def work(db: Database) -> None:
            tip_height = chain.load_tip_height(db)
            for address, wish in good:
                subscription = subscriptions.save_subscription(
                    db, dialect=dialect, owner=owner, address=address, url=wish.url, terms=wish.terms, now=int(now)
                )
                payments = ledger.load_payments(db, address.scripthash)
                assert payments is not None
                reviews.review_subscription(db, self._policies, subscription, payments, tip_height=tip_height, now=now)

        await self._store.transact(work)
        self._bells.watches()
        self._bells.messages()
        return refusals

    async def list_subscriptions(self, *, address: str = "", limit: int | None = None) -> list[Subscription]:
        """Return subscriptions, oldest first; of one address if one is given."""
        scripthash = parse_address(address, self.network).scripthash if address else None
        return await self._store.read(
            lambda db: list(subscriptions.load_subscriptions(db, scripthash=scripthash, limit=limit))
        )

    async def unsubscribe(self, address: str, *, url: str | None) -> int:
        """Remove the subscriptions of an address, or the one with this URL; return how many there were."""
        scripthash = parse_address(address, self.network).scripthash
        removed = await self._store.transact(lambda db: subscriptions.remove_subscriptions(db, scripthash, url=url))
        self._bells.watches()
        return removed

    # --- totals ---

    async def received(self, address: str, *, confirmations: int) -> ReceivedTotals:
        """Return what an address received; one that is not watched is looked up, and proved the same way.

        Args:
            confirmations: the depth at which a payment counts as confirmed.

        Raises:
            RequestError: ``bad-address``; ``lookup-pending`` (503) if it is not there within 10 s, the work goes
                on; ``history-too-long`` (503) past 1,000 entries.
        """
        checked = parse_address(address, self.network)
        found = await self.known_received(address, confirmations=confirmations)
        with trio.move_on_after(LOOKUP_WAIT_S):
            while found is None:  # a lookup that was joined may have been given up by the caller who began it
                await self._look_up(checked)
                found = await self.known_received(address, confirmations=confirmations)
        if found is not None:
            return found
        raise RequestError(
            "the address is being looked up; ask again in a while", code="lookup-pending", status_hint=503
        )

    async def known_received(self, address: str, *, confirmations: int) -> ReceivedTotals | None:
        """Return the totals if the address' history was worked in before, else None; nobody is asked.

        Raises:
            RequestError: ``bad-address``; 503 if its history cannot be read.
        """
        checked = parse_address(address, self.network)

        def work(db: Database) -> tuple[ledger.ScriptRecord | None, ReceivedTotals | None]:
            record = ledger.load_script(db, checked.scripthash)
            payments = ledger.load_payments(db, checked.scripthash)
            if record is None or payments is None or record.absorbed_at is None:
                return record, None
            return record, totals_of(
                payments.entries.values(), tip_height=chain.load_tip_height(db), confirmations=confirmations
            )

        record, totals = await self._store.read(work)
        if record is not None and record.trouble:
            raise RequestError(
                f"the history of this address cannot be read ({record.trouble})", code=record.trouble, status_hint=503
            )
        if record is not None and totals is not None and record.wanted_until is not None:
            until = int(self._clock()) + LOOKUP_KEEP_S
            if until - record.wanted_until > LOOKUP_KEEP_S // 2:  # not a write for every poll
                await self._store.transact(lambda db: ledger.want_script(db, checked, until=until, must_ask=False))
        return totals

    async def _look_up(self, address: Address) -> None:
        """Have an address' history worked in, and wait for it; several callers share one lookup."""
        under_way = self._lookups.get(address.scripthash)
        if under_way is not None:
            await under_way.wait()
            return
        finished = self._lookups[address.scripthash] = trio.Event()
        try:
            async with self._lookup_slots:
                await self.request_lookup(address)
                while True:
                    progress = self._progress()  # taken before the look, so that nothing is missed in between
                    if await self._store.read(lambda db: _is_settled(db, address.scripthash)):
                        return
                    await progress.wait()
        finally:
            del self._lookups[address.scripthash]
            finished.set()

    async def request_lookup(self, address: Address) -> None:
        """Leave a row that has the running service work in an address' history.

        Raises:
            RequestError: 503 ``too-many-lookups``.
        """
        until = int(self._clock()) + LOOKUP_KEEP_S

        def work(db: Database) -> None:
            is_new = ledger.load_script(db, address.scripthash) is None
            if is_new and ledger.count_lookups(db) >= MOST_LOOKUPS:
                raise RequestError(
                    "too many addresses are looked up at present; watch those you need",
                    code="too-many-lookups",
                    status_hint=503,
                )
            ledger.want_script(db, address, until=until, must_ask=True)

        await self._store.transact(work)
        self._bells.watches()

    # --- deliveries and state ---

    async def list_deliveries(self, *, limit: int, is_pending_only: bool = False) -> list[deliveries.Delivery]:
        """Return messages, newest first."""
        return await self._store.read(
            lambda db: deliveries.load_deliveries(db, limit=limit, is_pending_only=is_pending_only)
        )

    async def show_delivery(self, message_key: int) -> tuple[deliveries.Delivery, list[deliveries.Attempt]]:
        """Return a message and all its attempts, oldest first.

        Raises:
            RequestError: ``unknown-delivery``.
        """

        def work(db: Database) -> tuple[deliveries.Delivery | None, list[deliveries.Attempt]]:
            return deliveries.load_delivery(db, message_key), deliveries.load_attempts(db, message_key)

        delivery, attempts = await self._store.read(work)
        if delivery is None:
            raise _unknown_delivery(message_key)
        return delivery, attempts

    async def retry_delivery(self, message_key: int) -> None:
        """Make a message due now, whatever its state.

        Raises:
            RequestError: ``unknown-delivery``.
        """
        now = self._clock()
        if not await self._store.transact(lambda db: deliveries.make_due(db, message_key, now=now)):
            raise _unknown_delivery(message_key)
        self._bells.messages()

    async def summary(self) -> "Summary":
        """Return what the database says about the service's state."""

        def work(db: Database) -> Summary:
            pending, waiting_since = deliveries.count_pending(db)
            return Summary(
                tip=chain.load_tip(db),
                tip_height=chain.load_tip_height(db),
                subscriptions=subscriptions.count_subscriptions(db),
                pending_deliveries=pending,
                held_deliveries=deliveries.count_held(db),
                oldest_due_at=waiting_since,
                servers=tuple(servers.load_servers(db)),
                failing_hosts=tuple(deliveries.load_failing_hosts(db, limit=20)),
                is_key_there=keys.has_live_key(db),
            )

        return await self._store.read(work)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The state of a service as its database tells it.

    Args:
        tip: height, hash and raw header of our verified tip; None before the first header.
        held_deliveries: of the pending ones, those whose owner has no good key.
        oldest_due_at: unix seconds at which the message that waits longest is or was due; None if none waits.
    """

    tip: tuple[int, bytes, bytes] | None
    tip_height: int
    subscriptions: int
    pending_deliveries: int
    held_deliveries: int
    oldest_due_at: float | None
    servers: tuple[ServerState, ...]
    failing_hosts: tuple[deliveries.FailingHost, ...]
    is_key_there: bool


def _is_settled(db: Database, scripthash: ScriptHash) -> bool:
    record = ledger.load_script(db, scripthash)
    return record is None or record.absorbed_at is not None or record.trouble != ""


def _check_owner(name: str) -> None:
    if not _OWNER.fullmatch(name):
        raise RequestError(
            f"name is {name[:80]!a}, want 1 to 64 letters, digits, '.', '_', '@' or '-'", code="bad-name"
        )


def _unknown_delivery(message_key: int) -> RequestError:
    return RequestError(f"there is no delivery {message_key}", code="unknown-delivery", status_hint=404)
