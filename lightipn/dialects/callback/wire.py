"""What the callback dialect reads and writes: subscriptions, callbacks, pages, times."""

import calendar
import re
from datetime import UTC, datetime

import msgspec

from lightipn.bitcoin.hashes import Txid, hex_of
from lightipn.errors import RequestError
from lightipn.outbox.messages import Message, MessageState
from lightipn.outbox.subscriptions import Subscription, SubscriptionState

NO_TERMS = b"{}"
"""What every subscription of this dialect asks for: the configuration says the rest."""
# The two moments at which a payment may be told, as ends of topics.
SEEN, DEEP = ":seen", ":deep"
LATEST_TIME = 253402300799  # 9999-12-31T23:59:59Z
_PYTHON_TRUE = re.compile(rb"""\s*\{\s*["']acknowledged["']\s*:\s*True\s*,?\s*\}\s*""")


class CallbackPayload(msgspec.Struct, frozen=True):
    """What a callback says of a payment, as it is stored: it never changes.

    Args:
        txid: hex, as explorers print it.
        amount_sat: net: positive for money in, negative for money out.
    """

    txid: str
    amount_sat: int
    received_sat: int
    sent_sat: int


def encode_payload(txid: Txid, *, amount_sat: int, received_sat: int, sent_sat: int) -> bytes:
    """Write a payload for the message's row."""
    return msgspec.json.encode(CallbackPayload(hex_of(txid), amount_sat, received_sat, sent_sat))


def decode_payload(raw: bytes) -> CallbackPayload:
    """Read a payload that ``encode_payload`` wrote."""
    return msgspec.json.decode(raw, type=CallbackPayload)


def time_text(unix_s: int) -> str:
    """Print a time as the original does: ISO 8601 in UTC, without a zone."""
    return datetime.fromtimestamp(unix_s, tz=UTC).strftime("%Y-%m-%dT%H:%M:%S")


def parse_expiration(text: str) -> int:
    """Read an expiration: ISO 8601, in UTC unless it names an offset, or unix seconds.

    Raises:
        RequestError: ``bad-expiration``.
    """
    refusal = RequestError(
        f"expiration is {text[:40]!a}, want a time such as 2030-04-01T05:26:35 (UTC) or unix seconds",
        code="bad-expiration",
    )
    text = text.strip()
    if text.isascii() and text.isdecimal() and len(text) > 8:  # 20300401 would be a day
        unix_s = int(text) if len(text) <= 12 else LATEST_TIME + 1
    else:
        try:
            moment = datetime.fromisoformat(text)
        except ValueError:
            raise refusal from None
        if moment.tzinfo is not None:
            try:
                moment = moment.astimezone(UTC)
            except (OverflowError, ValueError):
                raise refusal from None
        unix_s = calendar.timegm(moment.timetuple())
    if not 0 <= unix_s <= LATEST_TIME:
        raise refusal
    return unix_s


def state_of(text: str) -> SubscriptionState:
    """Read a state as a filter names it; ``ready`` is the older name of ``active``.

    Raises:
        RequestError: ``bad-state``.
    """
    named = {"ready": SubscriptionState.ACTIVE, "active": SubscriptionState.ACTIVE}
    named |= {"canceled": SubscriptionState.CANCELED, "cancelled": SubscriptionState.CANCELED}
    named |= {"expired": SubscriptionState.EXPIRED, "suspended": SubscriptionState.SUSPENDED}
    if text not in named:
        raise RequestError(f"state is {text[:40]!a}, want active, canceled, expired or suspended", code="bad-state")
    return named[text]


class SubscriptionJson(msgspec.Struct, kw_only=True, frozen=True):
    """A subscription as this dialect shows it."""

    id: int
    address: str
    callback_url: str
    created: str
    expiration: str | None
    state: str


def subscription_json_of(subscription: Subscription, *, now: float) -> SubscriptionJson:
    """Return a subscription as this dialect shows it."""
    return SubscriptionJson(
        id=subscription.subscription_id,
        address=subscription.address,
        callback_url=subscription.url,
        created=time_text(subscription.created_at),
        expiration=None if subscription.expires_at is None else time_text(subscription.expires_at),
        state=subscription.state_at(now).value,
    )


class EmbeddedSubscription(msgspec.Struct, frozen=True):
    """What a callback says of its subscription."""

    id: int
    address: str


class CallbackJson(msgspec.Struct, kw_only=True, frozen=True):
    """A callback as this dialect sends and shows it.

    Args:
        amount: net, in satoshis; negative for money out. ``received`` and ``sent`` are its two sides.
        retries: how often it will still be sent.
        last_retry: when it was sent last, before this.
        confirmations: 0 or the configured depth, where callbacks are sent at both.
    """

    id: str
    subscription: EmbeddedSubscription
    created: str
    txid: str
    address: str
    amount: int
    received: int
    sent: int
    retries: int
    last_retry: str | None
    acknowledged: bool
    confirmations: int | msgspec.UnsetType = msgspec.UNSET


def callback_json_of(
    subscription: Subscription,
    message: Message,
    *,
    retries: int,
    last_tried_at: float | None,
    confirmations: int | None,
) -> CallbackJson:
    """Return a callback as this dialect sends and shows it; ``confirmations`` is None where it is not shown."""
    payload = decode_payload(message.payload)
    return CallbackJson(
        id=message.message_id,
        subscription=EmbeddedSubscription(subscription.subscription_id, subscription.address),
        created=time_text(message.created_at),
        txid=payload.txid,
        address=subscription.address,
        amount=payload.amount_sat,
        received=payload.received_sat,
        sent=payload.sent_sat,
        retries=retries,
        last_retry=None if last_tried_at is None else time_text(int(last_tried_at)),
        acknowledged=message.state is MessageState.ACKNOWLEDGED,
        confirmations=msgspec.UNSET if confirmations is None else confirmations,
    )


def encode(value: object) -> bytes:
    """Write JSON."""
    return msgspec.json.encode(value)


def truth_of(text: str, name: str) -> bool:
    """Read a truth value in any of the spellings that clients use.

    Raises:
        RequestError: ``bad-truth-value``.
    """
    match text.strip().lower():
        case "true" | "1":
            return True
        case "false" | "0":
            return False
    raise RequestError(f"{name} is {text[:40]!a}, want true or false", code="bad-truth-value")


def mended_body(raw: bytes) -> bytes:
    """Return a body as JSON where a client wrote ``{"acknowledged": True}``, as the original's document prints it."""
    return b'{"acknowledged": true}' if _PYTHON_TRUE.fullmatch(raw) else raw
