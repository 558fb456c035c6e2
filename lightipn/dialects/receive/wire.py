"""What the receive dialect reads and writes: terms, payloads, the GET that tells them, the answers of the API."""

import enum
from datetime import UTC, datetime
from urllib.parse import urlencode, urlsplit, urlunsplit

import msgspec

from lightipn.bitcoin.hashes import Txid, hex_of
from lightipn.errors import RequestError
from lightipn.outbox.policy import Block
from lightipn.outbox.subscriptions import Subscription

ACKNOWLEDGEMENT = b"*ok*"


class Operation(enum.Enum):
    """Which payments a balance update is about."""

    SPEND = "SPEND"
    RECEIVE = "RECEIVE"
    ALL = "ALL"


class OnNotification(enum.Enum):
    """What becomes of a request after its first notification."""

    KEEP = "KEEP"
    DELETE = "DELETE"


class AddressTerms(msgspec.Struct, frozen=True, tag="address"):
    """An address that was given to a customer: every payment to it is told."""


class BalanceTerms(msgspec.Struct, frozen=True, tag="balance"):
    """A balance update: payments are told when they are seen, and at ``confirmations``."""

    op: Operation
    confirmations: int
    on_notification: OnNotification


class BlockTerms(msgspec.Struct, frozen=True, tag="block"):
    """A block notification."""

    height: int
    confirmations: int
    on_notification: OnNotification


Terms = AddressTerms | BalanceTerms | BlockTerms
_TERMS: msgspec.json.Decoder[Terms] = msgspec.json.Decoder(Terms)


def encode_terms(terms: Terms) -> bytes:
    """Write terms for the subscription's row; equal terms give equal bytes."""
    return msgspec.json.encode(terms)


def decode_terms(raw: bytes) -> Terms:
    """Read terms that ``encode_terms`` wrote."""
    return _TERMS.decode(raw)


class PaymentPayload(msgspec.Struct, frozen=True, tag="payment"):
    """What a call says of a payment; how many confirmations it has is added when the call is made.

    Args:
        value_sat: net; negative for money out.
    """

    txid: str
    value_sat: int


class BlockPayload(msgspec.Struct, frozen=True, tag="block"):
    """What a call says of a block; ``timestamp`` is what its header says, in unix seconds."""

    block_hash: str
    height: int
    timestamp: int


Payload = PaymentPayload | BlockPayload
_PAYLOAD: msgspec.json.Decoder[Payload] = msgspec.json.Decoder(Payload)


def encode_payment(txid: Txid, *, value_sat: int) -> bytes:
    """Write a payment's payload for the message's row."""
    return msgspec.json.encode(PaymentPayload(hex_of(txid), value_sat))


def encode_block(block: Block) -> bytes:
    """Write a block's payload for the message's row."""
    return msgspec.json.encode(BlockPayload(hex_of(block.header.block_hash), block.height, block.header.time))


def url_of(subscription: Subscription, raw_payload: bytes, *, confirmations: int, tip_height: int) -> str:
    """Return the URL of a call: the registered one, exactly, with the parameters appended.

    Args:
        confirmations: of the payment, where it is about one.
    """
    payload = _PAYLOAD.decode(raw_payload)
    parameters: dict[str, object]
    match payload:
        case PaymentPayload(txid, value_sat):
            parameters = {
                "transaction_hash": txid,
                "address": subscription.address,
                "confirmations": confirmations,
                "value": value_sat,
            }
        case BlockPayload(block_hash, height, timestamp):
            parameters = {
                "hash": block_hash,
                "confirmations": max(0, tip_height - height + 1),
                "height": height,
                "timestamp": timestamp,
                "size": 0,  # a light client does not have the block
            }
    return _appended(subscription.url, urlencode(parameters))


def _appended(url: str, query: str) -> str:
    parts = urlsplit(url)
    joint = "" if not parts.query or parts.query.endswith("&") else "&"
    return urlunsplit(parts._replace(query=f"{parts.query}{joint}{query}"))


def is_acknowledgement(body: bytes) -> bool:
    """Tell whether an answer is ``*ok*``; white space around it does not matter, everything else does."""
    return body.removeprefix(b"\xef\xbb\xbf").strip() == ACKNOWLEDGEMENT


def time_text(unix_s: float) -> str:
    """Print a time as ISO 8601 in UTC."""
    return datetime.fromtimestamp(int(unix_s), tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


# --- the answers of the API; ``message`` comes first, for shops look at the first key ---


class ErrorJson(msgspec.Struct, frozen=True):
    """A refusal: what it is about, and why."""

    message: str
    description: str


class AddressJson(msgspec.Struct, frozen=True):
    """A fresh address."""

    address: str
    index: int
    callback: str


class GapJson(msgspec.Struct, frozen=True):
    """How many addresses were given away since the last one that was paid."""

    gap: int


class CallJson(msgspec.Struct, frozen=True):
    """One attempt; ``response_code`` is 0 where no answer came."""

    callback: str
    called_at: str
    raw_response: str
    response_code: int


class BalanceJson(msgspec.Struct, frozen=True):
    """A balance update request."""

    id: int
    addr: str
    op: str
    confs: int
    callback: str
    onNotification: str  # noqa: N815  # its name on the wire


class BlockJson(msgspec.Struct, frozen=True):
    """A block notification request."""

    id: int
    height: int
    callback: str
    confs: int
    onNotification: str  # noqa: N815  # its name on the wire


class DeletedJson(msgspec.Struct, frozen=True):
    """A request was deleted."""

    deleted: bool = True


GAP_TOO_LARGE = ErrorJson(
    "Problem with xpub",
    "Gap between last used address and next address too large. This might make funds inaccessible.",
)
"""Shops compare this text."""
_SUBJECTS = {
    "bad-key": "Problem with xpub",
    "bad-address-type": "Problem with xpub",
    "unused-type": "Problem with xpub",
    "key-missing": "API key is missing",
    "key-unknown": "Invalid API key",
    "bad-url": "Problem with callback",
    "bad-address": "Problem with address",
    "xpub-not-found": "xpub not found",
    "scan-pending": "xpub is being scanned",
    "no-server": "Service is not ready",
    "not-ready": "Service is not ready",
    "not-found": "Request not found",
    "missing-parameter": "Missing parameter",
}


def error_json_of(error: RequestError) -> ErrorJson:
    """Return a refusal in this dialect's shape."""
    if error.code == "gap-too-large":
        return GAP_TOO_LARGE
    reason = str(error).replace("url:", "callback:", 1) if error.code == "bad-url" else str(error)
    return ErrorJson(_SUBJECTS.get(error.code, "Invalid request"), reason)
