"""What hooks ask for, what is stored of a webhook, and how one is written and signed."""

import base64
import enum
import hashlib
from email.utils import formatdate
from urllib.parse import quote, urlsplit

import msgspec

from lightipn.bitcoin.hashes import Txid, hash_from_hex, hex_of
from lightipn.bitcoin.header import parse_header
from lightipn.bitcoin.network import Network
from lightipn.chain.verifier import Confirmed, Unconfirmed
from lightipn.dialects.blockcypher.objects import (
    Page,
    PlaceJson,
    block_json_of,
    contents_fields_of,
    place_fields_of,
    transaction_json_of,
)
from lightipn.errors import RequestError
from lightipn.ledger.entries import LedgerEntry, Replaced
from lightipn.outbox.policy import Block, HookFacts
from lightipn.outbox.signature import sign
from lightipn.outbox.subscriptions import Subscription

DEFAULT_CONFIRMATIONS, MOST_CONFIRMATIONS = 6, 10
DEFAULT_CONFIDENCE = 0.99
# What is sent as it is; all else is percent-encoded (URL standard: path and query percent-encode sets).
_PRINTABLE = {chr(number) for number in range(0x21, 0x7F)}
_SAFE_IN_PATH = "".join(_PRINTABLE - set('"#<>?`{}'))
_SAFE_IN_QUERY = "".join(_PRINTABLE - set('"#<>'))


class Event(enum.Enum):
    """What a hook is told of."""

    UNCONFIRMED = "unconfirmed-tx"
    NEW_BLOCK = "new-block"
    CONFIRMED = "confirmed-tx"
    CONFIRMATION = "tx-confirmation"
    DOUBLE_SPEND = "double-spend-tx"
    CONFIDENCE = "tx-confidence"
    FORWARD = "tx-forward"  # a forward's own callbacks; no hook can be made for it


def event_of(text: str) -> Event:
    """Read the name of an event.

    Raises:
        RequestError: ``bad-event``.
    """
    names = [event.value for event in Event if event is not Event.FORWARD]
    if text not in names:
        raise RequestError(f"event is {text[:40]!a}, want one of {', '.join(names)}", code="bad-event")
    return Event(text)


class HookTerms(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a hook asks for, as it is stored."""

    event: Event
    confirmations: int = DEFAULT_CONFIRMATIONS
    confidence: float = DEFAULT_CONFIDENCE


def encode_terms(terms: HookTerms) -> bytes:
    """Write terms for the hook's row and its subscriptions' rows."""
    return msgspec.json.encode(terms)


def decode_terms(raw: bytes) -> HookTerms:
    """Read terms that ``encode_terms`` wrote."""
    return msgspec.json.decode(raw, type=HookTerms)


class WebhookPayload(msgspec.Struct, kw_only=True, omit_defaults=True, frozen=True):
    """What a webhook says of a payment, as it is stored: it never changes.

    Args:
        value: net, in satoshis.
        received_at: unix seconds at which we saw it first.
    """

    txid: str
    value: int
    received_at: int
    confirmations: int
    confidence: float
    block_hash: str | None = None
    block_height: int = -1
    block_index: int = -1
    seen_by: int | None = None
    replaced_by: str | None = None


class BlockPayload(msgspec.Struct, frozen=True):
    """What a webhook says of a block, as it is stored: height, and the header in hex."""

    height: int
    header: str


def encode_payment(entry: LedgerEntry, *, confirmations: int, confidence: float) -> bytes:
    """Write what is told of a payment."""
    place: dict[str, object] = {}
    match entry.state:
        case Confirmed(block_hash, height, position):
            place = {"block_hash": hex_of(block_hash), "block_height": height, "block_index": position}
        case Unconfirmed(seen_by):
            place = {"seen_by": seen_by}
        case Replaced(by_txid):
            place = {"replaced_by": hex_of(by_txid)}
    return msgspec.json.encode(
        WebhookPayload(
            txid=hex_of(entry.txid),
            value=entry.net_sat,
            received_at=entry.seen_at,
            confirmations=confirmations,
            confidence=confidence,
            **place,  # type: ignore[arg-type]  # fields of the payload
        )
    )


def encode_block(block: Block) -> bytes:
    """Write what is told of a block."""
    return msgspec.json.encode(BlockPayload(block.height, block.header.raw.hex()))


class ForwardPayload(msgspec.Struct, kw_only=True, frozen=True):
    """What a forward's callback says; ``value`` in satoshis.

    Args:
        confirmations: of the transaction that passed the payment on; left out when it is told first.
    """

    value: int
    input_address: str
    destination: str
    input_transaction_hash: str
    transaction_hash: str
    confirmations: int | msgspec.UnsetType = msgspec.UNSET


def encode_forward(
    *,
    value_sat: int,
    input_address: str,
    destination: str,
    input_txid: Txid,
    txid: Txid,
    confirmations: int | None,
) -> bytes:
    """Write what a forward's callback says; it is sent as it is."""
    return msgspec.json.encode(
        ForwardPayload(
            value=value_sat,
            input_address=input_address,
            destination=destination,
            input_transaction_hash=hex_of(input_txid),
            transaction_hash=hex_of(txid),
            confirmations=msgspec.UNSET if confirmations is None else confirmations,
        )
    )


FORWARD_TERMS = encode_terms(HookTerms(Event.FORWARD))


def body_of(
    subscription: Subscription, payload: bytes, hook: HookFacts, network: Network, *, transactions_url: str
) -> bytes:
    """Write a webhook's body: the transaction or block, and beside it what consumers read at the top level.

    Args:
        transactions_url: what links to the other inputs and outputs begin with; empty for no links.
    """
    event = decode_terms(subscription.terms).event
    if event is Event.FORWARD:
        return payload
    if event is Event.NEW_BLOCK:
        told_block = msgspec.json.decode(payload, type=BlockPayload)
        header = parse_header(bytes.fromhex(told_block.header))
        return msgspec.json.encode(block_json_of(header, told_block.height, network, event=event.value))
    told = msgspec.json.decode(payload, type=WebhookPayload)
    place = PlaceJson(
        received_at=told.received_at,
        confirmations=told.confirmations,
        block_hash=told.block_hash,
        block_height=told.block_height,
        block_index=told.block_index,
        confirmed_at=None if told.block_hash is None else hook.block_time,
        confidence=told.confidence,
        seen_by=told.seen_by,
        replaced_by=told.replaced_by,
    )
    seed = {"event": event.value, "address": subscription.address, "value": told.value}
    page = Page(url=f"{transactions_url}/{told.txid}" if transactions_url else "")
    contents = {} if hook.transaction is None else contents_fields_of(hook.transaction, network, page)
    where = place_fields_of(Txid(hash_from_hex(told.txid)), place)
    return msgspec.json.encode(transaction_json_of(where, contents, seed))


def target_of(url: str) -> str:
    """Return the request target of a URL as httpx sends it: what is signed must be what goes over the wire."""
    parts = urlsplit(url)
    kept: list[str] = []
    for part in parts.path.split("/"):
        if part == "..":
            if kept not in ([], [""]):
                kept.pop()
        elif part != ".":
            kept.append(part)
    path = quote("/".join(kept), safe=_SAFE_IN_PATH) or "/"
    has_query = "?" in url.partition("#")[0]
    return f"{path}?{quote(parts.query, safe=_SAFE_IN_QUERY)}" if has_query else path


def headers_of(event: Event, hook: HookFacts, url: str, body: bytes, *, message_id: str, now: float) -> dict[str, str]:
    """Return a webhook's headers, with a signature over the request and one over the body alone.

    Args:
        message_id: the same at each try: receivers drop repeats by it.

    Source:
        draft-cavage-http-signatures-12 (``Signature``); RFC 3230 (``Digest``).
    """
    target = target_of(url)
    digest = "SHA-256=" + base64.b64encode(hashlib.sha256(body).digest()).decode()
    date = formatdate(now, usegmt=True)
    signed = f"(request-target): post {target}\ndigest: {digest}\ndate: {date}"
    key = f'keyId="{hook.hook_id if hook.is_own_key else "lightipn"}",algorithm="sha256-ecdsa"'
    of_request, of_body = sign(hook.private_key, signed.encode()), sign(hook.private_key, body)
    return {
        "Content-Type": "application/json",
        "X-EventType": event.value,
        "X-EventId": hook.hook_id,
        "X-WebhookId": message_id,
        "Date": date,
        "Digest": digest,
        "Signature": f'{key},headers="(request-target) digest date",signature="{of_request}"',
        "X-BlockCypher-Signature": f'{key},signature="{of_body}"',
    }
