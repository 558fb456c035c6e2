"""What the IPN dialect reads and writes: BTC texts, the form it posts, the echo that acknowledges it.

Amounts are printed from integer satoshis and compared as ``Decimal``; a binary float never touches them.
"""

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from urllib.parse import urlencode

import msgspec

SAT_PER_BTC = 100_000_000


def btc_text(amount_sat: int) -> str:
    """Print satoshis as BTC: fixed notation, no trailing zeros, at least one decimal.

    Args:
        amount_sat: zero or more.
    """
    whole, rest = divmod(amount_sat, SAT_PER_BTC)
    decimals = f"{rest:08d}".rstrip("0") or "0"
    return f"{whole}.{decimals}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Totals:
    """What a shop is told: satoshis received by ``address``."""

    address: str
    confirmed_sat: int
    unconfirmed_sat: int


class _StoredTotals(msgspec.Struct, frozen=True):
    address: str
    confirmed_sat: int
    unconfirmed_sat: int


class IpnTerms(msgspec.Struct, frozen=True):
    """What a subscriber asked for: the depth at which a payment counts as confirmed."""

    max_confirms: int


def encode_terms(terms: IpnTerms) -> bytes:
    """Write terms for the subscription's row."""
    return msgspec.json.encode(terms)


def decode_terms(raw: bytes) -> IpnTerms:
    """Read terms that ``encode_terms`` wrote."""
    return msgspec.json.decode(raw, type=IpnTerms)


def encode_payload(totals: Totals) -> bytes:
    """Write totals for the message's row; equal totals give equal bytes."""
    return msgspec.json.encode(_StoredTotals(totals.address, totals.confirmed_sat, totals.unconfirmed_sat))


def decode_payload(raw: bytes) -> Totals:
    """Read totals that ``encode_payload`` wrote."""
    stored = msgspec.json.decode(raw, type=_StoredTotals)
    return Totals(address=stored.address, confirmed_sat=stored.confirmed_sat, unconfirmed_sat=stored.unconfirmed_sat)


def encode_totals(
    *, confirmed_sat: int, unconfirmed_sat: int, history_from: int | None = None, unproved_sat: int = 0
) -> bytes:
    """Write the answer of ``/btc``: JSON numbers, with the digits printed from satoshis.

    Args:
        history_from: said only where payments in blocks below this height are not known; None where all are.
        unproved_sat: said only where a node reports more that is unspent in blocks that it has pruned.
    """
    text = f'"confirmed": {btc_text(confirmed_sat)}, "unconfirmed": {btc_text(unconfirmed_sat)}'
    if history_from is not None:
        text += f', "history_from": {history_from}'
    if unproved_sat:
        text += f', "unproved": {btc_text(unproved_sat)}'
    return f"{{{text}}}".encode()


def encode_form(totals: Totals) -> bytes:
    """Write the body of an IPN: a form with ``address``, ``confirmed`` and ``unconfirmed``."""
    return urlencode(
        {
            "address": totals.address,
            "confirmed": btc_text(totals.confirmed_sat),
            "unconfirmed": btc_text(totals.unconfirmed_sat),
        }
    ).encode()


def _number(value: object) -> Decimal | None:
    """Read a JSON number or a numeric text exactly; None where it is neither."""
    if not isinstance(value, str | Decimal):
        return None
    try:
        number = Decimal(value)
    except InvalidOperation:
        return None
    return number if number.is_finite() else None


class _Echo(msgspec.Struct):
    """The three fields; others are ignored. Numbers arrive as the text that stood there, exactly."""

    address: str
    confirmed: msgspec.Raw
    unconfirmed: msgspec.Raw


def _number_of_raw(raw: msgspec.Raw) -> Decimal | None:
    text = bytes(raw).decode("utf-8", "replace")
    if text.startswith('"'):
        try:
            return _number(msgspec.json.decode(raw, type=str))
        except (msgspec.DecodeError, ValueError):
            return None
    return _number(text.strip())


def is_echo_of(body: bytes, totals: Totals) -> bool:
    """Tell whether a receiver's answer is the JSON echo of these totals.

    The three fields must be there with equal values, as numbers or as texts, compared as ``Decimal``; other fields and
    the content type do not matter.
    """
    try:
        echo = msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf"), type=_Echo)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return False
    confirmed, unconfirmed = _number_of_raw(echo.confirmed), _number_of_raw(echo.unconfirmed)
    return (
        echo.address == totals.address
        and confirmed == Decimal(totals.confirmed_sat).scaleb(-8)
        and unconfirmed == Decimal(totals.unconfirmed_sat).scaleb(-8)
    )


def error_header(reason: str) -> str:
    """Make a reason fit for an HTTP header: printable ASCII, at most 200 characters."""
    return ascii(reason)[1:-1][:200]
