"""Owners and their keys."""

import re

import pytest

from lightipn.errors import RequestError, StoreError
from tests.service.rig import Tools


async def test_key_is_made_once_and_works(tools: Tools) -> None:
    """A key is a long random text with a known beginning, belongs to its owner, and rings for held messages."""
    secret = await tools.service.owners.create_key("shop")
    assert re.fullmatch(r"lipn_[A-Za-z0-9_-]{43}", secret)
    assert await tools.service.owners.owner_of(secret) == "shop"
    assert secret != await tools.service.owners.create_key("shop")
    assert "messages" in tools.rung
    assert [key.name for key in await tools.service.owners.list_keys()] == ["shop", "shop"]


@pytest.mark.parametrize("name", ["", " ", "a b", "-a", ".a", "a\n", "a/b", "ü", "a" * 65, "a\x00", "\udcff"])
async def test_names_are_short_and_plain(tools: Tools, name: str) -> None:
    """A name that could not be typed or shown is refused, in one printable line."""
    with pytest.raises(RequestError) as caught:
        await tools.service.owners.create_key(name)
    assert caught.value.code == "bad-name"
    assert str(caught.value).isascii()
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["a", "shop", "Shop.1_2@x-y", "9", "a" * 64])
async def test_plain_names_are_taken(tools: Tools, name: str) -> None:
    """Letters, digits and a few signs make a name."""
    assert await tools.service.owners.owner_of(await tools.service.owners.create_key(name)) == name


async def test_first_key_is_made_once_ever(tools: Tools) -> None:
    """A key is made, and shown, where there has never been one; a revoked one counts."""
    shown: list[str] = []
    await tools.service.owners.create_first_key(shown.append)
    await tools.service.owners.create_first_key(shown.append)
    assert [await tools.service.owners.owner_of(secret) for secret in shown] == ["shop"]
    assert await tools.service.owners.revoke_keys("shop") == 1
    await tools.service.owners.create_first_key(shown.append)
    assert len(shown) == 1
    assert await tools.service.owners.revoke_keys("shop") == 0


async def test_first_key_that_cannot_be_shown_is_not_made(tools: Tools) -> None:
    """A key that nobody has seen is never in force, so the next start makes one that somebody sees."""

    def fail(secret: str) -> None:
        raise StoreError("the folder cannot be written")

    with pytest.raises(StoreError):
        await tools.service.owners.create_first_key(fail)
    assert await tools.service.owners.list_keys() == []
