"""Forwards: addresses of ours that pass on what they are paid; making them, and the operator's wishes about them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from lightipn.bitcoin.address import parse_address
from lightipn.bitcoin.hashes import Txid
from lightipn.bitcoin.transaction import MAX_MONEY_SAT
from lightipn.errors import RequestError
from lightipn.service.ground import ForwardingKit, Ground
from lightipn.service.hooking import Hooks
from lightipn.service.owners import check_owner
from lightipn.service.scanning import GAP_LIMIT
from lightipn.store import forwards, hooks, ledger, subscriptions, transfers
from lightipn.store.database import Database
from lightipn.store.forwards import Forward as Forward  # what routes are answered with: they may not see the store
from lightipn.store.forwards import ForwardTerms as ForwardTerms
from lightipn.store.transfers import Transfer as Transfer

MOST_LISTED = 200
MOST_LOOKED_AT = 10_000
_SHARE = re.compile(r"0\.\d{1,8}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownForward:
    """A forward, and the transactions that passed its coins on."""

    forward: Forward
    txids: Sequence[Txid]


class Forwards:
    """An owner's forwards."""

    def __init__(self, ground: Ground, hooks: Hooks) -> None:
        self._ground = ground
        self._store = ground.store
        self._hooks = hooks

    async def create(self, terms: ForwardTerms, *, owner: str) -> ShownForward:
        """Make a forward with an address of its own.

        Args:
            terms: an empty destination is the configured master address.

        Raises:
            RequestError: ``forwarding-off``; ``no-destination``, ``bad-address``, ``bad-url``, ``bad-amount``.
        """
        check_owner(owner)
        kit = self._kit()
        checked = self._checked(terms, kit)
        if checked.url:
            await self._hooks.make_service_key()
        now = int(self._ground.clock())

        def work(db: Database) -> ShownForward:
            if not forwards.is_bound_to(db, kit.addresses.identity):
                raise _not_recovered("which addresses of the recovery words were used is not known")
            _check_recovered(db)
            for text in (checked.destination, checked.process_address):
                _check_foreign(db, text, self._ground)
            index = forwards.next_index(db)
            address = kit.addresses.address_at(index)
            made = forwards.add_forward(db, owner=owner, index=index, address=address, terms=checked, now=now)
            if checked.url:
                hook = hooks.add_hook(
                    db,
                    owner=owner,
                    address=address.text,
                    wallet_id=None,
                    url=checked.url,
                    terms=kit.hook_terms,
                    private_key=None,
                    now=now,
                )
                subscription = subscriptions.save_plain_subscription(
                    db,
                    dialect=kit.dialect,
                    owner=owner,
                    url=checked.url,
                    address=address.text,
                    terms=kit.hook_terms,
                    hook_id=hook.hook_id,
                    now=now,
                )
                forwards.save_subscription_id(db, made.forward_id, subscription.subscription_id)
            return ShownForward(forward=made, txids=())

        made = await self._store.transact(work)
        self._ground.bells.watches()
        return made

    def _kit(self) -> ForwardingKit:
        kit = self._ground.forwarding()
        if kit is None:
            raise RequestError("forwarding is off", code="forwarding-off")
        return kit

    def _checked(self, terms: ForwardTerms, kit: ForwardingKit) -> ForwardTerms:
        destination = terms.destination.strip() or kit.master_address
        if not destination:
            raise RequestError("destination is missing", code="no-destination")
        parse_address(destination, self._ground.network)
        if terms.url:
            self._ground.check_url(terms.url)
        if terms.process_address:
            parse_address(terms.process_address, self._ground.network)
            if (terms.process_sat is None) == (terms.process_share is None):
                raise RequestError(
                    "process_fees_address needs process_fees_satoshis or process_fees_percent, and not both",
                    code="bad-amount",
                )
        elif terms.process_sat is not None or terms.process_share is not None:
            raise RequestError("process_fees_address is missing", code="bad-amount")
        for name, amount_sat in (
            ("process_fees_satoshis", terms.process_sat),
            ("mining_fees_satoshis", terms.mining_fee_sat),
        ):
            if amount_sat is not None and not 1 <= amount_sat <= MAX_MONEY_SAT:
                raise RequestError(f"{name} is {str(amount_sat)[:20]}, want 1 to {MAX_MONEY_SAT}", code="bad-amount")
        share = terms.process_share
        if share is not None and (not _SHARE.fullmatch(share) or not Decimal(share)):
            raise RequestError(
                f"process_fees_percent is {share[:20]!a}, want a part of the whole, such as 0.01", code="bad-amount"
            )
        return ForwardTerms(
            destination=destination,
            url=terms.url,
            process_address=terms.process_address,
            process_sat=terms.process_sat,
            process_share=share,
            mining_fee_sat=terms.mining_fee_sat,
            tells_confirmations=terms.tells_confirmations,
        )

    async def list(self, *, owner: str | None, offset: int = 0, limit: int = MOST_LISTED) -> Sequence[ShownForward]:
        """Return an owner's forwards, or everybody's, deleted ones too; oldest first."""

        def work(db: Database) -> list[ShownForward]:
            found = forwards.load_forwards(
                db, owner=owner, is_active_only=owner is not None, offset=offset, limit=limit
            )
            return [_shown(db, forward) for forward in found]

        return await self._store.read(work)

    async def show(self, forward_id: str, *, owner: str) -> ShownForward:
        """Return an owner's forward.

        Raises:
            RequestError: 404 ``not-found``.
        """
        return await self._store.read(lambda db: _shown(db, _load_owned(db, forward_id, owner)))

    async def remove(self, forward_id: str, *, owner: str) -> None:
        """Have a forward pass nothing more on. What is under way goes on; what comes later waits for a sweep.

        Raises:
            RequestError: 404 ``not-found``.
        """

        def work(db: Database) -> None:
            _load_owned(db, forward_id, owner)
            forwards.delete_forward(db, forward_id)

        await self._store.transact(work)

    # --- the operator's ---

    async def transfers(self, *, limit: int) -> Sequence[Transfer]:
        """Return transfers of all owners, newest first."""
        return await self._store.read(lambda db: transfers.load_transfers(db, limit=limit))

    async def sweep(self, destination: str, *, is_all: bool = False) -> str:
        """Have the running service pass on what is left at deleted addresses; return where to.

        Args:
            destination: an address; empty for the configured master address.
            is_all: also what waits at active ones, whoever owns them.

        Raises:
            RequestError: ``forwarding-off``, ``no-destination``, ``bad-address``.
        """
        kit = self._kit()
        chosen = destination.strip() or kit.master_address
        if not chosen:
            raise RequestError("no address is named, and there is no master address", code="no-destination")
        text = parse_address(chosen, self._ground.network).text
        now = int(self._ground.clock())

        def work(db: Database) -> None:
            _check_foreign(db, text, self._ground)
            transfers.add_sweep(db, text, is_all=is_all, now=now)

        await self._store.transact(work)
        return text

    async def bind(self) -> None:
        """Say that the seed was just made, so that this database knows all of its addresses.

        Raises:
            RequestError: ``forwarding-off``; 409 ``other-seed`` where it belongs to another seed.
        """
        identity = self._kit().addresses.identity
        if not await self._store.transact(lambda db: forwards.bind_seed(db, identity)):
            raise _other_seed()

    async def recover(self, *, owner: str, first: int, count: int) -> int:
        """Watch input addresses again, for a database that knows nothing of them; return how many are new.

        Their coins wait for a sweep.

        Args:
            first: the index to begin at.
            count: 1 to 10,000 addresses.

        Raises:
            RequestError: ``forwarding-off``, ``bad-number``.
        """
        kit = self._kit()
        if not 1 <= count <= MOST_LOOKED_AT:
            raise RequestError(f"count is {count}, want 1 to {MOST_LOOKED_AT}", code="bad-number")
        addresses = {index: kit.addresses.address_at(index) for index in range(first, first + count)}
        now = int(self._ground.clock())

        def work(db: Database) -> int:
            was_unknown = forwards.is_bound_to(db, kit.addresses.identity) is None
            if not forwards.bind_seed(db, kit.addresses.identity):
                raise _other_seed()
            seen_to = forwards.next_index(db)
            if first > seen_to:
                raise RequestError(
                    f"--from is {first}, and addresses from {seen_to} on were not looked at", code="bad-number"
                )
            new = 0
            for index, address in addresses.items():
                if not forwards.has_index(db, index):
                    terms = ForwardTerms(destination=kit.master_address)
                    forwards.add_forward(
                        db, owner=owner, index=index, address=address, terms=terms, is_active=False, now=now
                    )
                    ledger.forget_status(db, [address.scripthash])  # so that it shows that it was asked about
                    ledger.save_watch_change(db, address.scripthash, ledger.WatchChange.ASKED)
                    new += 1
            if was_unknown or forwards.load_recovered_to(db) is not None:
                forwards.save_recovered_to(db, forwards.next_index(db))
            return new

        added = await self._store.transact(work)
        self._ground.bells.watches()
        return added


def _not_recovered(reason: str) -> RequestError:
    return RequestError(f"{reason}: lightipn forwarding recover", code="not-recovered", status_hint=503)


def _check_recovered(db: Database) -> None:
    """Refuse a new address until, behind the last used one, so many unused ones were seen as wallets look ahead."""
    seen_to = forwards.load_recovered_to(db)
    if seen_to is None:
        return
    if forwards.has_unseen(db, below=seen_to):
        raise RequestError(
            "the addresses of the recovery words are being looked at; ask again in a while",
            code="scan-pending",
            status_hint=503,
        )
    highest = forwards.load_highest_used(db, below=seen_to)
    if highest + GAP_LIMIT >= seen_to:
        raise _not_recovered(
            f"fewer than {GAP_LIMIT} unused addresses were seen behind the last used one, want more from {seen_to} on"
        )
    forwards.forget_recovery(db)


def _check_foreign(db: Database, text: str, ground: Ground) -> None:
    """Refuse a destination that is an input address itself: its coins would only go round."""
    if text and forwards.has_address(db, parse_address(text, ground.network).scripthash):
        raise RequestError("the destination is an input address of a forward", code="bad-address")


def _other_seed() -> RequestError:
    return RequestError(
        "the database's input addresses belong to other recovery words", code="other-seed", status_hint=409
    )


def _load_owned(db: Database, forward_id: str, owner: str) -> Forward:
    found = forwards.load_forward(db, forward_id)
    if found is None or found.owner != owner or not found.is_active:
        raise RequestError(f"there is no forward {forward_id[:60]!a}", code="not-found", status_hint=404)
    return found


def _shown(db: Database, forward: Forward) -> ShownForward:
    return ShownForward(forward=forward, txids=forwards.load_txids(db, forward.forward_id))
