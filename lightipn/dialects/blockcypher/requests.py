"""What clients of BlockCypher send: a JSON object, whatever its content type says, beside the query."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from lightipn.errors import RequestError

T = TypeVar("T")
MOST_BATCH = 100


class HookRequest(msgspec.Struct, kw_only=True, frozen=True):
    """A hook that is asked for; fields of an answer that is sent back are ignored."""

    event: str = ""
    url: str = ""
    address: str = ""
    wallet_name: str = ""
    confirmations: int | None = None
    confidence: float | None = None
    signkey: str = ""
    hash: str = ""
    script: str = ""


class WalletRequest(msgspec.Struct, kw_only=True, frozen=True):
    """A wallet that is asked for, or addresses for one."""

    name: str = ""
    addresses: Sequence[str] = ()
    extended_public_key: str = ""
    subchain_indexes: Sequence[int] = ()


class ForwardRequest(msgspec.Struct, kw_only=True, frozen=True):
    """A forward that is asked for; ``process_fees_percent`` is a part of the whole."""

    destination: str = ""
    callback_url: str = ""
    process_fees_address: str = ""
    process_fees_satoshis: int | None = None
    process_fees_percent: float | None = None
    mining_fees_satoshis: int | None = None
    enable_confirmations: bool = False


class PushRequest(msgspec.Struct, kw_only=True, frozen=True):
    """A transaction to hand to the network, in hex."""

    tx: str = ""


class IncomingWebhook(msgspec.Struct, kw_only=True, frozen=True):
    """What is read of a webhook of the real BlockCypher: which addresses to look at."""

    event: str = ""
    address: str = ""
    addresses: Sequence[str] | None = None
    input_address: str = ""
    destination_address: str = ""


def fields_of(query: Mapping[str, str], body: bytes) -> dict[str, object]:
    """Put query and body together; what both say must be the same.

    Raises:
        RequestError: ``bad-json``; a field that is given twice with different values.
    """
    found: dict[str, object] = dict(query)
    for name, value in _decoded(body).items():
        if value is None:  # some clients send what they do not set
            continue
        if name in found and not (isinstance(value, str | int | float) and str(value) == found[name]):
            raise RequestError(f"{name[:40]!a} is given twice, with different values", code="bad-request")
        found[name] = value
    return found


def _decoded(body: bytes) -> dict[str, object]:
    if not body.strip():
        return {}
    try:
        value = msgspec.json.decode(body.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        raise RequestError("body is not JSON", code="bad-json") from None
    if not isinstance(value, dict):
        raise RequestError("body is not a JSON object", code="bad-json")
    return value


def read_as(fields: Mapping[str, object], shape: type[T]) -> T:
    """Read the fields of a shape.

    Raises:
        RequestError: ``bad-field``: names the field and what was wanted.
    """
    try:
        return msgspec.convert(fields, shape, strict=False)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at ")
        name = path.strip("`").removeprefix("$.") or "body"
        wanted = reason[:1].lower() + reason[1:]
        raise RequestError(f"{name[:60]} has the wrong type: {wanted[:80]}", code="bad-field") from None


def batch_of(text: str) -> Sequence[str]:
    """Split what is asked for in one path, separated by semicolons; each once.

    Raises:
        RequestError: ``too-many``.
    """
    parts = list(dict.fromkeys(part for part in text.split(";") if part))
    if len(parts) > MOST_BATCH:
        raise RequestError(f"{len(parts)} are asked for at once, want at most {MOST_BATCH}", code="too-many")
    return parts
