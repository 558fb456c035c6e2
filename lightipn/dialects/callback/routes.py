"""``/subscription`` and ``/callback``: path → parameters → service → answer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlencode

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lightipn.api.errors import in_shape, json_response, route_of
from lightipn.api.owners import Doorkeeper
from lightipn.api.parameters import id_of, parameters_of, required, whole_number
from lightipn.dialects.callback import wire
from lightipn.dialects.callback.policy import CallbackPolicy
from lightipn.errors import RequestError
from lightipn.service.callbacks import Callback
from lightipn.service.desk import Service
from lightipn.service.subscribing import Wish

DIALECT = "callback"
EXPIRES_AFTER_S = 30 * 86400
DEFAULT_PER_PAGE = 10
MOST_PER_PAGE = 50
MOST_PAGES = 1_000_000
MOST_ID = (1 << 63) - 1

T = TypeVar("T")


class ErrorJson(msgspec.Struct, frozen=True):
    """A refusal."""

    message: str


class Paging(msgspec.Struct, frozen=True):
    """Where the pages before and after are; null at the ends."""

    prev: str | None
    next: str | None


def error_json_of(error: RequestError) -> ErrorJson:
    """Return a refusal in this dialect's shape, with its own name of the field."""
    return ErrorJson(f"callback_{error}" if error.code == "bad-url" else str(error))


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackApi:
    """The dialect's endpoints.

    Args:
        public_url: what links in answers begin with; empty for what the caller called.
        clock: unix seconds.
    """

    service: Service
    doorkeeper: Doorkeeper
    policy: CallbackPolicy
    public_url: str
    clock: Callable[[], float]

    def routes(self) -> list[Route]:
        """Return the dialect's routes."""
        return [
            route_of(path + slash, in_shape(endpoint, error_json_of), methods)
            for path, endpoint, methods in (
                ("/subscription", self.subscribe, ["POST"]),
                ("/subscription", self.subscriptions, ["GET"]),
                ("/subscription/{id}", self.subscription, ["GET", "PATCH"]),
                ("/callback", self.callbacks, ["GET"]),
                ("/callback/{id}", self.callback, ["GET", "PATCH"]),
            )
            for slash in ("", "/")
        ]

    async def subscribe(self, request: Request) -> Response:
        """Subscribe a URL to an address."""
        parameters, owner = await self._called(request)
        now = self.clock()
        is_named = "expiration" in parameters
        expires_at = wire.parse_expiration(parameters["expiration"]) if is_named else int(now) + EXPIRES_AFTER_S
        wish = Wish(
            address=required(parameters, "address"),
            url=required(parameters, "callback_url"),
            terms=wire.NO_TERMS,
            expires_at=expires_at,
            prolongs=not is_named,
        )
        made = await self.service.subscriptions.subscribe(wish, dialect=DIALECT, owner=owner)
        return json_response(wire.subscription_json_of(made, now=now), status=202)

    async def subscriptions(self, request: Request) -> Response:
        """List subscriptions."""
        parameters, owner = await self._called(request)
        page = self._page_of(request, parameters)
        state = parameters.get("state", parameters.get("status"))
        found = await self.service.subscriptions.page(
            owner=owner,
            dialect=DIALECT,
            address=parameters.get("address", ""),
            state=None if state is None else wire.state_of(state),
            offset=page.offset,
            limit=page.limit,
        )
        shown = [wire.subscription_json_of(one, now=self.clock()) for one in page.cut(found)]
        return json_response({"subscriptions": shown, "paging": page.paging(len(found))})

    async def subscription(self, request: Request) -> Response:
        """Show a subscription, or cancel it."""
        parameters, owner = await self._called(request)
        subscription_id = id_of(request.path_params["id"], what="subscription")
        if request.method == "GET":
            found = await self.service.subscriptions.show(subscription_id, owner=owner, dialect=DIALECT)
        else:
            state = required(parameters, "state")
            if state not in ("canceled", "cancelled"):
                raise RequestError(f"state is {state[:40]!a}, want canceled", code="bad-state")
            found = await self.service.subscriptions.cancel(subscription_id, owner=owner, dialect=DIALECT)
        return json_response(wire.subscription_json_of(found, now=self.clock()))

    async def callbacks(self, request: Request) -> Response:
        """List callbacks."""
        parameters, owner = await self._called(request)
        page = self._page_of(request, parameters)
        named = "subscription" if "subscription" in parameters else "subscription_id"
        acknowledged = parameters.get("acknowledged")
        found = await self.service.callbacks.page(
            owner=owner,
            dialect=DIALECT,
            subscription_id=whole_number(parameters, named, default=0, lowest=1, highest=MOST_ID) or None,
            is_acknowledged=None if acknowledged is None else wire.truth_of(acknowledged, "acknowledged"),
            offset=page.offset,
            limit=page.limit,
        )
        shown = [self._shown(one) for one in page.cut(found)]
        return json_response({"callbacks": shown, "paging": page.paging(len(found))})

    async def callback(self, request: Request) -> Response:
        """Show a callback, or acknowledge it."""
        parameters, owner = await self._called(request)
        message_id = request.path_params["id"]
        if request.method == "GET":
            found = await self.service.callbacks.show(message_id, owner=owner, dialect=DIALECT)
            return json_response(self._shown(found))
        if not wire.truth_of(required(parameters, "acknowledged"), "acknowledged"):
            raise RequestError("acknowledged is false, want true: it cannot be taken back", code="bad-truth-value")
        found = await self.service.callbacks.acknowledge(message_id, owner=owner, dialect=DIALECT)
        return json_response(self._shown(found))

    async def _called(self, request: Request) -> tuple[dict[str, str], str]:
        parameters = await parameters_of(request, mend=wire.mended_body)
        return parameters, await self.doorkeeper.owner_of(request, parameters, dialect=DIALECT)

    def _page_of(self, request: Request, parameters: Mapping[str, str]) -> "_Page":
        return _Page(parameters, f"{self.public_url or str(request.base_url)}".rstrip("/") + request.url.path)

    def _shown(self, callback: Callback) -> wire.CallbackJson:
        return self.policy.shown(callback.subscription, callback.message, last_tried_at=callback.last_tried_at)


class _Page:
    """A page of a list, and the links to its neighbours; page 0 is the first one, as page 1 is."""

    def __init__(self, parameters: Mapping[str, str], url: str) -> None:
        number = whole_number(parameters, "page", default=1, lowest=0, highest=MOST_PAGES)
        self._size = whole_number(parameters, "per_page", default=DEFAULT_PER_PAGE, lowest=1, highest=MOST_PER_PAGE)
        self._number = max(1, number)
        self._url = url
        # A key in the query is not repeated in links: they may be logged, or shown.
        self._filters = {name: value for name, value in parameters.items() if name not in _NOT_IN_LINKS}
        self.offset = (self._number - 1) * self._size
        self.limit = self._size + 1  # one more shows whether there is a next page

    def cut(self, found: Sequence[T]) -> Sequence[T]:
        """Return what is on the page."""
        return found[: self._size]

    def paging(self, found: int) -> Paging:
        """Return the links to the pages before and after, where so many were found of ``limit``."""
        return Paging(
            prev=self._link(self._number - 1) if self._number > 1 else None,
            next=self._link(self._number + 1) if found > self._size else None,
        )

    def _link(self, number: int) -> str:
        return f"{self._url}?{urlencode({**self._filters, 'page': number, 'per_page': self._size})}"


_NOT_IN_LINKS = ("key", "token", "page", "per_page")
