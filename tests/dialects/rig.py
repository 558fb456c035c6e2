"""A dialect's routes over a service of its own: a client that calls them, and a dispatcher made of a function call."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import msgspec
import trio
from starlette.routing import Route

from lightipn.api.frame import build_app
from lightipn.api.owners import Doorkeeper
from lightipn.bitcoin.address import Address, address_of
from lightipn.bitcoin.network import REGTEST
from lightipn.delivery.guard import AddressRules
from lightipn.errors import StoreError
from lightipn.ledger.entries import LedgerEntry
from lightipn.outbox.messages import OutgoingRequest
from lightipn.outbox.policy import Policy
from lightipn.outbox.subscriptions import Subscription
from lightipn.outbox.verdict import Answer
from lightipn.service.desk import Service
from lightipn.service.ground import Doorbells, Ground, NobodyOutside, Outside, no_bell
from lightipn.store import attempts, chain, ledger, reviews, subscriptions
from lightipn.store.attempts import Claim
from lightipn.store.database import Database, Store, open_store
from tests.builders import SCRIPT, SEEN_AT
from tests.store.plain_dialect import POLICIES

TIP = 1000
BASE_URL = "http://ipn.example"
ADDRESS = Address(text=address_of(SCRIPT, REGTEST) or "", script=SCRIPT)
OK = Answer(status=200, body=b"", trouble="", latency_ms=1.0)
SILENCE = Answer(status=None, body=b"", trouble="timeout", latency_ms=1.0)


@dataclass
class Caller:
    """A client of a dialect's routes, and all that is behind them.

    Args:
        key: headers with the key of the owner ``shop``.
        now: what the service's clock says, in unix seconds.
    """

    dialect: str
    store: Store
    policies: Mapping[str, Policy]
    now: float = SEEN_AT
    key: dict[str, str] = field(default_factory=dict)
    secret: str = ""
    service: Service = field(init=False)
    client: httpx.AsyncClient = field(init=False)

    async def call(self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **more: Any) -> Any:
        """Call with the shop's key and return the JSON of an answer that must be a success."""
        answer = await self.client.request(method, path, headers=self.key | dict(headers or {}), **more)
        assert answer.is_success, answer.text
        assert answer.headers["content-type"].startswith("application/json")
        return msgspec.json.decode(answer.content)

    async def refusal(self, method: str, path: str, **more: Any) -> tuple[int, dict[str, Any]]:
        """Call with the shop's key and return status and JSON of an answer that must be none."""
        answer = await self.client.request(method, path, headers=self.key | dict(more.pop("headers", {})), **more)
        assert not answer.is_success, answer.text
        assert answer.headers["content-type"].startswith("application/json")
        return answer.status_code, msgspec.json.decode(answer.content)

    async def foreign_key(self) -> dict[str, str]:
        """Return headers with the key of another owner."""
        return {"X-API-Key": await self.service.owners.create_key("other")}

    async def stored(self) -> list[Subscription]:
        """Return all subscriptions of everybody."""
        return list(await self.service.subscriptions.list())

    async def subscription(self, subscription_id: int) -> Subscription:
        """Return a subscription that must be there."""
        found = await self.store.read(lambda db: subscriptions.load_subscription(db, subscription_id))
        assert found is not None
        return found

    async def pay(self, *entries: LedgerEntry, address: Address = ADDRESS, tip_height: int = TIP) -> None:
        """Write payments of an address, as the tracker does."""

        def work(db: Database) -> None:
            ledger.save_entries(db, address.scripthash, entries)
            reviews.review_script(db, self.policies, address.scripthash, tip_height=tip_height, now=self.now)

        await self.store.transact(work)

    async def claim(self) -> list[Claim]:
        """Take what is due, as the dispatcher does."""

        def work(db: Database) -> list[Claim]:
            claims, _ = attempts.claim_due(db, self.policies, now=self.now, room=100, room_of=lambda host: 100, busy={})
            return claims

        return await self.store.transact(work)

    async def finish(self, claim: Claim, answer: Answer = OK) -> None:
        """Record what a receiver answered."""
        await self.store.transact(
            lambda db: attempts.finish_attempt(db, self.policies, claim, answer, now=self.now, jitter=0.0)
        )

    async def send(self, answer: Answer = OK) -> list[OutgoingRequest]:
        """Deliver what is due to a receiver that answers so, and return the requests."""
        claims = await self.claim()
        for claim in claims:
            await self.finish(claim, answer)
        return [claim.request for claim in claims]


RoutesOf = Callable[[Caller, Doorkeeper], list[Route]]


@asynccontextmanager
async def open_caller(
    folder: Path,
    dialect: str,
    policy: Policy,
    routes_of: RoutesOf,
    *,
    is_anonymous: bool = False,
    outside: Outside | None = None,
) -> AsyncIterator[Caller]:
    """Open a service with a tip and a key for ``shop``, and a client of a dialect's routes.

    Args:
        is_anonymous: callers need no key.
        outside: the network; nobody answers if none is given.
    """
    failures: list[StoreError] = []
    async with open_store(folder / "shop.db", "regtest", threaded=False) as store:
        await store.transact(lambda db: chain.save_base_height(db, TIP))
        caller = Caller(dialect, store, {dialect: policy, **POLICIES})
        caller.service = Service(
            Ground(
                store=store,
                network=REGTEST,
                policies=caller.policies,
                check_url=AddressRules().check_url,
                bells=Doorbells(watches=no_bell, messages=no_bell),
                progress=trio.Event,
                is_tip_proved=lambda: True,
                is_connected=lambda: True,
                clock=lambda: caller.now,
                outside=outside or NobodyOutside(),
            )
        )
        doorkeeper = Doorkeeper(caller.service, anonymous=[dialect] if is_anonymous else [])
        transport = httpx.ASGITransport(app=build_app(routes_of(caller, doorkeeper), stop_for=failures.append))
        caller.secret = await caller.service.owners.create_key("shop")
        caller.key = {"Authorization": f"Bearer {caller.secret}"}
        async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as client:
            caller.client = client
            yield caller
    assert failures == []
