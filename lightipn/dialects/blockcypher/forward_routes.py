"""Forwards: path → fields → service → answer; under both names that clients use."""

from dataclasses import dataclass
from decimal import Decimal

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from lightipn.api.errors import json_response
from lightipn.api.parameters import whole_number
from lightipn.bitcoin.hashes import hex_of
from lightipn.dialects.blockcypher.frame import Call, Frame
from lightipn.dialects.blockcypher.requests import ForwardRequest, read_as
from lightipn.service.forwarding import MOST_LISTED, ForwardTerms, ShownForward

MOST_START = 1_000_000_000


class ForwardJson(msgspec.Struct, kw_only=True, frozen=True):
    """A forward; ``txs`` and ``transactions`` are the same, for clients of different ages."""

    id: str
    destination: str
    input_address: str
    enable_confirmations: bool
    txs: list[str]
    transactions: list[str]
    token: str | msgspec.UnsetType = msgspec.UNSET
    callback_url: str | msgspec.UnsetType = msgspec.UNSET
    process_fees_address: str | msgspec.UnsetType = msgspec.UNSET
    process_fees_satoshis: int | msgspec.UnsetType = msgspec.UNSET
    process_fees_percent: float | msgspec.UnsetType = msgspec.UNSET
    mining_fees_satoshis: int | msgspec.UnsetType = msgspec.UNSET
    hold_reason: str | msgspec.UnsetType = msgspec.UNSET


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardApi:
    """Forwards."""

    frame: Frame

    def routes(self) -> list[Route]:
        """Return the routes."""
        return [
            route
            for name in ("forwards", "payments")
            for route in (
                *self.frame.routes(f"/{name}", {"POST": self.add, "GET": self.list}),
                *self.frame.routes(f"/{name}/{{id}}", {"GET": self.show, "DELETE": self.remove}),
            )
        ]

    async def add(self, call: Call) -> Response:
        """Make a forward."""
        asked = read_as(call.fields, ForwardRequest)
        terms = ForwardTerms(
            destination=asked.destination,
            url=asked.callback_url,
            process_address=asked.process_fees_address,
            process_sat=asked.process_fees_satoshis or None,
            process_share=_share_of(asked.process_fees_percent),
            mining_fee_sat=asked.mining_fees_satoshis or None,
            tells_confirmations=asked.enable_confirmations,
        )
        made = await self.frame.service.forwards.create(terms, owner=call.owner)
        return json_response(_forward_json_of(made, call.token), status=201)

    async def list(self, call: Call) -> Response:
        """List forwards."""
        start = whole_number(call.texts(), "start", default=0, lowest=0, highest=MOST_START)
        found = await self.frame.service.forwards.list(owner=call.owner, offset=start, limit=MOST_LISTED)
        return json_response([_forward_json_of(one, call.token) for one in found])

    async def show(self, call: Call) -> Response:
        """Show a forward."""
        found = await self.frame.service.forwards.show(call.parts["id"], owner=call.owner)
        return json_response(_forward_json_of(found, call.token))

    async def remove(self, call: Call) -> Response:
        """Have a forward pass nothing more on."""
        await self.frame.service.forwards.remove(call.parts["id"], owner=call.owner)
        return Response(status_code=204)


def _share_of(part: float | None) -> str | None:
    """Return a part of the whole as the decimal number that was sent; a float never touches an amount."""
    return None if not part else format(Decimal(repr(part)), "f")


def _forward_json_of(shown: ShownForward, token: str) -> ForwardJson:
    forward, terms = shown.forward, shown.forward.terms
    txids = [hex_of(txid) for txid in shown.txids]
    return ForwardJson(
        id=forward.forward_id,
        destination=terms.destination,
        input_address=forward.address,
        enable_confirmations=terms.tells_confirmations,
        txs=txids,
        transactions=txids,
        token=token or msgspec.UNSET,
        callback_url=terms.url or msgspec.UNSET,
        process_fees_address=terms.process_address or msgspec.UNSET,
        process_fees_satoshis=msgspec.UNSET if terms.process_sat is None else terms.process_sat,
        process_fees_percent=msgspec.UNSET if terms.process_share is None else float(terms.process_share),
        mining_fees_satoshis=msgspec.UNSET if terms.mining_fee_sat is None else terms.mining_fee_sat,
        hold_reason=forward.hold_reason or msgspec.UNSET,
    )
