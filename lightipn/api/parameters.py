"""What a caller sent, as one table of texts: the query, and a form or JSON object in the body."""

from collections.abc import Callable, Mapping
from contextlib import aclosing
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import ClientDisconnect, Request

from lightipn.errors import RequestError

MAX_BODY_BYTES = 65536
MAX_FIELDS = 100


def _refusal(message: str, *, status: int = 400, code: str = "bad-request") -> RequestError:
    return RequestError(message, code=code, status_hint=status)


async def body_of(request: Request, *, most_bytes: int = MAX_BODY_BYTES) -> bytes:
    """Read a body; of at most 64 KiB unless told.

    Raises:
        RequestError: ``body-too-large`` (413), or the caller went away.
    """
    length = request.headers.get("content-length", "0")
    if length.isdecimal() and (len(length) > 9 or int(length) > most_bytes):
        raise _too_large(most_bytes)
    body = bytearray()
    try:
        async with aclosing(request.stream()) as parts:
            async for part in parts:
                body += part
                if len(body) > most_bytes:
                    raise _too_large(most_bytes)
    except ClientDisconnect:
        raise _refusal("the caller went away") from None
    return bytes(body)


def _too_large(most_bytes: int) -> RequestError:
    return _refusal(f"body is larger than {most_bytes} bytes", status=413, code="body-too-large")


async def parameters_of(request: Request, *, mend: Callable[[bytes], bytes] = bytes) -> dict[str, str]:
    """Read all parameters of a request, from wherever it carries them.

    Args:
        mend: returns a body as it was meant, for clients whose JSON is none.

    Raises:
        RequestError: bad UTF-8, bad JSON, too large, or a parameter given twice with different values.
    """
    found = query_of(request)
    if request.method in ("POST", "PUT", "PATCH", "DELETE"):
        body = mend(await body_of(request))
        if body.strip():
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            is_json = kind == "application/json" or body.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{"
            _merge(found, _parse_json(body) if is_json else _parse_form(body, "body"))
    return found


def query_of(request: Request) -> dict[str, str]:
    """Read the parameters of a request's query alone.

    Raises:
        RequestError: bad UTF-8, too many, or one given twice with different values.
    """
    return _parse_form(request.scope.get("query_string", b""), "query")


def _parse_form(raw: bytes, where: str) -> dict[str, str]:
    try:
        text = raw.decode("ascii" if where == "query" else "utf-8")
        pairs = parse_qsl(text, keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS, encoding="utf-8")
    except UnicodeError:
        raise _refusal(f"{where} is not UTF-8", code="bad-encoding") from None
    except ValueError:
        raise _refusal(f"{where} has more than {MAX_FIELDS} fields") from None
    found: dict[str, str] = {}
    for name, value in pairs:
        _merge(found, {name: value})
    return found


def _parse_json(raw: bytes) -> dict[str, str]:
    try:
        value = msgspec.json.decode(raw.removeprefix(b"\xef\xbb\xbf"))
    except (ValueError, RecursionError):
        raise _refusal("body is not JSON", code="bad-json") from None
    if not isinstance(value, dict):
        raise _refusal("body is not a JSON object", code="bad-json")
    texts = {}
    for name, item in value.items():
        if item is None:  # some clients send what they do not set
            continue
        if not isinstance(item, str | int):
            raise _refusal(f"{str(name)[:40]!a} is neither a text nor a whole number", code="bad-json")
        texts[str(name)] = str(item).lower() if isinstance(item, bool) else str(item)
    return texts


def _merge(found: dict[str, str], more: Mapping[str, str]) -> None:
    for name, value in more.items():
        if found.setdefault(name, value) != value:
            raise _refusal(f"{name[:40]!a} is given twice, with different values")


def whole_number(
    parameters: Mapping[str, str], name: str, *, default: int, lowest: int, highest: int, code: str = "bad-number"
) -> int:
    """Read a whole number.

    Raises:
        RequestError: with this code.
    """
    text = parameters.get(name)
    if text is None:
        return default
    value = int(text) if text.isascii() and text.isdecimal() and len(text) <= 20 else None
    if value is None or not lowest <= value <= highest:
        raise RequestError(f"{name} is {text[:40]!a}, want a whole number from {lowest} to {highest}", code=code)
    return value


def required(parameters: Mapping[str, str], *names: str) -> str:
    """Read a parameter that must be there, under any of its names; an error says the first.

    Raises:
        RequestError: ``missing-parameter``.
    """
    for name in names:
        if parameters.get(name, "").strip():
            return parameters[name]
    raise RequestError(f"{names[0]} is missing", code="missing-parameter")


def id_of(text: str, *, what: str) -> int:
    """Read a number out of a path.

    Args:
        what: the thing that it stands for.

    Raises:
        RequestError: 404 ``not-found``: no thing has such a number.
    """
    if not (text.isascii() and text.isdecimal() and len(text) < 19):
        raise RequestError(f"there is no {what} {text[:40]!a}", code="not-found", status_hint=404)
    return int(text)
