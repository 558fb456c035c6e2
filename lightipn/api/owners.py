"""Who calls: the API key of a request, and the owner it belongs to."""

import base64
import binascii
from collections.abc import Collection, Mapping

from starlette.requests import Request

from lightipn.errors import RequestError
from lightipn.service.desk import ANONYMOUS, Service

MAX_KEY_CHARS = 200


class Doorkeeper:
    """Lets owners in.

    Args:
        anonymous: dialects that need no key.
    """

    def __init__(self, service: Service, *, anonymous: Collection[str]) -> None:
        self._service = service
        self._anonymous = frozenset(anonymous)

    async def owner_of(self, request: Request, parameters: Mapping[str, str], *, dialect: str | None) -> str:
        """Return the owner of the key that a request carries; the hash is looked up anew each time.

        The key travels as ``Authorization: Bearer``, as the user name of HTTP Basic, as ``X-API-Key``, or as the
        parameter ``key`` or ``token``.

        Args:
            dialect: that is called; None for what is no dialect's, and always needs a key.

        Raises:
            RequestError: 401 ``key-missing`` or ``key-unknown``.
        """
        secret = _secret_of(request, parameters)
        if secret is None:
            if dialect in self._anonymous:
                return ANONYMOUS
            raise RequestError("an API key is needed", code="key-missing", status_hint=401)
        owner = await self._service.owners.owner_of(secret) if len(secret) <= MAX_KEY_CHARS else None
        if owner is None:
            raise RequestError("the API key is unknown or revoked", code="key-unknown", status_hint=401)
        return owner


def _secret_of(request: Request, parameters: Mapping[str, str]) -> str | None:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    match scheme.lower():
        case "bearer":
            return value.strip()
        case "basic":
            return _basic_user_of(value.strip())
    return request.headers.get("x-api-key") or parameters.get("key") or parameters.get("token")


def _basic_user_of(value: str) -> str:
    """Return the user name of HTTP Basic; an unreadable one is an unknown key."""
    try:
        return base64.b64decode(value, validate=True).decode().partition(":")[0]
    except (binascii.Error, UnicodeError):
        return ""
