"""``/btc`` and ``/btc_ipn``: path → parameters → service → answer."""

from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from lightipn.api.errors import route_of
from lightipn.api.owners import Doorkeeper
from lightipn.api.parameters import parameters_of, required, whole_number
from lightipn.bitcoin.extended_key import MAX_CHILD_INDEX, AddressChain
from lightipn.dialects.ipn import wire
from lightipn.dialects.ipn.policy import DEFAULT_CONFIRMS, MAX_CONFIRMS
from lightipn.errors import RequestError
from lightipn.service.desk import Service
from lightipn.service.subscribing import Wish


@dataclass(frozen=True, slots=True, kw_only=True)
class IpnSettings:
    """What the operator decides for this dialect.

    Args:
        confirmations: the depth at which ``/btc`` counts a payment as confirmed, unless the request says otherwise.
        user_addresses: child N of ``[dialects.ipn] xpub`` belongs to user N; None where no key is configured.
    """

    confirmations: int
    user_addresses: AddressChain | None


def address_of_user(settings: IpnSettings, user_id: int) -> str:
    """Return a user's address.

    Raises:
        RequestError: ``no-xpub``, ``bad-index``.
    """
    if settings.user_addresses is None:
        raise RequestError("user_id needs [dialects.ipn] xpub in the configuration", code="no-xpub")
    return settings.user_addresses.address_at(user_id).text


def ipn_routes(service: Service, doorkeeper: Doorkeeper, settings: IpnSettings) -> list[Route]:
    """Return the dialect's routes."""

    async def btc(request: Request) -> Response:
        parameters = await parameters_of(request)
        await doorkeeper.owner_of(request, parameters, dialect="ipn")
        if "user_id" in parameters and "address" not in parameters:
            user_id = whole_number(parameters, "user_id", default=0, lowest=0, highest=MAX_CHILD_INDEX)
            address = address_of_user(settings, user_id)
        else:
            address = required(parameters, "address")
        depth = whole_number(parameters, "confirms", default=settings.confirmations, lowest=1, highest=MAX_CONFIRMS)
        covered = await service.totals.received(address, confirmations=depth)
        body = wire.encode_totals(
            confirmed_sat=covered.totals.confirmed_sat,
            unconfirmed_sat=covered.totals.unconfirmed_sat,
            history_from=covered.coverage.history_from,
            unproved_sat=covered.coverage.unproved_sat,
        )
        return Response(body, media_type="application/json")

    async def btc_ipn(request: Request) -> Response:
        try:
            parameters = await parameters_of(request)
            owner = await doorkeeper.owner_of(request, parameters, dialect="ipn")
            depth = whole_number(parameters, "max_confirms", default=DEFAULT_CONFIRMS, lowest=1, highest=MAX_CONFIRMS)
            wish = Wish(
                address=required(parameters, "address"),
                url=required(parameters, "url"),
                terms=wire.encode_terms(wire.IpnTerms(max_confirms=depth)),
            )
            await service.subscriptions.subscribe(wish, dialect="ipn", owner=owner)
        except RequestError as error:
            headers = {"X-Error": wire.error_header(str(error))}
            return PlainTextResponse("fail", status_code=error.status_hint, headers=headers)
        return PlainTextResponse("success")

    return [
        route_of("/btc", btc, ["GET", "POST"]),
        route_of("/btc_ipn", btc_ipn, ["GET", "POST"]),
    ]
