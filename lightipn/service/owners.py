"""Owners and their API keys."""

import re
import secrets
from collections.abc import Callable, Sequence

from lightipn.errors import RequestError
from lightipn.service.ground import Ground
from lightipn.store import keys

KEY_PREFIX = "lipn_"
FIRST_OWNER = "shop"
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")


def check_owner(name: str) -> None:
    """Refuse a name that could not be typed or shown.

    Raises:
        RequestError: ``bad-name``.
    """
    if not _OWNER.fullmatch(name):
        raise RequestError(
            f"name is {name[:80]!a}, want 1 to 64 letters, digits, '.', '_', '@' or '-'", code="bad-name"
        )


class Owners:
    """Who may call: secrets, and the names they stand for."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._store = ground.store

    async def create_key(self, name: str) -> str:
        """Make a secret for an owner and return it; only its hash is kept.

        Raises:
            RequestError: ``bad-name``.
        """
        check_owner(name)
        secret = _new_secret()
        await self._save(name, secret)
        self._ground.bells.messages()
        return secret

    async def create_first_key(self, show: Callable[[str], None]) -> None:
        """Make a key named ``shop`` if there has never been one.

        Args:
            show: hands the secret to the operator; called before it is stored, so that a key in force is never lost.
        """
        if await self._store.read(keys.load_keys):
            return
        secret = _new_secret()
        show(secret)
        await self._save(FIRST_OWNER, secret)

    async def _save(self, name: str, secret: str) -> None:
        now = int(self._ground.clock())
        await self._store.transact(lambda db: keys.save_key(db, name=name, secret=secret, now=now))

    async def owner_of(self, secret: str) -> str | None:
        """Return the owner of a good secret, or None."""
        return await self._store.read(lambda db: keys.load_owner(db, secret))

    async def list_keys(self) -> Sequence[keys.ApiKey]:
        """Return all keys, oldest first."""
        return await self._store.read(keys.load_keys)

    async def revoke_keys(self, name: str, *, key_id: int | None = None) -> int:
        """Revoke an owner's secrets, or one of them; return how many were good until now."""
        now = int(self._ground.clock())
        return await self._store.transact(lambda db: keys.revoke_keys(db, name=name, key_id=key_id, now=now))


def _new_secret() -> str:
    return KEY_PREFIX + secrets.token_urlsafe(32)
