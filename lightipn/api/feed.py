"""``/api/v1/events``: the event feed, for callers who fetch what happened instead of being called."""

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lightipn.api.errors import json_response
from lightipn.api.owners import Doorkeeper
from lightipn.api.parameters import parameters_of, whole_number
from lightipn.bitcoin.hashes import hex_of
from lightipn.service.desk import Service
from lightipn.service.feed import MOST_AFTER, MOST_AT_ONCE, RecordedEvent

DEFAULT_LIMIT = 100


class EventJson(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """An event as JSON; a fact that its kind does not have is left out.

    Args:
        at: unix seconds.
        txid, block_hash, replaced_by: hex, as explorers print them.
        server, reason: of ``server.distrusted``, which only the operator sees.
    """

    number: int
    at: int
    kind: str
    address: str | None = None
    txid: str | None = None
    net_sat: int | None = None
    height: int | None = None
    block_hash: str | None = None
    trust: str | None = None
    seen_by: int | None = None
    replaced_by: str | None = None
    rbf: bool | None = None
    server: str | None = None
    reason: str | None = None


class PageJson(msgspec.Struct, kw_only=True, frozen=True):
    """A page of the feed as JSON."""

    events: list[EventJson]
    next_after: int
    latest: int


def event_json_of(event: RecordedEvent) -> EventJson:
    """Return an event as JSON has it."""
    return EventJson(
        number=event.number,
        at=event.happened_at,
        kind=event.kind,
        address=event.address or None,
        txid=_hex(event.txid),
        net_sat=event.net_sat,
        height=event.height,
        block_hash=_hex(event.block_hash),
        trust=event.trust or None,
        seen_by=event.seen_by or None,
        replaced_by=_hex(event.replaced_by),
        rbf=event.signals_rbf if event.txid is not None else None,
        server=event.server or None,
        reason=event.reason or None,
    )


def _hex(digest: bytes | None) -> str | None:
    return None if digest is None else hex_of(digest)


def feed_routes(service: Service, doorkeeper: Doorkeeper) -> list[Route]:
    """Return the feed's route; it always needs a key, and shows what concerns the key's owner."""

    async def events(request: Request) -> Response:
        parameters = await parameters_of(request)
        owner = await doorkeeper.owner_of(request, parameters, dialect=None)
        after = whole_number(parameters, "after", default=0, lowest=0, highest=MOST_AFTER, code="bad-after")
        limit = whole_number(
            parameters, "limit", default=DEFAULT_LIMIT, lowest=1, highest=MOST_AT_ONCE, code="bad-limit"
        )
        page = await service.feed.events(after=after, limit=limit, owner=owner)
        found = [event_json_of(event) for event in page.events]
        return json_response(PageJson(events=found, next_after=page.next_after, latest=page.latest))

    return [Route("/api/v1/events", events, methods=["GET"])]
