"""``/v2/receive`` and what is below it: path → parameters → service → answer."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lightipn.api.errors import in_shape, json_response, route_of
from lightipn.api.owners import Doorkeeper
from lightipn.api.parameters import id_of, parameters_of, required, whole_number
from lightipn.bitcoin.extended_key import ScriptKind
from lightipn.dialects.receive import wire
from lightipn.errors import RequestError
from lightipn.outbox.subscriptions import SubscriptionState
from lightipn.service.desk import Service
from lightipn.service.scanning import GAP_LIMIT
from lightipn.service.subscribing import Wish
from lightipn.service.supplying import MOST_GAP_LIMIT

DIALECT = "receive"
BASE = "/v2/receive"
MOST_HEIGHT = 100_000_000
MOST_URL_CHARS = 255
MOST_CONFIRMATIONS = 1000
DEFAULT_BALANCE_CONFIRMATIONS = 3
DEFAULT_BLOCK_CONFIRMATIONS = 1

Work = Callable[[Mapping[str, str], str], Awaitable[object]]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiveApi:
    """The dialect's endpoints."""

    service: Service
    doorkeeper: Doorkeeper

    def routes(self) -> list[Route]:
        """Return the dialect's routes."""
        asked: dict[str, Work] = {
            "": self.receive,
            "/checkgap": self.checkgap,
            "/callback_log": self.callback_log,
            "/callback_logs": self.callback_log,
            "/balance_update": self.balance_update,
            "/block_notification": self.block_notification,
        }
        # The last spelling is the one of the document's example.
        deleted: dict[str, type] = {
            "/balance_update/{id}": wire.BalanceTerms,
            "/block_notification/{id}": wire.BlockTerms,
            "/block_notifcation/{id}": wire.BlockTerms,
        }
        routes = []
        for slash in ("", "/"):
            for path, work in asked.items():
                answer = in_shape(partial(self._answer, work), wire.error_json_of)
                routes.append(route_of(f"{BASE}{path}{slash}", answer, ["GET", "POST"]))
            for path, kind in deleted.items():
                answer = in_shape(partial(self._answer, partial(self.delete, kind)), wire.error_json_of)
                routes.append(route_of(f"{BASE}{path}{slash}", answer, ["DELETE"]))
        return routes

    async def _answer(self, work: Work, request: Request) -> Response:
        parameters = await parameters_of(request)
        owner = await self.doorkeeper.owner_of(request, parameters, dialect=DIALECT)
        return json_response(await work(parameters | request.path_params, owner))

    async def receive(self, parameters: Mapping[str, str], owner: str) -> object:
        """Give an address away."""
        key, kind, url = required(parameters, "xpub"), _kind_of(parameters), _callback_of(parameters)
        terms = wire.encode_terms(wire.AddressTerms())
        fresh = await self.service.supplies.issue(
            owner=owner,
            key=key,
            kind=kind,
            url=url,
            take=self.service.subscriptions.taker(url=url, terms=terms, dialect=DIALECT, owner=owner),
            gap_limit=whole_number(parameters, "gap_limit", default=GAP_LIMIT, lowest=1, highest=MOST_GAP_LIMIT),
        )
        return wire.AddressJson(address=fresh.address, index=fresh.index, callback=fresh.url)

    async def checkgap(self, parameters: Mapping[str, str], owner: str) -> object:
        """Tell how many addresses were given away since the last one that was paid."""
        key = required(parameters, "xpub")
        return wire.GapJson(await self.service.supplies.gap(owner=owner, key=key, kind=_kind_of(parameters)))

    async def callback_log(self, parameters: Mapping[str, str], owner: str) -> object:
        """Show the attempts for a callback URL."""
        calls = await self.service.callbacks.calls(
            required(parameters, "callback", "callback_url"), owner=owner, dialect=DIALECT
        )
        return [
            wire.CallJson(
                callback=call.url,
                called_at=wire.time_text(call.called_at),
                raw_response=call.answer.decode("utf-8", "replace"),
                response_code=call.status or 0,
            )
            for call in calls
        ]

    async def balance_update(self, parameters: Mapping[str, str], owner: str) -> object:
        """Subscribe a URL to an address of anybody's."""
        address, url = required(parameters, "addr", "address"), _callback_of(parameters)
        confirmations = whole_number(
            parameters, "confs", default=DEFAULT_BALANCE_CONFIRMATIONS, lowest=0, highest=MOST_CONFIRMATIONS
        )
        terms = wire.BalanceTerms(
            op=wire.Operation(_choice(parameters, "op", wire.Operation, default=wire.Operation.ALL.value)),
            confirmations=confirmations,
            on_notification=_on_notification_of(parameters),
        )
        wish = Wish(
            address=address,
            url=url,
            terms=wire.encode_terms(terms),
            updates_terms=False,
        )
        made = await self.service.subscriptions.subscribe(wish, dialect=DIALECT, owner=owner)
        return wire.BalanceJson(
            id=made.subscription_id,
            addr=made.address,
            op=terms.op.value,
            confs=terms.confirmations,
            callback=made.url,
            onNotification=terms.on_notification.value,
        )

    async def block_notification(self, parameters: Mapping[str, str], owner: str) -> object:
        """Subscribe a URL to blocks."""
        url = _callback_of(parameters)
        confirmations = whole_number(
            parameters, "confs", default=DEFAULT_BLOCK_CONFIRMATIONS, lowest=1, highest=MOST_CONFIRMATIONS
        )
        on_notification = _on_notification_of(parameters)
        height = None
        if "height" in parameters:
            height = whole_number(parameters, "height", default=0, lowest=0, highest=MOST_HEIGHT)
        made = await self.service.subscriptions.subscribe_to_blocks(
            dialect=DIALECT,
            owner=owner,
            url=url,
            height=height,
            confirmations=confirmations,
            terms_of=lambda first: wire.encode_terms(wire.BlockTerms(first, confirmations, on_notification)),
        )
        terms = wire.decode_terms(made.terms)
        assert isinstance(terms, wire.BlockTerms)  # as they were written a moment ago
        return wire.BlockJson(
            id=made.subscription_id,
            height=terms.height,
            callback=made.url,
            confs=terms.confirmations,
            onNotification=terms.on_notification.value,
        )

    async def delete(self, kind: type, parameters: Mapping[str, str], owner: str) -> object:
        """Delete a request: nothing more is told of it."""
        request_id = id_of(parameters["id"], what="request")
        found = await self.service.subscriptions.show(request_id, owner=owner, dialect=DIALECT)
        if not isinstance(wire.decode_terms(found.terms), kind) or found.state is SubscriptionState.CANCELED:
            raise RequestError(f"there is no request {request_id}", code="not-found", status_hint=404)
        await self.service.subscriptions.cancel(found.subscription_id, owner=owner, dialect=DIALECT, withdraws=True)
        return wire.DeletedJson()


def _callback_of(parameters: Mapping[str, str]) -> str:
    url = required(parameters, "callback", "callback_url")
    if len(url) > MOST_URL_CHARS:
        raise RequestError(f"callback has {len(url)} characters, want at most {MOST_URL_CHARS}", code="bad-url")
    return url


def _on_notification_of(parameters: Mapping[str, str]) -> wire.OnNotification:
    return wire.OnNotification(_choice(parameters, "onNotification", wire.OnNotification))


def _choice(
    parameters: Mapping[str, str], name: str, kind: type[wire.Operation | wire.OnNotification], default: str = ""
) -> str:
    """Read one of a few words, in any case.

    Raises:
        RequestError: ``missing-parameter``, ``bad-choice``.
    """
    text = parameters.get(name) or default
    if not text:
        raise RequestError(f"{name} is missing", code="missing-parameter")
    wanted = [member.value for member in kind]
    if text.strip().upper() not in wanted:
        raise RequestError(f"{name} is {text[:40]!a}, want {' or '.join(wanted)}", code="bad-choice")
    return text.strip().upper()


def _kind_of(parameters: Mapping[str, str]) -> ScriptKind | None:
    """Read the kind of address that a caller wants.

    Raises:
        RequestError: ``bad-address-type``.
    """
    text = parameters.get("address_type", "").strip().lower()
    if not text:
        return None
    try:
        return ScriptKind(text)
    except ValueError:
        wanted = ", ".join(kind.value for kind in ScriptKind)
        raise RequestError(f"address_type is {text[:40]!a}, want one of {wanted}", code="bad-address-type") from None
