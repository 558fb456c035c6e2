"""Webhooks of the real BlockCypher, for those who still have hooks there: each is a hint to look at an address again.

Nothing that they say is believed: the signature keeps strangers from having the servers asked, and our own proof alone
says what was paid.
"""

import base64
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lightipn.api.errors import json_response, route_of
from lightipn.api.parameters import body_of
from lightipn.bitcoin.address import parse_address
from lightipn.dialects.blockcypher.frame import Frame
from lightipn.dialects.blockcypher.requests import IncomingWebhook, fields_of, read_as
from lightipn.errors import RequestError
from lightipn.outbox.signature import is_signed

PATHS = (
    "/btc/callbacks/address-webhook",
    "/api/v1/wallet/btc/callbacks/address-webhook",
    "/btc/callbacks/forward-webhook",
)
MOST_ADDRESSES = 100
_FIELD = re.compile(r'([A-Za-z]+)="([^"]*)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbox:
    """Where the real BlockCypher's webhooks arrive.

    Args:
        public_key: PEM of the key that they must be signed with; empty to take them unsigned.
    """

    frame: Frame
    public_key: str

    def routes(self) -> list[Route]:
        """Return the routes."""
        receive = self.frame.answering(self.receive)
        return [route_of(path + slash, receive, ["POST"]) for path in PATHS for slash in ("", "/")]

    async def receive(self, request: Request) -> Response:
        """Look again at the addresses that a webhook names."""
        body = await body_of(request)
        if self.public_key:
            check_signature(request, body, self.public_key)
        found = read_as(fields_of({}, body), IncomingWebhook)
        event = found.event or request.headers.get("x-eventtype", "")
        await self._look_again(found)
        return json_response({"status": "success", "event": event[:40]})

    async def _look_again(self, found: IncomingWebhook) -> None:
        named = [found.address, found.input_address, *(found.addresses or ())]
        for text in dict.fromkeys(text for text in named[:MOST_ADDRESSES] if text):
            try:
                address = parse_address(text, self.frame.network)
            except RequestError:
                continue  # other people's scripts of the same transaction
            await self.frame.service.lookups.look_again(address)


def check_signature(request: Request, body: bytes, public_key: str) -> None:
    """Refuse a webhook that is not signed with this key: over the raw body, or over request target, digest and date.

    Raises:
        RequestError: 400 ``no-signature`` or ``bad-signature-header``; 401 ``wrong-signature``.
    """
    of_body = request.headers.get("x-blockcypher-signature", "")
    header = of_body or request.headers.get("signature", "")
    if not header:
        raise RequestError("No signature provided", code="no-signature")
    fields = dict(_FIELD.findall(header))
    if not fields.get("signature") or fields.get("algorithm", "sha256-ecdsa") != "sha256-ecdsa":
        raise RequestError("Invalid signature format", code="bad-signature-header")
    message = body if of_body else _signed_text(request, body, fields.get("headers", "date").lower().split())
    if not is_signed(public_key, message, fields["signature"]):
        raise RequestError("Invalid signature", code="wrong-signature", status_hint=401)


def _signed_text(request: Request, body: bytes, names: Sequence[str]) -> bytes:
    """Return what a ``Signature`` header signs; it must bind the body.

    Source:
        draft-cavage-http-signatures-12, section 2.3.
    """
    digest = "SHA-256=" + base64.b64encode(hashlib.sha256(body).digest()).decode()
    if "digest" not in names or request.headers.get("digest", "") != digest:
        raise RequestError("the signature does not bind the body: want a digest header", code="bad-signature-header")
    query = request.scope.get("query_string", b"").decode("ascii", "replace")
    path = request.scope.get("raw_path", b"").decode("ascii", "replace") or request.url.path
    target = f"{request.method.lower()} {path}" + (f"?{query}" if query else "")
    lines = []
    for name in names:
        value = target if name == "(request-target)" else request.headers.get(name)
        if value is None:
            raise RequestError(f"header {name[:40]!a} is signed, and not there", code="bad-signature-header")
        lines.append(f"{name}: {value}")
    return "\n".join(lines).encode()
